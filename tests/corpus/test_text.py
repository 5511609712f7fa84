"""A task of the corpus stage: what becomes of an input's documents depends on them and on the settings, not on how the
source is cut into tasks; and what is recorded of it is what is there."""

import json
import re

import numpy as np
import pytest

from tests.corpus.conftest import jsonl_lines, shard_texts, task_of
from tokentrial.corpus import text as texts_module
from tokentrial.corpus.prepare import CorpusPlan, prepare_drills, prepare_patches, prepare_text
from tokentrial.corpus.shards import document_text, open_shard, shard_paths
from tokentrial.corpus.text import RECORD, DocumentFilter, run_task
from tokentrial.facts.families import TIMES_TABLE
from tokentrial.store.files import read_json

FILES = 7


@pytest.fixture
def folder(tmp_path, prose):
    """The prose in seven files, a document that holds nothing and one that asks a fact among them."""
    source = tmp_path / "source"
    source.mkdir()
    for number in range(FILES):
        texts = [*prose[number * 11 : number * 11 + 11], "" if number % 2 else "\x00"]
        (source / f"{number}.jsonl").write_bytes(jsonl_lines(texts))
    return source


@pytest.fixture
def planned(tiny, tmp_path, folder):
    return lambda name, *overrides: CorpusPlan(tiny(tmp_path / name, f"corpus.source=jsonl:{folder}", *overrides))


# how the source is cut


def test_documents_keep_their_order_and_split_however_the_source_is_cut(planned, prose):
    kept = [text for text in prose[: FILES * 11] if "What is 6 times 7?" not in text]
    splits = []
    for task_bytes in (1, 30_000, 10**9):
        plan = planned(f"run{task_bytes}", f"corpus.task_bytes={task_bytes}", "corpus.piece_characters=null")
        prepare_text(plan)
        splits.append({split: shard_texts(plan, "text", split) for split in ("train", "val")})
        for texts in splits[-1].values():
            assert texts == [text for text in kept if text in set(texts)]
    assert sorted(splits[0]["train"] + splits[0]["val"]) == sorted(kept)
    assert splits[0] == splits[1] == splits[2]  # the split is the document's own: the same in any cut


@pytest.mark.parametrize("task_bytes", [1, 10**9])
def test_the_record_adds_up_what_the_tasks_counted(planned, prose, task_bytes):
    plan = planned("run", f"corpus.task_bytes={task_bytes}")
    prepare_text(plan)
    record = read_json(plan.folder / "text.json")
    assert record["documents_read"] == FILES * 12
    assert record["empty_documents"] == FILES
    assert record["asking_documents_dropped"] == sum("What is 6 times 7?" in text for text in prose[: FILES * 11]) > 0
    assert record["source_bytes"] == plan.source.bytes
    assert record["short"] is False
    for split in ("train", "val"):
        written = shard_texts(plan, "text", split)
        assert record["documents"][split] == len(written)
        assert record["bytes"][split] == sum(len(text.encode()) for text in written)
        shards = [np.load(path) for path in shard_paths(plan.folder, "text", split)]
        assert record["tokens"][split] == sum(map(len, shards))
        assert sum(counts[split] for counts in record["shards_of_task"]) == len(shards)
    assert len(record["shards_of_task"]) == record["tasks"] == {1: 7, 30_000: 7, 10**9: 1}[task_bytes]


@pytest.mark.parametrize("number", [1, 12, 13, 40, 84, 1000])
def test_a_number_of_documents_counts_what_is_read_across_files(planned, prose, number):
    overrides = f"corpus.documents={number}", "corpus.piece_characters=null", "corpus.drills.holdout_folds=0"
    plan = planned("run", *overrides, "corpus.task_bytes=1")
    [source] = plan.source.input_splits(1, in_one=True)
    selection = DocumentFilter(source, plan.trial.corpus, plan.facts)
    found = [text.decode() for texts, _ in selection.batches() for text in texts]
    expected = [text for n in range(FILES) for text in [*prose[n * 11 : n * 11 + 11], None]][:number]
    assert found == [text for text in expected if text is not None]
    assert selection.counts["documents_read"] == min(number, FILES * 12)
    assert selection.counts["empty_documents"] == expected.count(None)


