"""What a run computes on each task, gathered by listeners as named arrays."""

import torch
from torch import Tensor

from bench.api import Observation, Observers


class Heard:
    """Gathers gradients, updates, subspaces, losses and weights of every task.

    Attributes
    ----------
    observers : Observers
        To be given to a run.
    tasks : dict of str to dict of str to Tensor
        By task; ``image.0.q/gradient`` [out, in], ``/A`` and ``/B`` at the start of training, ``/basis`` and
        ``/weight`` after the task, ``losses`` [steps]. The task "" has the bases of the untrained model.
    """

    def __init__(self) -> None:
        self.observers = Observers()
        self.tasks: dict[str, dict[str, Tensor]] = {}
        self.losses: dict[str, list[float]] = {}
        for kind in ("gradient", "update", "subspace"):
            self.observers.on(kind, self._keep)
        self.observers.on("loss", self._loss)
        self.observers.on("learned", self._learned)

    def _keep(self, seen: Observation) -> None:
        arrays = self.tasks.setdefault(seen.task, {})
        arrays.update({f"{seen.name}/{k}": v.clone() for k, v in seen.values.items() if isinstance(v, Tensor)})

    def _loss(self, seen: Observation) -> None:
        self.losses.setdefault(seen.task, []).append(float(seen.values["loss"]))

    def _learned(self, seen: Observation) -> None:
        maps = seen.values["method"].clip.maps
        arrays = self.tasks.setdefault(seen.task, {})
        arrays.update({f"{name}/weight": linear_map.weight.clone() for name, linear_map in maps.items()})
        arrays["losses"] = torch.tensor(self.losses[seen.task], dtype=torch.float64)
