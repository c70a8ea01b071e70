"""What a method computed on a task, as named arrays: for readers, and for comparisons with other code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import save_file

from bench.api import UserError, torch

if TYPE_CHECKING:
    from torch import Tensor


class Inspection:
    """Gathers arrays of one task and writes them to ``task-NN-NAME.safetensors``.

    Parameters
    ----------
    folder : str
        Made if needed; empty gathers nothing.
    """

    def __init__(self, folder: str):
        self.folder = Path(folder).expanduser() if folder else None
        self.arrays: dict[str, Tensor] = {}
        self.losses: list[float] = []

    def __bool__(self) -> bool:
        return self.folder is not None

    def put(self, name: str, value: Tensor) -> None:
        """Keep a copy under a name."""
        if self.folder is not None:
            self.arrays[name] = value.detach().cpu().contiguous().clone()

    def write(self, index: int, task: str) -> None:
        """Write what was gathered, and begin anew."""
        if self.folder is None:
            return
        self.arrays["losses"] = torch.tensor(self.losses, dtype=torch.float64)
        path = self.folder / f"task-{index + 1:02d}-{task.replace('/', '-')}.safetensors"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file(self.arrays, path)
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"method.dump={self.folder} cannot be written ({reason}): choose another") from error
        self.arrays, self.losses = {}, []
