"""The engine: the same shards whoever does the tasks, what is done is kept, and failures reach the caller."""

import ctypes
import json
import os
import random
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tokentrial.arms import arm as arms
from tokentrial.corpus import engine
from tokentrial.corpus.engine import TextStep, run_tasks
from tokentrial.corpus.exposure import expose
from tokentrial.corpus.prepare import CorpusPlan, prepare_drills, prepare_patches, prepare_text
from tokentrial.corpus.read import Unit
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
        (folder / f"{number}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
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


@pytest.fixture(autouse=True)
def _outlives_its_parent():
    """With one worker datatrove works in this process: what a worker asks of the kernel must not stay."""
    yield
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, 0)


def written(plan):
    return {path.name: path.read_bytes() for path in plan.folder.iterdir() if path.name != "manifest.json"}


def tasks_of(plan):
    units = plan.source.units(plan.trial.corpus.task_bytes)
    return TextTasks(plan.trial.folder / "tasks", plan.trial.corpus, plan.vocabulary, plan.facts, units, plan.wanted)


def silent(share, text):
    pass


def files_of(tasks):
    """The files that tasks left, with what would change if one were written again."""
    paths = [path for path in tasks.folder.glob("[0-9]*/*") if path.is_file()]
    return {str(path.relative_to(tasks.folder)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def contents_of(tasks):
    return {str(path.relative_to(tasks.folder)): path.read_bytes() for path in tasks.folder.glob("[0-9]*/*")}


# who does the work


@pytest.mark.parametrize("workers", [1, 2, pytest.param(8, marks=pytest.mark.slow)])
def test_the_shards_are_the_same_from_any_number_of_workers(planned, whole, tmp_path, workers):
    plan = planned(tmp_path / "run", "corpus.executor=local")
    prepare_text(plan, workers)
    assert written(plan) == written(whole)
    assert plan.text == whole.text
    assert [path.name for path in plan.trial.folder.iterdir() if "tasks" in path.name] == []


def test_every_task_leaves_shards_of_its_own(whole):
    text = read_json(whole.folder / "text.json")
    assert text["tasks"] == len(text["shards_of_task"]) == FILES
    for split in ("train", "val"):
        made = sum(shards[split] for shards in text["shards_of_task"])
        assert made == len(list(whole.folder.glob(f"fineweb_{split}_*.npy"))) >= FILES // 2


@pytest.mark.parametrize("executor", ["in-process", "local"])
def test_a_finished_task_is_not_done_again_and_a_deleted_one_is(planned, tmp_path, monkeypatch, executor):
    tasks = tasks_of(planned(tmp_path / "run", f"corpus.executor={executor}"))
    run_tasks(tasks, 2, silent)
    first, contents = files_of(tasks), contents_of(tasks)
    assert set(tasks.done()) == set(range(FILES))
    with monkeypatch.context() as patch:
        patch.setattr("tokentrial.corpus.text._write", lambda *_: pytest.fail("a finished task was begun"))
        run_tasks(tasks, 1, silent)  # with one worker, in this process
    assert files_of(tasks) == first
    shutil.rmtree(tasks.folder / "00003")
    run_tasks(tasks, 2, silent)
    again = files_of(tasks)
    assert {name for name in first if again[name] != first[name]} == {n for n in first if n.startswith("00003/")}
    assert contents_of(tasks) == contents


def test_a_task_that_was_killed_midway_is_done_again(planned, tmp_path):
    tasks = tasks_of(planned(tmp_path / "run"))
    run_tasks(tasks, 1, silent)
    contents = contents_of(tasks)
    (tasks.folder / "00005").rename(tasks.folder / "00005.elsewhere.1.partial")
    (tasks.folder / "00005.elsewhere.1.partial" / "record.json").unlink()
    assert set(tasks.done()) == set(range(FILES)) - {5}
    run_tasks(tasks, 1, silent)
    assert {name: data for name, data in contents_of(tasks).items() if "partial" not in name} == contents


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_with_one_worker_this_process_does_not_come_to_die_with_its_parent(planned, tmp_path):
    run_tasks(tasks_of(planned(tmp_path / "run", "corpus.executor=local")), 1, silent)
    asked = ctypes.c_int(-1)
    ctypes.CDLL(None).prctl(2, ctypes.byref(asked))  # PR_GET_PDEATHSIG
    assert asked.value != signal.SIGKILL


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


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("kind", [TrialError, SettingsError])
def test_a_task_fails_alike_in_a_worker_and_here(failing, kind, workers):
    errors = {}
    for executor in ("in-process", "local"):
        plan = failing(kind, executor)
        with pytest.raises(TrialError, match=r"5\.parquet") as raised:
            prepare_text(plan, workers)
        errors[executor] = (type(raised.value), str(raised.value))
        assert not plan.folder.exists()
    assert errors["local"] == errors["in-process"]
    assert errors["local"][0] is kind


@pytest.mark.parametrize("executor", ["in-process", "local"])
def test_an_error_of_a_run_before_is_forgotten(planned, tmp_path, executor):
    """A disk that was full or a folder that was shut leaves the source, and so the tasks' folder, the same."""
    tasks = tasks_of(planned(tmp_path / "run", f"corpus.executor={executor}"))
    tasks.folder.mkdir(parents=True)
    (tasks.folder / "00005.trial.error").write_text("no space left")
    run_tasks(tasks, 1, silent)
    assert set(tasks.done()) == set(range(FILES))


@pytest.mark.parametrize("kind", [TrialError, SettingsError])
def test_a_task_leaves_its_error_in_a_file_for_executors_that_lose_it(failing, kind):
    plan = failing(kind, "in-process")
    tasks = tasks_of(plan)
    tasks.folder.mkdir(parents=True)
    with pytest.raises(kind) as here:
        TextStep(tasks).run(rank=5)
    with pytest.raises(TrialError) as there:
        engine._raise_left(tasks)
    assert (type(there.value), str(there.value)) == (kind, str(here.value))


def test_a_worker_that_is_killed_is_an_error_and_no_endless_wait(planned, tmp_path):
    """As the kernel does where memory ends. The worker is held by a task that waits for a pipe's writer."""
    tasks = tasks_of(planned(tmp_path / "run", "corpus.executor=local"))
    os.mkfifo(tmp_path / "pipe.jsonl")
    tasks = tasks._replace(units=[Unit("jsonl", (str(tmp_path / "pipe.jsonl"),), None, 1), *tasks.units])

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
def tokens_of_tasks(planned, tmp_path_factory):
    """Train tokens of each task, all of them done."""
    tasks = tasks_of(planned(tmp_path_factory.mktemp("tokens") / "run"))
    for rank in range(FILES):
        run_task(tasks, rank)
    return [tasks.done()[rank]["tokens"]["train"] for rank in range(FILES)]


@pytest.mark.parametrize("order", ["forwards", "backwards", *range(4)])
def test_the_first_tasks_that_give_the_tokens_are_needed_in_whatever_order_they_are_done(
    planned, tokens_of_tasks, tmp_path, order
):
    ranks = list(range(FILES))
    if order == "backwards":
        ranks.reverse()
    elif order != "forwards":
        random.Random(order).shuffle(ranks)
    for first in (1, 3, 5, 8):
        for wanted in (sum(tokens_of_tasks[:first]), sum(tokens_of_tasks[: first - 1]) + 1):
            tasks = tasks_of(planned(tmp_path / f"{wanted}", f"corpus.tokens={wanted}"))
            for rank in ranks:
                run_task(tasks, rank)
            done = tasks.done()
            assert tasks.needed(done) == list(range(first))
            assert [done[rank]["tokens"]["train"] for rank in range(first)] == tokens_of_tasks[:first]
            if order == "forwards":
                assert sorted(done) == list(range(first))  # no task was done for nothing


@pytest.mark.parametrize(("executor", "workers"), [("in-process", 1), ("local", 2)])
def test_of_the_whole_corpus_the_first_shards_are_taken(planned, whole, tokens_of_tasks, tmp_path, executor, workers):
    wanted = sum(tokens_of_tasks[:3]) - 1
    plan = planned(tmp_path / "run", f"corpus.tokens={wanted}", f"corpus.executor={executor}")
    prepare_text(plan, workers)
    text = read_json(plan.folder / "text.json")
    assert (text["tasks"], text["short"], text["tokens"]["train"]) == (3, False, wanted + 1)
    assert text["documents_read"] == 30
    assert text["shards_of_task"] == read_json(whole.folder / "text.json")["shards_of_task"][:3]
    shards = {name: data for name, data in written(plan).items() if name.endswith(".npy")}
    for split in ("train", "val"):
        made = sum(counts[split] for counts in text["shards_of_task"])
        names = {f"fineweb_{split}_{index:06d}.npy" for index in range(made)}
        assert {name for name in shards if split in name} == names
    assert shards == {name: written(whole)[name] for name in shards}


def test_a_source_that_ends_early_is_an_error_unless_that_is_allowed(planned, whole, tokens_of_tasks, tmp_path):
    wanted = f"corpus.tokens={sum(tokens_of_tasks) + 1}"
    plan = planned(tmp_path / "run", wanted)
    counts = rf"ended after {sum(tokens_of_tasks):,} train tokens of {sum(tokens_of_tasks) + 1:,} \(80 documents of 8"
    with pytest.raises(TrialError, match=counts + r" files\).*corpus\.tokens.*--allow-short"):
        prepare_text(plan)
    assert not plan.folder.exists()
    allowed = planned(tmp_path / "run", wanted, "corpus.allow_short=true")
    prepare_text(allowed)
    assert read_json(allowed.folder / "text.json")["short"] is True
    shards = {name: data for name, data in written(whole).items() if name.endswith(".npy")}
    assert {name: data for name, data in written(allowed).items() if name.endswith(".npy")} == shards
    assert plan.done == allowed.done  # the same corpus: allowing it is not part of it


def test_a_source_that_just_lasts_is_not_short(planned, tokens_of_tasks, tmp_path):
    plan = planned(tmp_path / "run", f"corpus.tokens={sum(tokens_of_tasks)}")
    prepare_text(plan)
    assert read_json(plan.folder / "text.json")["short"] is False


@pytest.mark.parametrize("match", ["tokens", "bytes"])
@pytest.mark.parametrize("share", [0.0, pytest.param(0.3, marks=pytest.mark.slow), 0.6])
def test_a_budget_of_text_lasts_for_every_arm(planned, tokens_of_tasks, tmp_path, share, match):
    # the steps take six tenths of the text that there is
    steps = int(0.6 * sum(tokens_of_tasks) / (1 - share) / 512)
    plan = planned(
        tmp_path / "run",
        "corpus.tokens=budget",
        f"corpus.drills.share={share}",
        "pretrain.batch_tokens=512",
        "pretrain.micro_batch=8",
        f"pretrain.steps={steps}",
        f"budget.match={match}",
        f"arms=[{','.join(arms.names())}]",
        "seeds=[1,2,3]",
    )
    for prepare in (prepare_text, prepare_drills, prepare_patches):
        prepare(plan)
    text = read_json(plan.folder / "text.json")
    assert text["tokens"]["train"] >= (1 - share) * steps * 512
    assert text["tasks"] < FILES  # it is not the whole source
    served = expose(plan)["served"]
    assert set(served) == set(arms.names())


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
    assert (planned(whole.trial.folder, override).text == whole.text) == same


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
def test_slurm_writes_the_same_shards(planned, whole, tokens_of_tasks, tmp_path, slurm, monkeypatch):
    monkeypatch.setattr(engine, "_LONG_AFTER_S", 30.0)
    settings = "corpus.executor=slurm", "corpus.cluster={partition: large, time: '1:00:00', mem_per_cpu_gb: 4}"
    plan = planned(tmp_path / "run", *settings)
    prepare_text(plan, 2)
    assert written(plan) == written(whole)
    script = (tmp_path / "script").read_text()
    for line in ("partition=large", "time=1:00:00", "mem-per-cpu=4G", f"array=0-{FILES - 1}%2"):
        assert f"#SBATCH --{line}\n" in script


@pytest.mark.slow
@pytest.mark.parametrize("kind", [TrialError, SettingsError])
def test_a_task_that_fails_on_slurm_reaches_the_caller(failing, slurm, kind):
    with pytest.raises(TrialError, match=r"5\.parquet") as here:
        prepare_text(failing(kind, "in-process"))
    with pytest.raises(TrialError) as there:
        prepare_text(failing(kind, "slurm"), 2)
    assert (type(there.value), str(there.value)) == (type(here.value), str(here.value))
    assert type(there.value) is kind


def test_a_slurm_job_that_is_lost_is_an_error_once_it_has_left_the_queue(planned, tmp_path, path, monkeypatch):
    monkeypatch.setattr(engine, "_LONG_AFTER_S", 0.6)
    monkeypatch.setattr(engine, "_LOOK_EVERY_S", 0.1)
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


def test_slurm_without_sbatch_is_a_wrong_setting(planned, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SettingsError, match=r"corpus\.executor: slurm needs sbatch on the PATH"):
        prepare_text(planned(tmp_path / "run", "corpus.executor=slurm"))


def test_an_unknown_setting_of_the_cluster_is_named(planned, tmp_path, path):
    command(path, "sbatch", 'echo "Submitted batch job 7"')
    settings = "corpus.executor=slurm", "corpus.cluster={colour: red}"
    with pytest.raises(TrialError, match="colour"):
        prepare_text(planned(tmp_path / "run", *settings))


def test_ray_that_is_absent_is_a_wrong_setting(planned, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SettingsError, match=r"executor: ray is not installed; pip install 'tokentrial\[scale\]'"):
        prepare_text(planned(tmp_path / "run", "corpus.executor=ray"))


@pytest.mark.parametrize(
    ("settings", "tried"),
    [(["ray.address=127.0.0.1:1"], 1), (["ray.address=127.0.0.1:1", "corpus.cluster={address: '127.0.0.1:2'}"], 2)],
)
def test_ray_is_where_the_corpus_says_or_else_the_trial(planned, tmp_path, settings, tried):
    pytest.importorskip("ray", reason="it is in tokentrial[scale]")
    with pytest.raises(TrialError, match=rf"ray\.address: 127\.0\.0\.1:{tried}: no connection"):
        prepare_text(planned(tmp_path / "run", "corpus.executor=ray", *settings))


@pytest.mark.slow
def test_ray_writes_the_same_shards(planned, whole, tmp_path):
    pytest.importorskip("ray", reason="it is in tokentrial[scale]")
    plan = planned(tmp_path / "run", "corpus.executor=ray")
    prepare_text(plan, 2)
    assert written(plan) == written(whole)
