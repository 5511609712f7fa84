"""Variants of a trial: the grid of a sweep, reruns of the primary contrast, what they share, what the report says."""

import math
import shutil
from statistics import mean, stdev

import pytest
from scipy import stats

from tokentrial.corpus.prepare import CorpusPlan
from tokentrial.errors import SettingsError
from tokentrial.report.analysis import analyse
from tokentrial.report.comparison import REPORT, VERSION
from tokentrial.report.forest import forest_alt
from tokentrial.report.page import page
from tokentrial.report.results import CellResults
from tokentrial.report.sweep_curves import swept_outcomes
from tokentrial.report.text_report import markdown, sweep_table
from tokentrial.report.variants import Rerun, variant_reports
from tokentrial.run import run as runs
from tokentrial.run.check import check
from tokentrial.run.declaration import declaration
from tokentrial.run.run import rebuild, run
from tokentrial.run.run_folder import status
from tokentrial.steps.cell import Cell
from tokentrial.store.files import read_json
from tokentrial.trial.declaration import Declared
from tokentrial.trial.sweep import to_run, variants

PRIMARY = "pretrain/mul_table/never_asked/accuracy"
PAIR = "mul_tokens - baseline"
SWEEP = "sweep={pretrain.n_layer: [1, 2]}"
T_975_DF1 = 12.706  # Student's t, two-sided 95 %, one degree of freedom: any table of it


# which variants there are


def test_the_grid_is_every_combination_in_order_each_in_a_folder_of_its_own(tiny, tmp_path):
    trial = tiny(tmp_path, "sweep={corpus.drills.share: [0, 0.3], pretrain.n_layer: [2, 3]}")
    found = variants(trial)
    points = [(v.trial.corpus.drills.share, v.trial.pretrain.n_layer) for v in found]
    assert points == [(0, 2), (0, 3), (0.3, 2), (0.3, 3)]
    assert found[1].trial.folder == tmp_path / "sweep" / "corpus.drills.share=0,pretrain.n_layer=3"
    for variant in found:
        same = variant.trial.model_dump(exclude={"output", "sweep", "corpus", "pretrain"})
        assert same == trial.model_dump(exclude={"output", "sweep", "corpus", "pretrain"})
        assert not variant.trial.sweep
    # a point where the trial itself stands is not run again; a size brings its shape with it
    trial = tiny(tmp_path, SWEEP)
    assert [v.is_itself for v in variants(trial)] == [True, False]
    assert [v.name for v in to_run(trial)] == ["pretrain.n_layer=2"]
    assert variants(trial)[0].trial.folder == trial.folder
    sizes = variants(tiny(tmp_path, "sweep={pretrain.size: [gpt2, gpt2-medium]}"))
    assert [(v.trial.pretrain.n_layer, v.trial.pretrain.n_embd) for v in sizes] == [(12, 768), (24, 1024)]


def test_what_is_swept_is_declared_and_a_trial_without_says_nothing_of_it(finished, tiny, tmp_path):
    assert declaration(tiny(tmp_path, SWEEP))["sweep"] == {"pretrain.n_layer": [1, 2]}
    rerun = declaration(tiny(tmp_path, "robustness_reruns=[budget.match=bytes]"))
    assert rerun["robustness_reruns"] == ["budget.match=bytes"]
    report = read_json(finished.folder / "comparison_report.json")
    assert 'id="sweep"' not in page(report, {})
    assert "What was swept" not in markdown(report)


