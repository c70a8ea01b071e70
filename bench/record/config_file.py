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
    nested = OmegaConf.create()
    for key, value in flat.items():
        OmegaConf.update(nested, key, _literal(value), force_add=True)
    return OmegaConf.to_yaml(nested)


def _literal(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_literal(item) for item in value]
    return _INTERPOLATION.sub(r"\1\1\\${", value) if isinstance(value, str) else value
