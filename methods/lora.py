"""Plain LoRA: every task gets a new low-rank update, which is merged after it; nothing is protected.

Hu et al., arXiv 2106.09685: y = x W^T + (alpha / r) x A^T B^T with A random and B zero at the start, both trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.api import Method, ParityCard, TaskData, register, setting

from .low_rank import Targets, attach, kaiming_uniform, targets, tensors_named

if TYPE_CHECKING:
    from torch import Tensor


@register("method", "lora", title="Low-rank updates, nothing protected", paper="LoRA, arXiv 2106.09685")
class Lora(Method):
    """Sequential LoRA: it shows what low rank alone does for and against forgetting."""

    @dataclass
    class Settings(Targets):
        """Which maps are adapted, and the scale of the update."""

        alpha: float = setting(
            16.0, "scale of the update times the rank; alpha = rank gives factor 1", above=0, symbol="alpha"
        )

    parity = ParityCard(
        present=("A uniform as in the released code, B = 0, scale alpha / r, both trained, merged after each task",),
        absent=("dropout on the update's input (0 in most configurations)",),
        deviations=("both towers and q, k, v, o by default, the maps that KeepLoRA adapts",),
        verified=("adapter and merged forward agree to 1e-5; only A and B move (tests)",),
    )

    def setup(self) -> None:
        """Choose the maps to adapt."""
        self.targets = targets(self.clip, self.settings)

    def begin_task(self, task: TaskData) -> None:
        """Attach a new update to every target: A random, B = 0."""
        draw = task.init_generator("lora")
        for linear_map in self.targets:
            A = kaiming_uniform((self.settings.rank, linear_map.in_features), draw)
            attach(linear_map, A, self.settings.alpha / self.settings.rank)

    def parameters(self) -> Sequence[Tensor]:
        """Return both factors of every update."""
        return tensors_named(self.targets, "A", "B")
