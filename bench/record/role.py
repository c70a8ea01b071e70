"""What a method is in a comparison, by its class: one of those that are ranked, or a bound that they are held to."""

from __future__ import annotations

from dataclasses import dataclass

from bench.config import registry


@dataclass(frozen=True)
class Role:
    """What a method is in a comparison: see the attributes of the same names of `bench.learning.method.Method`.

    Attributes
    ----------
    bound : bool
        Whether it is a bound or a probe: a reference line, which is never the best.
    ceiling : bool
        Whether its Last is 100 % of the headroom.
    scalars : tuple of str
        The scalars that mean something; all where it is empty.
    """

    bound: bool = False
    ceiling: bool = False
    scalars: tuple[str, ...] = ()

    def has(self, name: str) -> bool:
        """Return whether a scalar means something."""
        return not self.scalars or name in self.scalars


METHOD = Role()
"""What most methods are: none of these."""


def roles() -> dict[str, Role]:
    """Return what the registered methods are; nothing is imported, and records of any age have what they are now.

    Returns
    -------
    dict of str to Role
        By the name of the method.
    """
    by_name = {}
    for name, entry in registry.entries("method").items():
        scalars = entry.facts.get("scalars", "")
        bound, ceiling = (entry.facts.get(fact) == "True" for fact in ("bound", "ceiling"))
        by_name[name] = Role(bound, ceiling, tuple(scalars.split(", ")) if scalars else ())
    return by_name
