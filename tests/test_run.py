"""A run: what is done is skipped, what is next is done, in order, by one writer, to the same outcomes every time."""

import re
import shutil
import signal
from collections import Counter
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.conftest import Inline
from tokentrial.corpus.prepare import CorpusPlan
from tokentrial.corpus.stream import Stream
from tokentrial.errors import Interrupted, TrialError
from tokentrial.run import run as runs
from tokentrial.run.cells import run_cell
from tokentrial.run.run import interruptible, rebuild, run
from tokentrial.run.run_folder import open_run, status
from tokentrial.steps.cell import Cell
from tokentrial.store.files import read_json, write_json
from tokentrial.store.folders import lock
from tokentrial.trial.load import load

CELLS = "baseline/seed1", "mul_tokens/seed1", "baseline/seed2", "mul_tokens/seed2"
STAGES = "pretrain", "export", "eval_pretrain"  # of a trial without fine-tuning
EVERYTHING = {cell: [*STAGES] for cell in CELLS}


def snapshot(folder):
    """Every file with what would change if it were written again."""
    memory = (".lock", "trial.yaml", "sources.json")  # where the run lies and what it is asked
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in memory]
    return {str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


@pytest.fixture
def asked_for(monkeypatch, finished_copy, tiny, inline):
    """`asked_for(*overrides)`: {cell: stages} that a run with these settings hands out."""

    def make(*overrides, stages=("corpus", *STAGES)):
        work = {}

        class Recorder(Inline):
            def run(self, calls, on_report):
                cells = [call for call in calls if call.function is run_cell]
                work.update({call.name: call.arguments[2] for call in cells})
                return super().run([call for call in calls if call not in cells], on_report)

        monkeypatch.setattr(runs, "LocalExecutor", Recorder)
        monkeypatch.setattr(runs, "build", lambda *given: None)
        run(tiny(finished_copy, *overrides), stages, overwrite=True)
        return work

    return make


def test_a_run_of_another_release_can_be_looked_at_and_is_done_again(finished, finished_copy, tiny, undrawn):
    """Its fingerprints are not those of this release, and its trial.yaml names another one, or none."""
    lines = (finished_copy / "trial.yaml").read_text().splitlines(keepends=True)
    assert lines[0].startswith("# tokentrial ")
    (finished_copy / "trial.yaml").write_text("".join(lines[1:]))
    for path in finished_copy.glob("*/seed*/*/manifest.json"):
        write_json(path, read_json(path) | {"fingerprint": "0123456789abcdef"})
    state = status(finished_copy)
    assert state["of_another_release"]
    assert state["cells"] == status(finished.folder)["cells"]
    before = read_json(finished.folder / "comparison_report.json")
    assert rebuild(finished_copy)["outcomes"] == before["outcomes"]
    plan = CorpusPlan(tiny(finished_copy))
    assert {cell: Cell(cell.split("/")[0], int(cell[-1])).pending(plan) for cell in CELLS} == EVERYTHING


# what is done and what is next


def test_a_second_run_starts_no_worker_and_writes_nothing(finished, no_workers):
    before, report = snapshot(finished.folder), read_json(finished.folder / "comparison_report.json")
    assert run(finished) == report
    assert snapshot(finished.folder) == before
    assert open_run(finished.folder) == load(str(finished.folder / "trial.yaml")) == finished


@pytest.mark.parametrize(
    ("override", "work", "kept", "redone"),
    [
        ("evaluate.probes_each=3", {cell: ["eval_pretrain"] for cell in CELLS}, "corpus/*", None),
        ("pretrain.lr=0.001", EVERYTHING, "corpus/*", None),
        # seed by seed, so that an unfinished run holds whole pairs
        ("seeds=[4,2,1]", {"baseline/seed4": [*STAGES], "mul_tokens/seed4": [*STAGES]}, "corpus/*.npy", None),
        ("arms=[baseline,mul_tokens,one_slot]", {"one_slot/seed1": [*STAGES], "one_slot/seed2": [*STAGES]},
         "corpus/*.np[yz]", None),
        ("corpus.drills.lines=11", EVERYTHING, "corpus/text_*", "corpus/drills/*000000.npy"),
    ],
)  # fmt: skip
def test_a_change_redoes_what_it_bears_on_and_keeps_the_rest(asked_for, finished_copy, override, work, kept, redone):
    before = snapshot(finished_copy)
    asked = asked_for(override)
    assert (asked, list(asked)) == (work, list(work))
    after = snapshot(finished_copy)
    records = {"audit.json", "bytes.json", "exposure.json", "meta.json"}
    same = [name for name in before if fnmatch(name, kept) and Path(name).name not in records]
    assert same
    assert all(after[name] == before[name] for name in same)
    if redone:
        assert all(after[name] != before[name] for name in before if fnmatch(name, redone))


def test_a_resumed_run_starts_as_many_workers_as_cells_are_pending(finished_copy, tiny, inline, monkeypatch):
    started = []

    class Counted(Inline):
        def __init__(self, workers, *given):
            started.append(workers)
            super().__init__(workers)

    monkeypatch.setattr(runs, "LocalExecutor", Counted)
    shutil.rmtree(finished_copy / "mul_tokens" / "seed2" / "eval_pretrain")
    run(tiny(finished_copy, "workers=4"))
    assert started == [1]


# the same outcomes every time


@pytest.fixture
def corpus_alone(finished_copy, tiny):
    """The tiny trial, of which only the corpus is done."""
    for path in (*finished_copy.glob("*/seed*"), finished_copy / "comparison_report.json"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return tiny(finished_copy)


def test_stages_alone_make_what_a_whole_run_makes(corpus_alone, finished, inline):
    """Without the worker, the other cells and the other stages: a cell's figures are its own, bit for bit."""
    trial, cell = corpus_alone, Cell("mul_tokens", 2)
    for stage in STAGES:
        assert run(trial, (stage,), [cell]) is None
        done = [name for name, stages in status(trial.folder)["cells"].items() if any(stages.values())]
        assert done == [cell.name]
    for name in ("pretrain/model_00019.safetensors", "eval_pretrain/samples.jsonl", "eval_pretrain/heldout_text.json"):
        made, whole = (folder / cell.name / name for folder in (trial.folder, finished.folder))
        assert made.read_bytes() == whole.read_bytes()
    assert not (trial.folder / "comparison_report.json").exists()


@pytest.mark.slow
def test_two_runs_from_scratch_have_identical_outcomes(undisturbed, tiny, tmp_path, inline):
    report = run(tiny(tmp_path / "again", "seeds=[1]"))
    assert report["outcomes"] == undisturbed
    assert report["missing"] == []
    assert len(undisturbed) > 10


# order


def test_a_stage_alone_needs_the_ones_before_it(corpus_alone, tiny, tmp_path, no_workers):
    for stage, needs in (("export", "pretrain"), ("eval_pretrain", "pretrain")):
        with pytest.raises(TrialError, match=f"baseline/seed1: {stage} needs {needs}; run `tokentrial {needs}` first"):
            run(corpus_alone, (stage,))
    for stage in STAGES:
        with pytest.raises(TrialError, match="not ready; run `tokentrial corpus` with the same trial first"):
            run(tiny(tmp_path / "empty"), (stage,))


# the folder


def test_one_writer_a_folder(finished_copy, tiny, no_workers):
    with lock(finished_copy), pytest.raises(TrialError, match="in use by another tokentrial"):
        run(tiny(finished_copy))
    run(tiny(finished_copy))  # the lock is gone with its holder


def test_a_full_disk_is_told_before_anything_is_trained(finished_copy, tiny, no_workers, monkeypatch):
    shutil.rmtree(finished_copy / "baseline" / "seed1")
    usage = shutil.disk_usage(finished_copy)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1_000_000))
    with pytest.raises(TrialError, match=r"the trial needs .* GB are free; free some space"):
        run(tiny(finished_copy))


