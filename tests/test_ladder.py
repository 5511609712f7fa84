"""The ladder: pretraining, SFT, GRPO, an evaluation after each; what is redone, what is skipped, what is killed."""

import json
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from statistics import mean, stdev

import pytest
import yaml

from tokentrial.arms.families import TIMES_TABLE
from tokentrial.corpus.prepare import CorpusPlan
from tokentrial.errors import TrialError
from tokentrial.run import run as runs
from tokentrial.run.run import evaluations, run
from tokentrial.steps.cell import Cell, cells
from tokentrial.steps.stage import stage_names
from tokentrial.store.files import read_json
from tokentrial.store.folders import write_manifest
from tokentrial.tasks.word_problems import WordProblems

ROOT = Path(__file__).resolve().parents[1]
PATIENCE_S = 300  # for a machine that is shared; nothing is timed
STAGES = ("pretrain", "export", "eval_pretrain", "sft", "eval_sft", "grpo", "eval_grpo")
ONE_SEED = ("seeds=[1]",)


@pytest.fixture
def climbed_copy(climbed, tmp_path):
    """A copy of the run folder, to be changed."""
    shutil.copytree(climbed.folder, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def no_workers(monkeypatch):
    monkeypatch.setattr(runs, "LocalExecutor", lambda *given: pytest.fail("a worker was started"))


def snapshot(folder, *names):
    """Every file of the named stages with what would change if it were written again."""
    files = [path for name in names for path in folder.glob(f"*/seed*/{name}/**/*") if path.is_file()]
    assert files
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def samples(trial, cell, stage):
    path = cell.folder(trial, f"eval_{stage}") / "samples.jsonl"
    return [json.loads(line) for line in path.read_bytes().splitlines()]


# the report


def test_every_outcome_stands_after_every_stage(climbed):
    report = read_json(climbed.folder / "comparison_report.json")
    assert report["stages"] == ["pretrain", "sft", "grpo"]
    assert report["missing"] == []
    by_stage = {}
    for name, outcome in report["outcomes"].items():
        stage, _, rest = name.partition("/")
        by_stage.setdefault(stage, set()).add(rest)
        assert all(None not in values and len(values) == 2 for values in outcome["per_seed"].values()), name
    assert by_stage["pretrain"] == by_stage["sft"] == by_stage["grpo"]
    assert by_stage["sft"] >= {
        "mul_table/never_asked/accuracy",
        "word_problems/all/accuracy",
        "word_problems/all/accuracy_flexible",
        "word_problems/all/gold_nats_per_byte",
        "heldout_text/untouched/bits_per_byte",
    }


def test_the_ladder_s_figures_are_those_of_the_samples(climbed):
    text = (climbed.folder / "report.md").read_text()
    table = text.partition("## The ladder")[2].partition("\n## ")[0]
    assert "| outcome | arm | pretrain | sft | grpo |" in table
    for outcome, key in (("gold_nats_per_byte", "gold_nats_per_byte"), ("fact_tokens", "fact_tokens")):
        for arm in climbed.arms:
            [line] = [x for x in table.splitlines() if x.startswith(f"| word_problems/all/{outcome} | {arm} |")]
            shown = [cell.strip() for cell in line.strip("| ").split(" | ")][2:]
            for stage, said in zip(("pretrain", "sft", "grpo"), shown, strict=True):
                rows = [samples(climbed, Cell(arm, seed), stage) for seed in (1, 2)]
                values = [mean(row[key] for row in of if row["task"] == "word_problems") for of in rows]
                assert said == f"{mean(values):.3f} ± {stdev(values):.3f}"


def test_each_stage_changed_the_model_and_says_so(climbed):
    for cell in cells(climbed):
        weights = [cell.folder(climbed, stage) / "model.safetensors" for stage in ("export", "sft", "grpo")]
        assert len({path.read_bytes() for path in weights}) == 3, cell.name
        record = read_json(cell.folder(climbed, "sft") / "sft_results.json")
        assert (record["condition"], record["seed"]) == (cell.arm, cell.seed)
        assert read_json(cell.folder(climbed, "grpo") / "grpo_results.json")["steps"] == 4
        passed = read_json(cell.folder(climbed, "eval_sft") / "pass_at_k.json")
        assert (passed["k"], passed["prompts"]) == (2, 8)
        assert not list(cell.folder(climbed, "sft").parent.glob("*.checkpoints"))  # nothing of the way is kept
    decision = read_json(climbed.folder / "grpo_decision.json")
    assert set(decision["pass_at_k"]) == {cell.name for cell in cells(climbed)}
    assert decision["go_on"] is True


@pytest.mark.slow
def test_a_bonus_that_only_some_arms_can_earn_is_flagged(climbed_copy, ladder, inline):
    report = run(ladder(climbed_copy, *ONE_SEED, "grpo.mul_bonus=0.25"))
    assert report["grpo"]["mul_bonus"] == 0.25
    flag = "GRPO paid a bonus of 0.25 for fact tokens, which only some arms can earn."
    assert flag in (climbed_copy / "report.md").read_text()


def test_without_the_bonus_there_is_no_flag(climbed):
    assert "GRPO paid" not in (climbed.folder / "report.md").read_text()


# exposure after pretraining


def worked(completion):
    """The fact that a one-step solution multiplies or divides by."""
    step = re.match(r" (\d+)([*/+-])(\d+)=<<\1\2\3=(\d+)>>\4\n#### \4$", completion)
    a, sign, b, c = int(step[1]), step[2], int(step[3]), int(step[4])
    if sign == "*":
        return TIMES_TABLE.of(a, b)
    return TIMES_TABLE.of(b, c) if sign == "/" else None


def test_exposure_counts_what_sft_states_and_what_sft_and_grpo_ask(climbed):
    exposure = read_json(climbed.folder / "corpus" / "exposure.json")["after_pretraining"]
    assert set(exposure) == {"1", "2"}
    for seed in (1, 2):
        never = TIMES_TABLE.never_asked(seed, 3)
        train = WordProblems(60, 1, 0, never).examples("train")
        facts = [worked(example.completion) for example in train]
        asked = Counter(fact.equation for fact in facts if fact)
        products = [fact for fact, example in zip(facts, train, strict=True) if "*" in example.completion]
        stated = Counter(fact.equation for fact in products)
        assert 30 < stated.total() <= asked.total() < 60
        sft, grpo = exposure[str(seed)]["sft"], exposure[str(seed)]["grpo"]
        assert (sft["rows"], grpo["rows"]) == (60, 60)
        assert sft["stated"] == stated
        assert grpo["stated"] == {}  # it never sees a gold solution
        assert sft["asked"] == grpo["asked"] == asked
        assert sft["problems"] == grpo["problems"] == []
        assert not {fact for fact in facts if fact} & never


def test_a_row_that_asks_a_never_asked_fact_stops_the_trial(ladder, tmp_path, inline):
    fact = min(TIMES_TABLE.never_asked(1, 3))
    row = {
        "prompt": f"User: What is {fact.operands[0]} times {fact.operands[1]}?\nAssistant:",
        "completion": f" {int(fact.answer)}",
    }
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    source = f"sft={{stages: [{{sources: [{{source: 'jsonl:{tmp_path}/rows.jsonl'}}]}}]}}"
    with pytest.raises(TrialError, match=rf"asked: sft, seed 1, asks {re.escape(fact.equation)}"):
        run(ladder(tmp_path / "run", source), ("corpus",))


# what is done and what is next


def test_a_second_run_starts_no_worker_and_ends_with_the_same_report(climbed, no_workers):
    before, report = snapshot(climbed.folder, *STAGES[2:]), read_json(climbed.folder / "comparison_report.json")
    assert run(climbed) == report
    assert snapshot(climbed.folder, *STAGES[2:]) == before


@pytest.mark.parametrize(
    ("override", "stale"),
    [
        ("grpo.lr=0.002", ["grpo", "eval_grpo"]),
        ("grpo.kl=0", ["grpo", "eval_grpo"]),
        ("grpo.format_bonus=0.1", ["grpo", "eval_grpo"]),
        ("grpo.temperature=0.8", ["eval_sft", "grpo", "eval_grpo"]),  # pass@k is drawn at it
        ("grpo.generations=4", ["eval_sft", "grpo", "eval_grpo"]),
        ("sft.batch=4", ["sft", "eval_sft", "grpo", "eval_grpo"]),
        ("sft.held=5", ["sft", "eval_sft", "grpo", "eval_grpo"]),
        ("evaluate.limit=9", ["eval_pretrain", "eval_sft", "eval_grpo"]),
        ("evaluate.probes_each=3", ["eval_pretrain", "eval_sft", "eval_grpo"]),
        ("pretrain.lr=0.007", [*STAGES]),
        ("grpo=null", ["eval_sft"]),  # it held pass@k
    ],
)
def test_a_setting_redoes_its_own_stage_and_what_is_made_from_it(climbed, ladder, override, stale):
    assert Cell("mul_tokens", 1).pending(CorpusPlan(ladder(climbed.folder, override))) == stale


def test_other_made_up_problems_redo_what_read_them(climbed, monkeypatch):
    monkeypatch.setattr(WordProblems, "version", WordProblems.version + 1)
    read_them = ["eval_pretrain", "sft", "eval_sft", "grpo", "eval_grpo"]
    assert Cell("mul_tokens", 1).pending(CorpusPlan(climbed)) == read_them


def test_other_rows_in_a_file_redo_what_is_made_from_them(climbed, ladder, tmp_path):
    """Each file is known by its content, the first of two as well."""
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    sources = ", ".join(f"{{source: 'jsonl:{tmp_path}/{name}.jsonl'}}" for name in "ab")
    trial = ladder(climbed.folder, f"sft.stages=[{{sources: [{sources}]}}]")
    prints = [Cell("baseline", 1).fingerprints(CorpusPlan(trial))]
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text('{"prompt": "a", "completion": "c"}\n')
        prints.append(Cell("baseline", 1).fingerprints(CorpusPlan(trial)))
    for stage in STAGES:
        assert len({made[stage] for made in prints}) == (3 if stage in STAGES[3:] else 1), stage


@pytest.mark.slow
def test_a_changed_grpo_leaves_the_files_of_all_before_it(climbed_copy, ladder, inline):
    before = snapshot(climbed_copy, "pretrain", "hf", "eval_pretrain", "sft", "eval_sft")
    old = snapshot(climbed_copy, "grpo", "eval_grpo")
    run(ladder(climbed_copy, *ONE_SEED, "grpo.lr=0.002"))
    assert snapshot(climbed_copy, "pretrain", "hf", "eval_pretrain", "sft", "eval_sft") == before
    new = snapshot(climbed_copy, "grpo", "eval_grpo")
    assert {path for path in old if new[path] != old[path]} == {path for path in old if "/seed1/" in str(path)}


@pytest.mark.slow
def test_a_changed_sft_leaves_pretraining(climbed_copy, ladder, inline):
    before = snapshot(climbed_copy, "pretrain", "hf", "eval_pretrain")
    old = snapshot(climbed_copy, "sft", "eval_sft", "grpo", "eval_grpo")
    run(ladder(climbed_copy, *ONE_SEED, "sft.warmup=0"))
    assert snapshot(climbed_copy, "pretrain", "hf", "eval_pretrain") == before
    new = snapshot(climbed_copy, "sft", "eval_sft", "grpo", "eval_grpo")
    assert {path for path in old if new[path] != old[path]} == {path for path in old if "/seed1/" in str(path)}


def test_a_trial_has_the_stages_it_asks_for(ladder, tmp_path):
    assert stage_names(ladder(tmp_path)) == [*STAGES]
    assert stage_names(ladder(tmp_path, "grpo=null")) == [*STAGES[:5]]
    assert stage_names(ladder(tmp_path, "sft=null")) == [*STAGES[:3], *STAGES[5:]]


# nothing to learn from


@pytest.fixture
def before_grpo(climbed_copy):
    """A copy of the run as it is when GRPO is next; `passed(cell, value)` writes what it measured."""
    for path in [*climbed_copy.glob("*/seed*/grpo"), *climbed_copy.glob("*/seed*/eval_grpo")]:
        shutil.rmtree(path)
    for name in ("grpo_decision.json", "comparison_report.json", "report.md"):
        (climbed_copy / name).unlink()

    def passed(cell, value):
        path = climbed_copy / cell / "eval_sft" / "pass_at_k.json"
        path.write_text(re.sub(r'("pass_at_k": )([0-9.]+)', lambda m: m[1] + value, path.read_text()))
        wanted = read_json(path.with_name("manifest.json"))["fingerprint"]
        path.with_name("manifest.json").unlink()
        write_manifest(path.parent, wanted)

    for path in climbed_copy.glob("*/seed*/eval_sft/pass_at_k.json"):
        passed(path.relative_to(climbed_copy).parts[0] + "/" + path.parts[-3], "0.0")
    return climbed_copy, passed


def test_a_skipped_grpo_leaves_no_folder_and_is_done(before_grpo, ladder, inline, capsys):
    folder, _ = before_grpo
    trial = ladder(folder, "grpo.on_zero=skip")
    report = run(trial)
    assert "RL has nothing to learn from; grpo.on_zero is 'skip'" in capsys.readouterr().err
    assert not [*folder.glob("*/seed*/grpo*"), *folder.glob("*/seed*/eval_grpo*")]
    assert report["stages"] == ["pretrain", "sft"]
    assert report["missing"] == []
    assert report["grpo"]["go_on"] is False
    note = "GRPO skipped: pass@k is zero in every cell, there is nothing to learn from."
    assert note in (folder / "report.md").read_text()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "LocalExecutor", lambda *given: pytest.fail("a worker was started"))
        assert run(trial) == report


