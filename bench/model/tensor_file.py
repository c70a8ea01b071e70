"""Read the tensors of a file that torch has written, and run nothing of what else it holds.

``torch.save`` and TorchScript write the same kind of file: a zip archive with a pickle, ``data.pkl``, and the bytes of
the tensors below ``data/``. A pickle may name any function and have it called. The reader here rebuilds tensors,
dictionaries and plain values; everything else becomes an `Unknown`, which does nothing.
"""

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SCRIPT = "__torch__"
"""What the names of a TorchScript archive's own classes begin with."""

STORAGES = {
    "BFloat16Storage": torch.bfloat16,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "ShortStorage": torch.int16,
}


class Damaged(Exception):
    """The file is cut off, or its parts contradict each other."""


class Unknown:
    """Stands for an object of a class, or for the result of a function, that is neither imported nor called.

    Attributes
    ----------
    origin : str
        The class or function that the file names.
    attributes : dict of str to object
        The attributes that the file gives the object, if any.
    """

    origin = ""

    def __init__(self, *arguments: Any, **options: Any):
        self.attributes: dict[str, Any] = {}

    def __new__(cls, *arguments: Any, **options: Any) -> "Unknown":
        """Return an object with no attributes, whatever the file passes: a pickle skips ``__init__``."""
        made = super().__new__(cls)
        made.attributes = {}
        return made

    def __call__(self, *arguments: Any, **options: Any) -> "Unknown":
        """Return itself: the file may call what a call returned."""
        return self

    def __setstate__(self, state: Any) -> None:
        self.attributes = state if isinstance(state, dict) else {}

    def __setitem__(self, key: Any, value: Any) -> None:
        """Ignore an item: the file may take the object for a dictionary."""

    def append(self, value: Any) -> None:
        """Ignore an item: the file may take the object for a list."""


class _Reader(pickle.Unpickler):
    """Read ``data.pkl`` of an archive."""

    def __init__(self, archive: zipfile.ZipFile, folder: str, largest: int):
        super().__init__(io.BytesIO(_member(archive, f"{folder}data.pkl", largest)))
        self._archive, self._folder, self._largest = archive, folder, largest
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a class or function; nothing is imported."""
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch._utils" and name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
            return _tensor
        if module == "torch._utils" and name == "_rebuild_parameter":
            return _first
        if module == "torch.jit._pickle":  # lists whose items have one type; TorchScript writes them as calls
            return _first
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        return type("Unknown", (Unknown,), {"origin": f"{module}.{name}"})

    def persistent_load(self, identity: Any) -> Any:
        """Return the values of a storage as one row."""
        _, dtype, key, *_ = identity
        if not isinstance(dtype, torch.dtype):
            raise Damaged(f"storage {key} has no type that is known")
        if key not in self._storages:
            content = bytearray(_member(self._archive, f"{self._folder}data/{key}", self._largest))
            self._storages[key] = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
        return self._storages[key]


def read_archive(path: Path) -> Any:
    """Return what a zip archive of torch's holds, with `Unknown` objects for all but tensors and plain values.

    Parameters
    ----------
    path : Path

    Returns
    -------
    object
        None if the archive has no ``data.pkl``, that is, if torch has not written it.

    Raises
    ------
    Damaged
        If it is cut off, or cannot be read for another reason.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            pickles = [name for name in archive.namelist() if name == "data.pkl" or name.endswith("/data.pkl")]
            if not pickles:
                return None
            folder = min(pickles, key=len).removesuffix("data.pkl")
            return _Reader(archive, folder, path.stat().st_size).load()
    except (Damaged, OSError, MemoryError):
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        raise Damaged(str(error) or type(error).__name__) from error


def script_tensors(root: Unknown) -> dict[str, Tensor]:
    """Return the parameters and buffers of a TorchScript module by their names in its state dict.

    Parameters
    ----------
    root : Unknown
        What `read_archive` gives for a TorchScript archive.

    Returns
    -------
    dict of str to Tensor
    """
    found, seen, waiting = {}, {id(root)}, [("", root)]
    while waiting:
        prefix, module = waiting.pop()
        for name, value in module.attributes.items():
            if isinstance(value, Tensor):
                found[f"{prefix}{name}"] = value
            elif isinstance(value, Unknown) and id(value) not in seen:  # a hostile file may nest a module in itself
                seen.add(id(value))
                waiting.append((f"{prefix}{name}.", value))
    return found


def _member(archive: zipfile.ZipFile, name: str, largest: int) -> bytes:
    """Return the content of a member, which torch never compresses."""
    if archive.getinfo(name).file_size > largest:
        raise Damaged(f"{name} is larger than the file")
    return archive.read(name)


def _tensor(storage: Tensor, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    """Return a tensor in a storage; one that does not lie inside it is an error."""
    return storage.as_strided(tuple(size), tuple(stride), offset)


def _first(value: Any, *_: Any) -> Any:
    return value
