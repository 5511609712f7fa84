"""Patches and surveys of a written shard: what each arm changes in it, and what its documents weigh and state.

Both need the text that stands in the shard, and are made in one pass over it, for all arms.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokentrial.arms import arm as arms
from tokentrial.corpus.shards import TEXT, Ids, Patch, Shard, blocks, decode_documents, open_shard, read_arrays
from tokentrial.facts import drills
from tokentrial.facts.facts import DRILL_FORMS, Fact, Facts
from tokentrial.tokenizer.encode import encode_documents
from tokentrial.tokenizer.vocabulary import Vocabulary

MAX_SHOWN = 50  # sites of a shard shown with their context, for a human eye
_CONTEXT = 60  # characters on either side

FORMS = (*DRILL_FORMS, "text")  # "text": sites in the source's own documents

Counts = NDArray[np.int64]


class Survey(NamedTuple):
    """Of each document of a shard its tokens before a patch and the bytes of its original text; and what they state:
    `documents[j]` states fact x form `codes[j]`."""

    base_lengths: Counts  # (documents,)
    bytes: Counts  # (documents,)
    documents: Counts  # (statements,)
    codes: Counts  # (statements,)

    def __len__(self) -> int:
        return len(self.base_lengths)

    @classmethod
    def read(cls, path: Path) -> "Survey":
        """Read an .npz file of these arrays. Raises TrialError that names the file where it is not whole."""
        return cls(*read_arrays(path, "survey", cls._fields))


class PatchStats(NamedTuple):
    """What a patch changes in a shard, counted. `lengths[k]` documents have 2**k to 2**(k+1) - 1 tokens."""

    documents: int
    changed: int
    sites: int
    tokens: int
    lengths: list[int]
    sample: list[dict[str, str | None]]


def survey_and_patch(
    shard_path: Path, survey_path: Path | None, patch_paths: Mapping[str, Path], vocabulary: Vocabulary, facts: Facts
) -> dict[str, PatchStats]:
    """Write what a shard's documents weigh and state to `survey_path`, and what each arm changes, encoded anew, to the
    arm's path in `patch_paths`; returns each patch's counts.

    Of text only documents with an "=", which every site holds, or with what else an arm looks for are decoded, once for
    all: decoding and searching every document would take longer than encoding it did. Drills are read whole, by their
    lines.
    """
    shard = open_shard(shard_path, vocabulary.eos)
    of_text = shard_path.stem.startswith(TEXT)
    builders = {
        name: PatchBuilder(arms.get_arm(name, facts), vocabulary, shard, shard_path.stem) for name in patch_paths
    }
    rewriting = [builder for builder in builders.values() if builder.arm.trigger_bytes]
    trigger_bytes = bytes({*b"=", *(byte for builder in rewriting for byte in builder.arm.trigger_bytes)})
    stated: list[tuple[int, int]] = []
    if survey_path or rewriting:
        for index, text in decode_documents(shard, vocabulary, trigger_bytes if of_text else None):
            if survey_path:
                found = ((site.fact, "text") for site in facts.sites(text)) if of_text else drills.parse(facts, text)
                stated += [(index, fact_form_code(facts, fact, form)) for fact, form in found]
            for builder in rewriting:
                builder.add(index, text)
    if survey_path:
        sizes = [np.add.reduceat(vocabulary.byte_sizes[ids], at, dtype=np.int64) for _, at, ids in blocks(shard)]
        documents, codes = np.array(stated, np.int64).reshape(-1, 2).T
        survey = Survey(shard.base_lengths, np.concatenate(sizes), documents, codes)
        np.savez(survey_path, **survey._asdict())
    return {name: builders[name].write(path) for name, path in patch_paths.items()}


def fact_form_code(facts: Facts, fact: Fact, form: str) -> int:
    """The number of fact x form: row by row of a table of facts by FORMS."""
    return facts.index_of[fact] * len(FORMS) + FORMS.index(form)


class PatchBuilder:
    """The patch of one arm for one shard, document by document."""

    def __init__(self, arm: arms.Arm, vocabulary: Vocabulary, shard: Shard, shard_name: str) -> None:
        self.arm, self.vocabulary, self.shard, self.shard_name = arm, vocabulary, shard, shard_name
        self.token_ids = vocabulary.token_ids(arm)
        self.lengths = shard.base_lengths.copy()
        self.sites = 0
        self.sample: list[dict[str, str | None]] = []
        self.documents: list[int] = []
        self.heads: list[int] = []
        self.tails: list[int] = []
        self.middles: list[Ids] = []

    def add(self, index: int, text: str) -> None:
        """Take the document into the patch, if the arm changes it."""
        pieces = list(self.arm.segments(text))
        if not pieces or (len(pieces) == 1 and pieces[0].token is None):
            return
        sites = [piece for piece in pieces if piece.token]
        self.sites += len(sites)
        if len(self.sample) < MAX_SHOWN:
            self.sample += [self._in_context(index, text, site) for site in sites]
        ids, base = self._encode(pieces), self.shard.document(index)
        if np.array_equal(ids, base):
            return  # digits cut one by one are what few merges make of them anyway
        head = common_prefix(base, ids)
        tail = common_prefix(base[head:][::-1], ids[head:][::-1])
        self.documents.append(index)
        self.heads.append(head)
        self.tails.append(tail)
        self.middles.append(ids[head : len(ids) - tail])
        self.lengths[index] = len(ids)

    def _encode(self, pieces: Sequence[arms.Segment]) -> Ids:
        """Ids of a document, eos first: its plain pieces each by itself, its tokens by their ids."""
        plain, plain_lengths = encode_documents(self.vocabulary, [p.text.encode() for p in pieces if p.token is None])
        ids = [-1 if piece.token is None else self.token_ids[piece.token] for piece in pieces]
        per_piece = np.array([self.vocabulary.eos, *ids], np.int64)
        lengths = np.ones(len(per_piece), np.int64)
        lengths[per_piece < 0] = plain_lengths
        document = np.repeat(per_piece, lengths)
        document[document < 0] = plain
        return document.astype(np.uint16)

    def _in_context(self, index: int, text: str, site: arms.Segment) -> dict[str, str | None]:
        return {
            "document": f"{self.shard_name}:{index}",
            "before": text[max(0, site.start - _CONTEXT) : site.start],
            "site": site.text,
            "token": site.token,
            "after": text[site.end : site.end + _CONTEXT],
        }

    def write(self, path: Path) -> PatchStats:
        """Write the patch, and count it; no file where nothing changes."""
        if self.documents:
            starts = np.cumsum([0, *map(len, self.middles[:-1])])
            documents, heads, tails = (
                np.array(values, np.int64) for values in (self.documents, self.heads, self.tails)
            )
            np.savez(path, **Patch(documents, heads, tails, starts, np.concatenate(self.middles))._asdict())
        powers = np.bincount(np.frexp(self.lengths)[1] - 1).tolist()
        changed, tokens = len(self.documents), int(self.lengths.sum())
        return PatchStats(len(self.shard), changed, self.sites, tokens, powers, self.sample[:MAX_SHOWN])


def common_prefix(a: Ids, b: Ids) -> int:
    """How many ids the two have in common from their beginning."""
    shorter = min(len(a), len(b))
    differ = a[:shorter] != b[:shorter]
    return int(differ.argmax()) if differ.any() else shorter
