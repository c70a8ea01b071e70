"""The device of a run: which one, deterministic kernels, memory, the name of the processor."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from bench.compute.world import world
from bench.core.errors import UserError
from bench.core.lazy import torch

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
"""The environment variable that sets the workspace of cuBLAS."""

FAILED = ("DefaultCPUAllocator", "CUDA error: out of memory", "STATUS_ALLOC_FAILED")
"""What errors say of a failed allocation: on the CPU, on CUDA outside of torch's allocator, in cuBLAS and others."""

NO_KERNEL = " does not have a deterministic implementation"
"""What torch's error says of an operation, after its name."""

NO_WORKSPACE = "this operation is not deterministic because it uses CuBLAS"
"""What it says where a product on CUDA came before the `WORKSPACE` was set."""


class Computing(Protocol):
    """The settings of a run that say how kernels compute."""

    @property
    def threads(self) -> int | None:
        """CPU threads; None leaves torch's own number."""

    @property
    def precision(self) -> str:
        """One of "fp32", "tf32", "bf16", "fp16"."""

    @property
    def deterministic(self) -> bool:
        """Whether deterministic kernels are asked for."""


def choose_device(wanted: str) -> torch.device:
    """Return the device of a run; ``auto`` is CUDA where there is one, else the CPU (MPS only when asked for).

    Parameters
    ----------
    wanted : {"auto", "cpu", "cuda", "mps"}

    Returns
    -------
    torch.device
        Each of several processes on one machine has its own CUDA device.

    Raises
    ------
    UserError
        If the wanted device is not available.
    """
    own = world()
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        wanted = "cuda" if available["cuda"] else "cpu"
    if not available[wanted]:
        raise UserError(f"device={wanted} is not available on this machine: choose device=auto or device=cpu")
    if wanted == "cuda" and own.size > 1:  # each process has one of its own
        return torch.device("cuda", own.local_rank % torch.cuda.device_count())
    return torch.device(wanted)


@contextmanager
def kernels(run: Computing, device: torch.device) -> Iterator[None]:
    """While open, compute as the settings of a run say; afterwards restore what was before.

    Parameters
    ----------
    run : Computing
        With ``deterministic`` False, CUDA takes its fastest kernels. Other devices use deterministic ones in any case.
    device : torch.device
        What the run computes on.

    Raises
    ------
    UserError
        If an operation has no deterministic kernel on CUDA.
    """
    exact = run.deterministic or device.type != "cuda"
    try:
        with deterministic(run.threads, run.precision == "tf32", exact):
            yield
    except RuntimeError as error:
        if NO_WORKSPACE in str(error):
            raise UserError(
                f"this process used CUDA before the run: set {WORKSPACE}=:4096:8 before it starts, or choose "
                "deterministic=false, with which two runs may differ in the last bits"
            ) from error
        operation, found, _ = str(error).partition(NO_KERNEL)
        if not found or device.type != "cuda":
            raise
        raise UserError(
            f"{operation} has no deterministic kernel on CUDA: choose deterministic=false, with which two runs may "
            "differ in the last bits, or device=cpu, or replace the operation in the method"
        ) from error


@contextmanager
def deterministic(threads: int | None, tf32: bool = False, exact: bool = True) -> Iterator[None]:
    """While open, use deterministic kernels and a number of threads; afterwards restore what was before.

    An operation that has no deterministic kernel raises torch's error, which names it. If torch only warned, it would
    not use the deterministic kernels of attention either.

    Parameters
    ----------
    threads : int or None
        CPU threads; None leaves torch's own number.
    tf32 : bool, optional
        Whether CUDA may round the factors of fp32 products to TF32.
    exact : bool, optional
        False takes the fastest kernels instead.
    """
    filling: Any = torch.utils.deterministic  # its attribute is one of torch's C++
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.allow_tf32,
        torch.backends.cuda.matmul.allow_tf32,
        torch.get_num_threads(),
        filling.fill_uninitialized_memory,
    )
    # cuBLAS is deterministic only with a fixed workspace, which torch reads from the environment at its first product:
    # set with any kernels, for a run that follows in this process.
    workspace = os.environ.get(WORKSPACE)
    os.environ.setdefault(WORKSPACE, ":4096:8")
    try:
        torch.use_deterministic_algorithms(exact)
        # Else torch fills the memory of every result before it computes it: on CUDA a kernel each.
        filling.fill_uninitialized_memory = False
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
        if threads is not None:
            torch.set_num_threads(threads)
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before[2:4]
        torch.set_num_threads(before[4])
        filling.fill_uninitialized_memory = before[5]
        if workspace is None:
            os.environ.pop(WORKSPACE, None)


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error means that an allocation failed.

    On CUDA that is an error of its own, or one of CUDA's libraries; on the CPU a `RuntimeError` or, outside of torch, a
    `MemoryError`.

    Parameters
    ----------
    error : Exception

    Returns
    -------
    bool
    """
    said = str(error)
    return isinstance(error, torch.cuda.OutOfMemoryError | MemoryError) or any(text in said for text in FAILED)


def processor() -> str:
    """Return the name of the processor.

    Returns
    -------
    str
    """
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def peak_memory_mb(device: torch.device) -> float | None:
    """Return the largest memory that this process has taken so far.

    Parameters
    ----------
    device : torch.device
        On CUDA the accelerator's memory counts, otherwise resident memory.

    Returns
    -------
    float or None
        In MB (1e6 bytes); None where it is not known.
    """
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
    try:
        # Not getrusage first: its value on Linux begins with the memory of the process that started this one.
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return round(int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6, 1)
    except (OSError, ValueError, IndexError):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / 1e6 if sys.platform == "darwin" else peak / 1e3, 1)
