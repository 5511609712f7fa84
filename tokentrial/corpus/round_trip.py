"""Round trips: sampled documents of a written patch, read back and decoded to the text that they were made from."""

import random
from pathlib import Path

import numpy as np

from tokentrial.arms.arm import Arm
from tokentrial.corpus.shards import Ids, Shard, document_text, read_patch
from tokentrial.errors import TrialError
from tokentrial.facts.facts import Facts
from tokentrial.tokenizer.vocabulary import Vocabulary

_SAMPLED = 20  # changed documents of a patch


def check_round_trips(path: Path, shard: Shard, vocabulary: Vocabulary, arm: Arm) -> tuple[int, int]:
    """How many sampled documents of an arm's patch were decoded, and how many of them came back to the byte. Raises
    TrialError where one does not: its ids must spell what the arm writes; of an arm that keeps the content, that is
    then turned back into the document, but for spellings of a fact (`6 x 9 = 54`) which its token does not tell apart.
    """
    patch = read_patch(path)
    if patch is None:
        return 0, 0
    exact, rng = 0, random.Random(path.stem)
    sampled = sorted(rng.sample(range(len(patch.documents)), min(_SAMPLED, len(patch.documents))))
    for entry in sampled:
        index = int(patch.documents[entry])
        base = shard.base_document(index)
        text, written = document_text(base, vocabulary), spell(patch.apply(entry, base), vocabulary, arm)
        back = arm.untokenize(written)
        exact += back == text
        if written != arm.rewrite(text) or not (back == text or _may_differ(text, back, arm)):
            raise TrialError(
                f"{path.stem}:{index}: the ids of {arm.name} decode to {written[:80]!r}, which is not the document "
                f"{text[:80]!r}; correct tokentrial/arms/{arm.name}.py, or delete {path.parent} and run again"
            )
    return len(sampled), exact


def _may_differ(text: str, back: str, arm: Arm) -> bool:
    """Whether a document need not come back as it was: the arm drops content, a token's name stands there literally, or
    its facts are spelled otherwise and all else is the same."""
    if not arm.keeps_content or any(token in text for token in arm.tokens):
        return True
    return _canonical(text, arm.facts) == _canonical(back, arm.facts)


def _canonical(text: str, facts: Facts) -> str:
    """The text with every fact spelled `6*9=54`."""
    done, position = "", 0
    for site in facts.sites(text):
        done += text[position : site.start] + site.fact.equation
        position = site.end
    return done + text[position:]


def spell(ids: Ids, vocabulary: Vocabulary, arm: Arm) -> str:
    """The text that an arm's ids stand for, each token by its name."""
    tokens = np.flatnonzero(ids >= vocabulary.base)
    runs = np.split(ids, np.unique([*tokens, *(tokens + 1)]))
    names = arm.tokens
    parts = [
        names[run[0] - vocabulary.base].encode()
        if len(run) and run[0] >= vocabulary.base
        else vocabulary.decode_bytes(run)
        for run in runs
    ]
    return b"".join(parts).decode("utf-8", errors="replace")
