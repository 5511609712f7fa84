"""The engine: the same shards whoever does the tasks, what is done is kept, and failures reach the caller."""

import json
import os
import platform
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.corpus.conftest import jsonl_lines, text_tasks
from tokentrial.arms import arm as arms
from tokentrial.corpus import slurm as slurm_module
from tokentrial.corpus.engine import run_tasks
from tokentrial.corpus.exposure import expose
from tokentrial.corpus.prepare import CorpusPlan, prepare_drills, prepare_patches, prepare_text
from tokentrial.corpus.readers import InputSplit
from tokentrial.corpus.slurm import TextStep
from tokentrial.corpus.text import TextTasks, run_task
from tokentrial.errors import SettingsError, TrialError
from tokentrial.store.files import read_json

FILES = 8
EACH_FILE = "corpus.task_bytes=1"  # a task


@pytest.fixture(scope="module")
def folder(prose, tmp_path_factory):
    """The prose in eight files of ten documents."""
    folder = tmp_path_factory.mktemp("files")
    for number in range(FILES):
        texts = prose[number * 10 : number * 10 + 10]
        (folder / f"{number}.jsonl").write_bytes(jsonl_lines(texts))
    return folder


@pytest.fixture(scope="module")
def planned(tiny, folder):
    """`planned(run folder, *overrides)`: the plan of a corpus in eight tasks."""
    return lambda run, *overrides: CorpusPlan(tiny(run, f"corpus.source=jsonl:{folder}", EACH_FILE, *overrides))


@pytest.fixture(scope="module")
def whole(planned, tmp_path_factory):
    """The corpus as one process writes it, task by task."""
    plan = planned(tmp_path_factory.mktemp("whole") / "run", "corpus.executor=in-process")
    prepare_text(plan)
    return plan


def written(plan):
    return {path.name: path.read_bytes() for path in plan.folder.iterdir() if path.name != "manifest.json"}


def silent(share, text):
    pass


# who does the work


@pytest.mark.parametrize("workers", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_the_shards_are_the_same_from_any_number_of_workers(planned, whole, tmp_path, workers):
    plan = planned(tmp_path / "run", "corpus.executor=local")
    prepare_text(plan, workers)
    assert written(plan) == written(whole)
    assert plan.text_fingerprint == whole.text_fingerprint
    assert [path.name for path in plan.trial.folder.iterdir() if "tasks" in path.name] == []


@pytest.mark.parametrize("how", ["deleted", "killed midway"])
def test_a_finished_task_is_not_done_again_and_one_that_is_gone_is(planned, tmp_path, monkeypatch, how):
    tasks = text_tasks(planned(tmp_path / "run"))
    run_tasks(tasks, 1, silent)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tasks.folder.glob("*/*")}
    monkeypatch.setattr("tokentrial.corpus.text._write", lambda *_: pytest.fail("a finished task was begun"))
    run_tasks(tasks, 1, silent)
    monkeypatch.undo()
    half = tasks.folder / f"00003.{platform.node()}.1.partial"
    (tasks.folder / "00003").rename(half)
    if how == "deleted":
        shutil.rmtree(half)
    else:
        (half / "record.json").unlink()
    run_tasks(tasks, 1, silent)
    after = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tasks.folder.glob("*/*")}
    assert after.keys() == before.keys()  # and what the kill left is gone
    assert all(after[path][0] == before[path][0] for path in before)
    assert {path.parent.name for path in before if after[path][1] != before[path][1]} == {"00003"}


# failures


@pytest.fixture
def failing(tiny, folder, tmp_path):
    """`failing(kind, executor)`: a plan whose sixth task fails with an error of this kind."""

    def make(kind, executor):
        bad = tmp_path / "bad"
        shutil.rmtree(bad, ignore_errors=True)
        bad.mkdir()
        for path in folder.iterdir():
            texts = [json.loads(line)["text"] for line in path.read_text().splitlines()]
            pq.write_table(pa.table({"text": texts}), bad / f"{path.stem}.parquet")
        if kind is SettingsError:
            pq.write_table(pa.table({"body": ["no text"]}), bad / "5.parquet")
        else:
            (bad / "5.parquet").write_bytes((bad / "5.parquet").read_bytes()[:-9])
        settings = f"corpus.source=parquet:{bad}", EACH_FILE, f"corpus.executor={executor}"
        return CorpusPlan(tiny(tmp_path / executor, *settings))

    return make


