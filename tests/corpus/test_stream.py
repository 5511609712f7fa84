"""What is read of a corpus: a cell's documents, the same in the same order in every arm, mixed as declared; and the
held-out ones, the same documents and bytes in every arm, each in the arm's own ids."""

from collections import deque
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from tokentrial.arms import arm as arms
from tokentrial.corpus.patching import survey_and_patch
from tokentrial.corpus.shards import ShardWriter, document_text, open_shard, set_folder, shard_paths
from tokentrial.corpus.stream import Stream, drills_name, heldout_documents
from tokentrial.errors import TrialError
from tokentrial.facts.families import TIMES_TABLE
from tokentrial.store.files import read_json
from tokentrial.tokenizer.vocabulary import Vocabulary


def stream_of(plan, arm="baseline", seed=1, **changed):
    return replace(Stream.of(plan.trial, plan.folder, plan.vocabulary, arm, seed), **changed)


def places(documents):
    return [(document.set, document.shard, document.number) for document in documents]


def run_out(stream):
    """All documents up to the error that says there are no more."""
    served = []
    with pytest.raises(TrialError, match=r"ran out after [0-9]+ tokens.*fewer pretrain\.steps.*corpus\.epochs"):
        deque(map(served.append, stream.documents()))
    return served


@pytest.mark.parametrize("seed", [2])
def test_every_arm_reads_the_same_documents_in_the_same_order(plan, seed):
    baseline = list(islice(stream_of(plan, seed=seed).documents(), 300))
    texts = [document_text(document.ids, plan.vocabulary) for document in baseline]
    for name in ("mul_tokens", "mul_append"):
        treated = list(islice(stream_of(plan, name, seed).documents(), 300))
        assert places(treated) == places(baseline)
        assert [document.base_length for document in treated] == [len(document.ids) for document in baseline]
        for document, text in zip(treated, texts, strict=True):
            assert document.ids[0] == plan.vocabulary.eos
            assert document.ids[1:].tolist() == plan.vocabulary.encode_arm(arms.get_arm(name), text).tolist()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.6, 0.95])
def test_drills_take_their_share_of_the_tokens_to_within_a_document(plan, share):
    drills = total = longest = 0
    for document in islice(stream_of(plan, "mul_tokens", share=share).documents(), 300):
        total += document.base_length
        longest = max(longest, document.base_length)
        drills += document.base_length * document.set.startswith("drills")
        assert abs(drills - share * total) <= longest
    assert (drills > 0) == (share > 0)


def test_an_epoch_reads_every_text_once_in_an_order_of_its_seed(plan):
    orders = {seed: places(run_out(stream_of(plan, seed=seed, share=0.0))) for seed in (1, 2)}
    documents = read_json(plan.folder / "text.json")["documents"]["train"]
    for order in orders.values():
        assert len(order) == len(set(order)) == documents
    assert set(orders[1]) == set(orders[2])
    assert orders[1] != orders[2]
    shards = list(dict.fromkeys(shard for _, shard, _ in orders[1]))
    assert sorted(shards) == list(range(len(shards))) != shards  # shards are permuted, and documents within each
    first = [number for _, shard, number in orders[1] if shard == shards[0]]
    assert sorted(first) == list(range(len(first))) != first


def test_epochs_go_round_in_a_new_order(plan):
    once, thrice = (places(run_out(stream_of(plan, share=0.0, epochs=epochs))) for epochs in (1, 3))
    assert len(thrice) == 3 * len(once)
    epochs = [thrice[i * len(once) : (i + 1) * len(once)] for i in range(3)]
    assert epochs[0] == once
    assert sorted(epochs[1]) == sorted(epochs[2]) == sorted(once)
    assert epochs[0] != epochs[1] != epochs[2]


def test_drills_go_round_where_the_text_does_not(plan):
    served = places(run_out(stream_of(plan, share=0.95, epochs=2)))
    drills = [place for place in served if place[0] != "text"]
    count = len(set(drills))
    assert len(drills) > count  # they were read more than once
    assert len(set(drills[:count])) == count


