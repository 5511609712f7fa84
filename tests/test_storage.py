"""The storage of a run: a fresh machine goes on from it, a step there is whole or absent, nothing is trusted."""

import errno
import itertools
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from pathlib import Path
from tempfile import mkdtemp
from threading import Barrier, BrokenBarrierError
from unittest.mock import patch

import fsspec
import orjson
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from tests.test_interrupted_run import PATIENCE_S, ROOT, start, until, written
from tokentrial.corpus.prepare import CorpusPlan
from tokentrial.errors import Interrupted, SettingsError, TrialError
from tokentrial.run.cells import run_cell
from tokentrial.run.declaration import declare
from tokentrial.run.run import run
from tokentrial.steps.cell import Cell
from tokentrial.store import objects
from tokentrial.store.disk import NO_ROOM
from tokentrial.store.files import read_json, write_bytes, write_json
from tokentrial.store.folders import is_done, prune, step
from tokentrial.store.objects import Objects
from tokentrial.store.state import State
from tokentrial.store.storage import Storage

CELL = Cell("mul_tokens", 1)


@pytest.fixture
def storage_path(tmp_path, monkeypatch):
    """An empty storage's path; nobody waits for it."""
    monkeypatch.setattr(objects, "_WAITS_S", (0.0, 0.0, 0.0))
    return tmp_path / "there"


@pytest.fixture
def kept(finished_copy, tiny, storage_path, no_workers):
    """The finished trial with a storage that holds all of it."""
    trial = tiny(finished_copy, f"storage={storage_path}")
    run(trial)
    return trial