@pytest.mark.parametrize(("kind", "executor"), [(TrialError, "local"), (SettingsError, "in-process")])
def test_a_task_fails_alike_in_a_worker_here_and_in_the_file_that_it_leaves_on_slurm(failing, kind, executor):
    plan = failing(kind, executor)
    with pytest.raises(TrialError, match=r"5\.parquet") as raised:
        prepare_text(plan, 2)
    assert type(raised.value) is kind
    assert not plan.folder.exists()
    tasks = text_tasks(plan)
    tasks.folder.mkdir(parents=True)
    with pytest.raises(kind):
        TextStep(tasks).run(rank=5)
    [error] = tasks.folder.glob(f"00005.{'settings' if kind is SettingsError else 'trial'}.error")
    assert error.read_text() == str(raised.value)


def test_a_worker_that_is_killed_is_an_error_and_no_endless_wait(planned, tmp_path):
    """As the kernel does where memory ends. The worker is held by a task that waits for a pipe's writer."""
    tasks = text_tasks(planned(tmp_path / "run", "corpus.executor=local"))
    os.mkfifo(tmp_path / "pipe.jsonl")
    tasks = tasks._replace(inputs=[InputSplit("jsonl", (str(tmp_path / "pipe.jsonl"),), None, 1), *tasks.inputs])

    def kill():
        while not (begun := list(tasks.folder.glob("00000.*.partial"))):
            time.sleep(0.05)
        os.kill(int(begun[0].suffixes[-2][1:]), signal.SIGKILL)

    def waited_long(*_):
        raise TimeoutError("nobody noticed that a worker is dead")

    before = signal.signal(signal.SIGALRM, waited_long)
    signal.alarm(20)
    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with pytest.raises(TrialError) as raised:
            run_tasks(tasks, 2, silent)
        assert "TimeoutError" not in str(raised.value)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        killer.join()


# as many tokens as wanted


@pytest.fixture(scope="module")
def tokens_of_tasks(whole):
    """Train tokens of each task of the whole corpus: its first shards are the first task's."""
    counts = [shards["train"] for shards in read_json(whole.folder / "text.json")["shards_of_task"]]
    sizes = iter([len(np.load(path)) for path in sorted(whole.folder.glob("text_train_*.npy"))])
    return [sum(next(sizes) for _ in range(count)) for count in counts]


@settings(max_examples=40)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.data())
def test_the_first_tasks_that_give_the_tokens_are_needed_in_whatever_order_they_run(tmp_path_factory, tokens, data):
    order = data.draw(st.permutations(range(len(tokens))))
    target = data.draw(st.integers(1, max(1, sum(tokens))))
    folder = tmp_path_factory.mktemp("tasks")
    tasks = TextTasks(folder, None, None, None, tokens, target)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "tokentrial.corpus.text._write",
            lambda partial, tasks, tokens_of_input: {"tokens": {"train": tokens_of_input}},
        )
        for rank in order:
            run_task(tasks, rank)
    done, enough = tasks.done(), np.cumsum(tokens) >= target
    needed = int(enough.argmax()) + 1 if enough.any() else len(tokens)
    assert tasks.needed(done) == list(range(needed))
    assert all(done[rank]["tokens"]["train"] == tokens[rank] for rank in range(needed))
    if sorted(order) == order:
        assert sorted(done) == list(range(needed))  # no task was done for nothing


def test_of_the_whole_corpus_the_first_shards_are_taken(planned, whole, tokens_of_tasks, tmp_path):
    wanted = sum(tokens_of_tasks[:3]) - 1
    plan = planned(tmp_path / "run", f"corpus.tokens={wanted}")
    prepare_text(plan)
    text = read_json(plan.folder / "text.json")
    assert (text["tasks"], text["short"], text["tokens"]["train"]) == (3, False, wanted + 1)
    assert text["documents_read"] == 30
    assert text["shards_of_task"] == read_json(whole.folder / "text.json")["shards_of_task"][:3]
    shards = {name: data for name, data in written(plan).items() if name.endswith(".npy")}
    for split in ("train", "val"):
        count = sum(counts[split] for counts in text["shards_of_task"])
        names = {f"text_{split}_{index:06d}.npy" for index in range(count)}
        assert {name for name in shards if split in name} == names
    assert shards.items() <= written(whole).items()