def test_a_rerun_has_the_two_arms_of_the_primary_contrast(tiny, tmp_path):
    trial = tiny(
        tmp_path,
        "arms=[baseline,mul_tokens,mul_append]",
        f"verdict.secondary=[{{outcome: {PRIMARY}, contrast: mul_append - baseline}}]",
        "robustness_reruns=[budget.match=bytes]",
    )
    [rerun] = variants(trial)
    assert (rerun.trial.arms, rerun.trial.control) == (["baseline", "mul_tokens"], "baseline")
    assert (rerun.trial.budget.match, rerun.trial.verdict.secondary) == ("bytes", [])
    assert rerun.trial.folder == tmp_path / "also" / "budget.match=bytes"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sweep={pretrain.n_layers: [1]}", "sweep pretrain.n_layers=1:\n  pretrain.n_layers: unknown setting; did you"),
        ("sweep={pretrain.n_layer: [1, x]}", "sweep pretrain.n_layer=x:\n  pretrain.n_layer: found 'x'"),
        ("sweep={pretrain.n_layer: []}", "sweep.pretrain.n_layer: found []"),
        ("sweep={seeds: [[1], [2]]}", "sweep: found seeds, expected a setting of tokenizer, corpus"),
        ("sweep={pretrain.device: [cpu]}", "sweep: found pretrain.device, expected a setting"),
        ("sweep={pretrain.recipe: [fast]}", "give what the recipe sets instead"),
        ("sweep={pretrain.n_layer: [2, 2]}", "would hold two variants; give each value once"),
        ("sweep={pretrain.checkpoint.interval: [1, 2]}", "sweep: found pretrain.checkpoint.interval, expected"),
        # what would be trained again: equal after parsing, read by no stage, the trial itself
        ("sweep={pretrain.n_layer: [2, 0x2]}", "would hold two variants"),
        ("sweep={corpus.drills.share: [0, 0.0, 0.5]}", "corpus.drills.share=0.0 is the same experiment as "),
        ("sweep={pretrain.decay_ratio: [0.1, 0.2], pretrain.schedule: [cosine]}", "is the same experiment as"),
        ("sweep={pretrain.optimizer: [adamw], pretrain.muon_lr: [0.1, 0.2]}", "is the same experiment as"),
        ("sweep={tokenizer.rewrite: [true, false]}", "is the same experiment as the trial itself"),
        ("sweep={tasks.word_problems.rows: [90, 80]}", "is the same experiment as the trial itself"),
        ("sweep={evaluate.limit: [3]}", "is the same experiment as the trial itself"),
        ("robustness_reruns=[budget.match=tokens]", "is the same experiment as the trial itself"),
        ("robustness_reruns=[grpo.lr=1e-5]", "robustness_reruns: found grpo.lr, but grpo is null"),
        ("robustness_reruns=[budget.match]", "'budget.match': expected key=value"),
        (
            "robustness_reruns=[budget.match=lines]",
            "robustness_reruns budget.match=lines:\n  budget.match: found 'lines'",
        ),
    ],
)
def test_a_variant_that_is_no_trial_is_refused_before_anything_is_written(tiny, tmp_path, override, message):
    with pytest.raises(SettingsError) as caught:
        check(tiny(tmp_path / "run", override))
    assert message in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_folder_is_named_by_its_settings_as_far_as_file_systems_allow(tiny, tmp_path):
    swept = ("lr", "warmup_ratio", "weight_decay", "grad_clip", "min_lr_ratio", "decay_ratio", "muon_lr", "steps")
    values = ", ".join(f"pretrain.{name}: [1]" for name in swept)
    folders = [
        variant.trial.folder
        for more in ("0.11", "0.12")
        for variant in to_run(tiny(tmp_path, f"sweep={{{values}, corpus.drills.share: [{more}],"
                                   " corpus.drills.lines: [1], corpus.val_share: [0.11]}"))
    ]  # fmt: skip
    for folder in folders:
        folder.mkdir(parents=True)
    assert len(set(folders)) == 2
    assert folders[0].name.startswith("pretrain.lr=1,")


def test_two_budgets_are_told_apart_by_the_difference_of_their_differences(tiny, tmp_path):
    """The same difference under both rules, significant under one of them alone, shows no dependence on the rule."""
    trial = tiny(tmp_path, "seeds=[1,2,3,4,5,6]", "verdict.gate=null")
    tokens = [0.30, 0.31, 0.29, 0.32, 0.28, 0.30]
    under_bytes = [0.9, -0.3, 0.8, -0.2, 0.7, -0.1]
    cells = {("baseline", seed): CellResults({PRIMARY: 0.0}) for seed in trial.seeds}
    cells |= {
        ("mul_tokens", seed): CellResults({PRIMARY: value}) for seed, value in zip(trial.seeds, tokens, strict=True)
    }
    values = dict(zip(trial.seeds, under_bytes, strict=True))
    again = Rerun("budget.match=bytes", {"baseline": dict.fromkeys(trial.seeds, 0.0), "mul_tokens": values}, True)
    declared = Declared(trial.arms, trial.seeds, trial.control, trial.verdict)
    found = analyse(cells, declared, table="mul_table", choice_floor=-3.0, arms=trial.arms, seeds=trial.seeds,
                    reruns=[again])  # fmt: skip
    primary, check_of = found.contrasts[:2]
    assert primary["p"] < 0.05 < check_of["p"]
    assert (check_of["role"], check_of["verdict"]) == ("again with budget.match=bytes", None)
    peer = stats.ttest_rel(tokens, under_bytes)
    assert found.budgets["p"] == pytest.approx(peer.pvalue)
    assert found.budgets["interval"] == pytest.approx([*peer.confidence_interval(0.95)])
    other = analyse(cells, declared, table="mul_table", choice_floor=-3.0, arms=trial.arms, seeds=trial.seeds,
                    reruns=[again._replace(is_other_budget=False)])  # fmt: skip
    assert other.budgets is None


