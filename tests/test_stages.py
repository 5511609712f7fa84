"""The stages: pretraining, SFT, GRPO, an evaluation after each; what is redone, what is skipped, what is killed."""

import json
import re
import shutil
import signal
import subprocess
from collections import Counter
from statistics import mean, stdev

import pytest

from tests.test_interrupted_run import PATIENCE_S, ROOT, stop_at, written
from tokentrial.corpus.prepare import CorpusPlan
from tokentrial.errors import TrialError
from tokentrial.facts.families import TIMES_TABLE
from tokentrial.run.run import evaluations, run
from tokentrial.steps.cell import Cell, cells
from tokentrial.steps.stage import stage_names
from tokentrial.store.files import read_json
from tokentrial.store.folders import write_manifest
from tokentrial.tasks.word_problems import WordProblems

STAGES = ("pretrain", "export", "eval_pretrain", "sft", "eval_sft", "grpo", "eval_grpo")
ONE_SEED = ("seeds=[1]",)


def samples(trial, cell, stage):
    path = cell.folder(trial, f"eval_{stage}") / "samples.jsonl"
    return [json.loads(line) for line in path.read_bytes().splitlines()]


# the report


def test_every_outcome_stands_after_every_stage(climbed):
    report = read_json(climbed.folder / "comparison_report.json")
    assert (report["stages"], report["missing"]) == (["pretrain", "sft", "grpo"], [])
    by_stage = {}
    for name, outcome in report["outcomes"].items():
        stage, _, rest = name.partition("/")
        by_stage.setdefault(stage, set()).add(rest)
        assert all(None not in values and len(values) == 2 for values in outcome["per_seed"].values()), name
    assert by_stage["pretrain"] == by_stage["sft"] == by_stage["grpo"]
    assert {f"word_problems/all/{metric}" for metric in ("accuracy", "accuracy_flexible", "gold_nats_per_byte")} | {
        "mul_table/never_asked/accuracy",
        "heldout_text/untouched/bits_per_byte",
    } <= by_stage["sft"]


def test_the_ladder_s_figures_are_those_of_the_samples(climbed):
    text = (climbed.folder / "report.md").read_text()
    table = text.partition("## Stage by stage")[2].partition("\n## ")[0]
    assert "| outcome | arm | pretrain | sft | grpo |" in table
    assert "GRPO paid" not in text  # no bonus that only some arms can earn
    for key in ("gold_nats_per_byte", "fact_tokens"):
        for arm in climbed.arms:
            [line] = [x for x in table.splitlines() if x.startswith(f"| word_problems/all/{key} | {arm} |")]
            shown = [cell.strip() for cell in line.strip("| ").split(" | ")][2:]
            for stage, figure in zip(("pretrain", "sft", "grpo"), shown, strict=True):
                of_seeds = [samples(climbed, Cell(arm, seed), stage) for seed in (1, 2)]
                values = [mean(row[key] for row in rows if row["task"] == "word_problems") for rows in of_seeds]
                assert figure == f"{mean(values):.3f} ± {stdev(values):.3f}"


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
    report = run(ladder(climbed_copy, *ONE_SEED, "grpo.fact_token_bonus=0.25"), overwrite=True)
    assert report["grpo"]["fact_token_bonus"] == 0.25
    flag = "GRPO paid a bonus of 0.25 for fact tokens, which only some arms can earn."
    assert flag in (climbed_copy / "report.md").read_text()


# exposure after pretraining


