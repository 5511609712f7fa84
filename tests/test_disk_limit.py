"""`disk_limit_gb`: what cannot hold is refused before anything is written, what is planned is held."""

import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from tokentrial.cli.words import gigabytes
from tokentrial.corpus.prepare import CorpusPlan
from tokentrial.errors import SettingsError, TrialError
from tokentrial.plan.disk import cell_bytes
from tokentrial.run.cells import prune_weights
from tokentrial.run.run import run
from tokentrial.steps import corpus
from tokentrial.steps import stage as stage_file
from tokentrial.steps.cell import cells
from tokentrial.steps.costs import weights_bytes
from tokentrial.steps.export import ExportStage
from tokentrial.steps.stage import stage_names
from tokentrial.store.disk import held_bytes, need_within
from tokentrial.store.files import read_json
from tokentrial.store.folders import damaged_files, is_done, write_manifest
from tokentrial.store.storage import Storage
from tokentrial.trial.load import load
from tokentrial.trial.pretraining import weights_name

WIDE = (
    "pretrain.n_embd=192",
    "pretrain.steps=10",
    "pretrain.checkpoint.interval=6",
    "grpo.prompts=2",
    "workers=1",
)  # so that models are most of what is held


def planned_gb(trial):
    """GB at the peak of the whole trial."""
    return (corpus.disk_bytes(trial) + cell_bytes(trial, [stage_names(trial)] * len(cells(trial)), workers=1)) / 1e9


class Sampler(threading.Thread):
    """The most that a folder held at once, looked at all the time."""

    def __init__(self, folder):
        super().__init__(daemon=True)
        self.folder, self.most, self.over = folder, 0, threading.Event()

    def run(self):
        while not self.over.wait(0.002):
            self.most = max(self.most, held_bytes(self.folder))


def written(folder):
    """Bytes of everything that finished steps wrote, pruned or not: what a run without pruning holds at its end."""
    manifests = [read_json(path) for path in folder.glob("*/seed*/*/manifest.json")]
    return sum(entry["bytes"] for manifest in manifests for entry in manifest["files"].values())


@pytest.fixture(scope="module")
def held(ladder, in_process, tmp_path_factory):
    """`held(stored)`: the ladder trial run under a limit, with a storage or without; and the most it held. Not to be
    changed."""
    made = {}

    def make(stored):
        if stored not in made:
            folder = tmp_path_factory.mktemp("held")
            storage = [f"storage={folder / 'there'}"] if stored else []
            trial = ladder(folder / "run", *WIDE, "disk_limit_gb=1", *storage)
            trial = trial.model_copy(update={"disk_limit_gb": planned_gb(trial)})
            sampler = Sampler(trial.folder)
            sampler.start()
            with pytest.MonkeyPatch.context() as patch:
                in_process(patch)
                report = run(trial)
            sampler.over.set()
            sampler.join()
            made[stored] = trial, report, sampler.most
        return made[stored]

    return make


@pytest.mark.slow
@pytest.mark.parametrize("stored", [False, True])
def test_the_run_folder_never_holds_more_and_keeps_the_models_in_which_the_trial_ends(held, stored):
    trial, report, most = held(stored)
    assert report["missing"] == []
    assert report["outcomes"] == held(not stored)[1]["outcomes"]
    assert 0.5 * trial.disk_limit_gb * 1e9 < most <= trial.disk_limit_gb * 1e9 < written(trial.folder)
    left = {str(path.relative_to(trial.folder)) for path in trial.folder.rglob("*.safetensors")}
    assert left == (set() if stored else {f"{cell.name}/grpo/model.safetensors" for cell in cells(trial)})
    if stored:
        assert len([*(trial.folder.parent / "there").glob("*/seed*/*/model*.safetensors")]) == 4 * len(cells(trial))
    for path in trial.folder.glob("*/seed*/*/manifest.json"):
        assert damaged_files(path.parent) == []
        fingerprint, has_model = read_json(path)["fingerprint"], path.parent.name in ("pretrain", "hf", "sft", "grpo")
        assert is_done(path.parent, fingerprint)
        kept = not has_model or (path.parent.name == "grpo" and not stored)
        assert is_done(path.parent, fingerprint, whole=True) == kept


@pytest.mark.slow
@pytest.mark.parametrize("stored", [False, True])
def test_what_was_pruned_comes_back_for_a_changed_stage(held, ladder, inline, tmp_path, stored):
    trial, report, _ = held(stored)
    shutil.copytree(trial.folder, tmp_path / "run")
    before = (tmp_path / "run/mul_tokens/seed1/eval_pretrain/manifest.json").stat().st_mtime_ns
    storage = []
    if stored:
        shutil.copytree(trial.folder.parent / "there", tmp_path / "there")
        storage = [f"storage={tmp_path / 'there'}"]
    limit = f"disk_limit_gb={1.6 * trial.disk_limit_gb:.6f}"  # old and remade models beside the new
    changed = ladder(tmp_path / "run", *WIDE, limit, *storage, "seeds=[1]", "sft.warmup_ratio=0")
    again = run(changed, overwrite=True)
    assert again["missing"] == []
    name = "pretrain/mul_table/asked/accuracy"
    for arm in changed.arms:
        assert again["outcomes"][name]["per_seed"][arm] == report["outcomes"][name]["per_seed"][arm][:1]
    assert (tmp_path / "run/mul_tokens/seed1/eval_pretrain/manifest.json").stat().st_mtime_ns == before


