"""The Ray executor: what the local one promises, on a cluster of this machine; a lost worker costs no result."""

import os
import signal
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.executors.test_local import LAUNCHED, divide, environment, refuse, tell
from tokentrial.corpus.prepare import CorpusPlan
from tokentrial.errors import SettingsError, TrialError
from tokentrial.executors.ray import RayExecutor, connected
from tokentrial.executors.worker import Call, Report
from tokentrial.steps.cell import Cell
from tokentrial.trial.load import load

# what the workers do


def double(number):
    return 2 * number, os.getpid(), Path.cwd()


def die_once(died):
    if not died.exists():
        died.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def die(begun):
    with begun.open("a") as file:
        file.write("x")
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def executor():
    pytest.importorskip("ray", reason="it is in tokentrial[scale]")
    with pytest.MonkeyPatch.context() as patch:
        for name in LAUNCHED:
            patch.setenv(name, "7")  # as a container or a Slurm wrapper may
        with RayExecutor(2) as two_workers:
            yield two_workers


# settings, and where there is no cluster


@pytest.mark.parametrize("address", ["ray://host:10001", "host", "host:port"])
def test_an_address_is_a_host_with_its_port_or_auto(address):
    with pytest.raises(SettingsError, match=r"ray\.address: found"):
        load("smoke", [f"ray.address={address}"])


def test_where_cells_run_is_no_part_of_them(plan, tiny):
    on_ray = tiny(plan.folder.parent, "executor=ray", "ray={address: 'host:6379', cpus: 4, gpus: 0.5}", "seeds=[1,2,3]")
    assert CorpusPlan(on_ray).text_fingerprint == plan.text_fingerprint
    assert Cell("baseline", 1).fingerprints(CorpusPlan(on_ray)) == Cell("baseline", 1).fingerprints(plan)


def test_ray_that_is_absent_is_a_wrong_setting(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SettingsError, match=r"ray is not installed; pip install '.\[scale\]'"), RayExecutor(1):
        pass


def test_a_cluster_that_is_not_there_is_an_error():
    pytest.importorskip("ray", reason="it is in tokentrial[scale]")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    expected = rf"ray\.address: 127\.0\.0\.1:{port}: no connection .*ray start"
    with pytest.raises(TrialError, match=expected), connected(f"127.0.0.1:{port}", 1):
        pass


def test_a_local_ray_that_does_not_start_is_an_error_of_its_own(monkeypatch):
    def init(**given):
        raise RuntimeError("no port is free")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False, init=init))
    with pytest.raises(TrialError, match="could not be started on this machine: no port is free"), connected(None, 1):
        pass


# calls


@pytest.mark.slow
def test_what_calls_return_comes_in_their_order_from_few_workers_that_stand_where_the_driver_does(executor):
    found = executor.run([Call(str(i), double, (i,)) for i in range(12)], lambda _: None)
    assert [twice for twice, _, _ in found] == [2 * i for i in range(12)]
    assert len({process for _, process, _ in found}) <= 2
    assert {folder for _, _, folder in found} == {Path.cwd()}


@pytest.mark.slow
def test_the_corpus_is_made_over_the_connection_that_the_cells_have(executor):
    with RayExecutor(8) as of_the_corpus:
        found = of_the_corpus.run([Call(str(i), double, (i,)) for i in range(5)], lambda _: None)
        assert [twice for twice, _, _ in found] == [0, 2, 4, 6, 8]
    assert executor.run([Call("a", double, (4,))], lambda _: None)[0][0] == 8


@pytest.mark.slow
def test_a_worker_has_its_own_threads_and_is_no_rank_of_somebody_elses_group(executor):
    [seen] = executor.run([Call("a", environment, ())], lambda _: None)
    assert not seen.keys() & {*LAUNCHED}
    assert (seen["HF_HUB_DISABLE_TELEMETRY"], seen["DO_NOT_TRACK"]) == ("1", "1")
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "GLIBC_TUNABLES")
    assert [seen[name] for name in names] == ["1", "1", "glibc.malloc.hugetlb=1"]


@pytest.mark.slow
def test_every_report_of_a_call_reaches_the_parent_before_its_end(executor):
    texts = [f"{i}{'.' * 2000}" for i in range(100)]
    for name in map(str, range(5)):
        reports = []
        executor.run([Call(name, tell, (name, texts))], reports.append)
        expected = [Report(name, 0.5, text) for text in texts]
        assert reports == [Report(name, 0.0, "begun"), *expected, Report(name, 1.0, "done")]
        texts = ["half"]


@pytest.mark.slow
def test_an_error_of_a_call_is_raised_as_it_is(executor):
    with pytest.raises(SettingsError, match=r"^pretrain\.lr: too high$") as caught:
        executor.run([Call("a", refuse, ("pretrain.lr: too high",))], lambda _: None)
    assert type(caught.value) is SettingsError
    with pytest.raises(ZeroDivisionError):
        executor.run([Call("b", divide, (1, 0))], lambda _: None)


@pytest.mark.slow
def test_a_call_whose_worker_dies_is_sent_again(executor, tmp_path, capsys):
    reports = []
    assert executor.run([Call("baseline/seed1", die_once, (tmp_path / "died",))], reports.append) == ["done"]
    assert (
        "baseline/seed1: its worker or node is lost (WorkerCrashedError); it is sent again" in capsys.readouterr().err
    )
    assert reports[-2:] == [Report("baseline/seed1", 0.0, "begun"), Report("baseline/seed1", 1.0, "done")]


@pytest.mark.slow
def test_a_call_whose_workers_always_die_is_an_error_that_names_it(executor, tmp_path):
    with pytest.raises(
        TrialError, match=r"^baseline/seed1: lost its worker or node 4 times .*run the same command again"
    ):
        executor.run([Call("baseline/seed1", die, (tmp_path / "begun",))], lambda _: None)
    assert (tmp_path / "begun").read_text() == "xxxx"
