"""One run in several processes: each holds the whole model and works on its part of every batch.

``torchrun`` starts them or, for a sweep, SLURM does. Either sets the environment variables RANK, WORLD_SIZE,
LOCAL_RANK, MASTER_ADDR and MASTER_PORT of each process. Only the process of rank 0 writes and prints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.core.errors import UserError
from bench.core.lazy import dist, torch
from bench.core.rank import Rank, rank

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class World(Rank):
    """The processes of a run, as one of them sees them, and what they do together."""

    def my_batches(self, planned: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return this process's batches of a pass whose results are summed.

        Parameters
        ----------
        planned : sequence of Tensor
            The indices of the images of every batch.

        Returns
        -------
        sequence of Tensor
            Every n-th batch, where n is the number of processes.
        """
        return planned[self.rank :: self.size]

    def my_images(self, planned: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return this process's images of every batch.

        Parameters
        ----------
        planned : sequence of Tensor
            The indices of the images of every batch.

        Returns
        -------
        sequence of Tensor
            As many batches; one may be empty.
        """
        return planned if self.size == 1 else [batch[self.rank :: self.size] for batch in planned]

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their sums over all processes; the sums have the same bits in each process.

        Parameters
        ----------
        tensors : sequence of Tensor
            Changed in place; of the same shapes in every process.

        Raises
        ------
        UserError
            If another process has ended.
        """
        if self.size > 1:
            for tensor in tensors:
                _together(dist.all_reduce, tensor)

    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Replace the gradients of parameters by their sums over all processes.

        Parameters
        ----------
        parameters : sequence of Tensor
            Their ``grad`` is changed in place; a process without one counts as zero.

        Raises
        ------
        UserError
            If another process has ended.
        """
        if self.size == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        _together(dist.all_reduce, flat)
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def agree(self, numbers: Sequence[int], device: torch.device) -> list[int]:
        """Return the largest value of each number over all processes.

        Parameters
        ----------
        numbers : sequence of int
            This process's numbers.
        device : torch.device
            The run's device, over which the processes communicate.

        Returns
        -------
        list of int
            The same in every process.

        Raises
        ------
        UserError
            If another process has ended.
        """
        if self.size == 1:
            return list(numbers)
        largest = torch.tensor(numbers, dtype=torch.int64, device=device)
        _together(dist.all_reduce, largest, op=dist.ReduceOp.MAX)
        return [int(number) for number in largest.tolist()]

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by those of rank 0, so that all processes train the same numbers.

        Parameters
        ----------
        tensors : sequence of Tensor
            Changed in place.

        Raises
        ------
        UserError
            If another process has ended.
        """
        if self.size > 1:
            for tensor in tensors:
                _together(dist.broadcast, tensor, src=0)


def _together(operation: Callable[..., Any], *arguments: Any, **named: Any) -> None:
    """Run a collective; turn a lost peer into a UserError."""
    try:
        operation(*arguments, **named)
    except RuntimeError as error:  # from gloo as from NCCL, when a peer has gone
        if "Duplicate GPU" in str(error):  # NCCL finds out when it first communicates
            raise UserError(
                f"processes of this run have the same CUDA device, and this one sees {torch.cuda.device_count()}: "
                "start at most as many on a machine as it has devices, or choose device=cpu"
            ) from error
        raise UserError(
            "another process of this run has ended, and says why itself if it could: the same line again, with as many "
            "processes, continues the run"
        ) from error


def world() -> World:
    """Return the processes of this run, as `bench.core.rank.rank` reads them from the environment.

    Returns
    -------
    World

    Raises
    ------
    UserError
        If the environment variables contradict each other.
    """
    return World(**vars(rank()))


@contextmanager
def joined(processes: World, device: torch.device) -> Iterator[None]:
    """While open, the processes of a run can communicate: through NCCL on CUDA, otherwise through gloo.

    Parameters
    ----------
    processes : World
        The processes of this run.
    device : torch.device
        The device of this process.
    """
    if processes.size == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", rank=processes.rank, world_size=processes.size)
    try:
        yield
    finally:
        dist.destroy_process_group()