def test_the_seconds_of_each_stage_and_cell_are_in_status_and_report(finished_copy, undrawn, tokentrial):
    """The tiny trial's cells, as if they had taken so long; one as it was made before manifests held seconds."""
    for path in finished_copy.glob("*/seed*/*/manifest.json"):
        manifest = read_json(path)
        assert manifest["seconds"] > 0
        manifest["seconds"] = {"pretrain": 30.0, "hf": 2.0, "eval_pretrain": 10.0}[path.parent.name]
        manifest["seconds"] *= int(path.parts[-3].removeprefix("seed"))
        if path.parts[-4:-1] == ("mul_tokens", "seed2", "hf"):
            del manifest["seconds"]
        write_json(path, manifest)
    (finished_copy / "comparison_report.json").unlink()
    report = runs.rebuild(finished_copy)
    took = status(finished_copy)["seconds"]
    assert took["pretrain"] == {
        "baseline/seed1": 30,
        "mul_tokens/seed1": 30,
        "baseline/seed2": 60,
        "mul_tokens/seed2": 60,
    }
    assert took["export"] == {"baseline/seed1": 2, "mul_tokens/seed1": 2, "baseline/seed2": 4}
    assert took["corpus"].keys() == {"corpus", "drills", "patches"}
    assert report["seconds"] == took
    _, out, _ = tokentrial("status", finished_copy)
    for shown in (out, (finished_copy / "report.md").read_text(), (finished_copy / "report.html").read_text()):
        rows = [re.findall(r"[\w.]+", re.sub("<[^>]*>", " ", line)) for line in shown.splitlines()]
        assert ["pretrain", "4", "45.0", "180.0"] in rows  # cells, median and total
        assert ["export", "3", "2.0", "8.0"] in rows


