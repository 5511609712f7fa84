"""The storage of a run: a fresh machine goes on from it, a step there is whole or absent, nothing is trusted."""

import json
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Barrier, BrokenBarrierError

import fsspec
import pytest
import yaml

from tokentrial.corpus.prepare import CorpusPlan
from tokentrial.errors import Interrupted, SettingsError, TrialError
from tokentrial.run import run as runs
from tokentrial.run.cells import run_cell
from tokentrial.run.run import run
from tokentrial.steps.cell import Cell
from tokentrial.store import storage as storages
from tokentrial.store.files import read_json
from tokentrial.store.folders import is_done, step
from tokentrial.store.storage import Storage

ROOT = Path(__file__).resolve().parents[1]
PATIENCE_S = 300  # for a machine that is shared; nothing is timed
CELL = Cell("mul_tokens", 1)


@pytest.fixture
def no_workers(monkeypatch, undrawn):
    monkeypatch.setattr(runs, "LocalExecutor", lambda *given: pytest.fail("a worker was started"))


@pytest.fixture
def there(tmp_path, monkeypatch):
    """An empty storage's path; nobody waits for it."""
    monkeypatch.setattr(storages, "_WAITS_S", (0.0, 0.0, 0.0))
    return tmp_path / "there"


@pytest.fixture
def kept(finished_copy, tiny, there, no_workers):
    """The finished trial with a storage that holds all of it."""
    trial = tiny(finished_copy, f"storage={there}")
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


def test_a_cell_runs_on_a_machine_that_has_nothing(kept, finished, tiny, tmp_path, there):
    shutil.rmtree(there / CELL.name)
    shutil.rmtree(kept.folder / CELL.name)
    far = tiny(tmp_path / "far", f"storage={there}")
    run_cell(far, CELL, ["pretrain", "export", "eval_pretrain"])
    run(kept)  # which starts no worker: all of it is there
    for name in ("hf/model.safetensors", "pretrain/results.json", "eval_pretrain/heldout_text.json"):
        made, before = (read_json if name.endswith("json") else Path.read_bytes for _ in range(2))
        assert _timeless(made(there / CELL.name / name)) == _timeless(before(finished.folder / CELL.name / name))


def _timeless(value):
    return {k: v for k, v in value.items() if k != "seconds"} if isinstance(value, dict) else value


def test_weights_that_lie_in_the_storage_alone_are_fetched_for_who_reads_them(kept, finished, tiny, tmp_path, there):
    fresh = tiny(tmp_path / "fresh", f"storage={there}", "evaluate.probes_each=3")
    run_cell(fresh, CELL, ["eval_pretrain"])
    assert weights(fresh.folder) == [f"{CELL.name}/hf/model.safetensors"]
    whole = finished.folder / CELL.name / "hf" / "model.safetensors"
    assert (fresh.folder / CELL.name / "hf" / "model.safetensors").read_bytes() == whole.read_bytes()


# whole or absent


def damaged(path, how):
    data = path.read_bytes()
    path.write_bytes({"cut": data[:-1], "flipped": bytes([data[0] ^ 1]) + data[1:], "empty": b""}[how])


@pytest.mark.parametrize("how", ["cut", "flipped", "empty"])
@pytest.mark.parametrize("name", ["metrics.jsonl", "manifest.json"])
def test_a_damaged_step_is_named_and_counts_as_absent(kept, tiny, tmp_path, there, capsys, name, how):
    damaged(there / CELL.name / "pretrain" / name, how)
    fresh = tiny(tmp_path / "fresh", f"storage={there}")
    storage, plan = Storage(fresh), CorpusPlan(fresh)
    folder, wanted = CELL.folder(fresh, "pretrain"), CELL.fingerprints(plan)["pretrain"]
    assert not storage.fetch(folder, wanted)
    assert not folder.exists()
    assert f"{there}/{CELL.name}/pretrain/{name} is damaged" in capsys.readouterr().err
    Storage(kept).send(CELL.folder(kept, "pretrain"))  # the working copy mends it
    assert storage.fetch(folder, wanted) == (name == "manifest.json")


@pytest.mark.parametrize("how", ["cut", "flipped", "empty"])
def test_damaged_declarations_end_the_run(kept, tiny, tmp_path, there, how):
    damaged(there / "state.json", how)
    with pytest.raises(TrialError, match=r"there/state\.json is damaged; put back a copy"):
        run(tiny(tmp_path / "fresh", f"storage={there}"))


@pytest.mark.parametrize("name", ["../../escaped.json", "/tmp/escaped.json", "..\\escaped.json", ""])
def test_a_manifest_names_no_file_outside(kept, tiny, tmp_path, there, name):
    path = there / CELL.name / "pretrain" / "manifest.json"
    manifest = read_json(path)
    manifest["files"][name] = manifest["files"]["metrics.jsonl"]
    path.write_text(json.dumps(manifest))
    with pytest.raises(TrialError, match="outside of its folder; the storage is not ours"):
        run(tiny(tmp_path / "fresh", f"storage={there}"))
    assert not [*tmp_path.rglob("escaped*")]


