"""Files that are damaged after they were written: named before anything is made from them; what they were made from is
whole, so that without them the same command ends with the same figures."""

import json
import shutil
from pathlib import Path

import pytest

from tokentrial.corpus.prepare import CorpusPlan
from tokentrial.errors import Interrupted
from tokentrial.run.run import run
from tokentrial.steps.cell import Cell
from tokentrial.store.files import read_json

pytestmark = pytest.mark.usefixtures("undrawn")

CELL = "baseline/seed1"


def flip(path, at=-3):
    """One bit, in place: neither size nor name tells of it."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def outcomes(folder):
    return read_json(folder / "comparison_report.json")["outcomes"]


def cells_gone(folder, *stages):
    """The stages of the first cell, and the report, are to be made again."""
    for stage in stages:
        shutil.rmtree(folder / CELL / stage)
    (folder / "comparison_report.json").unlink()


ALL = ("pretrain", "hf", "eval_pretrain")
# what is damaged, what is to be made from it, and what has to be deleted
DAMAGED = {
    "shard": ("corpus/fineweb_train_000000.npy", ALL, "corpus"),
    "drills": ("corpus/drills/drills1_train_000000.npy", ALL, "corpus/drills"),
    "trained weights": (f"{CELL}/pretrain/model_00019.safetensors", ALL[1:], f"{CELL}/pretrain"),
    "exported weights": (f"{CELL}/hf/model.safetensors", ALL[2:], f"{CELL}/hf"),
    "tokenizer": (f"{CELL}/hf/tokenizer.json", ALL[2:], f"{CELL}/hf"),
    "config": (f"{CELL}/hf/config.json", ALL[2:], f"{CELL}/hf"),
    "results": (f"{CELL}/eval_pretrain/arithmetic_results.json", (), f"{CELL}/eval_pretrain"),
    "samples": (f"{CELL}/eval_pretrain/samples.jsonl", (), f"{CELL}/eval_pretrain"),
}


SLOW = [pytest.param(what, marks=pytest.mark.slow) for what in DAMAGED if what not in ("exported weights", "samples")]


@pytest.mark.parametrize("what", ["exported weights", "samples", *SLOW])
def test_a_flipped_bit_is_found_before_anything_is_made_from_it(
    what, finished_copy, finished, tiny, written, refused, hashes, inline
):
    name, gone, delete = DAMAGED[what]
    cells_gone(finished_copy, *gone)
    flip(finished_copy / name)
    before, trial = hashes(finished_copy), tiny(finished_copy)
    said = refused(*written(trial))
    assert said == (
        f"{finished_copy / name}: its bytes differ from its manifest; delete {finished_copy / delete} and run the same "
        "command again"
    )
    assert hashes(finished_copy) == before
    shutil.rmtree(finished_copy / delete)
    run(trial)
    assert outcomes(finished_copy) == outcomes(finished.folder)


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", "{}", '{"fingerprint": "a", "files": [1]}', '{"fingerprint": 1, "files": {"a": 1}}'],
)
@pytest.mark.parametrize("folder", ["corpus", f"{CELL}/hf"])
def test_a_broken_manifest_is_named(finished_copy, finished, tiny, written, refused, hashes, inline, folder, content):
    path, trial = finished_copy / folder / "manifest.json", tiny(finished_copy)
    path.write_text(content)
    before = hashes(finished_copy)
    said = refused(*written(trial))
    assert said.startswith(f"{path}: ")
    assert said.endswith("delete it and run again")
    assert refused("status", finished_copy) == said
    assert hashes(finished_copy) == before
    if (folder, content) == (f"{CELL}/hf", "[]"):
        path.unlink()
        run(trial)
        assert outcomes(finished_copy) == outcomes(finished.folder)


@pytest.mark.parametrize("content", ["[]", pytest.param("", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["sources.json", "corpus/audit.json", "comparison_report.json", "declared.json"])
def test_a_broken_record_is_named(finished_copy, finished, tiny, written, refused, inline, name, content):
    (finished_copy / name).write_text(content)
    said = refused(*written(tiny(finished_copy)))
    assert said.startswith(f"{finished_copy / name}: ")
    assert said.endswith("delete it and run again")
    (finished_copy / name).unlink()
    run(tiny(finished_copy))
    assert outcomes(finished_copy) == outcomes(finished.folder)


@pytest.mark.parametrize("damage", ["flipped", pytest.param("truncated", marks=pytest.mark.slow)])
def test_a_damaged_checkpoint_is_passed_over(finished_copy, finished, tiny, inline, monkeypatch, capsys, damage):
    """Of two checkpoints the newer one is damaged: training goes on from the older one, to the very same weights."""
    trial = tiny(finished_copy, "pretrain.checkpoint={interval: 8, keep_last: 2}")
    cells_gone(finished_copy, *ALL)
    with monkeypatch.context() as patch:
        patch.setattr("tokentrial.run.cells.stoppable", stopped_after(17))
        with pytest.raises(Interrupted):
            run(trial)
    checkpoints = sorted((finished_copy / CELL / "pretrain.checkpoints").glob("*/step_*"))
    assert [path.name for path in checkpoints] == ["step_000016", "step_000017"]
    path = checkpoints[-1] / "model.safetensors"
    flip(path) if damage == "flipped" else path.write_bytes(path.read_bytes()[:-5])
    run(trial)
    assert ("damaged; going on from the checkpoint before" in capsys.readouterr().err) == (damage == "flipped")
    weights = f"{CELL}/pretrain/model_00019.safetensors"
    assert (finished_copy / weights).read_bytes() == (finished.folder / weights).read_bytes()
    assert outcomes(finished_copy) == outcomes(finished.folder)


def stopped_after(steps):
    """`stoppable` whose word to stop comes at this step."""
    from contextlib import contextmanager

    @contextmanager
    def stoppable():
        asked = iter(range(1, 10**6))
        yield lambda: next(asked) >= steps

    return stoppable


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_a_damaged_checkpoint_of_a_trainer_is_not_used(climbed, ladder, inline, tmp_path, monkeypatch, stage):
    from tokentrial.posttrain.trainer import Watch

    shutil.copytree(climbed.folder, tmp_path / "run")
    trial = ladder(tmp_path / "run")
    for name in ("sft", "eval_sft", "grpo", "eval_grpo")[0 if stage == "sft" else 2 :]:
        shutil.rmtree(tmp_path / "run" / CELL / name)
    (tmp_path / "run" / "comparison_report.json").unlink()
    real = Watch.on_save

    def saved(self, *given, **more):
        real(self, *given, **more)
        raise Interrupted("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(Watch, "on_save", saved)
        with pytest.raises(Interrupted):
            run(trial)
    [path] = (tmp_path / "run" / CELL).glob(f"{stage}.checkpoints/**/checkpoint-*/model.safetensors")
    flip(path)
    run(trial)
    weights = Cell("baseline", 1).folder(trial, stage) / "model.safetensors"
    assert weights.read_bytes() == (climbed.folder / CELL / stage / "model.safetensors").read_bytes()
    assert outcomes(tmp_path / "run") == outcomes(climbed.folder)


def test_a_file_that_vanished_is_made_again(finished_copy, finished, tiny, inline):
    (finished_copy / CELL / "hf" / "model.safetensors").unlink()
    (finished_copy / CELL / "eval_pretrain" / "samples.jsonl").write_bytes(b"")
    (finished_copy / "comparison_report.json").unlink()
    run(tiny(finished_copy))
    assert outcomes(finished_copy) == outcomes(finished.folder)


def test_a_source_that_changes_under_a_run_makes_the_corpus_anew(finished_copy, tiny, source, tmp_path):
    """The run does not go on with what is no longer its text."""
    changed = tmp_path / "prose.jsonl"
    lines = Path(source).read_text(encoding="utf-8").splitlines()
    changed.write_text("\n".join([json.dumps({"text": "Another speech."}), *lines[1:]]), encoding="utf-8")
    assert CorpusPlan(tiny(finished_copy)).done
    assert not CorpusPlan(tiny(finished_copy, f"corpus.source=jsonl:{changed}")).done