def test_a_source_that_ends_early_is_an_error_unless_that_is_allowed(planned, whole, tokens_of_tasks, tmp_path):
    available = sum(tokens_of_tasks)
    plan = planned(tmp_path / "run", f"corpus.tokens={available + 1}")
    counts = rf"ended after {available:,} train tokens of {available + 1:,} \(80 documents of 8 files\)"
    with pytest.raises(TrialError, match=counts + r".*corpus\.tokens.*--allow-short"):
        prepare_text(plan)
    assert not plan.folder.exists()
    allowed = planned(tmp_path / "run", f"corpus.tokens={available + 1}", "corpus.allow_short=true")
    lasting = planned(tmp_path / "lasting", f"corpus.tokens={available}")
    for prepared, short in ((allowed, True), (lasting, False)):
        prepare_text(prepared)
        assert read_json(prepared.folder / "text.json")["short"] is short
        shards = {name: data for name, data in written(prepared).items() if name.endswith(".npy")}
        assert shards.items() <= written(whole).items()
    assert plan.text_fingerprint == allowed.text_fingerprint  # the same corpus: allowing it is not part of it


EVERY = pytest.param(arms.arm_names(), marks=pytest.mark.slow)


@pytest.mark.parametrize("names", [["baseline", "mul_tokens", "one_slot"], EVERY])
@pytest.mark.parametrize("match", [pytest.param("tokens", marks=pytest.mark.slow), "bytes"])
@pytest.mark.parametrize("share", [0.6, *(pytest.param(share, marks=pytest.mark.slow) for share in (0.0, 0.3))])
def test_a_budget_of_text_lasts_for_every_arm(planned, tokens_of_tasks, tmp_path, share, match, names):
    # the steps take six tenths of the text that there is
    steps = int(0.6 * sum(tokens_of_tasks) / (1 - share) / 512)
    budget = f"pretrain.steps={steps}", "pretrain.batch_tokens=512", "pretrain.micro_batch=8", f"budget.match={match}"
    drills = f"corpus.drills.share={share}", f"arms=[{','.join(names)}]", "seeds=[1,2,3]"
    plan = planned(tmp_path / "run", "corpus.tokens=budget", *drills, *budget)
    for prepare in (prepare_text, prepare_drills, prepare_patches):
        prepare(plan)
    text = read_json(plan.folder / "text.json")
    assert text["tokens"]["train"] >= (1 - share) * steps * 512
    assert text["tasks"] < FILES  # it is not the whole source
    assert set(expose(plan)["served"]) == set(names)


# what is part of the corpus


@pytest.mark.parametrize(
    ("override", "same"),
    [
        ("corpus.allow_short=true", True),
        ("corpus.executor=local", True),
        ("corpus.cluster={partition: large, time: '1:00:00'}", True),
        ("workers=2", True),
        ("disk_reserve_gb=3", True),
        ("corpus.task_bytes=50000", False),
        ("corpus.task_bytes=null", False),
        ("corpus.tokens=30000", False),
        ("corpus.tokens=budget", False),
        ("corpus.on_bad=skip", False),
        ("corpus.max_document_bytes=1000", False),
    ],
)
def test_who_does_the_work_is_no_part_of_the_corpus_and_how_it_is_cut_is(planned, whole, override, same):
    assert (planned(whole.trial.folder, override).text_fingerprint == whole.text_fingerprint) == same


# clusters


@pytest.fixture
def path(tmp_path, monkeypatch):
    """An empty folder for commands, first on the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CLUSTER", str(tmp_path))
    return folder


def command(folder, name, script):
    (folder / name).write_text(f"#!/bin/bash\n{script}\n")
    (folder / name).chmod(0o755)


SBATCH = """
script="$CLUSTER/script.$$"; cp "${@: -1}" "$script"; echo "$@" >> "$CLUSTER/submitted"
if ! grep -q merge_stats "$script"; then
    cp "$script" "$CLUSTER/script"
    last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$script")
    [[ "$1" == --export=ALL,* ]] && export "${1#--export=ALL,}"
    (for i in $(seq 0 "$last"); do
        SLURM_ARRAY_TASK_ID=$i SLURM_JOB_ID=7 SLURM_NODELIST=localhost bash "$script" >> "$CLUSTER/log" 2>&1
    done; touch "$CLUSTER/ended") > /dev/null 2>&1 &
