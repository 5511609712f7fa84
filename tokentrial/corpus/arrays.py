"""Arrays that are written as they come, and the .npz files that hold them: of what a shard's patch or survey says of
each site, nothing is kept in memory but the block at work."""

import shutil
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from tokentrial.errors import TrialError

_COPIED = 1 << 20  # bytes at a time


class ArrayFile:
    """A flat array that is appended to, in a file without a name that ends with it."""

    def __init__(self, folder: Path, dtype: DTypeLike) -> None:
        self.dtype, self.length = np.dtype(dtype), 0
        # on the disk of the run folder: /tmp is often memory
        self._file: BinaryIO = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed as the array is written

    def append(self, values: ArrayLike) -> None:
        """Append these values, (n,)."""
        array = np.ascontiguousarray(values, self.dtype)
        self._file.write(array.data)
        self.length += len(array)

    def write_npy(self, to: Any) -> None:
        """Write the array to an open file, as numpy.save does, and let go of it here."""
        header = np.lib.format.dtype_to_descr(self.dtype)
        np.lib.format.write_array_header_1_0(to, {"descr": header, "fortran_order": False, "shape": (self.length,)})
        with self._file as file:
            file.seek(0)
            shutil.copyfileobj(file, to, _COPIED)


def write_arrays(path: Path, arrays: Mapping[str, "ArrayFile | NDArray[Any]"]) -> None:
    """The .npz file that numpy.savez would write, to the byte."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                if isinstance(array, ArrayFile):
                    array.write_npy(file)
                else:
                    np.lib.format.write_array(file, array, allow_pickle=False)


def read_arrays(path: Path, what: str, names: Sequence[str]) -> list[NDArray[Any]]:
    """The named arrays of an .npz file; the error names the file."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return [stored[name] for name in names]
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise TrialError(f"{path}: not a whole {what}: {error}; delete its folder and run again") from error