def test_a_gpu_gives_its_workers_the_cores_that_are_there_and_a_cpu_one_each(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "LocalExecutor", lambda workers, threads, imports: (workers, threads))
    monkeypatch.setattr(runs, "cores", lambda: 16)
    trial = tiny(tmp_path)
    assert runs._executor(trial, 3, [["pretrain"]]) == (3, 1)
    monkeypatch.setattr(runs, "resolve_device", lambda settings: "cuda")
    assert runs._executor(trial, 3, [["pretrain"]]) == (3, 5)
    assert runs._executor(trial, 32, [["pretrain"]]) == (32, 1)


# signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_ends_the_work_as_resumable_and_the_old_handlers_come_back(tmp_path, number):
    before, said = signal.getsignal(number), f"stopped by {signal.Signals(number).name}; the same command resumes"
    with pytest.raises(Interrupted, match=said) as error, interruptible(tmp_path):
        signal.raise_signal(number)
    assert error.value.code == 75
    assert signal.getsignal(number) == before


def test_a_signal_between_two_trials_is_one_like_any_other(finished_copy, tiny, inline, monkeypatch):
    real = runs.run_one
    monkeypatch.setattr(runs, "run_one", lambda *given: (real(*given), signal.raise_signal(signal.SIGTERM)))
    with pytest.raises(Interrupted, match="stopped by SIGTERM"):
        run(tiny(finished_copy, "sweep={pretrain.lr: [0.004]}"))


@pytest.mark.slow
def test_a_trial_on_web_text_finishes_its_exposure_as_its_stream_serves_it(tiny, tmp_path, shared_data, inline):
    settings = "arms=[baseline,mul_tokens]", "seeds=[1]", "verdict.gate=null"
    trial = tiny(tmp_path / "run", *settings, f"corpus.source=parquet:{shared_data / 'web'}")
    report = run(trial)
    assert report["missing"] == []
    values = report["outcomes"]["pretrain/heldout_text/untouched/bits_per_byte"]["per_seed"]
    assert all(0 < bits < 8 for seeds in values.values() for bits in seeds)
    plan = CorpusPlan(trial)
    audit = read_json(plan.folder / "audit.json")
    assert (audit["passed"], audit["problems"]) == (True, [])
    assert read_json(plan.folder / "text.json")["documents_read"] == 452
    for arm in trial.arms:
        tokens, questions, kinds = 0, Counter(), Counter()
        for document in Stream.of(trial, plan.folder, plan.vocabulary, arm, 1).documents():
            kinds["drills" if document.set.startswith("drills") else "text"] += 1
            if document.set.startswith("drills"):
                ids = document.ids[document.ids < plan.vocabulary.base]
                text = plan.vocabulary.decode_bytes(ids).decode()
                found = re.findall(r"(?:is |^)(\d) times (\d)(?:\?| equals)", text, re.MULTILINE)
                questions.update(f"{min(pair)}*{max(pair)}" for pair in found)
            tokens += len(document.ids)
            if tokens > trial.pretrain.tokens:
                break
        served = read_json(plan.folder / "exposure.json")["served"][arm]["1"]
        assert served["documents"] == dict(kinds)
        for equation, forms in served["facts"].items():
            assert forms["question"] + forms["statement"] == questions[equation.partition("=")[0]]
        assert served["questions"] == questions.total() > 100
