"""Held-out text: fixed documents of the val split, with their original bytes and an arm's ids."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tokentrial.arms.arm import Arm
from tokentrial.corpus.shards import Ids, open_shard, shard_paths, text_of
from tokentrial.tokenizer.vocabulary import Vocabulary


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
