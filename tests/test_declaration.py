"""What is declared binds: nothing finished is replaced unasked, and what was made otherwise is exploratory for good."""

import json
import shutil

import pytest

from tests.conftest import Inline
from tokentrial.errors import Interrupted, SettingsError, TrialError
from tokentrial.facts.families import build_facts
from tokentrial.report.outcomes import known_outcomes
from tokentrial.report.results import read_outcomes
from tokentrial.run import run as runs
from tokentrial.run.check import check, measured_stages
from tokentrial.run.declaration import AGAIN, declaration
from tokentrial.run.run import rebuild, run
from tokentrial.run.run_folder import open_run, status, write_trial
from tokentrial.run.standing import standing
from tokentrial.store.files import json_bytes, read_json, write_json
from tokentrial.trial.declaration import declaration_hash, differences

PRIMARY = "pretrain/mul_table/never_asked/accuracy"


def contents(folder):
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in (".lock", "sources.json")]
    return {str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def verdicts(report):
    return [c["verdict"] for c in report["contrasts"] if c["role"] in ("primary", "secondary")]


# what it covers


@pytest.mark.parametrize(
    ("override", "covered"),
    [
        ("pretrain.lr=0.001", True),
        ("corpus.drills.share=0.5", True),
        ("evaluate.limit=7", True),
        ("budget.match=bytes", True),
        ("verdict.alpha=0.01", True),
        ("seeds=[1,2,3]", True),
        ("sft={stages: [{sources: [{source: word_problems}]}]}", True),
        ("sweep={pretrain.n_layer: [1, 2]}", True),
        ("pretrain.micro_batch=32", False),
        ("pretrain.device=auto", False),
        ("workers=1", False),
        ("output=elsewhere", False),
        ("storage=/tmp/there", False),
    ],
)
def test_the_hash_is_of_the_whole_experiment_and_not_of_where_it_is_computed(tiny, tmp_path, override, covered):
    one, other = (declaration(trial) for trial in (tiny(tmp_path), tiny(tmp_path, override)))
    assert (declaration_hash(one) != declaration_hash(other)) == covered


def test_the_hash_printed_before_the_run_is_that_of_the_run_its_results_and_its_report(
    tiny, tmp_path, tokentrial, finished, source
):
    (tmp_path / "trial.yaml").write_text((finished.folder / "trial.yaml").read_text())
    code, out, _ = tokentrial("declare", tmp_path / "trial.yaml", f"output={tmp_path / 'nowhere'}")
    printed = json.loads(out)["sha256"]
    assert code == 0
    assert not (tmp_path / "nowhere").exists()
    assert read_json(finished.folder / "declared.json")["sha256"] == printed
    manifests = list(finished.folder.glob("*/seed*/*/manifest.json"))
    assert {read_json(path)["declaration"] for path in manifests} == {printed}
    assert read_json(finished.folder / "comparison_report.json")["declaration"]["sha256"] == printed


def test_it_is_written_before_the_first_training_step(tiny, plan, tmp_path, monkeypatch):
    seen = []

    class Watched(Inline):
        def run(self, calls, on_report):
            if calls[0].function is runs.run_cell:
                seen.append(read_json(tmp_path / "run" / "declared.json")["declaration"])
                raise Interrupted("stopped")
            return super().run(calls, on_report)

    monkeypatch.setattr(runs, "LocalExecutor", Watched)
    trial = tiny(tmp_path / "run")
    run(trial, ("corpus",))
    assert not (tmp_path / "run" / "declared.json").exists()
    for settings in ((), ("pretrain.lr=0.001",)):  # no cell was begun: nothing was seen, and it is declared anew
        with pytest.raises(Interrupted):
            run(tiny(tmp_path / "run", *settings), ("pretrain",))
        assert seen[-1] == json.loads(json.dumps(declaration(tiny(tmp_path / "run", *settings))))
    other = tiny(tmp_path / "run", "corpus.drills.share=0.4")
    with pytest.raises(TrialError, match="would replace"):
        run(other)
    with pytest.raises(Interrupted):  # nor has a corpus that is made again shown anything
        run(other, overwrite=True)
    assert standing(other).departures == []


# what would replace or take over


def test_other_settings_do_not_replace_what_is_finished(finished_copy, tiny, no_workers):
    """A finished trial run again with another rate and without its stages; also by a stage alone."""
    before = contents(finished_copy)
    for stages in (None, ("corpus",), ("pretrain",)):
        with pytest.raises(TrialError) as refused:
            run(tiny(finished_copy, "pretrain.lr=0.001", "pretrain.steps=10"), stages)
        assert "mul_tokens/seed2: pretrain" in str(refused.value)
        assert "settings.pretrain.lr: 0.001 instead of the declared 0.008" in str(refused.value)
    assert contents(finished_copy) == before


def test_what_would_be_lost_of_the_corpus_is_what_its_slowest_step_took(finished_copy, tiny, no_workers):
    (finished_copy / "corpus" / "manifest.json").write_bytes(
        json_bytes(read_json(finished_copy / "corpus" / "manifest.json") | {"seconds": 7200.0})
    )
    with pytest.raises(TrialError, match=r"corpus \(7,200 s\)"):
        run(tiny(finished_copy, "corpus.piece_characters=399"))


def test_what_is_replaced_when_asked_for_is_exploratory_also_after_the_way_back(finished_copy, tiny, inline, undrawn):
    first = read_json(finished_copy / "declared.json")
    assert None not in verdicts(rebuild(finished_copy))
    report = run(tiny(finished_copy, "pretrain.lr=0.001"), overwrite=True)
    assert verdicts(report) == [None, None]
    assert any(
        "settings.pretrain.lr: 0.001 instead of the declared 0.008, since 2" in line
        for line in report["declaration"]["departures"]
    )
    declared = read_json(finished_copy / "declared.json")
    assert {key: declared[key] for key in ("sha256", "declaration")} == {k: first[k] for k in ("sha256", "declaration")}
    assert declared["amendments"][0]["replaced"] == ["pretrain", "export", "eval_pretrain"]
    report = run(tiny(finished_copy), overwrite=True)
    assert verdicts(report) == [None, None]
    assert any(AGAIN in line for line in report["declaration"]["departures"])


def test_a_change_of_a_later_stage_leaves_the_verdicts_before_it(climbed_copy, ladder):
    trial = open_run(climbed_copy)
    declared = read_json(climbed_copy / "declared.json")
    declared["declaration"]["settings"]["grpo"]["lr"] = 0.5
    declared["sha256"] = declaration_hash(declared["declaration"])
    write_json(climbed_copy / "declared.json", declared)
    for path in climbed_copy.glob("*/seed*/*/manifest.json"):
        write_json(path, read_json(path) | {"declaration": declared["sha256"]})
    stands = standing(trial)
    assert list(stands.withheld) == ["grpo"]
    assert len(stands.departures) == 1


@pytest.mark.parametrize("harm", ["lost", "edited", "exchanged"])
def test_a_declaration_that_is_not_the_results_own_is_told_and_never_made_anew(
    finished_copy, tiny, no_workers, undrawn, harm
):
    path = finished_copy / "declared.json"
    declared = read_json(path)
    declared["declaration"]["verdict"]["alpha"] = 0.4
    match harm:
        case "lost":
            path.unlink()
        case "edited":
            write_json(path, declared)
        case "exchanged":
            write_json(path, declared | {"sha256": declaration_hash(declared["declaration"])})
    before = contents(finished_copy)
    with pytest.raises(TrialError, match=r"declared\.json"):
        run(tiny(finished_copy))
    assert contents(finished_copy) == before
    report = rebuild(finished_copy)
    assert verdicts(report) == [None, None]
    assert len(report["declaration"]["departures"]) >= 1
    report = run(tiny(finished_copy), overwrite=True)
    assert verdicts(report) == [None, None]


def test_what_is_no_declaration_is_named(finished_copy, tiny, no_workers):
    for content in ("", "[]", '{"declaration": {}}'):
        (finished_copy / "declared.json").write_text(content)
        for looked_at_by in (lambda: run(tiny(finished_copy)), lambda: rebuild(finished_copy)):
            with pytest.raises(TrialError, match=r"declared\.json: not a declaration"):
                looked_at_by()


def test_seeds_and_arms_that_are_added_do_not_enter_the_verdict(finished_copy, tokentrial, inline, undrawn):
    before = rebuild(finished_copy)
    code, _, err = tokentrial("extend", finished_copy, 1)
    assert code == 0, err
    report = read_json(finished_copy / "comparison_report.json")
    assert report["seeds"] == [1, 2, 3]
    assert report["outcomes"][PRIMARY]["per_seed"]["baseline"][2] is not None
    old, new = ([c for c in each["contrasts"] if c["role"] == "primary"] for each in (before, report))
    assert new == old
    assert report["declaration"]["departures"][0].startswith("seeds: 3 added, since 2")
    over_all, values = report["added"][0], report["outcomes"][PRIMARY]["per_seed"]
    assert (over_all["seeds"], over_all["role"], over_all["verdict"]) == ([1, 2, 3], "exploratory", None)
    differences = [a - b for a, b in zip(values[old[0]["treatment"]], values[old[0]["control"]], strict=True)]
    assert over_all["difference"] == pytest.approx(sum(differences) / 3)
    assert "With the added seeds, exploratory: " in (finished_copy / "report.md").read_text()


def test_an_extension_that_was_interrupted_is_finished_by_the_same_command(finished_copy, tokentrial, monkeypatch):
    """Two seeds are added; with none, one and both of them finished."""
    asked, done = [], {1, 2}
    monkeypatch.setattr("tokentrial.run.run.run", lambda trial: asked.append(trial.seeds))
    unfinished = lambda corpus, of: {cell: [] if cell.seed in done else ["pretrain"] for cell in of}  # noqa: E731
    monkeypatch.setattr("tokentrial.run.run_folder.to_do", unfinished)
    write_trial(open_run(finished_copy).model_copy(update={"seeds": [1, 2, 3, 4]}))
    for seeds, words in (([], [2]), ([3], [2]), ([3], []), ([3, 4], [2])):
        done.update(seeds)
        code, _, err = tokentrial("extend", finished_copy, *words)
        assert code == 0, err
    assert asked == [[1, 2, 3, 4]] * 3 + [[1, 2, 3, 4, 5, 6]]


# names that exist


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("verdict.primary.outcome=pretrain/mul_table/nevr_asked/acuracy", PRIMARY),
        ("verdict.primary.outcome=sft/mul_table/asked/accuracy", "pretrain/mul_table/asked/accuracy"),
        ("verdict.primary.outcome=pretrain/fact_table/asked/accuracy", "pretrain/mul_table/asked/accuracy"),
        ("verdict.primary.contrast=mul_token - baseline", "mul_token"),
        ("evaluate.tasks=[gsm8]", "gsm8k"),
        ("evaluate.tasks=['path:SVAMP.json']", "SVAMP.json"),
        ("sft={stages: [{sources: [{source: 'jsonl:rows.jsonl'}]}]}", "rows.jsonl"),
        ("sft={stages: [{sources: [{source: 'path:SVAMP.json'}]}]}", "evaluation only"),
        ("tasks.gsm8k=/data/gsm8k", "path:/data/gsm8k"),
        ("tasks.gsm8k=path:empty", "train.jsonl and test.jsonl"),
        ("evaluate.tasks=['data/SVAMP.json']", "did you mean path:data/SVAMP.json"),
        ("evaluate.tasks=['jsonl:rows.jsonl']", "SFT only"),
        ("sft={stages: [{sources: [{source: 'rows.jsonl'}]}]}", "or jsonl:rows.jsonl"),
        ("evaluate.tasks=['path:price_table.json']", "price_table"),
        ("evaluate.tasks=['path:cut.json']", r"evaluate.tasks: .*cut.json, row 2: no 'Answer'"),
        ("sft={stages: [{sources: [{source: 'jsonl:cut.json'}]}]}", r"sft.stages: .*cut.json, row 1: "),
        ("corpus.source=/data/web.parquet", "parquet:PATH"),
    ],
)
def test_names_that_stand_for_nothing_are_refused_before_anything_is_written(
    tiny, tmp_path, monkeypatch, override, named, no_workers
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cut.json").write_text('[{"Body": "a", "Question": "b", "Answer": 1}, {"Body": "a", "Question": "b"}]')
    more = ["evaluate.tasks=[gsm8k]"] if override.startswith("tasks.gsm8k") else []
    with pytest.raises(SettingsError, match=named):
        run(tiny(tmp_path / "run", override, *more))
    assert not [path for path in (tmp_path / "run").glob("*") if path.name != ".lock"]


def test_what_may_be_declared_is_what_is_measured(climbed, finished):
    for trial in (climbed, finished):
        measured = read_outcomes(trial.folder)
        known = known_outcomes(trial, measured_stages(trial))
        assert set(measured) <= set(known)
        # of a short evaluation some subsets have no item: solutions that state a fact, rewritten documents
        assert {name.rpartition("/")[0] for name in set(known) - set(measured)} <= {
            f"{stage}/{rest}"
            for stage in ("pretrain", "sft", "grpo")
            for rest in ("word_problems/with_site", "word_problems/without_site", "heldout_text/rewritten")
        }
        check(trial)


@pytest.mark.parametrize("name", ["2026-11-27", "null", "1e3"])
def test_a_run_folder_is_a_path_and_no_yaml(finished_copy, tmp_path, tokentrial, monkeypatch, undrawn, name):
    monkeypatch.chdir(tmp_path)
    finished_copy.rename(tmp_path / name)
    for verb in ("status", "report"):
        code, _, err = tokentrial(verb, name)
        assert code == 0, err
    assert str(open_run(tmp_path / name).folder).endswith(name)


# seeds that may be added


def looked_at(tiny, folder, *overrides):
    settings = ("seeds=[1,2,3]", "verdict.looks=[2,3]", "verdict.gate=null", "verdict.secondary=[]", *overrides)
    return tiny(folder, *settings)


def cells_of(folder):
    return sorted(
        str(path.parent.relative_to(folder).parent) for path in folder.glob("*/seed*/eval_pretrain/manifest.json")
    )


@pytest.mark.slow
def test_a_trial_stops_at_the_look_that_decides_and_else_goes_on_after_a_kill_too(
    tiny, tmp_path, inline, undrawn, monkeypatch
):
    """Both arms get no two-step problem right: no difference, so that it goes on. At alpha 0.49 and by bits of drills,
    which differ by far more than seeds do, it stops."""
    first = looked_at(
        tiny,
        tmp_path / "stops",
        "verdict.alpha=0.49",
        "verdict.primary={outcome: pretrain/heldout_text/drills/bits_per_byte, contrast: mul_tokens - baseline}",
    )
    report = run(first)
    assert (report["look"]["number"], report["look"]["seeds"]) == (1, 2)
    assert report["primary"]["verdict"] in ("helps", "hurts")
    assert [cell for cell in cells_of(first.folder) if cell.endswith("seed3")] == []
    assert report["missing"] == []
    assert all(all(done.values()) for done in status(first.folder)["cells"].values())

    class Killed(Inline):
        def run(self, calls, on_report):
            if any("seed3" in call.name for call in calls):
                raise Interrupted("killed")
            return super().run(calls, on_report)

    monkeypatch.setattr(runs, "LocalExecutor", Killed)
    goes_on = looked_at(
        tiny,
        tmp_path / "goes on",
        "verdict.primary={outcome: pretrain/two_step/all/accuracy, contrast: mul_tokens - baseline}",
    )
    with pytest.raises(Interrupted):
        run(goes_on)
    assert len(cells_of(goes_on.folder)) == 4
    waiting = rebuild(goes_on.folder)
    assert (waiting["primary"]["verdict"], waiting["look"]["may_go_on"]) == (None, True)
    monkeypatch.setattr(runs, "LocalExecutor", Inline)
    report = run(open_run(goes_on.folder))
    assert len(cells_of(goes_on.folder)) == 6
    assert (report["look"]["number"], report["look"]["seeds"]) == (2, 3)
    assert report["primary"]["verdict"] == "no difference shown"


# the table of results


def test_the_table_holds_every_figure_and_its_items_give_them(climbed, tokentrial, tmp_path):
    from pyarrow import parquet

    report, outcomes = read_json(climbed.folder / "comparison_report.json"), read_outcomes(climbed.folder)
    for name, outcome in report["outcomes"].items():
        for arm, per_seed in outcome["per_seed"].items():
            assert [outcomes[name][arm].get(seed) for seed in report["seeds"]] == per_seed
    rows = parquet.read_table(climbed.folder / "results.parquet").to_pylist()
    for subset, part in (("all", "item"), ("asked", "fact")):
        chosen = [
            row["value"]
            for row in rows
            if (row["arm"], row["seed"], row["stage"], row["task"]) == ("mul_tokens", 2, "sft", "mul_table")
            and (row["subset"], row["metric"]) == (subset, "choice_logprob")
            and row[part] is not None
            and (part == "item" or row["item"] is None)
        ]
        mean = sum(chosen) / len(chosen)
        assert mean == pytest.approx(outcomes[f"sft/mul_table/{subset}/choice_logprob"]["mul_tokens"][2])
    code, out, _ = tokentrial("results", climbed.folder)
    assert code == 0
    assert len(out.splitlines()) == 1 + sum(len(seeds) for arms in outcomes.values() for seeds in arms.values())
    code, _, _ = tokentrial("results", climbed.folder, "--items", "--to", tmp_path / "all.csv")
    assert (tmp_path / "all.csv").read_bytes() == (climbed.folder / "results.csv").read_bytes()


def test_a_placebo_is_the_control_on_other_seeds(finished_copy, tiny, inline):
    """Its cells are those of a trial on such seeds, of which each leaves out the facts that its own seed does; the
    trial's own control is not run again."""
    from tokentrial.run.placebo import run_placebo

    before = contents(finished_copy / "baseline")
    found = run_placebo(tiny(finished_copy))
    assert contents(finished_copy / "baseline") == before
    other = finished_copy / "placebo" / "baseline"
    seeds = sorted(int(path.name.removeprefix("seed")) for path in other.glob("seed*"))
    never_asked = build_facts(tiny(finished_copy).facts).never_asked
    assert [never_asked(seed, 3) for seed in seeds] == [never_asked(seed, 3) for seed in (1, 2)]
    assert min(seeds) > 1000
    own = read_outcomes(finished_copy)
    for c in found:
        assert [c.treatment, c.control, c.seeds] == ["placebo", "baseline", [1, 2]]
        control = [own[c.outcome]["baseline"][seed] for seed in (1, 2)]
        assert c.control_mean == pytest.approx(sum(control) / 2)
    changed = tiny(finished_copy, "evaluate.probes_each=3")
    with pytest.raises(TrialError, match="or --overwrite to replace them"):
        run_placebo(changed)
    run_placebo(changed, overwrite=True)
    assert contents(finished_copy / "baseline") != before


# ways round it


def test_a_list_that_holds_an_item_twice_is_another_list():
    assert [*differences({"a": [1]}, {"a": [1, 1]})] == [("a", "[1,1] instead of the declared [1]")]
    assert [*differences({"a": [1, 2]}, {"a": [2, 1]})] == [("a", "[2,1] instead of the declared [1,2]")]
    assert [*differences({"a": [{"b": 1}]}, {"a": [{"b": 2}]})] == [("a", '{"b":2} added'), ("a", '{"b":1} left out')]


def test_a_change_that_was_taken_back_is_remembered(climbed_copy, ladder, inline, undrawn):
    """What it made was looked at, even where it was deleted since."""
    for path in climbed_copy.glob("*/seed*/*sft"):
        shutil.rmtree(path)
    for path in climbed_copy.glob("*/seed*/*grpo"):
        shutil.rmtree(path)
    run(ladder(climbed_copy, "sft.weight_decay=0.1"), ("sft",))
    for path in climbed_copy.glob("*/seed*/sft"):
        shutil.rmtree(path)
    report = run(ladder(climbed_copy))
    assert any(
        "settings.sft.weight_decay: 0.1 instead of the declared 0.0" in line
        for line in report["declaration"]["departures"]
    )
    assert list(standing(open_run(climbed_copy)).withheld) == ["sft", "grpo"]


def test_a_declaration_of_the_old_form_does_not_stand_for_results_made_under_a_new_one(finished_copy, undrawn):
    chosen = {"outcome": "pretrain/mul_table/asked/accuracy", "contrast": "mul_tokens - baseline"}
    old = {"seeds": [1, 2], "control": "baseline", "primary": chosen, "secondary": []}
    write_json(finished_copy / "declared.json", old)
    assert rebuild(finished_copy)["primary"]["verdict"] is None


def test_other_arms_and_seeds_do_not_make_a_folder_a_fresh_one(finished_copy, tiny, no_workers):
    (finished_copy / "declared.json").unlink()
    with pytest.raises(TrialError, match=r"declared\.json is gone"):
        run(tiny(finished_copy, "seeds=[7,8]"))


def test_a_later_release_takes_no_verdict_away(finished_copy, undrawn):
    """Of a run that it only reads: other versions, and settings that were not there."""
    declared = read_json(finished_copy / "declared.json") | {"tokentrial": "0.0.9"}
    declared["declaration"]["versions"]["eval_pretrain"] = 1
    del declared["declaration"]["settings"]["pretrain"]["betas"]
    declared["sha256"] = declaration_hash(declared["declaration"])
    write_json(finished_copy / "declared.json", declared)
    for path in finished_copy.glob("*/seed*/*/manifest.json"):
        write_json(path, read_json(path) | {"declaration": declared["sha256"]})
    report = rebuild(finished_copy)
    assert None not in verdicts(report)
    assert report["declaration"]["departures"] == []


def test_of_another_release_s_run_a_ladder_that_it_did_not_declare_is_a_departure(finished_copy, tiny, undrawn):
    declared = read_json(finished_copy / "declared.json") | {"tokentrial": "0.0.9"}
    write_json(finished_copy / "declared.json", declared)
    ladder = "ladder={sizes: [{n_layer: 1, n_head: 1, n_embd: 16}], tokens_exponent: 0.5}"
    departures = standing(tiny(finished_copy, ladder)).departures
    assert [words.partition(":")[0] for words in departures] == ["ladder"]


def test_the_control_is_of_the_experiment_where_every_arm_reads_what_the_control_reads(finished_copy, tiny):
    path = finished_copy / "declared.json"
    declared = read_json(path)
    other = tiny(finished_copy, "control=mul_tokens", "budget.match=bytes")
    for match, is_withheld in (("tokens", False), ("bytes", True)):
        declared["declaration"]["settings"]["budget"]["match"] = match
        declared["sha256"] = declaration_hash(declared["declaration"])
        write_json(path, declared)
        for manifest in finished_copy.glob("*/seed*/*/manifest.json"):
            write_json(manifest, read_json(manifest) | {"declaration": declared["sha256"]})
        trial = other.model_copy(update={"budget": other.budget.model_copy(update={"match": match})})
        stands = standing(trial)
        assert [words for words in stands.departures if words.startswith("control:")]
        assert bool(stands.withheld) is is_withheld


@pytest.mark.slow
def test_the_run_and_the_report_take_the_same_look_of_text_that_no_arm_rewrites(tiny, tmp_path, inline, undrawn):
    outcome = "pretrain/heldout_text/untouched/bits_per_byte"
    trial = looked_at(
        tiny, tmp_path / "run", f"verdict.primary={{outcome: {outcome}, contrast: mul_tokens - baseline}}"
    )
    report = run(trial)
    assert report["primary"]["verdict"] is not None
    assert len(cells_of(trial.folder)) == 2 * report["look"]["seeds"]


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["arms=[baseline,one_slot]", "verdict.primary={outcome: pretrain/heldout_text/drills/bits_per_byte,"
          " contrast: one_slot - baseline}", "verdict.secondary=[]"], "one_slot drops content"),
        (["arms=[baseline,append_random]", "evaluate.tasks=[word_problems]", "verdict.primary={outcome:"
          " pretrain/word_problems/all/gold_nats_per_byte, contrast: append_random - baseline}",
          "verdict.secondary=[]"], "append_random drops content or draws tokens, .* the subset without_site"),
        (["evaluate.tasks=['path:addition.json']"], "rename it"),
        (["evaluate.tasks=['path:my_table.json']"], "rename it"),
    ],
)  # fmt: skip
def test_an_outcome_that_can_never_be_measured_or_has_another_s_name_is_refused(tiny, tmp_path, overrides, named):
    with pytest.raises(SettingsError, match=named):
        check(tiny(tmp_path, *overrides))