def weights(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.safetensors"))


# a fresh machine


@pytest.mark.parametrize("url", [*(pytest.param(u, marks=pytest.mark.slow) for u in ("local", "file")), "memory"])
def test_a_finished_run_comes_back_whole_without_its_weights(finished_copy, tiny, tmp_path, no_workers, url):
    path = {"local": f"{tmp_path}/there", "file": f"file://{tmp_path}/there", "memory": f"memory://{tmp_path}"}[url]
    first = run(tiny(finished_copy, f"storage={path}"))
    fresh = tiny(tmp_path / "fresh", f"storage={path}")
    assert run(fresh)["outcomes"] == first["outcomes"]
    assert weights(fresh.folder) == []
    for file in ("declared.json", "corpus/audit.json", "mul_tokens/seed2/eval_pretrain/samples.jsonl"):
        assert (fresh.folder / file).read_bytes() == (finished_copy / file).read_bytes()
    system, root = fsspec.core.url_to_fs(path)
    names = {name[len(root) :].strip("/") for name in system.find(root)}
    assert {*weights(finished_copy), "report.html", "trial.yaml"} <= names


def test_a_cell_runs_on_a_machine_that_has_nothing(kept, finished, tiny, tmp_path, storage_path):
    shutil.rmtree(storage_path / CELL.name)
    shutil.rmtree(kept.folder / CELL.name)
    far = tiny(tmp_path / "far", f"storage={storage_path}")
    run_cell(far, CELL, ["pretrain", "export", "eval_pretrain"])
    run(kept)  # which starts no worker: all of it is there
    for name in ("hf/model.safetensors", "eval_pretrain/samples.jsonl"):
        assert (storage_path / CELL.name / name).read_bytes() == (finished.folder / CELL.name / name).read_bytes()


def test_weights_that_lie_in_the_storage_alone_are_fetched_for_who_reads_them(
    kept, finished, tiny, tmp_path, storage_path
):
    fresh = tiny(tmp_path / "fresh", f"storage={storage_path}", "evaluate.probes_each=3")
    run_cell(fresh, CELL, ["eval_pretrain"])
    assert weights(fresh.folder) == [f"{CELL.name}/hf/model.safetensors"]
    whole = finished.folder / CELL.name / "hf" / "model.safetensors"
    assert (fresh.folder / CELL.name / "hf" / "model.safetensors").read_bytes() == whole.read_bytes()


def test_weights_that_were_pruned_here_and_in_the_storage_are_made_again(kept, finished, tiny, storage_path):
    folder, stored = kept.folder / CELL.name / "hf", storage_path / CELL.name / "hf"
    prune(folder, ["model.safetensors"])
    shutil.rmtree(stored)
    Storage(kept).send(folder)
    assert weights(folder) == weights(stored) == []
    run_cell(tiny(kept.folder, f"storage={storage_path}", "evaluate.probes_each=3"), CELL, ["eval_pretrain"])
    whole = (finished.folder / CELL.name / "hf" / "model.safetensors").read_bytes()
    for copy in (folder, stored):
        assert (copy / "model.safetensors").read_bytes() == whole


def test_weights_that_lie_in_the_storage_alone_outlive_a_manifest_that_is_damaged_there(kept, storage_path):
    folder, stored = kept.folder / CELL.name / "hf", storage_path / CELL.name / "hf"
    whole, wanted = (folder / "model.safetensors").read_bytes(), read_json(folder / "manifest.json")["fingerprint"]
    prune(folder, ["model.safetensors"])
    damage(stored / "manifest.json", "10s")
    Storage(kept).send(folder)
    assert Storage(kept).holds(folder, wanted)
    assert Storage(kept).fetch(folder, wanted)
    assert (folder / "model.safetensors").read_bytes() == whole


# whole or absent


def damage(path, how):
    data = path.read_bytes()
    longer = data.replace(b'"seconds": ', b'"seconds": 1')  # JSON still
    path.write_bytes({"cut": data[:-1], "flipped": bytes([data[0] ^ 1]) + data[1:], "empty": b"", "10s": longer}[how])


@pytest.mark.parametrize(
    ("name", "how"),
    [("metrics.jsonl", "flipped"), ("metrics.jsonl", "empty"), ("manifest.json", "cut"), ("manifest.json", "10s")],
)
def test_a_damaged_step_is_named_and_counts_as_absent(kept, tiny, tmp_path, storage_path, capsys, name, how):
    damage(storage_path / CELL.name / "pretrain" / name, how)
    fresh = tiny(tmp_path / "fresh", f"storage={storage_path}")
    storage, plan = Storage(fresh), CorpusPlan(fresh)
    folder, wanted = CELL.folder(fresh, "pretrain"), CELL.fingerprints(plan)["pretrain"]
    assert not storage.fetch(folder, wanted)
    assert not folder.exists()
    assert f"{storage_path}/{CELL.name}/pretrain/{name} is damaged" in capsys.readouterr().err
    Storage(kept).send(CELL.folder(kept, "pretrain"))  # the working copy mends it
    assert storage.fetch(folder, wanted) == (name == "manifest.json")


def test_a_storage_that_is_damaged_ends_the_run(kept, tiny, tmp_path, storage_path):
    for how in ("cut", "flipped", "empty"):
        damage(storage_path / "state.json", how)
        with pytest.raises(TrialError, match=r"there/state\.json is damaged; put back a copy"):
            run(tiny(tmp_path / "fresh", f"storage={storage_path}"))
    (storage_path / "state.json").unlink()
    with pytest.raises(TrialError, match=r"there/state\.json is gone; put back a copy"):
        run(tiny(tmp_path / "fresh", f"storage={storage_path}"))
    assert not (tmp_path / "fresh" / "declared.json").exists()


@pytest.mark.parametrize(
    ("place", "message"),
    [
        *(("{}/" + place, "overlap; give another folder") for place in ("run", "run/storage", ".")),
        ("nowhere://bucket", "storage: nowhere://bucket: Protocol not known"),
    ],
)
def test_a_storage_that_cannot_be_one_is_refused(tiny, tmp_path, place, message):
    with pytest.raises(SettingsError, match=message):
        run(tiny(tmp_path / "run", f"storage={place.format(tmp_path)}"))


def test_a_manifest_names_no_file_outside(kept, tiny, tmp_path, storage_path):
    path = storage_path / CELL.name / "pretrain" / "manifest.json"
    manifest = read_json(path)
    for name in ("../../escaped.json", "/tmp/escaped.json", "..\\escaped.json", ""):
        files = manifest["files"] | {name: manifest["files"]["metrics.jsonl"]}
        write_json(path, manifest | {"files": files})
        with pytest.raises(TrialError, match="outside of its folder"):
            run(tiny(tmp_path / "fresh", f"storage={storage_path}"))
    assert not [*tmp_path.rglob("escaped*")]


def write_step(folder, content, *names):
    with step(folder, content) as partial:
        for name in names:
            (partial / name).write_text(content)
    return folder


@pytest.mark.parametrize("sent", range(4))
def test_a_step_that_was_sent_in_part_is_absent(tiny, tmp_path, storage_path, monkeypatch, sent):
    trial, fresh = (tiny(tmp_path / name, f"storage={storage_path}") for name in ("run", "fresh"))
    Storage(trial).send(write_step(trial.folder / "a", "first", *"xyz"))
    write_step(trial.folder / "a", "second", *"xyz")
    system = type(Storage(trial).objects.system)
    put, count = system.put_file, iter(range(9))

    def killed(self, *given, **more):
        if next(count) >= sent:
            raise KeyboardInterrupt
        return put(self, *given, **more)

    monkeypatch.setattr(system, "put_file", killed)
    with pytest.raises(KeyboardInterrupt) if sent < 3 else nullcontext():
        Storage(trial).send(trial.folder / "a")
    assert not Storage(fresh).fetch(fresh.folder / "a", "first")
    assert Storage(fresh).fetch(fresh.folder / "a", "second") == (sent == 3)


def test_an_old_checkpoint_goes_once_the_newer_one_is_whole(tiny, tmp_path, storage_path):
    trial = tiny(tmp_path / "run", f"storage={storage_path}")
    storage, folder = Storage(trial), trial.folder / "a.checkpoints"

    def saved(number):
        return write_step(folder / f"step_{number}", f"checkpoint {number}", "model.safetensors")

    def stored():
        return sorted(path.parent.name for path in (storage_path / "a.checkpoints").glob("*/manifest.json"))

    for number in (1, 2):
        storage.send_checkpoint(saved(number))
    assert stored() == ["step_1", "step_2"]
    shutil.rmtree(folder / "step_1")
    saved(3)
    no_route = patch.object(type(storage.objects.system), "put_file", side_effect=OSError("no route"))
    with no_route, pytest.raises(TrialError, match="no route"):
        storage.send_checkpoint(folder / "step_3")
    assert stored() == ["step_1", "step_2"]  # nothing goes before the newer one is there
    storage.send_checkpoint(folder / "step_3")
    assert stored() == ["step_2", "step_3"]
    fresh = tiny(tmp_path / "fresh", f"storage={storage_path}")
    Storage(fresh).fetch_checkpoints(fresh.folder / "a.checkpoints")
    assert weights(fresh.folder) == ["a.checkpoints/step_2/model.safetensors", "a.checkpoints/step_3/model.safetensors"]


def test_a_checkpoint_that_is_damaged_here_comes_from_the_storage(tiny, tmp_path, storage_path):
    trial = tiny(tmp_path / "run", f"storage={storage_path}")
    checkpoint = write_step(trial.folder / "a.checkpoints" / "step_1", "checkpoint 1", "model.safetensors")
    Storage(trial).send_checkpoint(checkpoint)
    whole = (checkpoint / "model.safetensors").read_bytes()
    (checkpoint / "model.safetensors").write_bytes(bytes(len(whole)))  # of the same size
    Storage(trial).fetch_checkpoints(trial.folder / "a.checkpoints")
    assert (checkpoint / "model.safetensors").read_bytes() == whole


def test_of_two_workers_that_need_a_step_one_fetches_it(tiny, tmp_path, storage_path, monkeypatch):
    """As two cells of one machine that read the same corpus: both would write one partial folder."""
    trial, fresh = (tiny(tmp_path / name, f"storage={storage_path}") for name in ("run", "fresh"))
    Storage(trial).send(write_step(trial.folder / "a", "whole", "x"))
    system, fetched, together = type(Storage(fresh).objects.system), [], Barrier(2)
    get = system.get_file

    def slow(self, *given, **more):
        fetched.append(given)
        with suppress(BrokenBarrierError):
            together.wait(0.5)  # for another that fetches meanwhile
        return get(self, *given, **more)

    monkeypatch.setattr(system, "get_file", slow)
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(Storage(fresh).fetch, fresh.folder / "a", "whole") for _ in range(2)]
        assert [call.result() for call in calls] == [True, True]
    assert len(fetched) == 1
    assert (fresh.folder / "a" / "x").read_text() == "whole"


