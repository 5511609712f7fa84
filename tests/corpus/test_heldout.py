"""Held-out text: the same documents and bytes in every arm, each in the arm's own ids."""

import numpy as np
import pytest

from tokentrial.arms import arm as arms
from tokentrial.corpus.shards import open_shard, shard_paths, text_of
from tokentrial.corpus.stream import heldout


def held(plan, arm, name="fineweb", limit=10_000):
    return list(heldout(plan.folder, name, plan.vocabulary, arms.find(arm), limit))


def originals(plan, name="fineweb"):
    folder = plan.folder if name == "fineweb" else plan.folder / "drills"
    shards = [(path, open_shard(path, plan.vocabulary.eos)) for path in shard_paths(folder, name, "val")]
    return {f"{path.stem}:{i}": text_of(s.document(i), plan.vocabulary) for path, s in shards for i in range(len(s))}


@pytest.mark.parametrize("name", ["fineweb", "drills1"])
def test_every_arm_is_measured_on_the_same_documents_and_bytes(plan, name):
    texts = originals(plan, name)
    measured = {arm: held(plan, arm, name) for arm in plan.trial.arms}
    for arm, documents in measured.items():
        assert [(d.name, d.bytes) for d in documents] == [(d.name, d.bytes) for d in measured["baseline"]]
        for document in documents:
            text = texts[document.name]
            assert document.bytes == len(text.encode())
            assert document.ids.tolist() == [512, *plan.vocabulary.encode_arm(arms.find(arm), text)]
            assert document.rewritten == (arms.find(arm).rewrite(text) != text)
    assert not any(document.rewritten for document in measured["baseline"])
    assert any(document.rewritten for document in held(plan, "mul_tokens", name, 10**6))


def test_the_first_documents_up_to_the_limit(plan):
    texts, limit = originals(plan), 3000
    sizes = np.cumsum([len(text.encode()) for text in texts.values()])
    chosen = held(plan, "baseline", limit=limit)
    assert [document.name for document in chosen] == list(texts)[: int(np.searchsorted(sizes, limit, side="right"))]
    assert sum(document.bytes for document in chosen) <= limit


def test_there_is_always_one_document(plan):
    assert len(held(plan, "baseline", limit=1)) == 1


def test_the_text_runs_out_before_the_limit(plan):
    assert len(held(plan, "baseline", limit=10**9)) == len(originals(plan))


def test_a_spelling_that_plain_does_not_give_back_is_marked_lossy(plan):
    """`7 × 8 = 56` comes back as `7*8=56`: the same fact in fewer bytes. What is appended loses nothing."""
    texts = originals(plan)
    replaced = {d.name: d for d in held(plan, "mul_tokens", limit=10**6)}
    assert {d.lossy for d in replaced.values()} == {True, False}
    for name, document in replaced.items():
        canonical = texts[name].replace("7 × 8 = 56", "7*8=56").replace("3x4=12", "3*4=12")
        assert document.lossy == (canonical != texts[name])
    assert not any(document.lossy for document in held(plan, "mul_append", limit=10**6))