# a whole family


DOSES = "sweep={corpus.drills.share: [0.6, 0.5]}"


@pytest.fixture(scope="module")
def family(tiny, in_process, tmp_path_factory):
    """A trial with another dose and a byte-matched rerun, run to its report. Not to be changed."""
    folder = tmp_path_factory.mktemp("family") / "run"
    trial = tiny(folder, DOSES, "robustness_reruns=[budget.match=bytes]")
    with pytest.MonkeyPatch.context() as patch:
        in_process(patch)
        assert run(trial)
    return trial


@pytest.fixture(scope="module")
def report(family):
    return read_json(family.folder / "comparison_report.json")


def folder_of(trial, **settings):
    [found] = [v.trial.folder for v in variants(trial) if v.settings == settings]
    return found


@pytest.mark.slow
def test_every_variant_is_a_whole_run_that_shares_what_is_the_same(family, no_workers):
    def inodes(folder, pattern):
        return {path.name: path.stat().st_ino for path in (folder / "corpus").glob(pattern)}

    text, drills = inodes(family.folder, "*.npy"), inodes(family.folder, "drills/*/*.npy")
    assert text
    assert drills
    for variant in to_run(family):
        own = read_json(variant.trial.folder / "comparison_report.json")
        assert own["missing"] == []
        assert own["declared"]["primary"] == declaration(family)["verdict"]["primary"]
        assert inodes(variant.trial.folder, "*.npy") == text
        same_dose = variant.trial.corpus.drills.share == 0.6
        assert (inodes(variant.trial.folder, "drills/*/*.npy") == drills) == same_dose
    assert len(to_run(family)) == 2
    served = read_json(family.folder / "also" / "budget.match=bytes" / "corpus" / "exposure.json")["served"]
    assert served["mul_tokens"]["1"]["steps"] < served["baseline"]["1"]["steps"] == family.pretrain.steps
    state = status(family.folder)
    assert len(state["cells"]) == 4 + 4 + 4
    assert all(all(stages.values()) for stages in state["cells"].values())
    before = (family.folder / "comparison_report.json").read_bytes()
    assert run(family)  # and there is nothing more to do
    assert (family.folder / "comparison_report.json").read_bytes() == before


@pytest.mark.slow
def test_a_variant_gives_what_the_same_trial_gives_alone(family, tiny, tmp_path, inline):
    alone = tiny(tmp_path / "alone", "corpus.drills.share=0.5")
    run(alone, ("corpus", "pretrain"), [Cell(arm, 1) for arm in alone.arms])
    swept = folder_of(family, **{"corpus.drills.share": 0.5})
    for arm in alone.arms:
        cells = [folder / arm / "seed1" / "pretrain" for folder in (alone.folder, swept)]
        losses = [read_json(cell / "results.json")["train_losses"] for cell in cells]
        assert losses[0] == losses[1]
        prints = {read_json(cell / "manifest.json")["fingerprint"] for cell in cells}
        assert prints == {Cell(arm, 1).fingerprints(CorpusPlan(alone))["pretrain"]}