# whose it is


def contents(folder):
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_storage_of_an_interrupted_trial_is_not_taken_by_another(
    finished_copy, tiny, tmp_path, storage_path, no_workers
):
    with patch.object(Storage, "send", side_effect=Interrupted("before the first step")), pytest.raises(Interrupted):
        run(tiny(finished_copy, f"storage={storage_path}"))
    before = contents(storage_path)
    with pytest.raises(TrialError, match="holds the trial 'smoke', this is 'other'; give another"):
        run(tiny(tmp_path / "fresh", f"storage={storage_path}", "name=other"))
    assert contents(storage_path) == before
    assert [path.name for path in (tmp_path / "fresh").iterdir()] == [".lock"]
    run(tiny(finished_copy, f"storage={storage_path}"))


def test_of_two_trials_that_come_at_once_one_has_the_storage(tiny, tmp_path, storage_path):
    def claim(name, number, together):
        state = Storage(tiny(tmp_path / name, f"name={name}", f"storage={storage_path}/{number}")).state
        together.wait()
        with suppress(TrialError):
            state.claim()
            return name

    with ThreadPoolExecutor(2) as pool:
        for number in range(10):
            together = Barrier(2)
            claims = [pool.submit(claim, name, number, together) for name in ("one", "other")]
            [winner] = [name for call in claims if (name := call.result())]
            assert read_json(storage_path / str(number) / "state.json")["trial"] == winner


