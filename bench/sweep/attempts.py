"""What is noted of the last attempt at a point, by whoever runs it: one file, one schema, here and on SLURM."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from bench.core.files import write_atomic
from bench.record.json_file import read_object


@dataclass(frozen=True)
class Attempt:
    """One process that ran a point, or still runs it.

    Two older versions of these notes lack a part each, `job` and `restarts` or `birth`; they can still be read.

    Attributes
    ----------
    exit_status : int or None
        A signal counts as 128 + its number; None while the process runs.
    seconds : float or None
        From start to end; None while the process runs.
    host : str
        Name of the machine.
    pid : int or None
        Process id on that machine.
    birth : str or None
        As of `birth`.
    job : str or None
        Id of the SLURM job; None where a sweep started the process itself.
    restarts : int
        How often SLURM has started the job again.
    started : str
        Local time with its offset, as in ``2026-01-31T12:00:00+0100``.
    """

    exit_status: int | None = None
    seconds: float | None = None
    host: str = ""
    pid: int | None = None
    birth: str | None = None
    job: str | None = None
    restarts: int = 0
    started: str = ""

    @classmethod
    def of_process(cls, pid: int, began: float, job: str | None = None, restarts: int = 0) -> Attempt:
        """Return the attempt of a process of this machine that has just started.

        Parameters
        ----------
        pid : int
            Process id.
        began : float
            Seconds since the epoch.
        job : str or None, optional
            Id of the SLURM job.
        restarts : int, optional
            How often SLURM has started the job again.

        Returns
        -------
        Attempt
        """
        started = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(began))
        host = socket.gethostname()
        return cls(host=host, pid=pid, birth=birth(pid), job=job, restarts=restarts, started=started)

    @classmethod
    def read(cls, path: Path) -> Attempt | None:
        """Return what a file notes; None if there is no file, or it cannot be read."""
        try:
            content = read_object(path)
        except (OSError, ValueError):
            return None
        return cls(**{one.name: content[one.name] for one in fields(cls) if one.name in content})

    def write(self, path: Path) -> None:
        """Write the notes to a file."""
        write_atomic(path, json.dumps(asdict(self), indent=1) + "\n")

    def ended(self, status: int, seconds: float) -> Attempt:
        """Return the same attempt after its end.

        Parameters
        ----------
        status : int
            As of `exit_status`.
        seconds : float
            From start to end.

        Returns
        -------
        Attempt
        """
        return replace(self, exit_status=status, seconds=round(seconds, 3))

    def is_alive(self) -> bool:
        """Return whether the process runs on this machine now; what another machine runs is not known here."""
        here = self.host == socket.gethostname()
        return here and self.pid is not None and self.birth is not None and birth(self.pid) == self.birth


def exit_status(code: int) -> int:
    """Return the exit status for a return code of `subprocess`, in which a signal is a negative number."""
    return code if code >= 0 else 128 - code


def birth(pid: int) -> str | None:
    """Return the start time of a process, to detect a process id that was used again.

    Parameters
    ----------
    pid : int

    Returns
    -------
    str or None
        To be compared with others of the same machine only. None if there is no such process, if it has ended and was
        not waited for, or if the system does not say.
    """
    try:
        # The name of the program, in brackets, may hold blanks; after it stand the state and 18 other numbers.
        words = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return None if words[0] in "ZX" else words[19]
    except (OSError, IndexError):
        pass
    if Path("/proc/self/stat").exists():
        return None
    try:
        done = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() or None
