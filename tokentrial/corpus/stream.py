"""What is read of a corpus: how much of it a trial needs, the training documents of a cell, and the held-out ones.

The order and the mix depend on the seed and on the documents' lengths before any patch, never on the arm: every arm
reads the same documents in the same order, as far as its budget carries it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from tokentrial.arms.arm import Arm
from tokentrial.corpus.patching import Ints
from tokentrial.corpus.shards import TEXT, Ids, Shard, open_shard, patch_path, set_folder, shard_paths
from tokentrial.errors import TrialError
from tokentrial.facts.facts import Facts
from tokentrial.facts.families import build_facts
from tokentrial.tokenizer.vocabulary import Vocabulary
from tokentrial.trial.trial import Trial

T = TypeVar("T")  # a shard

MORE_TEXT = (
    "give more text (corpus.documents=null if that limits it), fewer pretrain.steps, "
    "or raise corpus.epochs to read it again"
)

# drill tokens made for each that the budget takes: arms with shorter text read more of them
_MORE_DRILLS = 1.5
_VAL_DRILLS = 0.05
# text beyond the control's budget, for arms that read further in the same tokens: with each token of drills, as drills
# are what most arms shorten
_MORE_TEXT = 0.02
_MORE_TEXT_A_DRILL = 0.3


def text_wanted(trial: Trial) -> int | None:
    """Train tokens of text to prepare; None: all there are."""
    tokens = trial.corpus.tokens
    if tokens == "budget":
        return text_of_budget(trial)
    return None if tokens == "all" else tokens


def text_of_budget(trial: Trial) -> int:
    """Train tokens of text that the steps of any arm take."""
    corpus = trial.corpus
    more = 1 + _MORE_TEXT + _MORE_TEXT_A_DRILL * corpus.drills.share
    return int(more * (1 - corpus.drills.share) * trial.pretrain.tokens / corpus.epochs)


def drills_wanted(trial: Trial) -> dict[str, int]:
    """Tokens of one fold's drills by split; none where the trial has no drills."""
    wanted = int(_MORE_DRILLS * trial.corpus.drills.share * trial.pretrain.tokens)
    return {"train": wanted, "val": max(2000, int(_VAL_DRILLS * wanted))} if wanted else {}


def drill_sets(trial: Trial) -> dict[str, int]:
    """The fold of each drill set that a seed of the trial reads, by its name; none where the trial has no drills."""
    folds = trial.corpus.drills.holdout_folds
    used = {drills_name(seed, folds): seed % folds if folds else 0 for seed in sorted(trial.seeds)}
    return dict(sorted(used.items())) if trial.corpus.drills.share else {}


def drills_name(seed: int, folds: int) -> str:
    """The drill set of a seed: one for each fold of facts that is never asked."""
    return f"drills{seed % folds if folds else 0}"


class ServedDocument(NamedTuple):
    """One document as a cell reads it. `set` is its set of shards, `shard` and `number` its place there."""

    set: str
    shard: int
    number: int
    ids: Ids
    base_length: int


@dataclass(frozen=True)
class Stream:
    """The training documents of one arm and seed."""

    folder: Path
    vocabulary: Vocabulary
    arm: str
    seed: int
    share: float  # of drills
    folds: int
    epochs: int
    facts: Facts

    @classmethod
    def of(cls, trial: Trial, folder: Path, vocabulary: Vocabulary, arm: str, seed: int) -> "Stream":
        drills = trial.corpus.drills
        facts = build_facts(trial.facts)
        return cls(folder, vocabulary, arm, seed, drills.share, drills.holdout_folds, trial.corpus.epochs, facts)

    def documents(self) -> Iterator[ServedDocument]:
        """Documents in the order they are read. Raises TrialError where the text runs out."""
        drills_set = drills_name(self.seed, self.folds)
        open_cached = lru_cache(maxsize=2)(self._open)  # one shard of each set
        text, drills = self._paths(TEXT), self._paths(drills_set)

        def lengths(path: Path) -> Ints:
            return open_cached(path).base_lengths

        order = document_order(self.seed, self.share, self.epochs, text, drills, lengths)
        tokens = 0
        for of_text, index, number, length in order:
            tokens += length
            name, paths = (TEXT, text) if of_text else (drills_set, drills)
            yield ServedDocument(name, index, number, open_cached(paths[index]).document(number), length)
        raise TrialError(f"corpus: the text ran out after {tokens} tokens; {MORE_TEXT}")

    def _paths(self, name: str) -> list[Path]:
        paths = shard_paths(self.folder, name, "train")
        if not paths and (name == TEXT or self.share):
            raise TrialError(
                f"{set_folder(self.folder, name)}: no shards {name}_train_*.npy; run the corpus stage first"
            )
        return paths

    def _open(self, path: Path) -> Shard:
        return open_shard(path, self.vocabulary.eos, patch_path(self.folder, self.arm, path))


def document_order(
    seed: int, share: float, epochs: int, text: Sequence[T], drills: Sequence[T], lengths: Callable[[T], Ints]
) -> Iterator[tuple[bool, int, int, int]]:
    """The order in which a seed reads the shards of text and of drills, mixed by the drills' share of the base tokens:
    whether a document is of the text, its shard, its number in it and its base length. Ends where the text does; drills
    go round. `lengths` gives the base lengths of a shard's documents.

    It counts tokens before any patch: counted as an arm reads them, arms of shorter drills would read other documents.
    """
    sets = {True: _set_order(seed, epochs, text, lengths), False: _set_order(seed, None, drills, lengths)}
    drill_tokens = tokens = 0
    while True:
        of_text = not (share > 0 and drill_tokens <= share * tokens)
        document = next(sets[of_text], None)
        if document is None:
            return
        shard, number, length = document
        drill_tokens += 0 if of_text else length
        tokens += length
        yield of_text, shard, number, length


def _set_order(
    seed: int, epochs: int | None, shards: Sequence[T], lengths: Callable[[T], Ints]
) -> Iterator[tuple[int, int, int]]:
    """One set: shards permuted, then the documents within each, `epochs` times or endlessly: a permutation of all
    documents would read from every shard at random."""
    epoch = 0
    while shards and (epochs is None or epoch < epochs):
        # of seed and epoch alone, so that a resumed run finds its place by counting
        rng = np.random.default_rng([seed, epoch])
        for shard in rng.permutation(len(shards)).tolist():
            of_shard = lengths(shards[shard]).tolist()
            for number in rng.permutation(len(of_shard)).tolist():
                yield shard, number, of_shard[number]
        epoch += 1


class HeldoutDocument(NamedTuple):
    """One held-out document; `bytes` are those of its original text."""

    name: str
    ids: Ids
    bytes: int
    rewritten: bool


def heldout_documents(
    corpus: Path, set_name: str, vocabulary: Vocabulary, arm: Arm, limit: int
) -> Iterator[HeldoutDocument]:
    """The first documents of a set's val split, up to `limit` bytes of original text, the same in every arm."""
    read = 0
    for path in shard_paths(corpus, set_name, "val"):
        shard = open_shard(path, vocabulary.eos, patch_path(corpus, arm.name, path))
        for index in range(len(shard)):
            size = int(vocabulary.byte_sizes[shard.base_document(index)].sum())
            if read + size > limit and read:
                return
            read += size
            rewritten = bool(shard.patch_index[index] >= 0)
            yield HeldoutDocument(f"{path.stem}:{index}", shard.document(index), size, rewritten)