def test_exposure_counts_what_sft_states_and_what_sft_and_grpo_ask(climbed):
    exposure = read_json(climbed.folder / "corpus" / "exposure.json")["after_pretraining"]
    assert set(exposure) == {"1", "2"}
    for seed in (1, 2):
        never, asked, stated = TIMES_TABLE.never_asked(seed, 3), Counter(), Counter()
        for row in WordProblems(60, 1, 0, never).examples("train"):
            step = re.match(r" (\d+)([*/+-])(\d+)=<<\1\2\3=(\d+)>>\4\n#### \4$", row.completion)
            a, b, c = (int(step[group]) for group in (1, 3, 4))
            if step[2] in "*/":
                fact = TIMES_TABLE.of(a, b) if step[2] == "*" else TIMES_TABLE.of(b, c)
                assert fact not in never
                asked[fact.equation] += 1
                stated[fact.equation] += step[2] == "*"
        assert 30 < stated.total() <= asked.total() < 60
        sft, grpo = exposure[str(seed)]["sft"], exposure[str(seed)]["grpo"]
        assert (sft["rows"], grpo["rows"]) == (60, 60)
        assert sft["stated"] == +stated
        assert grpo["stated"] == {}  # it never sees a gold solution
        assert sft["asked"] == grpo["asked"] == asked
        assert sft["problems"] == grpo["problems"] == []


def test_a_row_that_asks_a_never_asked_fact_stops_the_trial(ladder, climbed_copy, tmp_path, inline):
    fact = min(TIMES_TABLE.never_asked(1, 3))
    question = "User: What is {} times {}?\nAssistant:".format(*fact.operands)
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": question, "completion": f" {fact.answer}"}) + "\n")
    source = f"sft={{stages: [{{sources: [{{source: 'jsonl:{tmp_path}/rows.jsonl'}}]}}]}}"
    with pytest.raises(TrialError, match=rf"asked: sft, seed 1, asks {re.escape(fact.equation)}"):
        run(ladder(climbed_copy, source), ("corpus",), overwrite=True)


# what is done and what is next


def test_a_setting_redoes_its_own_stage_and_what_is_made_from_it(climbed, ladder, monkeypatch):
    def pending(*overrides):
        return Cell("mul_tokens", 1).pending(CorpusPlan(ladder(climbed.folder, *overrides)))

    pretrain, export, eval_pretrain, sft, eval_sft, grpo, eval_grpo = STAGES
    for override, stale in {
        "grpo.lr=0.002": [grpo, eval_grpo],
        "grpo.format_bonus=0.1": [grpo, eval_grpo],
        "grpo.temperature=0.8": [eval_sft, grpo, eval_grpo],  # pass@k is drawn at it
        "sft.batch=4": [sft, eval_sft, grpo, eval_grpo],
        "sft.held=5": [sft, eval_sft, grpo, eval_grpo],
        "evaluate.limit=9": [eval_pretrain, eval_sft, eval_grpo],
        "pretrain.lr=0.007": [*STAGES],
        "grpo=null": [eval_sft],  # it held pass@k
    }.items():
        assert pending(override) == stale, override
    assert stage_names(ladder(climbed.folder, "sft=null")) == [pretrain, export, eval_pretrain, grpo, eval_grpo]
    monkeypatch.setattr(WordProblems, "version", WordProblems.version + 1)  # other made-up problems
    assert pending() == [eval_pretrain, sft, eval_sft, grpo, eval_grpo]


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


# nothing to learn from


def write_pass_at_k(folder, cell, value):
    """As if the cell had measured this after SFT."""
    path = folder / cell / "eval_sft" / "pass_at_k.json"
    path.write_text(re.sub(r'("pass_at_k": )([0-9.]+)', rf"\g<1>{value}", path.read_text()))
    wanted = read_json(path.with_name("manifest.json"))["fingerprint"]
    path.with_name("manifest.json").unlink()
    write_manifest(path.parent, wanted)


@pytest.fixture
def before_grpo(climbed_copy):
    """A copy of the run as it is when GRPO is next, no cell ever right."""
    for path in [*climbed_copy.glob("*/seed*/grpo"), *climbed_copy.glob("*/seed*/eval_grpo")]:
        shutil.rmtree(path)
    for name in ("grpo_decision.json", "comparison_report.json", "report.md"):
        (climbed_copy / name).unlink()
    for path in climbed_copy.glob("*/seed*"):
        write_pass_at_k(climbed_copy, path.relative_to(climbed_copy), 0.0)
    return climbed_copy


