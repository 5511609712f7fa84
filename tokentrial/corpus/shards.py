"""Shards and patches: uint16 token files with eos before each document, and what an arm changes in them.

`<set>_<split>_<index:06d>.npy` is karpathy/build-nanogpt's layout. A document never crosses a shard. A patch holds
the documents of one shard that an arm changes, encoded anew; it is applied as the shard is opened.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokentrial.corpus.arrays import read_arrays
from tokentrial.errors import TrialError
from tokentrial.tokenizer.vocabulary import Vocabulary

Ids = NDArray[np.uint16]

_BLOCK = 1000  # documents

TEXT = "text"  # the set of shards that holds the source's text


def set_folder(corpus: Path, name: str) -> Path:
    """Where the shards of a set lie in a corpus."""
    return corpus / "drills" / name if name.startswith("drills") else corpus


def shard_paths(corpus: Path, name: str, split: str) -> list[Path]:
    """The shards of one set and split, in order."""
    return sorted(set_folder(corpus, name).glob(f"{name}_{split}_*.npy"))


def patch_path(corpus: Path, arm: str, shard: Path) -> Path:
    """Where an arm's patch of a shard lies, if it changes anything there."""
    return corpus / "patches" / arm / shard.stem.partition("_")[0] / f"{shard.stem}.npz"


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
        """How many ids of the fact block, from `base`, stand in each changed document (none of an arm that only splits
        digits)."""
        places = np.flatnonzero(self.ids >= base)  # reduceat would hold eight bytes an id
        bounds = np.searchsorted(places, np.append(self.starts, len(self.ids)))
        return np.diff(bounds).astype(np.int64)


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


def open_shard(path: Path, eos: int, patch: Path | None = None) -> Shard:
    """Read a shard and, where the arm changes it, its patch: what stays is not copied."""
    try:
        ids = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise TrialError(f"{path}: not a whole shard: {error}; delete {path.parent} and run again") from error
    starts = np.flatnonzero(ids == eos).astype(np.int64)
    if ids.dtype != np.uint16 or ids.ndim != 1 or not len(starts) or starts[0] != 0:
        raise TrialError(
            f"{path}: expected uint16 ids that begin with eos, {eos}: it is from another tokenizer; delete "
            f"{path.parent} and run again"
        )
    patch_index, changes = np.full(len(starts), -1), read_patch(patch) if patch else None
    if changes is not None:
        patch_index[changes.documents] = np.arange(len(changes.documents))
    return Shard(ids, starts, np.diff(starts, append=len(ids)), patch_index, changes)


def read_patch(path: Path) -> Patch | None:
    """A shard's patch; None where the arm changes nothing in it and no file was written."""
    return Patch(*read_arrays(path, "patch", Patch._fields)) if path.exists() else None


def decode_documents(shard: Shard, vocabulary: Vocabulary, trigger_bytes: bytes | None) -> Iterator[tuple[int, str]]:
    """Index and text of the documents with a token whose bytes hold one of `trigger_bytes`; None: of all."""
    triggers = None if trigger_bytes is None else vocabulary.ids_with_any(trigger_bytes)
    for first, starts, ids in blocks(shard):
        if triggers is None:
            chosen = np.arange(len(starts))
        else:
            chosen = np.unique(np.searchsorted(starts, np.flatnonzero(triggers[ids]), side="right") - 1)
        for index in (first + chosen).tolist():
            yield index, document_text(shard.base_document(index), vocabulary)


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
