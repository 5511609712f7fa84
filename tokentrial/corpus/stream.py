"""What one cell reads: text and drills in the replicate's order, mixed by the declared share of tokens.

The order and the mix depend on the seed and on the documents' lengths before any patch, never on the arm: every arm
reads the same documents in the same order, as far as its budget carries it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from tokentrial.arms.facts import Facts
from tokentrial.arms.families import facts_of
from tokentrial.corpus.shards import TEXT, Ids, Shard, open_shard, shard_paths
from tokentrial.errors import TrialError
from tokentrial.tokenizer.vocabulary import Vocabulary
from tokentrial.trial import Trial

MORE_TEXT = "give more of it, fewer pretrain.steps, or let it be read more often with corpus.epochs"


def fold(seed: int, folds: int) -> int:
    """Which fold of facts a seed never asks."""
    return seed % folds if folds else 0


def drills_name(seed: int, folds: int) -> str:
    """The drill set of a seed: one for each fold."""
    return f"drills{fold(seed, folds)}"


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
        names = {True: TEXT, False: drills_name(self.seed, self.folds)}
        text, drills = (self._set(self.folder, TEXT), self._set(self.folder / "drills", names[False]))
        order = mixed(
            self.share,
            in_order(self.seed, self.epochs, *text),
            in_order(self.seed, None, *drills),
        )
        total = 0
        for chosen, shard, index, number, length in order:
            total += length
            yield Served(names[chosen], index, number, shard.document(number), length)
        raise TrialError(f"corpus: the text ran out after {total} tokens; {MORE_TEXT}")

    def _set(self, folder: Path, name: str) -> tuple[int, Callable[[int], Shard]]:
        """How many shards a set has, and how one is opened."""
        paths = shard_paths(folder, name, "train")
        if not paths and (name == TEXT or self.share):
            raise TrialError(f"{folder}: no shards {name}_train_*.npy; run the corpus stage first")
        patches = self.folder / "patches" / self.arm
        return len(paths), lambda i: open_shard(paths[i], self.vocabulary.eos, patches / f"{paths[i].stem}.npz")


class Measured(Protocol):
    """What the order depends on: documents with their lengths before a patch."""

    @property
    def base_lengths(self) -> NDArray[np.int64]: ...

    def __len__(self) -> int: ...


S = TypeVar("S", bound=Measured)


def in_order(
    seed: int, epochs: int | None, shards: int, open_one: Callable[[int], S]
) -> Iterator[tuple[S, int, int, int]]:
    """One set as a seed reads it: shards permuted, then the documents within each, `epochs` times or endlessly. Yields
    the shard, its number, the document's number in it and its base length; a shard is opened as it is reached."""
    epoch = 0
    while shards and (epochs is None or epoch < epochs):
        rng = np.random.default_rng([seed, epoch])
        for index in rng.permutation(shards).tolist():
            shard = open_one(index)
            lengths = shard.base_lengths.tolist()
            for number in rng.permutation(len(shard)).tolist():
                yield shard, index, number, lengths[number]
        epoch += 1


def mixed(
    share: float, text: Iterator[tuple[S, int, int, int]], drills: Iterator[tuple[S, int, int, int]]
) -> Iterator[tuple[bool, S, int, int, int]]:
    """Text and drills mixed by the drills' share of the base tokens. Yields whether a document is of the text, its
    shard, the shard's number, its own and its base length; ends where the text does."""
    of_drills = total = 0
    while True:
        chosen = not (share > 0 and of_drills <= share * total)
        following = next(text if chosen else drills, None)
        if following is None:
            return
        shard, index, number, length = following
        of_drills += 0 if chosen else length
        total += length
        yield chosen, shard, index, number, length
