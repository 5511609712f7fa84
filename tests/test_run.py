"""A run: what is done is skipped, what is next is done, in order, by one writer, to the same outcomes every time."""

import re
import shutil
import signal
from collections import Counter

import pytest

from tokentrial.corpus.prepare import CorpusPlan
from tokentrial.corpus.stream import Stream
from tokentrial.errors import Interrupted, SettingsError, TrialError
from tokentrial.run import run as runs
from tokentrial.run.cells import run_cell
from tokentrial.run.run import interruptible, run
from tokentrial.run.run_folder import open_run, status
from tokentrial.steps.cell import Cell, cells
from tokentrial.store.files import read_json, write_json
from tokentrial.store.folders import lock
from tokentrial.trial.declaration import declaration
from tokentrial.trial.load import load

STAGES = "pretrain", "export", "eval_pretrain"  # of a trial without fine-tuning
ALONE = "arms=[baseline,mul_tokens]", "seeds=[1]", "verdict.gate=null"


def snapshot(folder):
    """Every file with what would change if it were written again."""
    memory = (".lock", "trial.yaml", "sources.json")  # where the run lies and what it is asked
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in memory]
    return {str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


@pytest.fixture
def no_workers(monkeypatch):
    monkeypatch.setattr(runs, "LocalExecutor", lambda *given: pytest.fail("a worker was started"))


@pytest.fixture
def asked_for(monkeypatch, finished_copy, tiny):
    """`asked_for(*overrides)`: {cell: stages} and names of corpus work that a run with these settings hands out."""

    def make(*overrides, stages=("corpus", *STAGES)):
        work, corpus = {}, []

        class Recorder:
            def __init__(self, *given):
                pass

            def __enter__(self):
                return self

            def __exit__(self, *error):
                pass

            def run(self, calls, on_report):
                returned = []
                for call in calls:
                    if call.function is run_cell:
                        work[call.name] = call.arguments[2]
                    else:
                        corpus.append(call.name)
                        returned.append(call.function(*call.arguments))
                return returned

        monkeypatch.setattr(runs, "LocalExecutor", Recorder)
        monkeypatch.setattr(runs, "build", lambda *given: None)
        run(tiny(finished_copy, *overrides), stages)
        return work, corpus

    return make


# what is done and what is next


def test_cells_come_seed_by_seed_so_that_an_unfinished_run_holds_whole_pairs(tiny, tmp_path):
    names = [cell.name for cell in cells(tiny(tmp_path, "seeds=[4,2]"))]
    assert names == ["baseline/seed4", "mul_tokens/seed4", "baseline/seed2", "mul_tokens/seed2"]


def test_a_second_run_starts_no_worker_and_writes_nothing(finished, no_workers):
    before, report = snapshot(finished.folder), read_json(finished.folder / "comparison_report.json")
    assert run(finished) == report
    assert snapshot(finished.folder) == before


@pytest.mark.parametrize(
    "override", ["pretrain.micro_batch=8", "pretrain.device=auto", "workers=1", "pretrain.dtype=fp32"]
)
def test_where_and_with_what_it_runs_redoes_nothing(finished_copy, tiny, no_workers, override):
    before = snapshot(finished_copy)
    run(tiny(finished_copy, override))
    assert snapshot(finished_copy) == before


def test_a_run_that_was_moved_is_still_done(finished_copy, tiny, no_workers, source, tmp_path):
    shutil.copy(source, tmp_path / "moved.jsonl")
    before = snapshot(finished_copy)
    run(tiny(finished_copy, f"corpus.source=jsonl:{tmp_path / 'moved.jsonl'}"))
    assert snapshot(finished_copy) == before


def test_a_changed_evaluation_redoes_only_the_evaluation(finished_copy, tiny, inline):
    before = snapshot(finished_copy)
    report = run(tiny(finished_copy, *ALONE, "evaluate.probes_each=3"))
    after = snapshot(finished_copy)
    changed = {name for name in before if after.get(name) != before[name]}
    evaluations = {name for name in before if re.match(r"(baseline|mul_tokens)/seed1/eval_pretrain/", name)}
    audits = {"corpus/audit.json", "corpus/exposure.json", "corpus/meta.json"}
    reports = {"comparison_report.json", "report.md", "report.html"}
    reports |= {name for name in after if name.startswith("figures/")}
    assert evaluations <= changed <= evaluations | audits | reports
    assert set(after) == set(before)
    assert len(report["outcomes"]["pretrain/addition/all/accuracy"]["per_seed"]["baseline"]) == 1


def test_a_changed_training_leaves_the_corpus(asked_for):
    work, corpus = asked_for("pretrain.lr=0.001")
    assert work == {
        name: [*STAGES] for name in ("baseline/seed1", "mul_tokens/seed1", "baseline/seed2", "mul_tokens/seed2")
    }
    assert corpus == []


def test_another_seed_leaves_the_cells_that_are_there(asked_for, finished_copy):
    before = snapshot(finished_copy)
    work, _ = asked_for("seeds=[1,2,3]")
    assert work == {"baseline/seed3": [*STAGES], "mul_tokens/seed3": [*STAGES]}
    assert all(snapshot(finished_copy)[name] == before[name] for name in before if name.endswith(".npy"))


def test_another_arm_costs_its_patch_and_its_cells(asked_for, finished_copy):
    before = snapshot(finished_copy)
    work, _ = asked_for("arms=[baseline,mul_tokens,one_slot]")
    assert work == {"one_slot/seed1": [*STAGES], "one_slot/seed2": [*STAGES]}
    after = snapshot(finished_copy)
    kept = [name for name in before if name.startswith("corpus/") and name.endswith((".npy", ".npz"))]
    assert kept
    assert all(after[name] == before[name] for name in kept)
    assert any(name.startswith("corpus/patches/one_slot/") for name in after)


def test_other_drills_leave_the_text(asked_for, finished_copy):
    before = snapshot(finished_copy)
    work, _ = asked_for("corpus.drills.lines=11")
    assert list(work.values()) == [[*STAGES]] * 4
    after = snapshot(finished_copy)
    text = [name for name in before if name.startswith("corpus/fineweb_")]
    drills = [name for name in before if name.startswith("corpus/drills/") and name.endswith("000000.npy")]
    assert all(after[name] == before[name] for name in text)
    assert all(after[name] != before[name] for name in drills)


def test_a_cell_that_is_damaged_is_done_again(asked_for, finished_copy):
    shutil.rmtree(finished_copy / "mul_tokens" / "seed2" / "hf")
    assert asked_for()[0] == {"mul_tokens/seed2": ["export"]}


# the same outcomes every time


@pytest.mark.slow
def test_two_runs_from_scratch_have_identical_outcomes(undisturbed, tiny, tmp_path, inline):
    report = run(tiny(tmp_path / "again", "seeds=[1]"))
    assert report["outcomes"] == undisturbed
    assert report["missing"] == []
    assert len(undisturbed) > 10


def test_stages_alone_make_what_a_whole_run_makes(finished, tiny, tmp_path, inline):
    trial, cell = tiny(tmp_path / "run"), Cell("mul_tokens", 2)
    for stage in ("corpus", "pretrain", "export", "eval_pretrain"):
        assert run(trial, (stage,), [cell]) is None
        state = status(trial.folder)
        done = [name for name, stages in state["cells"].items() if any(stages.values())]
        assert done == ([] if stage == "corpus" else ["mul_tokens/seed2"])
    for name in ("pretrain/model_00019.safetensors", "eval_pretrain/samples.jsonl", "eval_pretrain/heldout_text.json"):
        made, whole = (folder / "mul_tokens" / "seed2" / name for folder in (trial.folder, finished.folder))
        assert made.read_bytes() == whole.read_bytes()
    assert not (trial.folder / "comparison_report.json").exists()


# order


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_alone_needs_the_corpus(tiny, tmp_path, no_workers, stage):
    with pytest.raises(TrialError, match="not ready; run `tokentrial corpus` with the same trial first"):
        run(tiny(tmp_path / "run"), (stage,))


@pytest.mark.parametrize(("stage", "needs"), [("export", "pretrain"), ("eval_pretrain", "pretrain")])
def test_a_stage_alone_needs_the_ones_before_it(tiny, tmp_path, inline, monkeypatch, stage, needs):
    trial = tiny(tmp_path / "run")
    run(trial, ("corpus",))
    monkeypatch.setattr(runs, "LocalExecutor", lambda *given: pytest.fail("a worker was started"))
    with pytest.raises(TrialError, match=rf"baseline/seed1: {stage} needs {needs}; run `tokentrial {needs}` first"):
        run(trial, (stage,))


def test_evaluation_needs_the_export_of_this_training(finished_copy, tiny, no_workers):
    shutil.rmtree(finished_copy / "baseline" / "seed1" / "hf")
    shutil.rmtree(finished_copy / "baseline" / "seed1" / "eval_pretrain")
    with pytest.raises(TrialError, match="baseline/seed1: eval_pretrain needs export"):
        run(tiny(finished_copy), ("eval_pretrain",))


def test_an_unknown_arm_is_refused_before_anything_is_written(tiny, tmp_path, no_workers):
    with pytest.raises(SettingsError, match=r"no arm 'mul_tokenz'; there are append_slot, baseline"):
        run(tiny(tmp_path / "run", "arms=[baseline,mul_tokens,mul_tokenz]"))
    assert not (tmp_path / "run").exists()


# what is declared


def test_what_decides_is_written_down_before_the_first_evaluation(asked_for, finished_copy, tiny, monkeypatch):
    path = finished_copy / "declared.json"
    path.unlink()
    for folder in finished_copy.glob("*/seed*/eval_pretrain"):
        shutil.rmtree(folder)
    for folder in finished_copy.glob("*/seed*/hf"):
        shutil.rmtree(folder)
    trial = tiny(finished_copy)
    assert asked_for(stages=("export",))[0]
    assert not path.exists()
    assert asked_for(stages=("corpus", *STAGES))[0]  # an evaluation among what is handed out
    declared = read_json(path)
    assert declared == declaration(trial)
    assert declared["seeds"] == [1, 2]
    assert declared["primary"]["outcome"] == "pretrain/mul_table/never_asked/accuracy"
    assert asked_for("verdict.alpha=0.01")[0]
    assert read_json(path) == declared


# the folder


def test_one_writer_a_folder(finished_copy, tiny, no_workers):
    with lock(finished_copy), pytest.raises(TrialError, match="another tokentrial writes here"):
        run(tiny(finished_copy))
    run(tiny(finished_copy))  # the lock is gone with its holder


def test_a_full_disk_is_told_before_anything_is_trained(finished_copy, tiny, no_workers, monkeypatch):
    shutil.rmtree(finished_copy / "baseline" / "seed1")
    usage = shutil.disk_usage(finished_copy)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1_000_000))
    with pytest.raises(TrialError, match=r"the trial needs .* GB are free; free some space"):
        run(tiny(finished_copy))