@pytest.mark.slow
def test_each_point_has_the_mean_over_seeds_with_its_t_interval_and_the_contrast(family, report):
    assert len(report["sweep"]["points"]) == 2
    for point in report["sweep"]["points"]:
        own = read_json(folder_of(family, **point["settings"]) / "comparison_report.json")["outcomes"][PRIMARY]
        shown = point["outcomes"][PRIMARY]
        for arm, values in own["per_seed"].items():
            assert shown["arms"][arm]["mean"] == pytest.approx(mean(values))
            if stdev(values):
                half = T_975_DF1 * stdev(values) / math.sqrt(2)
                expected = [mean(values) - half, mean(values) + half]
                assert shown["arms"][arm]["ci95"] == pytest.approx(expected, rel=1e-3)
        differences = [b - a for a, b in zip(own["per_seed"]["baseline"], own["per_seed"]["mul_tokens"], strict=True)]
        assert shown["contrasts"][PAIR]["mean"] == pytest.approx(mean(differences))


@pytest.mark.slow
def test_the_rerun_stands_beside_the_primary_and_has_no_verdict(family, report):
    own = read_json(family.folder / "also" / "budget.match=bytes" / "comparison_report.json")
    first, second, *others = (c for c in report["contrasts"] if c["role"] != "exploratory")
    assert (first["role"], second["role"]) == ("primary", "again with budget.match=bytes")
    assert second["verdict"] is None
    assert second["differences"] == own["contrasts"][0]["differences"]
    assert report["budgets"]["difference"] == pytest.approx(first["difference"] - second["difference"])
    assert all(c["role"] == "secondary" for c in others)
    assert "again with budget.match=bytes: " in forest_alt(report)
    assert forest_alt(report).startswith("Forest plot of 2 declared contrasts.")
    assert "| again with budget.match=bytes |" in markdown(report)
    assert len([line for line in markdown(report).splitlines() if "a check, no verdict" in line]) == 2


@pytest.mark.slow
def test_the_page_shows_the_sweep_outcome_by_outcome(family, report):
    header, rows = sweep_table(report)
    assert header[:2] == ["outcome", "corpus.drills.share"]
    assert [row[1] for row in rows if row[0] == PRIMARY] == ["0.6", "0.5"]
    outcomes = list(dict.fromkeys(pair["outcome"] for pair in (family.verdict.model_dump()["primary"],
                                                               *family.verdict.model_dump()["secondary"])))  # fmt: skip
    assert swept_outcomes(report) == outcomes
    html = (family.folder / "report.html").read_text()
    assert html.count('aria-label="Curves of') == len(outcomes)
    assert 'href="#sweep"' in html
    assert {f"sweep{n}.svg" for n in (1, 2)} <= {path.name for path in (family.folder / "figures").iterdir()}


@pytest.mark.slow
def test_only_what_is_new_is_run_and_another_dose_shows_no_old_result(family, tiny, tmp_path, inline, monkeypatch):
    shutil.copytree(family.folder, tmp_path / "run")
    sweep = "sweep={corpus.drills.share: [0.6, 0.7]}"
    worked, do = [], runs._run_cells
    monkeypatch.setattr(
        runs, "_run_cells", lambda plan, *given: (worked.append(plan.trial.folder.name), do(plan, *given))
    )
    run(tiny(tmp_path / "run", sweep), ("corpus", "pretrain"), [Cell("baseline", 1)])
    assert worked == ["corpus.drills.share=0.7"]
    points = rebuild(tmp_path / "run")["sweep"]["points"]
    assert [bool(point["outcomes"]) for point in points] == [True, False]


@pytest.mark.slow
def test_a_report_of_other_settings_is_not_taken_for_the_variant_s(family):
    there = [made for _, made in variant_reports(family, REPORT, VERSION)]
    assert [made is None for made in there] == [True, False, False]  # the first is the trial itself
    longer = family.model_copy(update={"pretrain": family.pretrain.model_copy(update={"steps": 24})})
    assert not any(made for _, made in variant_reports(longer, REPORT, VERSION))
    elsewhere = family.model_copy(update={"workers": 3})
    assert [made for _, made in variant_reports(elsewhere, REPORT, VERSION)] == there


def test_a_family_is_run_by_one_command_with_one_flag(tokentrial, tiny, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "tokentrial.trial.load.load", lambda *given: tiny(tmp_path / "run", "robustness_reruns=[pretrain.steps=30]")
    )
    monkeypatch.setattr("tokentrial.run.run.run", lambda trial, *given: seen.append(trial))
    code, _, err = tokentrial("run", "smoke", "--also", "budget.match=bytes", "--also", "pretrain.steps=30")
    assert (code, err) == (0, "")
    assert seen[0].robustness_reruns == ["pretrain.steps=30", "budget.match=bytes"]
