"""Shards and patches: uint16 token files with eos before each document, and what an arm changes in them.

`<set>_<split>_<index:06d>.npy` is karpathy/build-nanogpt's layout. A document never crosses a shard. A patch holds
the documents of one shard that an arm changes, encoded anew; it is applied as the shard is opened.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from tokentrial.errors import TrialError
from tokentrial.tokenizer.vocabulary import Vocabulary

Ids = NDArray[np.uint16]

TEXT = "fineweb"  # the set of shards that holds the source's text; the name is build-nanogpt's


def shard_paths(folder: Path, name: str, split: str) -> list[Path]:
    """The shards of one set and split, in order."""
    return sorted(folder.glob(f"{name}_{split}_*.npy"))


_HEADER = 128  # bytes of the .npy header of a flat array: numpy pads it so


class ShardWriter:
    """Writes documents of one set and split into shards of about `shard_tokens`, as they come: nothing is held."""

    def __init__(self, folder: Path, name: str, split: str, shard_tokens: int, eos: int) -> None:
        self.folder, self.name, self.split = folder, name, split
        self.shard_tokens = shard_tokens
        self.shards, self.tokens, self.documents = 0, 0, 0
        self._eos = np.array([eos], np.uint16)
        self._file: BinaryIO | None = None
        self._written = 0  # tokens in the open shard

    def add(self, ids: Ids) -> None:
        """Append one document's ids, eos put before them."""
        if self._file is not None and self._written + len(ids) + 1 > self.shard_tokens:
            self.close()
        if self._file is None:
            path = self.folder / f"{self.name}_{self.split}_{self.shards:06d}.npy"
            self._file = path.open("wb", buffering=1 << 20)
            self._file.write(bytes(_HEADER))
        self._file.write(self._eos.data)
        self._file.write(ids.data)
        self._written += len(ids) + 1
        self.documents += 1

    def close(self) -> None:
        """Finish the open shard, if there is one: its header says how long it is, so it comes last."""
        if self._file is None:
            return
        self._file.seek(0)
        header = {"descr": "<u2", "fortran_order": False, "shape": (self._written,)}
        np.lib.format.write_array_header_1_0(self._file, header)
        self._file.close()
        self._file = None
        self.shards += 1
        self.tokens += self._written
        self._written = 0


@dataclass(frozen=True)
class Shard:
    """The documents of one shard, eos first. Document i is `ids[starts[i]:stops[i]]`, or where an arm's patch changed
    it, `patched[i]`, the same stretch of `changed`. `base_lengths` are the lengths before a patch, alike in every arm.
    """

    ids: Ids
    changed: Ids
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]
    base_lengths: NDArray[np.int64]
    patched: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each document, its eos with it."""
        return self.stops - self.starts

    def document(self, index: int) -> Ids:
        """Ids of one document, eos first."""
        return (self.changed if self.patched[index] else self.ids)[self.starts[index] : self.stops[index]]


def open_shard(path: Path, eos: int, patch: Path | None = None) -> Shard:
    """Read a shard and, where the arm changes it, point the changed documents to the patch: nothing is copied."""
    try:
        ids = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise TrialError(f"{path}: not a whole shard: {error}; delete the corpus folder and run again") from error
    starts = np.flatnonzero(ids == eos).astype(np.int64)
    if ids.dtype != np.uint16 or ids.ndim != 1 or not len(starts) or starts[0] != 0:
        raise TrialError(f"{path}: expected uint16 ids that begin with eos, {eos}; it is from another tokenizer")
    stops = np.append(starts[1:], len(ids))
    shard = Shard(ids, ids[:0], starts, stops, stops - starts, np.zeros(len(starts), bool))
    return shard if patch is None else patched(shard, patch)


class Patch(NamedTuple):
    """The documents of a shard that an arm changes: document `documents[i]` begins at `ids[starts[i]]`, eos first."""

    documents: NDArray[np.int64]
    starts: NDArray[np.int64]
    ids: Ids

    @property
    def stops(self) -> NDArray[np.int64]:
        return np.append(self.starts[1:], len(self.ids))

    def fact_tokens(self, base: int) -> NDArray[np.int64]:
        """How many ids of the fact block, from `base`, stand in each of its documents."""
        counts: NDArray[np.int64] = np.add.reduceat(self.ids >= base, self.starts, dtype=np.int64)
        return counts


def read_patch(path: Path) -> Patch | None:
    """A shard's patch; None where the arm changes nothing in it and no file was written."""
    return Patch(*read_arrays(path, "patch", Patch._fields)) if path.exists() else None


def read_arrays(path: Path, what: str, names: Sequence[str]) -> list[NDArray[Any]]:
    """The named arrays of an .npz file; the error names the file."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return [stored[name] for name in names]
    except (OSError, ValueError, EOFError, KeyError, BadZipFile) as error:
        raise TrialError(f"{path}: not a whole {what}: {error}; delete its folder and run again") from error


def patched(shard: Shard, path: Path) -> Shard:
    """The shard with an arm's patch; the shard itself where the arm changes nothing in it."""
    patch = read_patch(path)
    if patch is None:
        return shard
    starts, stops, changed = shard.starts.copy(), shard.stops.copy(), shard.patched.copy()
    starts[patch.documents], stops[patch.documents], changed[patch.documents] = patch.starts, patch.stops, True
    return Shard(shard.ids, patch.ids, starts, stops, shard.base_lengths, changed)


def documents_with(shard: Shard, vocabulary: Vocabulary, needle: bytes) -> Iterator[tuple[int, str]]:
    """Index and text of the documents with a token whose bytes hold the one-byte `needle`."""
    hits = np.flatnonzero(vocabulary.holding(needle)[shard.ids])
    for index in np.unique(np.searchsorted(shard.starts, hits, side="right") - 1):
        yield int(index), text_of(shard.document(index), vocabulary)


def text_of(ids: Ids, vocabulary: Vocabulary) -> str:
    """The original text of a document of plain ids."""
    return vocabulary.decode_bytes(ids).decode("utf-8", errors="replace")