def test_the_resolved_trial_is_written_into_its_run(finished):
    assert open_run(finished.folder) == finished
    assert load(str(finished.folder / "trial.yaml")) == finished


def test_status_tells_what_is_done(finished, finished_copy, tiny):
    state = status(finished.folder)
    assert state["corpus"] is True
    assert state["report"] is True
    assert state["cells"] == {cell.name: dict.fromkeys(STAGES, True) for cell in cells(finished)}
    shutil.rmtree(finished_copy / "baseline" / "seed2" / "eval_pretrain")
    state = status(finished_copy)
    assert state["cells"]["baseline/seed2"] == {"pretrain": True, "export": True, "eval_pretrain": False}
    assert all(all(stages.values()) for name, stages in state["cells"].items() if name != "baseline/seed2")


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


def test_status_of_no_run_is_an_error(tmp_path):
    with pytest.raises(SettingsError, match=r"no trial\.yaml there; give a run folder"):
        status(tmp_path)


# signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_work_as_resumable_and_the_old_handlers_come_back(tmp_path, number):
    before, said = signal.getsignal(number), f"stopped by {signal.Signals(number).name}; the same command goes on"
    with pytest.raises(Interrupted, match=said) as error, interruptible(tmp_path):
        signal.raise_signal(number)
    assert error.value.code == 75
    assert signal.getsignal(number) == before