def test_a_limit_that_cannot_hold_is_refused_before_anything_is_written(ladder, tmp_path):
    trial = ladder(tmp_path / "run", *WIDE, "disk_limit_gb=1")
    short = trial.model_copy(update={"disk_limit_gb": 0.95 * planned_gb(trial)})
    with pytest.raises(TrialError, match=r"the run folder would hold .* GB at its peak; it fits with storage=PATH"):
        run(short)
    with pytest.raises(TrialError, match=r"GB at the least, with storage=PATH; give more, or use fewer arms and seeds"):
        run(trial.model_copy(update={"disk_limit_gb": 1e-6}))
    assert not (tmp_path / "run").exists()


def test_a_variant_shares_the_limit_of_the_folder_that_it_lies_in(tmp_path):
    variant = tmp_path / "run" / "ladder" / "1x16"
    for folder in (variant, tmp_path / "run" / "corpus", tmp_path / "run" / "sweep" / "a"):
        folder.mkdir(parents=True)
    (tmp_path / "run" / "trial.yaml").write_text("name: x")
    (tmp_path / "run" / "sweep" / "a" / "weights").write_bytes(bytes(2_000_000))
    need_within(Path("/run"), 500_000, "a model", None)
    need_within(variant, 500_000, "a model", 0.003)
    with pytest.raises(TrialError, match=f"{tmp_path / 'run'}: a model needs"):
        need_within(variant, 500_000, "a model", 0.002)


def test_it_says_by_which_settings_it_would_fit(tokentrial, tmp_path):
    given = [f"output={tmp_path / 'run'}", "workers=4", "pretrain.checkpoint={interval: 10, keep_every: 10}"]
    code, _, said = tokentrial("run", "gpt2_50m", *given, "--disk-limit", "30GB")
    assert code == 1
    assert "disk_limit_gb is 30" in said
    assert "pretrain.checkpoint.keep_every=null" in said
    assert not (tmp_path / "run").exists()
    # the original report's pod of 20 GB holds gpt2_50m
    assert planned_gb(load("gpt2_50m", ["disk_limit_gb=20"])) < 20 < planned_gb(load("gpt2_50m"))


@pytest.mark.slow
def test_what_grows_beyond_the_limit_ends_the_run_and_keeps_what_is_done(held, ladder, tmp_path, inline):
    trial, _, _ = held(False)
    shutil.copytree(trial.folder, tmp_path / "run")
    (tmp_path / "run" / "mine").write_bytes(bytes(int(trial.disk_limit_gb * 1e9)))
    again = ladder(tmp_path / "run", *WIDE, "sft.warmup_ratio=0").model_copy(
        update={"disk_limit_gb": trial.disk_limit_gb}
    )
    with pytest.raises(TrialError, match=r"baseline/seed1: .* needs .* GB, .* GB are held, and disk_limit_gb is"):
        run(again, overwrite=True)
    assert is_done(
        tmp_path / "run/baseline/seed1/sft", read_json(trial.folder / "baseline/seed1/sft/manifest.json")["fingerprint"]
    )


def test_weights_are_kept_by_the_steps_that_the_arm_took_however_many_the_trial_says(finished_copy, tiny):
    """As with matched bytes, where an arm that appends tokens takes more steps."""
    trial = tiny(finished_copy, "disk_limit_gb=1", "pretrain.checkpoint.keep_every=12")
    corpus, cell = CorpusPlan(trial), cells(trial)[0]
    folder = cell.folder(trial, "pretrain")
    for step in (12, 24, 26):
        (folder / weights_name(step)).write_bytes(b"weights")
    results = folder / "results.json"
    results.write_bytes(results.read_bytes().replace(b'"total_steps": 20', b'"total_steps": 26'))
    (folder / "manifest.json").unlink()
    write_manifest(folder, cell.fingerprints(corpus)["pretrain"])
    prune_weights(corpus, cell, Storage(trial), [])
    assert {path.name for path in folder.glob("*.safetensors")} == {weights_name(step) for step in (12, 24)}


class Branch(ExportStage):
    name, reads, folder = "branch", "pretrain", "branch"


def test_the_last_model_of_every_branch_is_kept(finished_copy, tiny, monkeypatch):
    real, branch = stage_file._file, SimpleNamespace(build=lambda trial: [Branch(trial)])
    monkeypatch.setattr(stage_file, "_file", lambda name: branch if name == "branch" else real(name))
    trial = tiny(finished_copy, "disk_limit_gb=1", "stages={branch: {}}")
    for cell in cells(trial):
        prune_weights(CorpusPlan(trial), cell, Storage(trial), [])
        assert (cell.folder(trial, "export") / "model.safetensors").exists()
    every = [stage_names(trial)] * len(cells(trial))
    stored = trial.model_copy(update={"storage": "there"})
    # beside what the cell at work reads: two models of every cell, or the one that it writes
    more = 2 * len(cells(trial)) - 1
    assert cell_bytes(trial, every, 1) - cell_bytes(stored, every, 1) == more * weights_bytes(trial)


@pytest.mark.parametrize(("given", "found"), [("20GB", 20), ("500MB", 0.5), ("1.5tb", 1500)])
def test_sizes_on_the_command_line(given, found):
    assert gigabytes(given) == found
    for wrong in ("20", "GB", f"-{given}", f"{given}iBs"):
        with pytest.raises(SettingsError, match="expected a size such as 20GB"):
            gigabytes(wrong)