def test_a_skipped_grpo_leaves_no_folder_and_is_done(before_grpo, ladder, no_workers, capsys):
    trial = ladder(before_grpo, "grpo.on_zero=skip")
    report = run(trial)
    assert "RL has nothing to learn from; grpo.on_zero is 'skip'" in capsys.readouterr().err
    assert not [*before_grpo.glob("*/seed*/grpo*"), *before_grpo.glob("*/seed*/eval_grpo*")]
    assert (report["stages"], report["missing"]) == (["pretrain", "sft"], [])
    assert report["grpo"]["go_on"] is False
    note = "GRPO skipped: pass@k is zero in every cell; there is nothing to learn from."
    assert note in (before_grpo / "report.md").read_text()
    assert run(trial) == report


def test_it_is_not_skipped_before_all_is_measured(before_grpo, ladder, inline):
    trial = ladder(before_grpo, "grpo.on_zero=skip")
    shutil.rmtree(before_grpo / "baseline" / "seed1" / "eval_sft")
    with pytest.raises(TrialError, match=r"not measured yet in baseline/seed1.*run `tokentrial evaluate`"):
        run(trial, ("grpo",))
    # evaluating needs no GRPO
    assert evaluations(trial, cells(trial)) == ["eval_pretrain", "eval_sft"]
    run(trial, evaluations(trial, cells(trial)), [Cell("baseline", 1)])
    write_pass_at_k(before_grpo, "mul_tokens/seed2", 0.5)  # one cell that is ever right is enough for all
    run(trial, ("grpo",), [Cell("baseline", 1)])
    assert (before_grpo / "baseline" / "seed1" / "grpo" / "grpo_results.json").exists()
    assert read_json(before_grpo / "grpo_decision.json")["go_on"] is True


# under a launcher


@pytest.mark.slow
def test_sft_in_a_container_that_sets_a_group_s_variables_is_that_without(climbed_copy, climbed, ladder, monkeypatch):
    """As images and wrappers set them for whatever they start: accelerate would wait for three others at this port."""
    group = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4", "PMI_SIZE": "4"}
    group |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", "ACCELERATE_USE_FSDP": "true", "SLURM_PROCID": "1"}
    for name, value in group.items():
        monkeypatch.setenv(name, value)
    shutil.rmtree(climbed_copy / "baseline" / "seed1" / "sft")
    run(ladder(climbed_copy), ("sft",), [Cell("baseline", 1)])
    weights = "baseline/seed1/sft/model.safetensors"
    assert (climbed_copy / weights).read_bytes() == (climbed.folder / weights).read_bytes()


# killed


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
    trial, words = written(ladder(climbed_copy, *ONE_SEED, "workers=2"), tmp_path)
    for arm in trial.arms:
        for name in ("sft", "eval_sft", "grpo", "eval_grpo")[0 if stage == "sft" else 2 :]:
            shutil.rmtree(climbed_copy / arm / "seed1" / name)
    stop_at(words, trial.folder, moment, signal.SIGKILL)
    again = subprocess.run(words, cwd=ROOT, capture_output=True, timeout=PATIENCE_S, check=False)
    assert again.returncode == 0, again.stderr.decode()
    assert "Traceback" not in again.stderr.decode()
    for arm in trial.arms:
        cell = Cell(arm, 1)
        for name in ("sft", "grpo"):
            done, undisturbed = (cell.folder(t, name) / "model.safetensors" for t in (trial, climbed))
            assert done.read_bytes() == undisturbed.read_bytes(), (arm, name)
            assert samples(trial, cell, name) == samples(climbed, cell, name)
    assert not [*trial.folder.rglob("*.partial"), *trial.folder.rglob("*.checkpoints")]
