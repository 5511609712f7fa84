"""What is read of a corpus: how much of it a trial needs, the training documents of a cell, and the held-out ones.

The order and the mix depend on the seed and on the documents' lengths before any patch, never on the arm: every arm
reads the same documents in the same order, as far as its budget carries it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tokentrial.arms.arm import Arm
from tokentrial.arms.facts import Facts
from tokentrial.arms.families import facts_of
from tokentrial.corpus.look import Survey
from tokentrial.corpus.shards import TEXT, Ids, Shard, open_shard, shard_paths, text_of
from tokentrial.errors import TrialError
from tokentrial.tokenizer.vocabulary import Vocabulary
from tokentrial.trial.trial import Trial

MORE_TEXT = (
    "give more of it (corpus.documents=null where that holds it back), fewer pretrain.steps, "
    "or let it be read more often with corpus.epochs"
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


def drills_name(seed: int, folds: int) -> str:
    """The drill set of a seed: one for each fold of facts that is never asked."""
    return f"drills{seed % folds if folds else 0}"


class Served(NamedTuple):
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
    share: float
    folds: int
    epochs: int
    facts: Facts

    @classmethod
    def of(cls, trial: Trial, folder: Path, vocabulary: Vocabulary, arm: str, seed: int) -> "Stream":
        drills = trial.corpus.drills
        facts = facts_of(trial.facts)
        return cls(folder, vocabulary, arm, seed, drills.share, drills.never_asked_folds, trial.corpus.epochs, facts)

    def documents(self) -> Iterator[Served]:
        """Documents in the order they are read. Raises TrialError where the text runs out."""
        name = drills_name(self.seed, self.folds)
        text, drills = self._set(self.folder, TEXT), self._set(self.folder / "drills", name)
        sets = {True: (TEXT, text[1]), False: (name, drills[1])}
        total = 0
        for of_text, index, number, length in order(self.seed, self.share, self.epochs, text, drills):
            total += length
            name, shard = sets[of_text]
            yield Served(name, index, number, shard(index).document(number), length)
        raise TrialError(f"corpus: the text ran out after {total} tokens; {MORE_TEXT}")

    def _set(self, folder: Path, name: str) -> tuple[int, Callable[[int], Shard]]:
        """How many shards a set has, and one of them: it is opened as it is reached."""
        paths = shard_paths(folder, name, "train")
        if not paths and (name == TEXT or self.share):
            raise TrialError(f"{folder}: no shards {name}_train_*.npy; run the corpus stage first")
        patches = self.folder / "patches" / self.arm

        @lru_cache(maxsize=1)
        def shard(index: int) -> Shard:
            return open_shard(paths[index], self.vocabulary.eos, patches / f"{paths[index].stem}.npz")

        return len(paths), shard


Shards = tuple[int, Callable[[int], Shard | Survey]]  # how many a set has, and what gives one


def order(seed: int, share: float, epochs: int, text: Shards, drills: Shards) -> Iterator[tuple[bool, int, int, int]]:
    """The order in which a seed reads text and drills, mixed by the drills' share of the base tokens: whether a
    document is of the text, its shard, its number in it and its base length. Ends where the text does; drills go round.
    """
    sets = {True: _in_order(seed, epochs, *text), False: _in_order(seed, None, *drills)}
    of_drills = total = 0
    while True:
        of_text = not (share > 0 and of_drills <= share * total)
        following = next(sets[of_text], None)
        if following is None:
            return
        shard, number, length = following
        of_drills += 0 if of_text else length
        total += length
        yield of_text, shard, number, length


def _in_order(
    seed: int, epochs: int | None, shards: int, opened: Callable[[int], Shard | Survey]
) -> Iterator[tuple[int, int, int]]:
    """One set: shards permuted, then the documents within each, `epochs` times or endlessly."""
    epoch = 0
    while shards and (epochs is None or epoch < epochs):
        rng = np.random.default_rng([seed, epoch])
        for shard in rng.permutation(shards).tolist():
            lengths = opened(shard).base_lengths.tolist()
            for number in rng.permutation(len(lengths)).tolist():
                yield shard, number, lengths[number]
        epoch += 1


class Heldout(NamedTuple):
    """One held-out document. `lossy`: the arm's `plain` does not give its bytes back."""

    name: str
    ids: Ids
    bytes: int
    rewritten: bool
    lossy: bool


def heldout(corpus: Path, set_name: str, vocabulary: Vocabulary, arm: Arm, limit: int) -> Iterator[Heldout]:
    """The first documents of a set's val split, up to `limit` bytes of original text, the same in every arm."""
    folder = corpus / "drills" if set_name.startswith("drills") else corpus
    taken = 0
    for path in shard_paths(folder, set_name, "val"):
        base = open_shard(path, vocabulary.eos)
        shard = open_shard(path, vocabulary.eos, corpus / "patches" / arm.name / f"{path.stem}.npz")
        for index in range(len(shard)):
            text = text_of(base.document(index), vocabulary)
            size = len(text.encode())
            if taken + size > limit and taken:
                return
            taken += size
            rewritten = bool(shard.numbers[index] >= 0)
            lossy = rewritten and arm.plain(arm.rewrite(text)) != text
            yield Heldout(f"{path.stem}:{index}", shard.document(index), size, rewritten, lossy)