# real web text


@pytest.fixture
def on_web_text(tiny, tmp_path, shared_data):
    return tiny(tmp_path / "run", *ALONE, f"corpus.source=parquet:{shared_data / 'web'}")


def test_the_corpus_of_web_text_has_exposure_and_audit_right(on_web_text, inline):
    run(on_web_text, ("corpus",))
    plan = CorpusPlan(on_web_text)
    audit = read_json(plan.folder / "audit.json")
    assert (audit["passed"], audit["problems"]) == (True, [])
    text = read_json(plan.folder / "text.json")
    assert text["documents_read"] == 452
    exposure = read_json(plan.folder / "exposure.json")["served"]
    for arm in on_web_text.arms:
        tokens, questions, kinds = 0, Counter(), Counter()
        for document in Stream.of(on_web_text, plan.folder, plan.vocabulary, arm, 1).documents():
            kinds["drills" if document.set.startswith("drills") else "text"] += 1
            if document.set.startswith("drills"):
                ids = document.ids[document.ids < plan.vocabulary.base]
                said = plan.vocabulary.decode_bytes(ids).decode()
                found = re.findall(r"(?:is |^)(\d) times (\d)(?:\?| equals)", said, re.MULTILINE)
                questions.update(f"{min(pair)}*{max(pair)}" for pair in found)
            tokens += len(document.ids)
            if tokens > on_web_text.pretrain.tokens:
                break
        told = exposure[arm]["1"]
        assert told["documents"] == dict(kinds)
        asked = {
            equation.partition("=")[0]: forms["question"] + forms["statement"]
            for equation, forms in told["facts"].items()
        }
        assert asked == {fact: questions[fact] for fact in asked}
        assert told["questions"] == questions.total() > 100


@pytest.mark.slow
def test_a_trial_on_web_text_finishes(on_web_text, inline):
    report = run(on_web_text)
    assert report["missing"] == []
    values = report["outcomes"]["pretrain/heldout_text/untouched/bits_per_byte"]["per_seed"]
    assert all(0 < bits < 8 for seeds in values.values() for bits in seeds)
