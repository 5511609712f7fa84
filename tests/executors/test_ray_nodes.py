"""Clusters that lose a node, have no room or are left: no result is lost, nothing is half there or waited for."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from tests.test_interrupted_run import stop_at, written
from tokentrial.errors import Interrupted, TrialError
from tokentrial.executors.progress import Progress
from tokentrial.executors.ray import RayExecutor
from tokentrial.executors.worker import Call, cores, report, stoppable
from tokentrial.run.run import run
from tokentrial.store.files import read_json
from tokentrial.trial.load import load

PATIENCE_S = 600  # for a machine that is shared; nothing is timed
TIMES = ("second", "runtime", "step_time")  # in the names of figures that no two runs share
INTERVAL = 10  # steps from one checkpoint to the next

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks for processes in Linux's /proc"),
]


@pytest.fixture(autouse=True)
def _ray():
    pytest.importorskip("ray", reason="it is in tokentrial[scale]")


def until(found):
    """What `found()` finds, once it finds something."""
    end = time.monotonic() + PATIENCE_S
    while not (it := found()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)
    return it


# a node that is killed


@pytest.fixture
def nodes():
    """A cluster of two nodes of one CPU; the driver is at the first."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


@pytest.fixture
def reports(monkeypatch):
    """The reports of a run in this process, as they come."""
    seen = []

    class Seen(Progress):
        def __call__(self, report):
            seen.append(report)

    monkeypatch.setattr("tokentrial.run.run.Progress", Seen)
    return seen


def children(process):
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def cell_of(process):
    """The folder of the cell that a worker holds, by its lock."""
    try:
        held = [os.readlink(entry) for entry in Path(f"/proc/{process}/fd").iterdir()]
    except FileNotFoundError:
        return None
    locks = [Path(path) for path in held if path.endswith(".lock") and "/.seed" in path]
    return locks[0].parent / locks[0].name.removeprefix(".").removesuffix(".lock") if locks else None


def steps_saved(cell):
    return [int(path.parent.name[5:]) for path in cell.glob("pretrain.checkpoints/*/step_??????/manifest.json")]


def kill(cluster, killed):
    """Kill the second node while a cell pretrains on it and has a checkpoint; records the cell and its last steps."""
    [node] = cluster.worker_nodes
    raylet = node.all_processes["raylet"][0].process.pid

    def found():
        for worker in children(raylet):
            cell = cell_of(worker)
            if cell and steps_saved(cell):
                os.kill(worker, signal.SIGSTOP)  # so that it stays where it is seen
                if not (cell / "pretrain").exists() and (steps := steps_saved(cell)):
                    return worker, cell, max(steps)
                os.kill(worker, signal.SIGCONT)
        return None

    worker, cell, steps = until(found)
    cluster.remove_node(node, allow_graceful=False)
    if Path(f"/proc/{worker}").exists():
        os.kill(worker, signal.SIGKILL)
    killed.extend((f"{cell.parent.name}/{cell.name}", steps))


def test_a_node_that_is_killed_in_the_middle_of_the_smoke_trial_changes_no_figure(nodes, reports, tmp_path, capsys):
    settings = "workers=2", f"pretrain.checkpoint.interval={INTERVAL}"
    local = load("smoke", [*settings, f"output={tmp_path / 'local'}"])
    spread = load("smoke", [*settings, f"output={tmp_path / 'ray'}", "executor=ray", f"ray.address={nodes.address}"])
    expected = run(local)
    reports.clear()
    killed = []
    killer = threading.Thread(target=kill, args=(nodes, killed), daemon=True)
    killer.start()
    outcome = run(spread)
    killer.join(PATIENCE_S)
    name, steps = killed

    # it was at work, was sent again, and went on from its checkpoint
    assert f"{name}: its worker or node is lost" in capsys.readouterr().err
    of_cell = [report for report in reports if report.name == name]
    begun = [number for number, report in enumerate(of_cell) if report.text == "begun"]
    assert len(begun) == 3  # twice up to SFT's evaluation, once for GRPO
    stages_before_grpo = 5
    assert of_cell[begun[1] + 1].share * stages_before_grpo * local.pretrain.steps >= steps >= INTERVAL

    assert outcome["outcomes"] == expected["outcomes"]
    results = sorted(path.relative_to(local.folder) for path in local.folder.glob("*/seed*/*/*results.json"))
    assert len(results) >= 6 * 5
    for path in results:
        of_nodes, of_local = read_json(spread.folder / path), read_json(local.folder / path)
        assert figures(of_nodes) == figures(of_local), path
    for path in local.folder.glob("*/seed*/*/samples.jsonl"):
        assert (spread.folder / path.relative_to(local.folder)).read_bytes() == path.read_bytes()


def figures(results):
    """Results without how long they took."""
    if isinstance(results, dict):
        return {key: figures(value) for key, value in results.items() if not any(word in key for word in TIMES)}
    return [figures(value) for value in results] if isinstance(results, list) else results


# leaving, and no room


def mark_and_save_when_told(path):
    path.touch()
    with stoppable() as stop:
        report(path.name, 0.5, "at work")
        while not stop():
            time.sleep(0.01)
    path.with_suffix(".saved").touch()
    raise Interrupted("stopped")


def test_an_interruption_lets_calls_save_and_begins_nothing_that_waits_for_room(tmp_path):
    """18 calls and as many workers on a cluster with room for a few, which are interrupted while they are at work."""
    paths = [tmp_path / f"{i}" for i in range(18)]
    at_work, before = set(), signal.getsignal(signal.SIGTERM)

    def interrupt(report):
        if report.text == "at work":
            at_work.add(report.name)
        if len(at_work) == cores():
            raise Interrupted("stopped")

    calls = [Call(path.name, mark_and_save_when_told, (path,)) for path in paths]
    with pytest.raises(Interrupted), RayExecutor(len(calls)) as executor:
        executor.run(calls, interrupt)
    assert {path.name for path in tmp_path.iterdir()} == at_work | {f"{name}.saved" for name in at_work}
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_run_that_is_told_to_stop_saves_and_is_resumable(tiny, tmp_path):
    settings = "executor=ray", "seeds=[1]", "pretrain.steps=2000", "corpus.epochs=200"
    trial, words = written(tiny(tmp_path / "run", *settings), tmp_path)
    code, printed = stop_at(words, trial.folder, "pretrain", signal.SIGTERM)
    assert code == 75, printed
    assert "stopped by SIGTERM; the same command resumes from here" in printed
    assert "Traceback" not in printed
    saved = [steps for cell in trial.folder.glob("*/seed1") for steps in steps_saved(cell)]
    assert saved  # a checkpoint that no interval asked for
    assert all(steps % trial.pretrain.checkpoint.interval for steps in saved)


def test_a_call_that_no_node_has_room_for_is_an_error_and_not_waited_for():
    expected = r"ray\.cpus, ray\.gpus: a cell takes .*'GPU': 64"
    with pytest.raises(TrialError, match=expected), RayExecutor(1, gpus=64):
        pass
