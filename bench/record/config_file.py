"""The text of config.yaml: all settings of a run, nested as their keys are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

BASE: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)

SWITCHES = {
    spelling
    for word in ("y", "yes", "n", "no", "true", "false", "on", "off")
    for spelling in (word, word.capitalize(), word.upper())
}
"""Words that some reader of YAML takes for true or false."""


class _Dumper(BASE):
    """Quotes text that some reader of YAML could take for a switch or a number, such as ``1e3``."""


def _text(dumper: Any, text: str) -> Any:
    quoted = text in SWITCHES or _is_number(text)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'" if quoted else None)


_Dumper.add_representer(str, _text)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def config_text(flat: Mapping[str, Any]) -> str:
    """Return settings as YAML.

    Parameters
    ----------
    flat : mapping
        Dotted key to plain value.

    Returns
    -------
    str
        Any text is kept as it is: nothing in it is resolved when a safe loader reads it.
    """
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *groups, name = key.split(".")
        group = nested
        for one in groups:
            group = group.setdefault(one, {})
        group[name] = value
    return yaml.dump(nested, Dumper=_Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False)