@pytest.mark.slow
def test_one_cell_that_is_ever_right_is_enough_for_all(before_grpo, ladder, inline):
    folder, passed = before_grpo
    passed("mul_tokens/seed2", "0.5")
    report = run(ladder(folder, "grpo.on_zero=skip"))
    assert len([*folder.glob("*/seed*/grpo/grpo_results.json")]) == 4
    assert report["stages"] == ["pretrain", "sft", "grpo"]
    assert report["grpo"]["go_on"] is True


def test_one_stage_at_a_time_it_is_not_skipped_before_all_is_measured(before_grpo, ladder, inline):
    folder, passed = before_grpo
    trial = ladder(folder, "grpo.on_zero=skip")
    passed("baseline/seed1", "0.5")
    shutil.rmtree(folder / "baseline" / "seed1" / "eval_sft")
    run(trial, ("corpus",))
    with pytest.raises(TrialError, match=r"not measured yet in baseline/seed1.*run `tokentrial evaluate`"):
        run(trial, ("grpo",))
    # and evaluating needs no GRPO
    assert evaluations(trial, cells(trial)) == ["eval_pretrain", "eval_sft"]
    run(trial, evaluations(trial, cells(trial)), [Cell("baseline", 1)])
    assert (folder / "baseline" / "seed1" / "eval_sft" / "pass_at_k.json").exists()


