"""Look at a run directory before writing to it: what stands under the names of a record may lead elsewhere."""

from __future__ import annotations

from pathlib import Path

from bench.core.errors import UserError
from bench.core.untrusted import NotPlain, check_file, check_folder, why
from bench.record.schema import FILES, FOLDERS


def check_names(directory: Path) -> None:
    """Refuse a run directory in which a name of the record stands for something else than a file or folder of its own.

    Links would let a run that somebody else began write to files outside, named pipes and devices would keep it
    waiting. The directory itself must be no link either.

    Parameters
    ----------
    directory : Path
        A run directory; need not exist.

    Raises
    ------
    UserError
        Naming what is not as it should be, or cannot be looked at.
    """
    try:
        check_folder(directory)
        for name in FOLDERS:
            check_folder(directory / name)
        for name in FILES:
            check_file(directory / name)
    except NotPlain as error:
        raise UserError(
            f"{error.filename} is no part of a record ({error.strerror}): remove it, or move {directory} away to run "
            "again"
        ) from None
    except OSError as error:
        raise UserError(
            f"{error.filename} cannot be read ({why(error)}): make it readable, or choose another folder with out=DIR"
        ) from error