# a task


def test_a_task_that_another_worker_finished_meanwhile_is_left_as_it_is(planned, monkeypatch):
    task = task_of(planned("run", "corpus.task_bytes=1"), 1)
    folder, write = task[0], texts_module._write

    def slow(*arguments):
        record = write(*arguments)
        folder.mkdir()
        (folder / RECORD).write_text(json.dumps({"by": "another"}))
        return record

    monkeypatch.setattr(texts_module, "_write", slow)
    assert run_task(*task) == read_json(folder / RECORD) == {"by": "another"}
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_task_of_nothing_but_empty_documents_is_a_task_like_any_other(planned, folder):
    (folder / "3.jsonl").write_text('{"text": ""}\n' * 5)
    (folder / "4.jsonl").write_text("")
    plan = planned("run", "corpus.task_bytes=1")
    prepare_text(plan)
    record = read_json(plan.folder / "text.json")
    assert record["shards_of_task"][3] == record["shards_of_task"][4] == {"train": 0, "val": 0}
    assert record["tasks"] == FILES
    assert record["documents_read"] == (FILES - 2) * 12 + 5


# meta.json: what is there for a human eye


def served(plan, arm):
    """Every document of every shard as the arm serves it, by its name, with its original text."""
    for path in (path for name in plan.sets for path in plan.shards(name)):
        shard = open_shard(path, plan.vocabulary.eos, plan.patch_path(arm, path))
        for index in range(len(shard)):
            text = document_text(shard.base_document(index), plan.vocabulary)
            yield f"{path.stem}:{index}", shard.document(index), text


@pytest.mark.parametrize("arm", ["mul_tokens", "mul_append"])
def test_the_sites_that_are_shown_are_those_of_the_served_documents(plan, arm):
    record = read_json(plan.folder / "meta.json")["arms"][arm]
    documents = {name: (ids, text) for name, ids, text in served(plan, arm)}
    facts = sum(int((ids >= plan.vocabulary.base).sum()) for ids, _ in documents.values())
    assert (record["num_documents"], record["fact_tokens"]) == (len(documents), facts)
    sites = record["sites_in_context"]
    known = {fact.token: fact for fact in TIMES_TABLE}
    assert 5 < len(sites) <= 50
    for site in sites:
        assert site["document"].startswith("text_")  # of the text, not of the drills
        ids, text = documents[site["document"]]
        assert site["before"] + site["site"] + site["after"] in text
        assert max(len(site["before"]), len(site["after"])) <= 60
        fact = known[site["token"]]
        assert plan.vocabulary.base + TIMES_TABLE.index(fact) in ids.tolist()
        # this test's own reading of the fact that stands there, or right before an appended token
        a, b, c = re.search(r"([1-9]) ?[*×x] ?([1-9]) ?= ?([0-9]+)$", site["before"] + site["site"]).groups()
        assert sorted((int(a), int(b))) == [*fact.operands]
        assert int(c) == int(a) * int(b)
    assert {TIMES_TABLE.of(6, 9).token, TIMES_TABLE.of(7, 8).token} <= {site["token"] for site in sites}


def test_of_many_sites_fifty_are_shown_and_they_come_from_all_over(tiny, tmp_path):
    """800 documents, each with one fact of its own place: the sample is no more than fifty and not of one shard."""
    texts = [f"Document {i} {'word ' * (i * 7 % 20)}says {i % 9 + 1}*1={i % 9 + 1}." for i in range(800)]
    (tmp_path / "s.jsonl").write_bytes(jsonl_lines(texts))
    plan = CorpusPlan(tiny(tmp_path / "run", f"corpus.source=jsonl:{tmp_path / 's.jsonl'}", "corpus.drills.share=0"))
    for prepare in (prepare_text, prepare_drills, prepare_patches):
        prepare(plan)
    sites = read_json(plan.patch_step("mul_tokens", "text")[0] / "patch.json")["sites_in_context"]
    assert len({site["document"] for site in sites}) == len(sites) == 50
    assert len({site["document"].split(":")[0] for site in sites}) > 1
    assert read_json(plan.patch_step("baseline", "text")[0] / "patch.json")["sites_in_context"] == []
