"""What somebody else's code did wrong, in one line that says where."""

from __future__ import annotations

import os
import sysconfig
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path

ENGINE = Path(__file__).parent.parent
"""The package of the engine; plug-ins lie beside it or inside it in folders of their own."""

TRACEBACK = "KEEPLORA_TRACEBACK"
"""Environment variable that also shows the whole traceback, for authors of plug-ins."""

_LIBRARIES = tuple(sysconfig.get_paths()[kind] for kind in ("stdlib", "platstdlib", "purelib", "platlib"))


def blamed(error: BaseException) -> str:
    """Return an error in one line, with file and line of the author's code that it came from.

    Parameters
    ----------
    error : BaseException
        As raised.

    Returns
    -------
    str
        Such as ``KeyError: 'x' (mine.py, line 12)``; without a place where only the engine and libraries took part.
    """
    if os.environ.get(TRACEBACK):
        traceback.print_exception(error)
    if isinstance(error, MemoryError):
        return "there is too little memory"
    text = str(error).strip()
    line = f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_authors(frame.filename)]
    return f"{line} ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else line


def sentences_of(name: str, call: Callable[[], Iterable[str]]) -> list[str]:
    """Return the sentences that a function of somebody else's returns, or one about what is wrong with it.

    Parameters
    ----------
    name : str
        What the function is called, such as ``check()``.
    call : callable
        Returns sentences.

    Returns
    -------
    list of str
    """
    try:
        result = call()
    except Exception as error:
        return [f"its {name} fails: {blamed(error)}"]
    if not isinstance(result, list | tuple) or not all(isinstance(sentence, str) for sentence in result):
        return [f"its {name} returns {type(result).__name__}: it must return a list of sentences"]
    return list(result)


def _is_authors(file: str) -> bool:
    path = Path(file)
    if file.startswith("<") or any(path.is_relative_to(folder) for folder in _LIBRARIES):
        return False
    return not path.is_relative_to(ENGINE) or path.relative_to(ENGINE).parts[0] in ("methods", "datasets")