def test_evaluations_are_those_of_stages_that_are_done(climbed, ladder, tmp_path):
    assert evaluations(climbed, cells(climbed)) == ["eval_pretrain", "eval_sft", "eval_grpo"]
    assert evaluations(ladder(tmp_path / "run"), cells(climbed)) == ["eval_pretrain"]


# killed


def killed(trial, words, moment):
    """Start the run, wait for the moment, kill it with all its workers."""
    process = subprocess.Popen(
        words, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
    )
    end = time.monotonic() + PATIENCE_S
    while not any(trial.folder.glob(moment)):
        assert time.monotonic() < end, "waited in vain"
        assert process.poll() is None, f"it ended before {moment} was there"
        time.sleep(0.005)
    process.kill()  # its workers die with it
    process.communicate()
    time.sleep(1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment",
    [
        "baseline/seed1/sft.partial",
        "baseline/seed1/sft.checkpoints/*/0/checkpoint-*/model.safetensors",
        "*/seed1/sft.checkpoints/*/0/checkpoint-*/manifest.json",
        "*/seed1/grpo.partial",
        "*/seed1/grpo.checkpoints/*/checkpoint-*/optimizer.pt",
        "*/seed1/grpo.checkpoints/*/checkpoint-2/manifest.json",
    ],
)
def test_killed_during_sft_or_grpo_it_goes_on(climbed_copy, climbed, ladder, tmp_path, moment):
    stage = "sft" if "/sft" in moment else "grpo"
    trial = ladder(climbed_copy, *ONE_SEED, "workers=2")
    for arm in trial.arms:
        for name in ("sft", "eval_sft", "grpo", "eval_grpo")[0 if stage == "sft" else 2 :]:
            shutil.rmtree(climbed_copy / arm / "seed1" / name)
    path = tmp_path / "trial.yaml"
    path.write_text(yaml.safe_dump(trial.model_dump(mode="json")))
    words = [sys.executable, "-m", "tokentrial", "run", str(path)]
    killed(trial, words, moment)
    again = subprocess.run(words, cwd=ROOT, capture_output=True, timeout=PATIENCE_S, check=False)
    assert again.returncode == 0, again.stderr.decode()
    assert "Traceback" not in again.stderr.decode()
    for arm in trial.arms:
        cell = Cell(arm, 1)
        for name in ("sft", "grpo"):
            done, undisturbed = (cell.folder(t, name) / "model.safetensors" for t in (trial, climbed))
            assert done.read_bytes() == undisturbed.read_bytes(), (arm, name)
        for name in ("sft", "grpo"):
            assert samples(trial, cell, name) == samples(climbed, cell, name)
    assert not [*trial.folder.rglob("*.partial"), *trial.folder.rglob("*.checkpoints")]
