"""One look at a written shard: the patch of each arm, and the survey of what its documents weigh and state.

Both need the text that stands in the shard, and are made in one go over it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokentrial.arms import arm as arms
from tokentrial.arms.facts import DRILL_FORMS, Fact, Facts
from tokentrial.corpus import drills
from tokentrial.corpus.shards import TEXT, Ids, Patch, Shard, blocks, documents_with, open_shard, read_arrays
from tokentrial.tokenizer.encode import encode_documents
from tokentrial.tokenizer.vocabulary import Vocabulary

SAMPLE = 50  # sites of a shard shown with their context, for a human eye
_CONTEXT = 60  # characters on either side

FORMS = (*DRILL_FORMS, "text")  # "text": sites in the source's own documents

Counts = NDArray[np.int64]


class Survey(NamedTuple):
    """Of each document of a shard its tokens before a patch and the bytes of its original text; and what they state:
    `documents[j]` states fact x form `codes[j]`."""

    base_lengths: Counts
    bytes: Counts
    documents: Counts
    codes: Counts

    def __len__(self) -> int:
        return len(self.base_lengths)

    @classmethod
    def read(cls, path: Path) -> "Survey":
        """Read an .npz file of these arrays. Raises TrialError that names the file where it is not whole."""
        return cls(*read_arrays(path, "survey", cls._fields))


class Patched(NamedTuple):
    """What a patch changes in a shard, counted. `lengths[k]` documents have 2**k to 2**(k+1) - 1 tokens."""

    documents: int
    changed: int
    sites: int
    tokens: int
    lengths: list[int]
    sample: list[dict[str, str | None]]


def look_through(
    shard_path: Path, survey: Path | None, patches: Mapping[str, Path], vocabulary: Vocabulary, facts: Facts
) -> dict[str, Patched]:
    """Write what a shard's documents weigh and state to `survey`, and what each arm changes, encoded anew, to the arm's
    path in `patches`; returns each patch's counts.

    Of text only documents with an "=", which every site holds, or with what else an arm looks for are decoded, once for
    all. Drills are read whole, by their lines.
    """
    shard = open_shard(shard_path, vocabulary.eos)
    of_text = shard_path.stem.startswith(TEXT)
    rewritten = {name: Rewritten(arms.get_arm(name, facts), vocabulary) for name in patches}
    changing = [each for each in rewritten.values() if each.arm.trigger_bytes]
    trigger_bytes = bytes({*b"=", *(byte for each in changing for byte in each.arm.trigger_bytes)})
    stated: list[tuple[int, int]] = []
    if survey or changing:
        for index, text in documents_with(shard, vocabulary, trigger_bytes if of_text else None):
            if survey:
                found = ((site.fact, "text") for site in facts.sites(text)) if of_text else drills.read(facts, text)
                stated += [(index, code_of(facts, fact, form)) for fact, form in found]
            for each in changing:
                each.look_at(index, text, shard_path.stem)
    if survey:
        sizes = [np.add.reduceat(vocabulary.byte_sizes[ids], at, dtype=np.int64) for _, at, ids in blocks(shard)]
        documents, codes = np.array(stated, np.int64).reshape(-1, 2).T
        made = Survey(shard.base_lengths, np.concatenate(sizes), documents, codes)
        np.savez(survey, **made._asdict())
    return {name: rewritten[name].write(patch, shard) for name, patch in patches.items()}


def code_of(facts: Facts, fact: Fact, form: str) -> int:
    """The number of fact x form: row by row of a table of facts by FORMS."""
    return facts.index_of[fact] * len(FORMS) + FORMS.index(form)


class Rewritten:
    """The documents of one shard that an arm changes; their plain pieces are encoded all at once."""

    def __init__(self, arm: arms.Arm, vocabulary: Vocabulary) -> None:
        self.arm, self.vocabulary = arm, vocabulary
        self.ids_of = vocabulary.token_ids(arm)
        self.changed: list[int] = []
        self.plain: list[bytes] = []
        self.pieces: list[int] = []  # in order: -1 a plain piece, else an id; each document begins with eos
        self.firsts: list[int] = []  # where in `pieces` each document begins
        self.sample: list[dict[str, str | None]] = []

    def look_at(self, index: int, text: str, shard: str) -> None:
        """Take the document in, if the arm changes it."""
        pieces = list(self.arm.segments(text))
        if not pieces or (len(pieces) == 1 and pieces[0].token is None):
            return
        self.changed.append(index)
        self.firsts.append(len(self.pieces))
        self.pieces.append(self.vocabulary.eos)
        for piece in pieces:
            if piece.token is None:
                self.plain.append(piece.text.encode())
            self.pieces.append(-1 if piece.token is None else self.ids_of[piece.token])
        if len(self.sample) < SAMPLE:
            self.sample += [
                {
                    "document": f"{shard}:{index}",
                    "before": text[max(0, piece.start - _CONTEXT) : piece.start],
                    "site": piece.text,
                    "token": piece.token,
                    "after": text[piece.end : piece.end + _CONTEXT],
                }
                for piece in pieces
                if piece.token
            ]

    def write(self, patch: Path, shard: Shard) -> Patched:
        """Encode and write what was taken in, and count it; no file where nothing changes."""
        # digits cut one by one are what few merges make of them anyway
        made = {
            index: ids
            for index, ids in zip(self.changed, self._encoded(), strict=True)
            if not np.array_equal(ids, shard.document(index))
        }
        lengths = shard.base_lengths.copy()
        if made:
            np.savez(patch, **_differences(shard, made)._asdict())
            lengths[list(made)] = [len(ids) for ids in made.values()]
        sites = sum(piece >= self.vocabulary.base for piece in self.pieces)
        powers = np.bincount(np.frexp(lengths)[1] - 1).tolist()
        return Patched(len(shard), len(made), sites, int(lengths.sum()), powers, self.sample[:SAMPLE])

    def _encoded(self) -> list[Ids]:
        """Ids of each document that was taken in."""
        if not self.changed:
            return []
        plain, plain_lengths = encode_documents(self.vocabulary, self.plain)
        pieces = np.array(self.pieces, np.int64)
        lengths = np.ones(len(pieces), np.int64)
        lengths[pieces < 0] = plain_lengths
        ids = np.repeat(pieces, lengths)
        ids[ids < 0] = plain
        starts = (np.cumsum(lengths) - lengths)[self.firsts]
        return np.split(ids.astype(np.uint16), starts[1:])


def _differences(shard: Shard, made: Mapping[int, Ids]) -> Patch:
    """The patch that makes each of the documents what it is in the arm: a fact changes a few ids of a long one."""
    heads, tails = np.zeros(len(made), np.int64), np.zeros(len(made), np.int64)
    for i, (index, ids) in enumerate(made.items()):
        base = shard.document(index)
        heads[i] = _alike(base, ids)
        tails[i] = _alike(base[heads[i] :][::-1], ids[heads[i] :][::-1])
    middles = [ids[head : len(ids) - tail] for ids, head, tail in zip(made.values(), heads, tails, strict=True)]
    starts = np.cumsum([0, *map(len, middles[:-1])])
    return Patch(np.array(list(made), np.int64), heads, tails, starts, np.concatenate(middles))


def _alike(a: Ids, b: Ids) -> int:
    """How many ids the two have in common from their beginning."""
    least = min(len(a), len(b))
    differ = a[:least] != b[:least]
    return int(differ.argmax()) if differ.any() else least