def test_a_run_of_the_first_release_is_judged_by_the_declaration_that_it_had(finished_copy, undrawn):
    """Seeds and outcomes alone; its results name no declaration."""
    before = verdicts(rebuild(finished_copy))
    declared = read_json(finished_copy / "declared.json")["declaration"]
    pairs = [declared["verdict"]["primary"], *declared["verdict"]["secondary"]]
    primary, *secondary = [{key: pair[key] for key in ("outcome", "contrast")} for pair in pairs]
    old = {key: declared["verdict"][key] for key in ("test", "alpha", "smallest_effect", "gate")}
    old |= {"seeds": declared["seeds"], "control": declared["control"], "primary": primary, "secondary": secondary}
    write_json(finished_copy / "declared.json", old)
    for path in finished_copy.glob("*/seed*/*/manifest.json"):
        manifest = read_json(path)
        del manifest["declaration"]
        write_json(path, manifest)
    report = rebuild(finished_copy)
    assert verdicts(report) == before
    assert report["declaration"]["sha256"] is None
    assert len(report["declaration"]["departures"]) == 1
    assert status(finished_copy)["declared"] is None


@pytest.mark.parametrize(
    ("found", "code"),
    [
        ("helps", 0),
        ("hurts", 10),
        ("no difference shown", 11),
        ("equivalent within 0.1", 12),
        ("control has not learnt", 13),
        (None, 14),
    ],
)
def test_a_script_is_told_the_verdict_by_its_exit_code(finished, tokentrial, monkeypatch, found, code):
    report = read_json(finished.folder / "comparison_report.json")
    report["contrasts"][0]["verdict"] = found
    monkeypatch.setattr("tokentrial.run.run.rebuild", lambda folder: report)
    ended, out, _ = tokentrial("verdict", finished.folder, "--json")
    assert (ended, json.loads(out)["verdict"]) == (code, found)