def test_a_disk_without_hard_links_can_be_a_storage(tiny, tmp_path, storage_path, monkeypatch):
    def refused(path, to):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(objects.os, "link", refused)
    Storage(tiny(tmp_path / "one", f"storage={storage_path}")).state.claim()
    with pytest.raises(TrialError, match="holds the trial"):
        Storage(tiny(tmp_path / "other", "name=other", f"storage={storage_path}")).state.claim()
    assert [path.name for path in storage_path.iterdir()] == ["state.json"]


@pytest.mark.parametrize("chosen", [None, [Cell("baseline", 1)]])
def test_what_another_machine_made_otherwise_is_replaced_only_when_asked_for(kept, storage_path, chosen):
    """Its step is whole there, as this one's is here; of cells that are not asked for, nothing is replaced at all."""
    path = storage_path / CELL.name / "pretrain" / "manifest.json"
    write_json(path, read_json(path) | {"fingerprint": "of other settings"})
    before = contents(storage_path / CELL.name)
    with nullcontext() if chosen else pytest.raises(TrialError, match="would replace 1 finished results"):
        run(kept, chosen=chosen)
    assert contents(storage_path / CELL.name) == before
    run(kept, chosen=chosen, overwrite=True)
    assert (contents(storage_path / CELL.name) == before) == bool(chosen)


def test_training_that_left_only_checkpoints_was_declared(tiny, tmp_path, storage_path):
    first, fresh = (
        tiny(tmp_path / name, f"storage={storage_path}", *more)
        for name, more in (("run", ()), ("fresh", ("pretrain.lr=0.001",)))
    )
    declare(first, [], Storage(first))
    Storage(first).state.claim()
    Storage(first).send(write_step(first.folder / "baseline/seed1/pretrain.checkpoints/step_1", "a checkpoint"))
    Storage(fresh).state.fetch()
    declare(fresh, [], Storage(fresh))
    declared = read_json(fresh.folder / "declared.json")
    assert declared["sha256"] == read_json(first.folder / "declared.json")["sha256"]
    assert [amendment["changes"] for amendment in declared["amendments"]] == [
        ["settings.pretrain.lr: 0.001 instead of the declared 0.008"]
    ]


