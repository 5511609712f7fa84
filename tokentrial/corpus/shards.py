"""Shards and patches: uint16 token files with eos before each document, and what an arm changes in them.

`<set>_<split>_<index:06d>.npy` is karpathy/build-nanogpt's layout. A document never crosses a shard. A patch holds
the documents of one shard that an arm changes, encoded anew; it is applied as the shard is opened.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from tokentrial.arms import arm as arms
from tokentrial.arms.arm import Piece
from tokentrial.errors import TrialError
from tokentrial.tokenizer.encode import encoder_of
from tokentrial.tokenizer.vocabulary import Vocabulary

Ids = NDArray[np.uint16]

TEXT = "fineweb"  # the set of shards that holds the source's text; the name is build-nanogpt's

SAMPLE = 50  # sites of a shard shown with their context, for a human eye
_CONTEXT = 60  # characters on either side


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

    def fact_tokens(self, base: int) -> NDArray[np.int64]:
        """How many ids of the fact block, from `base`, stand in each document; only patched ones hold any."""
        counts = np.zeros(len(self), np.int64)
        if len(self.changed):
            counts[self.patched] = np.add.reduceat(self.changed >= base, self.starts[self.patched])
        return counts


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


def patched(shard: Shard, patch: Path) -> Shard:
    """The shard with an arm's patch; the shard itself where the arm changes nothing in it."""
    if not patch.exists():
        return shard
    try:
        with np.load(patch, allow_pickle=False) as change:
            documents, offsets, ids = change["documents"], change["starts"], change["ids"]
    except (OSError, ValueError, EOFError, KeyError, BadZipFile) as error:
        raise TrialError(f"{patch}: not a whole patch: {error}; delete its folder and run again") from error
    starts, stops, changed = shard.starts.copy(), shard.stops.copy(), shard.patched.copy()
    starts[documents], stops[documents], changed[documents] = offsets, np.append(offsets[1:], len(ids)), True
    return Shard(shard.ids, ids, starts, stops, shard.base_lengths, changed)


class Patched(NamedTuple):
    """What a patch changes in a shard, counted. `lengths[k]` documents have 2**k to 2**(k+1) - 1 tokens."""

    documents: int
    changed: int
    sites: int
    tokens: int
    lengths: list[int]
    sample: list[dict[str, str]]


def write_patches(shard_path: Path, patches: dict[str, Path], vocabulary: Vocabulary) -> dict[str, Patched]:
    """Encode anew what each arm changes in a shard and write it to the arm's path in `patches`.

    Only documents with an "=" are decoded and looked at, once for all arms: every site holds one.
    """
    shard = open_shard(shard_path, vocabulary.eos)
    treatments = {name: arms.find(name) for name in patches}
    rewritten = {name: Rewritten(arm, vocabulary) for name, arm in treatments.items() if arm.tokens}
    for index, text in documents_with(shard, vocabulary, b"=") if rewritten else ():
        for each in rewritten.values():
            each.look_at(index, text, shard_path.stem)
    return {
        name: rewritten[name].write(patch, shard)
        if name in rewritten
        else _counted(shard, [], shard.base_lengths, 0, [])
        for name, patch in patches.items()
    }


class Rewritten:
    """The documents of one shard that an arm changes; their plain pieces are encoded all at once."""

    def __init__(self, arm: arms.Arm, vocabulary: Vocabulary) -> None:
        self.arm, self.vocabulary = arm, vocabulary
        self.ids_of = vocabulary.token_ids(arm)
        self.changed: list[int] = []
        self.plain: list[bytes] = []
        self.pieces: list[int] = []  # in order: -1 a plain piece, else an id; each document begins with eos
        self.firsts: list[int] = []  # where in `pieces` each document begins
        self.sample: list[dict[str, str]] = []

    def look_at(self, index: int, text: str, shard: str) -> None:
        """Take the document in, if the arm changes it."""
        pieces = list(self.arm.pieces(text))
        if not any(piece.token for piece in pieces):
            return
        self.changed.append(index)
        self.firsts.append(len(self.pieces))
        self.pieces.append(self.vocabulary.eos)
        for piece in pieces:
            if piece.token is None:
                self.plain.append(piece.text.encode())
            self.pieces.append(-1 if piece.token is None else self.ids_of[piece.token])
        if len(self.sample) < SAMPLE:
            self.sample += _in_context(text, pieces, f"{shard}:{index}")

    def write(self, patch: Path, shard: Shard) -> Patched:
        """Encode and write what was taken in, and count it; no file where nothing was."""
        plain, plain_lengths = encoder_of(self.vocabulary).encode(self.plain)
        pieces = np.array(self.pieces, np.int64)
        lengths = np.ones(len(pieces), np.int64)
        lengths[pieces < 0] = plain_lengths
        ids = np.repeat(pieces, lengths)
        ids[ids < 0] = plain
        starts = (np.cumsum(lengths) - lengths)[self.firsts]
        if self.changed:
            np.savez(patch, documents=np.array(self.changed, np.int64), starts=starts, ids=ids.astype(np.uint16))
        all_lengths = shard.base_lengths.copy()
        all_lengths[self.changed] = np.diff(np.append(starts, len(ids)))
        return _counted(shard, self.changed, all_lengths, int((ids >= self.vocabulary.base).sum()), self.sample)


def _counted(
    shard: Shard, changed: list[int], lengths: NDArray[np.int64], sites: int, sample: list[dict[str, str]]
) -> Patched:
    powers = np.bincount(np.frexp(lengths)[1] - 1)
    return Patched(len(shard), len(changed), sites, int(lengths.sum()), powers.tolist(), sample[:SAMPLE])


def _in_context(text: str, pieces: list[Piece], document: str) -> Iterator[dict[str, str]]:
    for piece in pieces:
        if piece.token:
            before, after = text[max(0, piece.start - _CONTEXT) : piece.start], text[piece.end : piece.end + _CONTEXT]
            yield {"document": document, "before": before, "site": piece.text, "token": piece.token, "after": after}


def documents_with(shard: Shard, vocabulary: Vocabulary, needle: bytes) -> Iterator[tuple[int, str]]:
    """Index and text of the documents with a token whose bytes hold the one-byte `needle`."""
    hits = np.flatnonzero(vocabulary.holding(needle)[shard.ids])
    for index in np.unique(np.searchsorted(shard.starts, hits, side="right") - 1):
        yield int(index), text_of(shard.document(index), vocabulary)


def text_of(ids: Ids, vocabulary: Vocabulary) -> str:
    """The original text of a document of plain ids."""
    return vocabulary.decode_bytes(ids).decode("utf-8", errors="replace")
