"""The text of config.yaml: all settings of a run, nested as their keys are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf

_INTERPOLATION = re.compile(r"(\\*)\$\{")


def config_text(flat: Mapping[str, Any]) -> str:
    """Return settings as YAML, which OmegaConf reads back as they are.

    Parameters
    ----------
    flat : mapping
        Dotted key to plain value.

    Returns
    -------
    str
        ``${`` in a text is escaped: it would refer to another setting otherwise.
    """
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *above, last = key.split(".")
        at = nested
        for part in above:
            at = at.setdefault(part, {})
        at[last] = _literal(value)
    return OmegaConf.to_yaml(OmegaConf.create(nested))


def _literal(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_literal(item) for item in value]
    return _INTERPOLATION.sub(r"\1\1\\${", value) if isinstance(value, str) else value