class Machines(RuleBasedStateMachine):
    """Machines with folders of their own at one storage. What a file has been is written in it, change after change: so
    whatever another was made from is how that begins. A run that was killed begins again before it does anything."""

    machine = st.integers(0, 2)

    def __init__(self):
        super().__init__()
        self.place, self.changes, self.before, self.killed = Path(mkdtemp()), itertools.count(), "", set()
        self.there = Objects(f"memory://{self.place}", "")

    def teardown(self):
        shutil.rmtree(self.place)

    def state(self, machine):
        return State(self.there, self.place / str(machine), "trial")

    def here(self, machine):
        path = self.place / str(machine) / "declared.json"
        return path.read_text() if path.exists() else ""

    def stored(self):
        return orjson.loads(self.there.read("state.json") or b"{}").get("files", {}).get("declared.json", "")

    @rule(machine=machine)
    def is_lost(self, machine):
        shutil.rmtree(self.place / str(machine), ignore_errors=True)

    @rule(machine=machine, is_sent=st.booleans())
    def decides(self, machine, is_sent):
        if machine not in self.killed:
            path = self.place / str(machine) / "declared.json"
            write_bytes(path, f"{self.here(machine)}{next(self.changes)} ".encode())
            with suppress(TrialError):
                self.state(machine).send() if is_sent else None

    @rule(machine=machine, before=st.sampled_from([None, "state.write_bytes", "state.Objects.write"]))
    def begins(self, machine, before):
        here, there = self.here(machine), self.stored()
        self.killed = self.killed | {machine} if before else self.killed - {machine}
        kill = patch(f"tokentrial.store.{before}", side_effect=KeyboardInterrupt) if before else nullcontext()
        try:
            with kill, suppress(KeyboardInterrupt):
                self.state(machine).fetch(changed=True)
                self.state(machine).claim()
        except TrialError:
            assert not here.startswith(there)
            assert not there.startswith(here)
            assert self.here(machine) == here
        else:
            assert self.here(machine).startswith(here)
            assert before or self.here(machine) == self.stored()

    @invariant()
    def nothing_that_was_stored_is_lost(self):
        assert self.stored().startswith(self.before)
        self.before = self.stored()


def test_machines_that_share_a_storage_lose_nothing_of_it():
    run_state_machine_as_test(Machines, settings=settings(max_examples=30, stateful_step_count=20, deadline=None))


# a storage that fails, and one that is not ours


@pytest.mark.parametrize("failures", [3, 4])
def test_a_storage_that_fails_is_asked_again_and_then_named(tiny, tmp_path, storage_path, monkeypatch, failures):
    trial = tiny(tmp_path / "run", f"storage={storage_path}")
    system, left = type(Storage(trial).objects.system), iter(range(failures))
    put = system.put_file

    def failing(self, *given, **more):
        if next(left, None) is not None:
            raise OSError("connection reset")
        return put(self, *given, **more)

    monkeypatch.setattr(system, "put_file", failing)
    folder = write_step(trial.folder / "a", "whole", "x")
    if failures == 4:
        with pytest.raises(TrialError, match=f"storage: {storage_path}: connection reset; what is done is kept in"):
            Storage(trial).send(folder)
    Storage(trial).send(folder)
    assert (storage_path / "a" / "x").read_text() == "whole"


@pytest.mark.parametrize("number", NO_ROOM)
def test_a_disk_without_room_is_named_at_once_be_it_this_machines_or_the_storages(
    tiny, tmp_path, storage_path, slept, number
):
    trial, fresh = (tiny(tmp_path / name, f"storage={storage_path}") for name in ("run", "fresh"))
    folder, system = write_step(trial.folder / "a", "whole", "x"), type(Storage(trial).objects.system)

    def full(system, of, to):
        raise OSError(number, os.strerror(number), to)

    with patch.object(system, "put_file", full), pytest.raises(TrialError, match=f"^storage: {storage_path}: "):
        Storage(trial).send(folder)
    Storage(trial).send(folder)
    here = f"^(?!storage).*{fresh.folder}.* output="
    with patch.object(system, "get_file", full), pytest.raises(TrialError, match=here):
        Storage(fresh).fetch(fresh.folder / "a", "whole")
    assert slept == []


# a spot machine

LONGER = "seeds=[1]", "workers=2", "corpus.epochs=3", "pretrain.batch_tokens=1024", "pretrain.micro_batch=8"
LONGER += "pretrain.steps=150", "pretrain.checkpoint.interval=1000", "grpo.prompts=16"
MOMENTS = {
    "pretrain": "mul_tokens/seed1/pretrain.partial/metrics.jsonl",
    "sft": "mul_tokens/seed1/sft.checkpoints/*/0/checkpoint-10/manifest.json",
    "grpo": "mul_tokens/seed1/grpo.checkpoints/*/checkpoint-1/manifest.json",
}


@pytest.fixture(scope="module")
def longer(ladder, in_process, tmp_path_factory):
    """The tiny trial with SFT and GRPO and longer stages, finished without a stop."""
    trial = ladder(tmp_path_factory.mktemp("longer") / "run", *LONGER)
    with pytest.MonkeyPatch.context() as patch:
        in_process(patch)
        run(trial)
    return trial