@pytest.mark.parametrize("sent", range(4))
def test_a_step_that_was_sent_in_part_is_absent(tiny, tmp_path, there, monkeypatch, sent):
    trial = tiny(tmp_path / "run", f"storage={there}")
    with step(trial.folder / "a", "first") as partial:
        for name in "xyz":
            (partial / name).write_text("first")
    Storage(trial).send(trial.folder / "a")
    with step(trial.folder / "a", "second") as partial:
        for name in "xyz":
            (partial / name).write_text("second")
    system = type(Storage(trial).system)
    put, count = system.put_file, iter(range(9))

    def killed(self, *given, **more):
        if next(count) >= sent:
            raise KeyboardInterrupt
        return put(self, *given, **more)

    monkeypatch.setattr(system, "put_file", killed)
    if sent < 3:
        with pytest.raises(KeyboardInterrupt):
            Storage(trial).send(trial.folder / "a")
    else:
        Storage(trial).send(trial.folder / "a")
    fresh = tiny(tmp_path / "fresh", f"storage={there}")
    assert not Storage(fresh).fetch(fresh.folder / "a", "first")
    assert Storage(fresh).fetch(fresh.folder / "a", "second") == (sent == 3)


def test_an_old_checkpoint_goes_once_the_newer_one_is_whole(tiny, tmp_path, there, monkeypatch):
    trial = tiny(tmp_path / "run", f"storage={there}")
    storage, folder = Storage(trial), trial.folder / "a.checkpoints"

    def saved(number):
        with step(folder / f"step_{number}", f"checkpoint {number}") as partial:
            (partial / "model.safetensors").write_text(str(number))

    for number in (1, 2):
        saved(number)
        storage.send_checkpoint(folder / f"step_{number}")
    assert sorted(path.name for path in (there / "a.checkpoints").iterdir()) == ["step_1", "step_2"]
    shutil.rmtree(folder / "step_1")
    saved(3)
    put = storage.system.put_file
    monkeypatch.setattr(type(storage.system), "put_file", lambda *given: (_ for _ in ()).throw(OSError("no route")))
    with pytest.raises(TrialError, match="no route"):
        storage.send_checkpoint(folder / "step_3")
    assert (there / "a.checkpoints" / "step_1" / "manifest.json").exists()  # nothing goes before the newer one is there
    monkeypatch.setattr(type(storage.system), "put_file", lambda self, *given: put(*given))
    storage.send_checkpoint(folder / "step_3")
    assert sorted(path.name for path in (there / "a.checkpoints").iterdir()) == ["step_2", "step_3"]
    fresh = tiny(tmp_path / "fresh", f"storage={there}")
    Storage(fresh).fetch_checkpoints(fresh.folder / "a.checkpoints")
    assert weights(fresh.folder) == ["a.checkpoints/step_2/model.safetensors", "a.checkpoints/step_3/model.safetensors"]


def test_of_two_workers_that_need_a_step_one_fetches_it(tiny, tmp_path, there, monkeypatch):
    """As two cells of one machine that read the same corpus: both would write one partial folder."""
    trial = tiny(tmp_path / "run", f"storage={there}")
    with step(trial.folder / "a", "made") as partial:
        (partial / "x").write_text("whole")
    Storage(trial).send(trial.folder / "a")
    fresh = tiny(tmp_path / "fresh", f"storage={there}")
    system, fetched, together = type(Storage(fresh).system), [], Barrier(2)
    get = system.get_file

    def slow(self, *given, **more):
        fetched.append(given)
        with suppress(BrokenBarrierError):
            together.wait(0.5)  # for another that fetches meanwhile
        return get(self, *given, **more)

    monkeypatch.setattr(system, "get_file", slow)
    with ThreadPoolExecutor(2) as pool:
        came = [pool.submit(Storage(fresh).fetch, fresh.folder / "a", "made") for _ in range(2)]
        assert [each.result() for each in came] == [True, True]
    assert len(fetched) == 1
    assert (fresh.folder / "a" / "x").read_text() == "whole"


# a storage that fails, and one that is not ours


@pytest.mark.parametrize("failures", [3, 4])
def test_a_storage_that_fails_is_asked_again_and_then_named(
    finished_copy, tiny, there, no_workers, monkeypatch, failures
):
    trial = tiny(finished_copy, f"storage={there}")
    system, left = type(Storage(trial).system), [failures]
    put = system.put_file

    def failing(self, *given, **more):
        if str(given[0]).endswith("meta.json") or not left[0]:
            return put(self, *given, **more)
        left[0] -= 1
        raise OSError("connection reset")

    monkeypatch.setattr(system, "put_file", failing)
    monkeypatch.setattr(storages, "ThreadPoolExecutor", lambda threads: __import__("contextlib").nullcontext(Serial()))
    if failures == 3:
        run(trial)
        assert (there / "report.html").exists()
        return
    with pytest.raises(TrialError, match=rf"storage: {there}: OSError: connection reset; what is done is kept in"):
        run(trial)
    assert weights(finished_copy)
    assert run(trial)


