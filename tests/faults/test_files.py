"""Files that are damaged after they were written: named before anything is made from them; what they were made from is
whole, so that without them the same command ends with the same figures."""

import json
import re
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.test_interrupted_run import outcomes
from tokentrial.corpus.prepare import CorpusPlan
from tokentrial.errors import Interrupted
from tokentrial.posttrain.trainer import CheckpointCallback
from tokentrial.run.run import run
from tokentrial.steps.cell import Cell
from tokentrial.steps.grpo import DECISION

pytestmark = pytest.mark.usefixtures("undrawn")

CELL = "baseline/seed1"


def flip(path, at=-3):
    """One bit, in place: neither size nor name tells of it."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def cells_gone(folder, *stages):
    """The stages of the first cell, and the report, are to be made again."""
    for stage in stages:
        shutil.rmtree(folder / CELL / stage)
    (folder / "comparison_report.json").unlink()


ALL = ("pretrain", "hf", "eval_pretrain")
# what is damaged, and what is to be made from it
DAMAGED = [
    pytest.param("corpus/text_train_000000.npy", ALL, marks=pytest.mark.slow),
    pytest.param("corpus/drills/drills1/drills1_train_000000.npy", ALL, marks=pytest.mark.slow),
    pytest.param(f"{CELL}/pretrain/model_00019.safetensors", ALL[1:], marks=pytest.mark.slow),
    (f"{CELL}/hf/model.safetensors", ALL[2:]),
    pytest.param(f"{CELL}/hf/tokenizer.json", ALL[2:], marks=pytest.mark.slow),
    pytest.param(f"{CELL}/hf/config.json", ALL[2:], marks=pytest.mark.slow),
    pytest.param(f"{CELL}/eval_pretrain/arithmetic_results.json", (), marks=pytest.mark.slow),
    (f"{CELL}/eval_pretrain/samples.jsonl", ()),
]


@pytest.mark.parametrize(("name", "gone"), DAMAGED)
def test_a_flipped_bit_is_found_before_anything_is_made_from_it(
    name, gone, finished_copy, finished, tiny, written, refused, hashes, inline
):
    cells_gone(finished_copy, *gone)
    path = finished_copy / name
    flip(path)
    before, trial = hashes(finished_copy), tiny(finished_copy)
    assert refused(*written(trial)) == (
        f"{path}: its bytes differ from its manifest; delete {path.parent} and run the same command again"
    )
    assert hashes(finished_copy) == before
    shutil.rmtree(path.parent)
    run(trial)
    assert outcomes(finished_copy) == outcomes(finished.folder)


@pytest.mark.parametrize("folder", ["corpus", f"{CELL}/hf"])
def test_a_broken_manifest_is_named(finished_copy, finished, tiny, written, refused, hashes, no_workers, folder):
    path, trial = finished_copy / folder / "manifest.json", tiny(finished_copy)
    whole = path.read_bytes()
    for content in ("", "{", "[]", "{}", '{"fingerprint": "a", "files": [1]}', '{"fingerprint": 1, "files": {"a": 1}}'):
        path.write_text(content)
        before = hashes(finished_copy)
        message = refused(*written(trial))
        assert message.startswith(f"{path}: ")
        assert message.endswith("delete it and run again")
        assert refused("status", finished_copy) == message
        assert hashes(finished_copy) == before
    path.write_bytes(whole)
    run(trial)
    assert outcomes(finished_copy) == outcomes(finished.folder)


@pytest.mark.parametrize("name", ["sources.json", "corpus/audit.json", "comparison_report.json"])
def test_a_broken_record_is_named(finished_copy, finished, tiny, written, refused, inline, name):
    path = finished_copy / name
    for content in ("", "[]"):
        path.write_text(content)
        message = refused(*written(tiny(finished_copy)))
        assert message.startswith(f"{path}: ")
        assert message.endswith("delete it and run again")
    path.unlink()
    run(tiny(finished_copy))
    assert outcomes(finished_copy) == outcomes(finished.folder)


RECORDS = [*(f"corpus/{name}.json" for name in ("audit", "bytes", "exposure", "meta")), "comparison_report.json"]
RECORDS += ["corpus/manifest.json", f"{CELL}/pretrain/manifest.json"]


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_that_is_json_still_but_not_what_was_written_is_named(
    finished_copy, tiny, written, refused, inline, name
):
    """Found by the soak: one bit of a word in audit.json, and the report told it as it was."""
    path = finished_copy / name
    whole = path.read_text()
    letter = re.search(r'": "[a-z]*([b-y])[a-z]', whole) or re.search(r": [1-9]*([1-8])", whole)
    path.write_text(f"{whole[: letter.start(1)]}{chr(ord(letter[1]) ^ 1)}{whole[letter.end(1) :]}")
    json.loads(path.read_text())
    message = refused(*written(tiny(finished_copy)))
    assert message.startswith(f"{path}: damaged")
    path.unlink()
    run(tiny(finished_copy))
    assert set(json.loads(path.read_text())) == set(json.loads(whole))


@pytest.mark.parametrize("damage", ["flipped", "manifest", pytest.param("truncated", marks=pytest.mark.slow)])
def test_a_damaged_checkpoint_is_passed_over(finished_copy, finished, tiny, inline, monkeypatch, capsys, damage):
    """Of two checkpoints the newer one is damaged: training goes on from the older one, to the very same weights."""
    trial = tiny(finished_copy, "pretrain.checkpoint={interval: 8, keep_last: 2}")
    cells_gone(finished_copy, *ALL)
    with monkeypatch.context() as patch:
        patch.setattr("tokentrial.steps.pretrain.stoppable", stopped_after(17))
        with pytest.raises(Interrupted):
            run(trial)
    checkpoints = sorted((finished_copy / CELL / "pretrain.checkpoints").glob("*/step_*"))
    assert [path.name for path in checkpoints] == ["step_000016", "step_000017"]
    path = checkpoints[-1] / "model.safetensors"
    if damage == "manifest":  # a digit of its seconds: JSON still
        path = path.with_name("manifest.json")
        path.write_bytes(path.read_bytes().replace(b'"seconds": ', b'"seconds": 1'))
    else:
        flip(path) if damage == "flipped" else path.write_bytes(path.read_bytes()[:-5])
    run(trial, ("pretrain", "export"), [Cell("baseline", 1)])
    assert ("damaged; this checkpoint is not used" in capsys.readouterr().err) == (damage != "truncated")
    for weights in (f"{CELL}/pretrain/model_00019.safetensors", f"{CELL}/hf/model.safetensors"):
        assert (finished_copy / weights).read_bytes() == (finished.folder / weights).read_bytes()


def stopped_after(steps):
    """`stoppable` whose word to stop comes at this step."""

    @contextmanager
    def stoppable():
        asked = iter(range(1, 10**6))
        yield lambda: next(asked) >= steps

    return stoppable


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_a_damaged_checkpoint_of_a_trainer_is_not_used(climbed_copy, climbed, ladder, inline, monkeypatch, stage):
    trial = ladder(climbed_copy)
    cells_gone(climbed_copy, *("sft", "eval_sft", "grpo", "eval_grpo")[0 if stage == "sft" else 2 :])
    real = CheckpointCallback.on_save

    def saved(self, *given, **more):
        real(self, *given, **more)
        raise Interrupted("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointCallback, "on_save", saved)
        with pytest.raises(Interrupted):
            run(trial)
    [path] = (climbed_copy / CELL).glob(f"{stage}.checkpoints/**/checkpoint-*/model.safetensors")
    flip(path)
    run(trial)
    weights = f"{CELL}/{stage}/model.safetensors"
    assert (climbed_copy / weights).read_bytes() == (climbed.folder / weights).read_bytes()
    assert outcomes(climbed_copy) == outcomes(climbed.folder)


def test_a_decision_that_is_lost_is_taken_once_more(climbed_copy, climbed, ladder, no_workers):
    """Found by the soak: a storage lost its record, and the run that came back from it did not say what was decided."""
    for name in (DECISION, "comparison_report.json"):
        (climbed_copy / name).unlink()
    report = run(ladder(climbed_copy))
    assert (climbed_copy / DECISION).read_bytes() == (climbed.folder / DECISION).read_bytes()
    assert report["grpo"] == json.loads((climbed.folder / "comparison_report.json").read_bytes())["grpo"]


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