@pytest.mark.slow
@pytest.mark.parametrize("stage", MOMENTS)
def test_a_spot_machine_is_given_up_and_a_fresh_one_goes_on(longer, ladder, tmp_path, storage_path, stage):
    spot, fresh = (ladder(tmp_path / name, *LONGER, f"storage={storage_path}") for name in ("spot", "fresh"))
    process = start(written(spot, tmp_path)[1])
    until(lambda: any(spot.folder.glob(MOMENTS[stage])), process)
    process.terminate()
    printed = process.communicate(timeout=30)[1].decode()  # the notice of a spot machine
    assert process.returncode == Interrupted.code, printed
    assert "Traceback" not in printed
    [manifest] = (storage_path / "mul_tokens" / "seed1").glob(f"{stage}.checkpoints/**/manifest.json")
    assert is_done(manifest.parent, read_json(manifest)["fingerprint"])
    reached = int("".join(filter(str.isdigit, manifest.parent.name)))
    shutil.rmtree(spot.folder)
    again = subprocess.run(written(fresh, tmp_path)[1], cwd=ROOT, capture_output=True, timeout=PATIENCE_S, check=False)
    assert again.returncode == 0, again.stderr.decode()
    assert reached > {"pretrain": 0, "sft": 10, "grpo": 1}[stage] - (stage != "pretrain")
    for name in ("pretrain/model_00149", "hf/model", "sft/model", "grpo/model"):
        for arm in longer.arms:
            file = f"{arm}/seed1/{name}.safetensors"
            assert (storage_path / file).read_bytes() == (longer.folder / file).read_bytes(), file
    outcomes = [read_json(trial.folder / "comparison_report.json")["outcomes"] for trial in (fresh, longer)]
    assert outcomes[0] == outcomes[1]
    for name in ("pretrain/results.json", "sft/sft_results.json", "grpo/grpo_results.json"):
        resumed, undisturbed = (_numbers(read_json(t.folder / "mul_tokens/seed1" / name)) for t in (fresh, longer))
        assert resumed == undisturbed, name
    assert not [*storage_path.glob("*/seed1/*.checkpoints/**/manifest.json")]


def _numbers(record):
    """A record without what the clock says."""
    if isinstance(record, dict):
        other = ("seconds", "step_time", "runtime", "per_second")
        return {key: _numbers(value) for key, value in record.items() if not any(word in key for word in other)}
    if isinstance(record, list):
        return [_numbers(value) for value in record]
    return record


def test_a_small_file_that_is_as_it_was_before_is_the_newer_one(tmp_path, storage_path):
    """Seeds were added and taken out again: the audit returns to its earlier words."""
    folder = tmp_path / "run"
    for text in ("two seeds", "three seeds", "two seeds"):
        write_bytes(folder / "corpus" / "audit.json", text.encode())
        state = State(Objects(str(storage_path), "advice"), folder, "smoke")
        state.fetch(changed=True)
        state.claim()
        assert (folder / "corpus" / "audit.json").read_text() == text
    fresh = State(Objects(str(storage_path), "advice"), tmp_path / "fresh", "smoke")
    fresh.fetch(changed=True)
    assert (tmp_path / "fresh" / "corpus" / "audit.json").read_text() == "two seeds"


def test_a_bucket_says_in_its_own_way_that_an_object_is_there_or_that_it_is_none(tmp_path, monkeypatch):
    """As s3fs does: EINVAL where another was first, `not found` where there is no such bucket."""
    bucket = Objects("memory://bucket/trial", "advice")

    def first(path, data, **more):
        raise OSError(errno.EINVAL, "PreconditionFailed")

    def absent(*given, **more):
        raise FileNotFoundError("NoSuchBucket")

    monkeypatch.setattr(bucket.system, "pipe_file", first)
    bucket.create("state.json", b"{}")
    monkeypatch.setattr(bucket.system, "pipe_file", absent)
    monkeypatch.setattr(bucket.system, "put_file", absent)
    (tmp_path / "file").write_bytes(b"1")
    for send in (
        lambda: bucket.create("state.json", b"{}"),
        lambda: bucket.write("state.json", b"{}"),
        lambda: bucket.put(tmp_path / "file", "file"),
    ):
        with pytest.raises(TrialError, match="NoSuchBucket"):
            send()