fi
echo "Submitted batch job 7"
"""
SQUEUE = '[ -e "$CLUSTER/ended" ] || echo "7 cpu tokentrial R"'


@pytest.fixture
def slurm(path):
    """A cluster of this machine alone, that runs one task of the array after the other."""
    command(path, "sbatch", SBATCH)
    command(path, "squeue", SQUEUE)
    command(path, "srun", 'while [[ "$1" == -* ]]; do [ "$1" = -n ] && shift; shift; done; exec "$@"')
    command(path, "scontrol", 'echo "${@: -1}"')


@pytest.mark.slow
def test_slurm_writes_the_same_shards(planned, whole, tmp_path, slurm, monkeypatch):
    monkeypatch.setattr(slurm_module, "_LOST_AFTER_S", 30.0)
    settings = "corpus.executor=slurm", "corpus.cluster={partition: large, time: '1:00:00', mem_per_cpu_gb: 4}"
    plan = planned(tmp_path / "run", *settings)
    left = plan.folder.with_name("corpus.tasks") / plan.text_fingerprint / "00005.trial.error"
    left.parent.mkdir(parents=True)
    left.write_text("no space left, in a run before")
    prepare_text(plan, 2)
    assert written(plan) == written(whole)
    script = (tmp_path / "script").read_text()
    for line in ("partition=large", "time=1:00:00", "mem-per-cpu=4G", f"array=0-{FILES - 1}%2"):
        assert f"#SBATCH --{line}\n" in script


@pytest.mark.slow
@pytest.mark.parametrize("kind", [TrialError, SettingsError])
def test_a_task_that_fails_on_slurm_reaches_the_caller(failing, slurm, kind):
    with pytest.raises(TrialError, match=r"5\.parquet") as in_process:
        prepare_text(failing(kind, "in-process"))
    with pytest.raises(TrialError) as on_slurm:
        prepare_text(failing(kind, "slurm"), 2)
    assert (type(on_slurm.value), str(on_slurm.value)) == (type(in_process.value), str(in_process.value))
    assert type(on_slurm.value) is kind


def test_a_slurm_job_that_is_lost_is_an_error_once_it_has_left_the_queue(planned, tmp_path, path, monkeypatch):
    monkeypatch.setattr(slurm_module, "_LOST_AFTER_S", 0.6)
    monkeypatch.setattr(slurm_module, "_POLL_S", 0.1)
    command(path, "sbatch", 'echo "Submitted batch job 7"')
    command(
        path,
        "squeue",
        '[ "$*" = "-h -j 7" ] && echo x >> $CLUSTER/asked; [ $(wc -l < $CLUSTER/asked) -gt 2 ] || echo 7',
    )
    plan = planned(tmp_path / "run", "corpus.executor=slurm")
    with pytest.raises(TrialError, match=r"Slurm job 7 has left the queue and 8 tasks are not done; see .*slurm_logs"):
        prepare_text(plan)
    assert (tmp_path / "asked").read_text().count("x") == 3  # while it was in the queue it was waited for
    assert not plan.folder.exists()


def test_a_cluster_that_is_not_there_or_set_wrongly_is_named(planned, tmp_path, path, monkeypatch):
    def refused(executor, match, cluster=""):
        with pytest.raises(TrialError, match=match) as error:
            prepare_text(planned(tmp_path / "run", f"corpus.executor={executor}", f"corpus.cluster={{{cluster}}}"))
        return type(error.value)

    assert refused("slurm", r"corpus\.executor: slurm needs sbatch on the PATH") is SettingsError
    command(path, "sbatch", 'echo "Submitted batch job 7"')
    refused("slurm", "colour", "colour: red")
    monkeypatch.setitem(sys.modules, "ray", None)
    absent = r"executor: ray is not installed; pip install 'tokentrial\[scale\]'"
    assert refused("ray", absent) is SettingsError


@pytest.mark.parametrize(("cluster", "tried"), [("", 1), ("address: '127.0.0.1:2'", 2)])
def test_ray_is_where_the_corpus_says_or_else_the_trial(planned, tmp_path, cluster, tried):
    pytest.importorskip("ray", reason="it is in tokentrial[scale]")
    settings = "corpus.executor=ray", "ray.address=127.0.0.1:1", f"corpus.cluster={{{cluster}}}"
    with pytest.raises(TrialError, match=rf"ray\.address: 127\.0\.0\.1:{tried}: no connection"):
        prepare_text(planned(tmp_path / "run", *settings))


@pytest.mark.slow
def test_ray_writes_the_same_shards(planned, whole, tmp_path):
    pytest.importorskip("ray", reason="it is in tokentrial[scale]")
    plan = planned(tmp_path / "run", "corpus.executor=ray")
    prepare_text(plan, 2)
    assert written(plan) == written(whole)
