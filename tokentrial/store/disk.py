"""The machine below a run folder: room on the disk, and what to do where disk or memory give out."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tokentrial.errors import TrialError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # a disk that takes nothing more
_NOTHING = 100_000  # bytes free: a file that failed may have left so many


@contextmanager
def translate_os_errors(folder: Path) -> Iterator[None]:
    """Within the block a full or unwritable disk and a lack of memory are a TrialError that says what to do; what was
    done before is kept."""
    try:
        yield
    except TrialError:
        raise
    except Exception as error:
        if (fault := _fault(error, folder)) is None:
            raise
        raise TrialError(f"{fault}; then run the same command again: what is done is kept") from error


def _fault(error: Exception, folder: Path) -> str | None:
    """What of the machine an error is of, and what to do about it; None where it is of something else. safetensors and
    torch have errors of their own for a full disk."""
    number, named = (error.errno, Path(str(error.filename))) if isinstance(error, OSError) else (None, folder)
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if (
        number in (errno.ENOSPC, errno.EDQUOT)
        or "os error 28" in str(error)
        or shutil.disk_usage(existing).free < _NOTHING
    ):
        return f"{folder}: No space left on device; free some space or give output=OTHER_FOLDER"
    if number in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"{error}; make it writable, or give output=OTHER_FOLDER"
    if number == errno.EISDIR:
        return f"{named}: found a folder, expected the name of a file; give one"
    if number == errno.ENOTDIR or (number == errno.EEXIST and named.is_file()):
        return f"{named}: found a file, expected a folder; move it, or give another folder"
    if isinstance(error, MemoryError) or re.search("can't allocate memory|out of memory", str(error)):
        return f"{folder}: out of memory; give fewer workers=N, or a smaller pretrain.micro_batch or evaluate.batch"
    return None


def need_disk(folder: Path, needed: int, what: str, reserve_gb: float) -> None:
    """Refuse before writing when `needed` bytes and a reserve do not fit on the folder's disk."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed + reserve_gb * 1e9:
        raise TrialError(
            f"{folder}: {what} needs {needed / 1e9:.3g} GB and a reserve of {reserve_gb:g} GB (disk_reserve_gb), "
            f"{free / 1e9:.3g} GB are free; free some space or give output=OTHER_FOLDER"
        )


def held_bytes(folder: Path) -> int:
    """Bytes on the disk of all files below a folder that others may be writing; a file of two names counts once."""
    by_inode = {}
    for base, _, names in os.walk(folder):
        for name in names:
            try:
                entry = os.lstat(os.path.join(base, name))
            except FileNotFoundError:
                continue
            by_inode[entry.st_ino] = entry.st_blocks * 512  # POSIX counts in blocks of 512 bytes on any disk
    return sum(by_inode.values())


def need_within(folder: Path, needed: int, what: str, limit_gb: float | None) -> None:
    """Refuse before writing what would bring the run folder beyond its limit; None: there is none. One that lies in
    another's, as OUT/ladder/2x64, shares its limit."""
    if limit_gb is None:
        return
    outer = folder.absolute().parent.parent
    folder = outer if (outer / "trial.yaml").is_file() and (outer / "corpus").is_dir() else folder
    if (held := held_bytes(folder)) + needed > limit_gb * 1e9:
        raise TrialError(
            f"{folder}: {what} needs {needed / 1e9:.2f} GB, {held / 1e9:.2f} GB are held, and disk_limit_gb is "
            f"{limit_gb:g}; give more, use fewer workers, or give storage=PATH; what is done is kept"
        )
