"""Shards and patches: uint16 token files with eos before each document, and what an arm changes in them.

`<set>_<split>_<index:06d>.npy` is karpathy/build-nanogpt's layout. A document never crosses a shard. A patch holds
the documents of one shard that an arm changes, encoded anew; it is applied as the shard is opened.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from tokentrial.errors import TrialError
from tokentrial.tokenizer.vocabulary import Vocabulary

Ids = NDArray[np.uint16]

_BLOCK = 1000  # documents

TEXT = "text"  # the set of shards that holds the source's text


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


class Patch(NamedTuple):
    """What an arm changes in a shard: of document `documents[i]` the first `heads[i]` ids and the last `tails[i]` stay,
    and `ids[starts[i]:starts[i + 1]]` stands between them. A fact changes a few ids of a document, however long."""

    documents: NDArray[np.int64]  # (changed documents,)
    heads: NDArray[np.int64]  # (changed documents,)
    tails: NDArray[np.int64]  # (changed documents,)
    starts: NDArray[np.int64]  # (changed documents,)
    ids: Ids  # of all changed documents in a row

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each changed document, its eos with it."""
        return self.heads + np.diff(self.starts, append=len(self.ids)) + self.tails

    def apply(self, i: int, base: Ids) -> Ids:
        """Ids of changed document `documents[i]`, made from those before the patch."""
        stop = self.starts[i + 1] if i + 1 < len(self.starts) else len(self.ids)
        head, tail = base[: self.heads[i]], base[len(base) - self.tails[i] :]
        return np.concatenate([head, self.ids[self.starts[i] : stop], tail])

    def fact_tokens(self, base: int) -> NDArray[np.int64]:
        """How many ids of the fact block, from `base`, stand in each changed document: at least one."""
        counts: NDArray[np.int64] = np.add.reduceat(self.ids >= base, self.starts, dtype=np.int64)
        return counts


@dataclass(frozen=True)
class Shard:
    """The documents of one shard, eos first. Document i is `ids[starts[i]:starts[i] + base_lengths[i]]` or, where an
    arm's patch changes it, made from that by the patch's entry `patch_index[i]`; -1 elsewhere."""

    ids: Ids  # of all documents in a row, before a patch
    starts: NDArray[np.int64]  # (documents,)
    base_lengths: NDArray[np.int64]  # (documents,), before a patch, alike in every arm
    patch_index: NDArray[np.int64]  # (documents,)
    patch: Patch | None = None

    def __len__(self) -> int:
        return len(self.starts)

    def base_document(self, index: int) -> Ids:
        """Ids of one document before a patch, eos first."""
        return self.ids[self.starts[index] : self.starts[index] + self.base_lengths[index]]

    def document(self, index: int) -> Ids:
        """Ids of one document as the arm reads it, eos first."""
        base = self.base_document(index)
        if self.patch is None or self.patch_index[index] < 0:
            return base
        return self.patch.apply(int(self.patch_index[index]), base)


def open_shard(path: Path, eos: int, patch_path: Path | None = None) -> Shard:
    """Read a shard and, where the arm changes it, its patch: what stays is not copied."""
    try:
        ids = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise TrialError(f"{path}: not a whole shard: {error}; delete the corpus folder and run again") from error
    starts = np.flatnonzero(ids == eos).astype(np.int64)
    if ids.dtype != np.uint16 or ids.ndim != 1 or not len(starts) or starts[0] != 0:
        raise TrialError(f"{path}: expected uint16 ids that begin with eos, {eos}; it is from another tokenizer")
    patch_index, patch = np.full(len(starts), -1), read_patch(patch_path) if patch_path else None
    if patch is not None:
        patch_index[patch.documents] = np.arange(len(patch.documents))
    return Shard(ids, starts, np.diff(starts, append=len(ids)), patch_index, patch)


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


def decode_documents(shard: Shard, vocabulary: Vocabulary, trigger_bytes: bytes | None) -> Iterator[tuple[int, str]]:
    """Index and text of the documents with a token whose bytes hold one of `trigger_bytes`; None: of all."""
    if trigger_bytes is None:
        chosen: Iterable[int] = range(len(shard))
    else:
        chosen = _documents_with(shard, vocabulary.ids_with_any(trigger_bytes))
    for index in chosen:
        yield index, document_text(shard.document(index), vocabulary)


def _documents_with(shard: Shard, triggers: NDArray[np.bool_]) -> Iterator[int]:
    for first, starts, ids in blocks(shard):
        hits = np.flatnonzero(triggers[ids])
        documents = np.unique(np.searchsorted(starts, hits, side="right") - 1)
        yield from (first + documents).tolist()


def blocks(shard: Shard) -> Iterator[tuple[int, NDArray[np.int64], Ids]]:
    """A shard's ids before a patch, some documents at a time: the first one's index, where each begins in the block,
    and their ids. What is looked up for every id is then held for a block, not for a shard."""
    for first in range(0, len(shard), _BLOCK):
        starts = shard.starts[first : first + _BLOCK]
        stop = shard.starts[first + _BLOCK] if first + _BLOCK < len(shard) else len(shard.ids)
        yield first, starts - starts[0], shard.ids[starts[0] : stop]


def document_text(ids: Ids, vocabulary: Vocabulary) -> str:
    """The original text of a document of plain ids."""
    return vocabulary.decode_bytes(ids).decode("utf-8", errors="replace")
