"""A power cut for tests: what had not been synced is gone, the worst way that a file system may choose."""

import os
import shutil
from pathlib import Path

import pytest


class PowerCut(BaseException):
    """Stands for the end of the machine."""


class Disk:
    """A folder whose unsynced content can be lost.

    A name is on the disk once its folder was synced, content once its file was. A name that replaces another one
    without that leaves the old content; a name that was removed is gone at once.

    Parameters
    ----------
    root : Path
        The folder; all that is in it now is on the disk.
    """

    def __init__(self, root: Path):
        self.root = root
        self.synced: dict[int, bytes] = {}
        self.names: dict[Path, dict[str, int]] = {}
        self.kept: list[int] = []
        for path in (root, *root.rglob("*")):
            descriptor = os.open(path, os.O_RDONLY)
            self.sync(descriptor)
            os.close(descriptor)

    def sync(self, descriptor: int) -> None:
        """Note what reaches the disk."""
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path != self.root and self.root not in path.parents:
            return
        if path.is_dir():
            # Descriptors that stay open keep the numbers of files that are removed from being used again.
            entries = {}
            for entry in path.iterdir():
                if entry.is_file():
                    self.kept.append(os.open(entry, os.O_RDONLY))
                entries[entry.name] = entry.stat().st_ino
            self.names[path] = entries
        else:
            self.kept.append(os.open(path, os.O_RDONLY))
            self.synced[os.fstat(descriptor).st_ino] = path.read_bytes()

    def cut(self) -> None:
        """Leave in the folder what a power cut would."""
        left = self.root.with_name(self.root.name + "-left")
        self._copy(self.root, left)
        shutil.rmtree(self.root)
        left.rename(self.root)
        for descriptor in self.kept:
            os.close(descriptor)

    def _copy(self, folder: Path, to: Path) -> None:
        to.mkdir()
        for name, number in self.names.get(folder, {}).items():
            path = folder / name
            if path.is_dir():
                self._copy(path, to / name)
            elif path.exists():
                (to / name).write_bytes(self.synced.get(number, b""))


def losing(monkeypatch: pytest.MonkeyPatch, root: Path) -> Disk:
    """Return a disk that learns of every sync."""
    disk, fsync = Disk(root), os.fsync

    def synced(descriptor: int) -> None:
        fsync(descriptor)
        disk.sync(descriptor)

    monkeypatch.setattr(os, "fsync", synced)
    return disk


def dying(monkeypatch: pytest.MonkeyPatch, moment: int, root: Path) -> None:
    """Let the machine die before the n-th change to names below a folder."""
    seen = {"now": 0}

    def watch(cls: object, name: str) -> None:
        original = getattr(cls, name)

        def changing(self: Path, *arguments: object, **named: object) -> object:
            if root in Path(self).parents:
                seen["now"] += 1
                if seen["now"] == moment:
                    raise PowerCut
            return original(self, *arguments, **named)

        monkeypatch.setattr(cls, name, changing)

    for name in ("replace", "unlink", "rmdir", "mkdir"):
        watch(Path, name)