def test_each_seed_drills_its_own_fold(plan):
    sets = {
        seed: {document.set for document in islice(stream_of(plan, seed=seed).documents(), 20)} for seed in (1, 2, 3)
    }
    assert sets == {1: {"text", "drills1"}, 2: {"text", "drills2"}, 3: {"text", "drills0"}}
    assert [drills_name(seed, 3) for seed in range(6)] == [f"drills{fold}" for fold in (0, 1, 2, 0, 1, 2)]
    assert drills_name(5, 0) == "drills0"  # where every fact is asked there is one set


def test_a_corpus_that_is_not_there_says_which_stage_makes_it(plan, tmp_path):
    with pytest.raises(TrialError, match="run the corpus stage first"):
        next(stream_of(plan, folder=tmp_path).documents())


# held-out text


def held(plan, arm, name="text", limit=10_000):
    return list(heldout_documents(plan.folder, name, plan.vocabulary, arms.get_arm(arm), limit))


def originals(plan, name="text"):
    shards = [(path, open_shard(path, plan.vocabulary.eos)) for path in plan.shards(name, "val")]
    return {
        f"{path.stem}:{i}": document_text(s.document(i), plan.vocabulary) for path, s in shards for i in range(len(s))
    }


@pytest.mark.parametrize("name", ["text", "drills1"])
def test_every_arm_is_measured_on_the_same_documents_and_bytes(plan, name):
    texts = originals(plan, name)
    measured = {arm: held(plan, arm, name) for arm in plan.trial.arms}
    for arm, documents in measured.items():
        assert [(d.name, d.bytes) for d in documents] == [(d.name, d.bytes) for d in measured["baseline"]]
        for document in documents:
            text = texts[document.name]
            assert document.bytes == len(text.encode())
            assert document.ids.tolist() == [512, *plan.vocabulary.encode_arm(arms.get_arm(arm), text)]
            assert document.rewritten == (arms.get_arm(arm).rewrite(text) != text)
    assert not any(document.rewritten for document in measured["baseline"])
    assert any(document.rewritten for document in held(plan, "mul_tokens", name, 10**6))


def test_the_first_documents_up_to_the_limit(plan):
    texts, limit = originals(plan), 3000
    sizes = np.cumsum([len(text.encode()) for text in texts.values()])
    chosen = held(plan, "baseline", limit=limit)
    assert [document.name for document in chosen] == list(texts)[: int(np.searchsorted(sizes, limit, side="right"))]
    assert sum(document.bytes for document in chosen) <= limit
    assert len(held(plan, "baseline", limit=1)) == 1  # there is always one
    assert len(held(plan, "baseline", limit=10**9)) == len(texts)


@pytest.mark.parametrize("name", ["text", "drills1"])
def test_a_fact_in_a_later_held_out_shard_is_measured_in_the_arm_s_ids(tmp_path, name):
    vocabulary, arm = Vocabulary(256, 45), arms.get_arm("mul_tokens")
    texts = ["A shard is filled with this."] * 6 + ["It is said that 6*9=54."] + ["And with this at the end."] * 3
    patches = tmp_path / "patches" / arm.name / name
    patches.mkdir(parents=True)
    set_folder(tmp_path, name).mkdir(parents=True, exist_ok=True)
    writer = ShardWriter(set_folder(tmp_path, name), name, "val", 60, vocabulary.eos)
    for text in texts:
        writer.add(vocabulary.encode(text))
    writer.close()
    for path in shard_paths(tmp_path, name, "val"):
        survey_and_patch(path, None, {arm.name: patches / f"{path.stem}.npz"}, vocabulary, TIMES_TABLE)
    [patch] = patches.iterdir()
    measured = list(heldout_documents(tmp_path, name, vocabulary, arm, 10**6))
    [rewritten] = [document for document in measured if document.rewritten]
    assert rewritten.name.startswith(f"{patch.stem}:")
    assert not patch.stem.endswith("_000000")
    token = vocabulary.base + list(TIMES_TABLE).index(TIMES_TABLE.of(6, 9))
    before, after = vocabulary.encode("It is said that "), vocabulary.encode(".")
    assert rewritten.ids.tolist() == [vocabulary.eos, *before, token, *after]
    assert [text for text, document in zip(texts, measured, strict=True) if document.rewritten] == [texts[6]]
