"""Shards and patches: uint16 token files with eos before each document, and what an arm changes in them.

`<set>_<split>_<index:06d>.npy` is karpathy/build-nanogpt's layout. A document never crosses a shard. A patch holds
the documents of one shard that an arm changes, encoded anew; it is applied as the shard is opened.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tokentrial.arms.arm import Arm
from tokentrial.errors import TrialError
from tokentrial.tokenizer.vocabulary import Vocabulary

Ids = NDArray[np.uint16]


def shard_paths(folder: Path, name: str, split: str) -> list[Path]:
    """The shards of one set and split, in order."""
    return sorted(folder.glob(f"{name}_{split}_*.npy"))


class ShardWriter:
    """Writes documents of one set and split into shards of about `shard_tokens`."""

    def __init__(self, folder: Path, name: str, split: str, shard_tokens: int, eos: int) -> None:
        self.folder, self.name, self.split = folder, name, split
        self.shard_tokens = shard_tokens
        self.shards, self.tokens, self.documents = 0, 0, 0
        self._eos = np.array([eos], np.uint16)
        self._held: list[Ids] = []
        self._held_tokens = 0

    def add(self, ids: Ids) -> None:
        """Append one document's ids, eos put before them."""
        if self._held and self._held_tokens + len(ids) + 1 > self.shard_tokens:
            self._write()
        self._held += [self._eos, ids]
        self._held_tokens += len(ids) + 1
        self.documents += 1

    def close(self) -> None:
        """Write what is held."""
        if self._held:
            self._write()

    def _write(self) -> None:
        path = self.folder / f"{self.name}_{self.split}_{self.shards:06d}.npy"
        np.save(path, np.concatenate(self._held))
        self.shards += 1
        self.tokens += self._held_tokens
        self._held, self._held_tokens = [], 0


@dataclass(frozen=True)
class Shard:
    """The documents of one shard: document i is `ids[starts[i]:stops[i]]`, eos first.

    `base_lengths` are the lengths before an arm's patch, the same in every arm; `patched` says which were changed.
    """

    ids: Ids
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]
    base_lengths: NDArray[np.int64]
    patched: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.starts)

    def document(self, index: int) -> Ids:
        """Ids of one document, eos first."""
        return self.ids[self.starts[index] : self.stops[index]]


def open_shard(path: Path, eos: int, patch: Path | None = None) -> Shard:
    """Read a shard and, where the arm changes it, apply the patch: no document is copied."""
    try:
        ids = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise TrialError(f"{path}: not a whole shard: {error}; delete the corpus folder and run again") from error
    starts = np.flatnonzero(ids == eos).astype(np.int64)
    if ids.dtype != np.uint16 or ids.ndim != 1 or not len(starts) or starts[0] != 0:
        raise TrialError(f"{path}: expected uint16 ids that begin with eos, {eos}; it is from another tokenizer")
    stops = np.append(starts[1:], len(ids))
    lengths, patched = stops - starts, np.zeros(len(starts), bool)
    if patch is not None and patch.exists():
        with np.load(patch, allow_pickle=False) as change:
            documents, offsets = change["documents"], change["starts"] + len(ids)
            starts, patched[documents] = starts.copy(), True
            ids = np.concatenate([ids, change["ids"]])
        starts[documents] = offsets
        stops[documents] = np.append(offsets[1:], len(ids))
    return Shard(ids, starts, stops, lengths, patched)


def write_patch(shard_path: Path, patch_path: Path, arm: Arm, vocabulary: Vocabulary) -> dict[str, int]:
    """Encode anew what the arm changes in a shard, and write it. Returns counts of documents, sites and tokens.

    Only documents with an "=" are decoded and looked at: every site holds one.
    """
    shard = open_shard(shard_path, vocabulary.eos)
    changed: list[int] = []
    parts: list[Ids] = []
    eos = np.array([vocabulary.eos], np.uint16)
    ids_of = {token: np.array([i], np.uint16) for token, i in vocabulary.token_ids(arm).items()}
    for index, text in documents_with(shard, vocabulary, b"=") if arm.tokens else ():
        pieces = list(arm.pieces(text))
        if any(piece.token for piece in pieces):
            changed.append(index)
            parts.append(np.concatenate([eos, vocabulary.encode_pieces(pieces, ids_of)]))
    lengths = np.array([len(part) for part in parts], np.int64)
    ids = np.concatenate(parts) if parts else np.empty(0, np.uint16)
    if changed:
        np.savez(patch_path, documents=np.array(changed, np.int64), starts=np.cumsum(lengths) - lengths, ids=ids)
    replaced = int(shard.base_lengths[changed].sum()) if changed else 0
    return {
        "documents": len(changed),
        "sites": int((ids >= vocabulary.base).sum()),
        "tokens": len(shard.ids) - replaced + len(ids),
    }


def documents_with(shard: Shard, vocabulary: Vocabulary, needle: bytes) -> Iterator[tuple[int, str]]:
    """Index and text of the documents with a token whose bytes hold the one-byte `needle`."""
    holds = np.zeros(vocabulary.size, bool)
    holds[[i for token, i in vocabulary.ranks.items() if needle in token]] = True
    hits = np.flatnonzero(holds[shard.ids])
    for index in np.unique(np.searchsorted(shard.starts, hits, side="right") - 1):
        yield int(index), text_of(shard.document(index), vocabulary)


def text_of(ids: Ids, vocabulary: Vocabulary) -> str:
    """The original text of a document of plain ids."""
    return vocabulary.decode_bytes(ids).decode("utf-8", errors="replace")
