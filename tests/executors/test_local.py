"""The local executor: workers that live on, report, fail loudly, and never outlive their parent."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tokentrial.errors import Interrupted, SettingsError, TrialError
from tokentrial.executors import worker
from tokentrial.executors.local import LocalExecutor
from tokentrial.executors.worker import GRACE_S, STOP_SIGNALS, Call, Report, report, stoppable
from tokentrial.run.run import interruptible

LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
LAUNCHED += ("TORCHELASTIC_RUN_ID", "PET_NNODES", "ACCELERATE_MIXED_PRECISION", "OMPI_COMM_WORLD_SIZE")
STAYS_S = 60  # what a worker that is not ended costs a test

# what the workers do


def write_pid(path):
    path.write_text(f"{os.getpid()} {os.environ['OMP_NUM_THREADS']}")


def environment():
    return dict(os.environ)


def tell(name, texts):
    for text in texts:
        report(name, 0.5, text)


def save_when_told(path, others):
    """Says so once the others are at work too, stays until it is told to stop, and then is slow to save itself."""
    with stoppable() as stop:
        path.touch()
        while not all(other.exists() for other in others):
            time.sleep(0.01)
        report(path.name, 0.5, "at work")
        while not stop():
            time.sleep(0.01)
        time.sleep(0.5)
    path.with_suffix(".saved").touch()
    raise Interrupted("stopped")


def raise_unpicklable():
    class Local(Exception):
        pass

    raise Local("as it was said")


def loaded(names):
    return {name for name in names if name in sys.modules}


def refuse(message):
    raise SettingsError(message)


def divide(a, b):
    print(a / b)


def stay(path):
    path.write_text("here")
    time.sleep(STAYS_S)


def die_when(path):
    while not path.exists():
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def executor():
    with LocalExecutor(1) as one:
        yield one


def run(executor, *calls):
    """Run the calls; returns the reports in the order in which they came."""
    reports = []
    executor.run(calls, reports.append)
    return reports


def test_a_worker_lives_on_from_call_to_call_and_is_another_process(executor, tmp_path):
    for names in ("a", "b", "cd"):
        run(executor, *(Call(name, write_pid, (tmp_path / name,)) for name in names))
    [seen] = {(tmp_path / name).read_text() for name in "abcd"}
    pid, threads = seen.split()
    assert int(pid) != os.getpid()
    assert threads == "1"


def test_every_report_of_a_call_reaches_the_parent_before_its_end(executor):
    texts = [f"{i}{'.' * 2000}" for i in range(100)]  # together more than a pipe holds
    for name in map(str, range(20)):
        reports = run(executor, Call(name, tell, (name, texts)))
        expected = [Report(name, 0.5, text) for text in texts]
        assert reports == [Report(name, 0.0, "begun"), *expected, Report(name, 1.0, "done")]
        texts = ["half"]  # and then calls that end as soon as they have reported


def test_an_error_of_a_call_is_raised_as_it_is_and_the_worker_stays(executor, tmp_path):
    with pytest.raises(SettingsError, match=r"^pretrain\.lr: too high$"):
        run(executor, Call("a", refuse, ("pretrain.lr: too high",)))
    with pytest.raises(ZeroDivisionError):
        run(executor, Call("b", divide, (1, 0)))
    with pytest.raises(RuntimeError, match=r"^Local: as it was said$"):  # one that cannot be handed over
        run(executor, Call("c", raise_unpicklable, ()))
    run(executor, Call("d", write_pid, (tmp_path / "d",)))
    assert (tmp_path / "d").exists()


def test_of_several_workers_the_one_that_died_is_named(tmp_path):
    dies = Call("baseline/seed1", die_when, (tmp_path / "stays",))
    stays = Call("baseline/seed2", stay, (tmp_path / "stays",))
    waits = [Call(f"baseline/seed{i}", write_pid, (tmp_path / f"waits{i}",)) for i in (3, 4, 5)]
    expected = r"^baseline/seed1: a worker process died .*run the same command again"
    with pytest.raises(TrialError, match=expected), LocalExecutor(2) as executor:
        run(executor, stays, dies, *waits)


@pytest.mark.parametrize("how", ["stopped", "told twice", "another call has failed", "by a mistake of ours"])
def test_a_stop_ends_what_runs_once_it_is_saved_and_begins_nothing_that_waits(tmp_path, how):
    """18 calls on two workers, stopped while the first two are at work."""
    paths = [tmp_path / f"{i}" for i in range(18)]

    def interrupt(report):
        if report.text != "at work":
            return
        if how == "told twice":
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()  # while they save
            signal.raise_signal(signal.SIGTERM)
        if how == "by a mistake of ours":
            raise ZeroDivisionError
        raise Interrupted("stopped") if how == "stopped" else TrialError("failed")

    calls = [Call(path.name, save_when_told, (path, paths[:2])) for path in paths]
    begun = time.monotonic()
    expected = ZeroDivisionError if how == "by a mistake of ours" else TrialError
    with pytest.raises(expected), interruptible(tmp_path), LocalExecutor(2) as executor:
        executor.run(calls, interrupt)
    assert {path.name for path in tmp_path.iterdir()} == {"0", "1", "0.saved", "1.saved"}
    assert time.monotonic() - begun < GRACE_S  # nobody waited for workers that had nothing more to do
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_worker_that_is_stopped_by_another_than_us_leaves_a_run_to_be_resumed(executor, number):
    with pytest.raises(Interrupted, match=r"^baseline/seed1: "):
        run(executor, Call("baseline/seed1", signal.raise_signal, (number,)))


@pytest.mark.parametrize(("workers", "imports"), [(1, ()), (2, ("json",))])
@pytest.mark.parametrize("number", [signal.SIGINT, *STOP_SIGNALS])
def test_a_signal_in_the_middle_of_a_start_waits_for_its_end(number, workers, imports, monkeypatch, tmp_path, capfd):
    """Between the worker's process and what it is told to do: the worker is started, known, and ended."""
    start, begun, over = multiprocessing.util.spawnv_passfds, [], threading.Event()

    def interrupted(*given):
        pid = start(*given)
        if "spawn_main" in str(given):  # not Python's own helper, which the first start starts as well
            begun.append(pid)
            if len(begun) == workers:
                os.kill(os.getpid(), number)
        return pid

    monkeypatch.setattr(multiprocessing.util, "spawnv_passfds", interrupted)
    other = threading.Thread(target=over.wait, daemon=True)  # which receives what the main thread does not
    other.start()
    with (
        pytest.raises(Interrupted, match=number.name),
        interruptible(tmp_path),
        LocalExecutor(workers, 1, imports) as each,
    ):
        each.run([Call("a", stay, (tmp_path / "begun",))], print)
    over.set()
    other.join()
    with pytest.raises(ChildProcessError):  # it was waited for
        os.waitpid(begun[-1], os.WNOHANG)
    assert multiprocessing.active_children() == []
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("quotas", "expected"),
    [({}, 8), ({"a": "max 100000"}, 8), ({"a": "150000 100000"}, 2), ({"": "50000 100000", "a": "max 100000"}, 1),
     ({"a": "1600000 100000"}, 8)],
)  # fmt: skip
def test_no_more_workers_than_a_container_s_quota_gives_time(tmp_path, monkeypatch, quotas, expected):
    """`docker run --cpus=1.5` on 8 cores, whose cgroup lies in others; none on a machine of its own."""
    (tmp_path / "mount" / "a").mkdir(parents=True)
    (tmp_path / "cgroup").write_text("1:cpu:/old\n0::/a\n")
    for name, quota in quotas.items():
        (tmp_path / "mount" / name / "cpu.max").write_text(quota)
    monkeypatch.setattr(worker, "_CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(worker, "_MOUNT", tmp_path / "mount")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(8))
    assert worker.cores() == expected


def test_workers_import_what_they_will_need_while_they_wait(tmp_path):
    """The first call is only handed out once the worker says what it has imported."""
    names = ("this_module_is_not_there", "colorsys", "tabnanny")
    with LocalExecutor(1, 1, names) as executor:
        end = time.monotonic() + STAYS_S
        while (found := executor.run([Call("a", loaded, (names,))], lambda _: None)[0]) != {"colorsys", "tabnanny"}:
            assert time.monotonic() < end, found
            time.sleep(0.01)


_PARENT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_local import stay
from tokentrial.executors.local import LocalExecutor
from tokentrial.executors.worker import Call
if __name__ == "__main__":
    with LocalExecutor(1) as executor:
        executor.run([Call("a", stay, (Path(sys.argv[2]),))], print)
"""


def test_workers_die_with_a_parent_that_is_killed(tmp_path):
    script, marker = tmp_path / "parent.py", tmp_path / "here"
    script.write_text(_PARENT)
    parent = subprocess.Popen(
        [sys.executable, str(script), str(Path(__file__).parent), str(marker)], stdout=subprocess.PIPE
    )
    while not marker.exists():
        assert parent.poll() is None
        time.sleep(0.05)
    parent.kill()
    # the worker, which would stay, holds the other end of the pipe: it closes when the worker dies
    parent.communicate(timeout=STAYS_S / 2)
    assert parent.returncode == -signal.SIGKILL


@pytest.mark.parametrize(("given", "expected"), [(None, "glibc.malloc.hugetlb=1"), ("glibc.malloc.check=0",) * 2])
def test_a_worker_has_its_own_threads_and_is_no_rank_of_somebody_elses_group(monkeypatch, given, expected):
    """Nor does it send telemetry; what the user set stays."""
    for name in LAUNCHED:
        monkeypatch.setenv(name, "7")
    monkeypatch.setenv("DO_NOT_TRACK", "0")
    for name in ("HF_HUB_DISABLE_TELEMETRY", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    if given:
        monkeypatch.setenv("GLIBC_TUNABLES", given)
    before = dict(os.environ)
    with LocalExecutor(1, threads=2) as executor:
        assert dict(os.environ) == before
        [seen] = executor.run([Call("a", environment, ())], lambda report: None)
    assert not seen.keys() & {*LAUNCHED}
    assert (seen["HF_HUB_DISABLE_TELEMETRY"], seen["DO_NOT_TRACK"]) == ("1", "0")
    assert (seen["OMP_NUM_THREADS"], seen["MKL_NUM_THREADS"], seen["GLIBC_TUNABLES"]) == ("2", "2", expected)


def test_a_script_without_a_guard_of_its_name_runs_once(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import operator\n"
        "from tokentrial.executors.local import LocalExecutor\n"
        "from tokentrial.executors.worker import Call\n"
        "with LocalExecutor(2) as executor:\n"
        "    print(executor.run([Call('sum', operator.add, (2, 3))], lambda report: None))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=STAYS_S, check=True)
    assert done.stdout == "[5]\n"
