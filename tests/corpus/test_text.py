"""A task of the corpus stage: what becomes of a unit's documents depends on them and on the settings, not on how the
source is cut into tasks; and what is recorded of it is what is there."""

import importlib.util
import json
import math
import platform
import random
import re
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest

from tokentrial.arms.families import TIMES_TABLE
from tokentrial.corpus import engine
from tokentrial.corpus import text as texts_module
from tokentrial.corpus.prepare import CorpusPlan, prepare_text
from tokentrial.corpus.shards import open_shard, shard_paths, text_of
from tokentrial.corpus.text import RECORD, Selection, TextTasks, run_task
from tokentrial.errors import TrialError
from tokentrial.store.files import read_json
from tokentrial.tokenizer.encode import encoder_of

FILES = 7


@pytest.fixture
def folder(tmp_path, prose):
    """The prose in seven files, a document that holds nothing and one that asks a fact among them."""
    here = tmp_path / "source"
    here.mkdir()
    for number in range(FILES):
        texts = [*prose[number * 11 : number * 11 + 11], "" if number % 2 else "\x00"]
        (here / f"{number}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return here


@pytest.fixture
def planned(tiny, tmp_path, folder):
    return lambda name, *overrides: CorpusPlan(tiny(tmp_path / name, f"corpus.source=jsonl:{folder}", *overrides))


def tasks_of(plan):
    units = plan.source.units(plan.trial.corpus.task_bytes)
    return TextTasks(plan.trial.folder / "tasks", plan.trial.corpus, plan.vocabulary, plan.facts, units, plan.wanted)


def texts_of(plan, split):
    shards = [open_shard(path, plan.vocabulary.eos) for path in shard_paths(plan.folder, "fineweb", split)]
    return [text_of(shard.document(i), plan.vocabulary) for shard in shards for i in range(len(shard))]


# how the source is cut


@pytest.mark.parametrize("task_bytes", [1, 30_000, 60_000, 10**9])
def test_documents_keep_their_order_and_split_however_the_source_is_cut(planned, prose, task_bytes):
    plan = planned("run", f"corpus.task_bytes={task_bytes}", "corpus.piece_characters=null")
    prepare_text(plan)
    written = {split: texts_of(plan, split) for split in ("train", "val")}
    kept = [text for text in prose[: FILES * 11] if "What is 6 times 7?" not in text]
    assert sorted(written["train"] + written["val"]) == sorted(kept)
    for texts in written.values():
        assert texts == [text for text in kept if text in set(texts)]
    # the split is the document's own: the same in any cut
    other = planned("other", "corpus.task_bytes=20000", "corpus.piece_characters=null")
    prepare_text(other)
    assert written == {split: texts_of(other, split) for split in ("train", "val")}


@pytest.mark.parametrize("task_bytes", [1, 30_000, 10**9])
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
        written = texts_of(plan, split)
        assert record["documents"][split] == len(written)
        assert record["bytes"][split] == sum(len(text.encode()) for text in written)
        shards = [np.load(path) for path in shard_paths(plan.folder, "fineweb", split)]
        assert record["tokens"][split] == sum(map(len, shards))
        assert sum(counts[split] for counts in record["shards_of_task"]) == len(shards)
    assert len(record["shards_of_task"]) == record["tasks"] == {1: 7, 30_000: 7, 10**9: 1}[task_bytes]


@pytest.mark.parametrize("number", [1, 11, 12, 13, 40, 83, 84, 1000])
def test_a_number_of_documents_counts_what_is_read_across_files(planned, prose, number):
    overrides = f"corpus.documents={number}", "corpus.piece_characters=null", "corpus.drills.never_asked_folds=0"
    plan = planned("run", *overrides, "corpus.task_bytes=1")
    units = plan.source.units(1, in_one=True)
    selection = Selection(units[0], plan.trial.corpus, plan.facts)
    found = [text.decode() for texts, _ in selection.batches() for text in texts]
    expected = [text for n in range(FILES) for text in [*prose[n * 11 : n * 11 + 11], None]][:number]
    assert found == [text for text in expected if text is not None]
    assert selection.counts["documents_read"] == min(number, FILES * 12)
    assert selection.counts["empty_documents"] == expected.count(None)


# a task


def test_a_task_that_fails_midway_leaves_nothing_and_is_done_when_it_is_run_again(planned, monkeypatch):
    tasks = tasks_of(planned("run", "corpus.task_bytes=1", "corpus.shard_tokens=1000"))

    class Stopped(Exception):
        pass

    class Stopping:
        def encode(self, texts):
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(texts_module, "encoder_of", lambda _: Stopping())
        with pytest.raises(Stopped):
            run_task(tasks, 2)
    assert list(tasks.folder.glob("*")) == []
    assert tasks.done() == {}
    run_task(tasks, 2)
    assert list(tasks.done()) == [2]
    assert [path.name for path in tasks.folder.iterdir()] == ["00002"]
    assert (tasks.folder / "00002" / RECORD).exists()


def test_a_task_whose_record_is_written_and_that_has_not_its_name_yet_is_not_done(planned):
    tasks = tasks_of(planned("run", "corpus.task_bytes=1"))
    run_task(tasks, 0)
    (tasks.folder / "00000").rename(tasks.folder / f"00000.{platform.node()}.1.partial")
    assert tasks.done() == {}
    assert not tasks.enough_before(3)


def test_a_task_that_another_worker_finished_meanwhile_is_left_as_it_is(planned, monkeypatch):
    tasks = tasks_of(planned("run", "corpus.task_bytes=1"))
    write = texts_module._write

    def slow(folder, *arguments):
        made = write(folder, *arguments)
        (tasks.folder / "00001").mkdir()
        (tasks.folder / "00001" / RECORD).write_text(json.dumps({"by": "another"}))
        return made

    monkeypatch.setattr(texts_module, "_write", slow)
    run_task(tasks, 1)
    assert read_json(tasks.folder / "00001" / RECORD) == {"by": "another"}
    assert [path.name for path in tasks.folder.iterdir()] == ["00001"]


@pytest.mark.parametrize("executor", ["in-process", "local"])
def test_what_a_run_that_was_killed_left_behind_stops_no_later_run(planned, monkeypatch, executor):
    """A machine that went down leaves the unfinished folders of processes that are no more."""
    plan = planned("run", "corpus.task_bytes=1", f"corpus.executor={executor}")
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    tasks = plan.folder.with_name("corpus.tasks") / plan.text
    left = tasks / f"00005.{platform.node()}.{dead.pid}.partial"
    left.mkdir(parents=True)
    (left / "fineweb_train_000000.npy").write_bytes(b"half")
    monkeypatch.setattr(engine, "_LOOK_EVERY_S", 0.01)
    done = TextTasks.done

    def slowly(tasks):
        time.sleep(0.05)  # so that it is seen while the tasks are done
        return done(tasks)

    monkeypatch.setattr(TextTasks, "done", slowly)
    prepare_text(plan, 2)
    assert read_json(plan.folder / "text.json")["tasks"] == FILES
    assert not tasks.exists()


def test_what_a_task_writes_does_not_depend_on_the_tasks_before_it(planned):
    """Encoders and caches remember: run alone, after others, or twice, a task writes the same bytes."""
    written = []
    for name, order in (("a", [3]), ("b", [0, 1, 2, 3]), ("c", [6, 5, 4, 3])):
        tasks = tasks_of(planned(name, "corpus.task_bytes=1"))
        for rank in order:
            run_task(tasks, rank)
        written.append({path.name: path.read_bytes() for path in (tasks.folder / "00003").iterdir()})
    assert written[0] == written[1] == written[2]


def test_without_gigatoken_one_notice_stands_for_all_tasks(planned, monkeypatch, capsys):
    plan = planned("fast", "corpus.task_bytes=1", "corpus.executor=in-process")
    prepare_text(plan)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gigatoken" else find(name))
    encoder_of.cache_clear()
    capsys.readouterr()
    slow = planned("slow", "corpus.task_bytes=1", "corpus.executor=in-process")
    try:
        prepare_text(slow)
    finally:
        encoder_of.cache_clear()
    assert capsys.readouterr().err.count("gigatoken is not installed") == 1
    names = [path.name for path in plan.folder.glob("*.npy")]
    assert len(names) > FILES
    for name in names:
        assert (slow.folder / name).read_bytes() == (plan.folder / name).read_bytes()


def test_a_task_holds_no_more_than_a_hundred_bad_documents_one_by_one(planned, folder):
    (folder / "3.jsonl").write_text("no\n" * 1000)
    tasks = tasks_of(planned("run", "corpus.task_bytes=1", "corpus.on_bad=skip"))
    run_task(tasks, 3)
    record = read_json(tasks.folder / "00003" / RECORD)
    assert record["bad_documents"] == 1000
    assert [bad["where"] for bad in record["bad"]] == [f"{folder}/3.jsonl, line {i}" for i in range(1, 101)]


def test_a_task_of_nothing_but_empty_documents_is_a_task_like_any_other(planned, folder):
    (folder / "3.jsonl").write_text('{"text": ""}\n' * 5)
    (folder / "4.jsonl").write_text("")
    plan = planned("run", "corpus.task_bytes=1")
    prepare_text(plan)
    record = read_json(plan.folder / "text.json")
    assert record["shards_of_task"][3] == record["shards_of_task"][4] == {"train": 0, "val": 0}
    assert record["tasks"] == FILES
    assert record["documents_read"] == (FILES - 2) * 12 + 5


def test_a_source_of_nothing_is_an_error(planned, folder, tmp_path):
    for path in folder.iterdir():
        path.write_text('{"text": " "}\n' * 3)
    plan = planned("run")
    with pytest.raises(TrialError, match="no document fell into train out of 21 read"):
        prepare_text(plan)
    assert not plan.folder.exists()


# meta.json: what is there for a human eye


def changed(plan, arm):
    """Every document of every shard as the arm serves it, with its original text: (shard, index, ids, text)."""
    for path in sorted([*plan.folder.glob("*.npy"), *(plan.folder / "drills").glob("*.npy")]):
        base = open_shard(path, plan.vocabulary.eos)
        served = open_shard(path, plan.vocabulary.eos, plan.patch_folder(arm) / f"{path.stem}.npz")
        for index in range(len(base)):
            yield path.stem, index, served.document(index), text_of(base.document(index), plan.vocabulary)


@pytest.mark.parametrize("arm", ["baseline", "mul_tokens", "mul_append"])
def test_document_lengths_are_those_of_the_served_documents(plan, arm):
    record = read_json(plan.folder / "meta.json")["arms"][arm]
    lengths = [len(ids) for _, _, ids, _ in changed(plan, arm)]
    powers = Counter(math.floor(math.log2(length)) for length in lengths)
    assert record["document_lengths"] == {f"{2**k}-{2 ** (k + 1) - 1}": powers[k] for k in sorted(powers)}
    assert sum(record["document_lengths"].values()) == record["num_documents"] == len(lengths)


@pytest.mark.parametrize("arm", ["mul_tokens", "mul_append"])
def test_the_sites_shown_stand_in_the_documents_they_name(plan, arm):
    sites = read_json(plan.folder / "meta.json")["arms"][arm]["sites_in_context"]
    documents = {f"{shard}:{index}": (ids, text) for shard, index, ids, text in changed(plan, arm)}
    known = {fact.token: fact for fact in TIMES_TABLE}
    assert 5 < len(sites) <= 50
    for site in sites:
        assert site["document"].startswith("fineweb_")  # of the text, not of the drills
        ids, text = documents[site["document"]]
        assert site["before"] + site["site"] + site["after"] in text
        assert max(len(site["before"]), len(site["after"])) <= 60
        fact = known[site["token"]]
        assert plan.vocabulary.base + TIMES_TABLE.index(fact) in ids.tolist()
        # this test's own reading of the fact that stands there, or right before an appended token
        stated = re.search(r"([1-9]) ?[*×x] ?([1-9]) ?= ?([0-9]+)$", site["before"] + site["site"])
        assert (int(stated[1]), int(stated[2]), int(stated[3])) in (
            (fact.operands[0], fact.operands[1], fact.operands[0] * fact.operands[1]),
            (fact.operands[1], fact.operands[0], fact.operands[0] * fact.operands[1]),
        )
    assert {TIMES_TABLE.of(6, 9).token, TIMES_TABLE.of(7, 8).token} <= {site["token"] for site in sites}


def test_the_baseline_has_no_sites_to_show(plan):
    assert read_json(plan.folder / "meta.json")["arms"]["baseline"]["sites_in_context"] == []


def test_of_many_sites_fifty_are_shown_and_they_come_from_all_over(tiny, tmp_path, inline):
    """800 documents, each with one fact of its own place: the sample is no more than fifty and not of one shard."""
    from tokentrial.run.run import run

    rng = random.Random(1)
    texts = [f"Document {i} " + "word " * rng.randrange(20) + f"says {i % 9 + 1}*1={i % 9 + 1}." for i in range(800)]
    (tmp_path / "s.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    trial = tiny(tmp_path / "run", f"corpus.source=jsonl:{tmp_path / 's.jsonl'}", "corpus.epochs=9", "seeds=[1]")
    run(trial, ("corpus",))
    sites = read_json(trial.folder / "corpus" / "meta.json")["arms"]["mul_tokens"]["sites_in_context"]
    assert len(sites) == 50
    assert len({site["document"] for site in sites}) == 50
    assert len({site["document"].split(":")[0] for site in sites}) > 1
