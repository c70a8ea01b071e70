"""Classes that several tasks may have: a class is known again by its prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.api import torch

if TYPE_CHECKING:
    from torch import Tensor


def once(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distinct prompts among those of several tasks, in order: a prompt that two tasks have is one class.

    Parameters
    ----------
    tokens : Tensor
        int64 [prompts, context length].

    Returns
    -------
    distinct : Tensor
        int64 [distinct, context length].
    index : Tensor
        For every prompt its index among these, int64 [prompts].
    """
    rows: dict[tuple[int, ...], int] = {}
    index = [rows.setdefault(tuple(row), len(rows)) for row in tokens.tolist()]
    distinct = torch.tensor(list(rows), dtype=torch.int64, device=tokens.device).reshape(-1, tokens.shape[1])
    return distinct, torch.tensor(index, dtype=torch.int64, device=tokens.device)


def positions(tokens: Tensor, known: Tensor) -> Tensor:
    """Return which of the known classes each prompt is.

    Parameters
    ----------
    tokens : Tensor
        int64 [prompts, context length].
    known : Tensor
        int64 [classes, context length].

    Returns
    -------
    Tensor
        int64 [prompts], on the CPU; -1 for a class that is not known.
    """
    at = {tuple(row): index for index, row in enumerate(known.tolist())}
    return torch.tensor([at.get(tuple(row), -1) for row in tokens.tolist()], dtype=torch.int64)
