"""What one cell reads: text and drills in the replicate's order, mixed by the declared share of tokens.

The order and the mix depend on the seed and on the documents' lengths before any patch, never on the arm: every arm
reads the same documents in the same order, as far as its budget carries it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tokentrial.corpus.shards import Ids, open_shard, shard_paths
from tokentrial.errors import TrialError
from tokentrial.tokenizer.vocabulary import Vocabulary
from tokentrial.trial import Trial

TEXT = "fineweb"


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

    @classmethod
    def of(cls, trial: Trial, folder: Path, vocabulary: Vocabulary, arm: str, seed: int) -> "Stream":
        drills = trial.corpus.drills
        return cls(folder, vocabulary, arm, seed, drills.share, drills.never_asked_folds, trial.corpus.epochs)

    def documents(self) -> Iterator[Served]:
        """Documents in the order they are read. Raises TrialError where the text runs out."""
        text = self._set(self.folder, TEXT, self.epochs)
        drills = self._set(self.folder / "drills", drills_name(self.seed, self.folds), None)
        of_drills = total = 0
        while True:
            if self.share > 0 and of_drills <= self.share * total:
                document = next(drills)
                of_drills += document.base_length
            else:
                following = next(text, None)
                if following is None:
                    raise TrialError(
                        f"corpus: the text ran out after {total} tokens; give more of it, fewer pretrain.steps, "
                        f"or read it more than {self.epochs} time(s) with corpus.epochs"
                    )
                document = following
            total += document.base_length
            yield document

    def _set(self, folder: Path, name: str, epochs: int | None) -> Iterator[Served]:
        """Documents of one set; shards permuted by the seed, then the documents within each. Drills go round."""
        paths = shard_paths(folder, name, "train")
        if not paths:
            raise TrialError(f"{folder}: no shards {name}_train_*.npy; run the corpus stage first")
        epoch = 0
        while epochs is None or epoch < epochs:
            rng = np.random.default_rng([self.seed, epoch])
            for shard_index in rng.permutation(len(paths)):
                path = paths[shard_index]
                patch = self.folder / "patches" / self.arm / f"{path.stem}.npz"
                shard = open_shard(path, self.vocabulary.eos, patch)
                for index in rng.permutation(len(shard)):
                    yield Served(
                        name, int(shard_index), int(index), shard.document(index), int(shard.base_lengths[index])
                    )
            epoch += 1