class Serial:
    def map(self, function, names):
        return map(function, names)


def test_the_storage_of_another_trial_is_refused(kept, tiny, tmp_path, there, no_workers):
    before = (there / "trial.yaml").read_bytes()
    with pytest.raises(TrialError, match="is of the trial 'smoke', this is 'other'; give another"):
        run(tiny(tmp_path / "fresh", f"storage={there}", "name=other"))
    assert (there / "trial.yaml").read_bytes() == before
    assert not (tmp_path / "fresh").exists()


@pytest.mark.parametrize("path", ["run", "run/storage", "."])
def test_a_storage_in_the_run_folder_is_refused(tiny, tmp_path, path):
    with pytest.raises(SettingsError, match="lie in each other; give another folder"):
        run(tiny(tmp_path / "run", f"storage={tmp_path / path}"))


def test_a_storage_of_no_known_kind_is_refused(tiny, tmp_path):
    with pytest.raises(SettingsError, match="storage: nowhere://bucket: Protocol not known"):
        run(tiny(tmp_path / "run", "storage=nowhere://bucket"))


def test_a_storage_is_no_part_of_the_experiment(finished, tiny):
    plan = CorpusPlan(tiny(finished.folder, "storage=memory://x", "disk_limit_gb=20"))
    assert plan.done
    assert CELL.pending(plan) == []


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
        patch.setattr("tokentrial.run.run.LocalExecutor", in_process)
        run(trial)
    return trial


@pytest.mark.slow
@pytest.mark.parametrize("stage", MOMENTS)
def test_a_spot_machine_is_given_up_and_a_fresh_one_goes_on(longer, ladder, tmp_path, there, stage):
    def words(trial):
        path = tmp_path / f"{trial.folder.name}.yaml"
        path.write_text(yaml.safe_dump(trial.model_dump(mode="json")))
        return [sys.executable, "-m", "tokentrial", "run", str(path)]

    spot, fresh = (ladder(tmp_path / name, *LONGER, f"storage={there}") for name in ("spot", "fresh"))
    process = subprocess.Popen(words(spot), cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    end = time.monotonic() + PATIENCE_S
    while not any(spot.folder.glob(MOMENTS[stage])):
        assert time.monotonic() < end, "waited in vain"
        assert process.poll() is None, process.communicate()[1].decode()
        time.sleep(0.005)
    process.terminate()
    said = process.communicate(timeout=30)[1].decode()  # the notice of a spot machine
    assert process.returncode == Interrupted.code, said
    assert "Traceback" not in said
    [manifest] = (there / "mul_tokens" / "seed1").glob(f"{stage}.checkpoints/**/manifest.json")
    assert is_done(manifest.parent, read_json(manifest)["fingerprint"])
    reached = int("".join(filter(str.isdigit, manifest.parent.name)))
    shutil.rmtree(spot.folder)
    again = subprocess.run(words(fresh), cwd=ROOT, capture_output=True, timeout=PATIENCE_S, check=False)
    assert again.returncode == 0, again.stderr.decode()
    assert reached > {"pretrain": 0, "sft": 10, "grpo": 1}[stage] - (stage != "pretrain")
    for name in ("pretrain/model_00149", "hf/model", "sft/model", "grpo/model"):
        for arm in longer.arms:
            file = f"{arm}/seed1/{name}.safetensors"
            assert (there / file).read_bytes() == (longer.folder / file).read_bytes(), file
    outcomes = [read_json(trial.folder / "comparison_report.json")["outcomes"] for trial in (fresh, longer)]
    assert outcomes[0] == outcomes[1]
    for name in ("pretrain/results.json", "sft/sft_results.json", "grpo/grpo_results.json"):
        made, undisturbed = (_numbers(read_json(t.folder / "mul_tokens/seed1" / name)) for t in (fresh, longer))
        assert made == undisturbed, name
    assert not [*there.glob("*/seed1/*.checkpoints/**/manifest.json")]


def _numbers(record):
    """A record without what the clock says, and without TRL's count of tokens, which begins anew after a stop."""
    if isinstance(record, dict):
        other = ("seconds", "step_time", "runtime", "per_second", "num_tokens")
        return {key: _numbers(value) for key, value in record.items() if not any(word in key for word in other)}
    if isinstance(record, list):
        return [_numbers(value) for value in record if not (isinstance(value, dict) and "train_runtime" in value)]
    return record
