"""A trial file is read strictly: what it does not know, what contradicts itself and what is no YAML is refused."""

import os
import pwd
import re
from pathlib import Path

import pytest
import yaml

from tokentrial.arms import arm as arms
from tokentrial.errors import SettingsError
from tokentrial.run.check import check
from tokentrial.trial.load import load, parse, read_override, shipped
from tokentrial.trial.sweep import variants
from tokentrial.trial.yaml_text import read_yaml, write_yaml

MINIMAL = """
name: small
arms: [baseline, mul_tokens]
control: baseline
seeds: [1, 2]
verdict:
  primary: {outcome: pretrain/mul_table/never_asked/accuracy, contrast: mul_tokens - baseline}
"""


@pytest.fixture
def small(tmp_path):
    """Load the minimal trial, with lines added to its file and overrides on top."""

    def load_small(*overrides, added=""):
        path = tmp_path / "small.yaml"
        path.write_text(MINIMAL + added, encoding="utf-8")
        return load(str(path), overrides)

    return load_small


@pytest.fixture
def refused(small):
    """The complaint about a trial that is not accepted."""

    def complaint(*overrides, added=""):
        with pytest.raises(SettingsError) as caught:
            small(*overrides, added=added)
        assert caught.value.code == 2
        return str(caught.value)

    return complaint


# shipped trials


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_trial_is_whole_and_reads_back_as_itself_when_resolved(name, tmp_path):
    trial = load(name, ["pretrain.lr=6e-5"])
    assert trial.name == name
    assert set(trial.arms) <= set(arms.arm_names())
    path = tmp_path / "trial.yaml"
    path.write_text(yaml.safe_dump(trial.model_dump(mode="json")), encoding="utf-8")
    assert load(str(path)) == trial


def test_an_unknown_trial_is_refused_with_the_shipped_ones(tmp_path):
    with pytest.raises(SettingsError, match=r"pilto: no such file or shipped trial; shipped are .*smoke"):
        load("pilto")
    with pytest.raises(SettingsError, match="no such file"):
        load(str(tmp_path))


# defaults < file < overrides


def test_defaults_are_the_reference_pilots():
    trial = parse(yaml.safe_load(MINIMAL), "small")
    shape = trial.pretrain
    assert (shape.n_layer, shape.n_head, shape.n_embd, shape.context) == (12, 12, 768, 1024)
    assert (shape.steps, shape.batch_tokens, shape.tokens) == (190, 262_144, 49_807_360)
    assert (shape.lr, shape.min_lr_ratio, shape.betas, shape.weight_decay, shape.grad_clip) == (
        6e-4,
        0.1,
        (0.9, 0.95),
        0.1,
        1.0,
    )
    assert trial.tokenizer.merges == 50_000
    assert trial.folder == Path("outputs/small")
    assert (trial.verdict.alpha, trial.verdict.smallest_effect) == (0.05, 0.10)
    assert (trial.verdict.gate.asked, trial.verdict.gate.never_asked) == (0.6, 0.4)
    assert list(trial.corpus.drills.mix.model_dump().values()) == [0.30, 0.20, 0.10, 0.15, 0.10, 0.15]


def test_the_file_beats_the_defaults_overrides_beat_the_file_and_the_last_counts(small):
    assert small(added="pretrain: {steps: 7}").pretrain.steps == 7
    trial = small("pretrain.steps=8", "pretrain.steps=9", added="pretrain: {steps: 7, n_layer: 2}")
    assert (trial.pretrain.steps, trial.pretrain.n_layer) == (9, 2)


def test_overrides_reach_any_depth_and_hold_any_yaml(small):
    trial = small("seeds=[3, 4]", "corpus.drills.mix={equation: 1.0, times_sign: 0, letter_x: 0, boxes: 0, "
                  "statement: 0, question: 0}", "verdict.gate=null", "output=some where/a=b")  # fmt: skip
    assert trial.seeds == [3, 4]
    assert trial.corpus.drills.mix.equation == 1.0
    assert trial.verdict.gate is None
    assert trial.folder == Path("some where/a=b")


# the core schema of YAML 1.2.2, section 10.3.2, and what YAML 1.1 has beyond it
@pytest.mark.parametrize(
    ("written", "value"),
    [
        *(("010", 10), ("-7", -7), ("0o10", 8), ("0x10", 16), ("0b11", "0b11"), ("1_000", "1_000"), ("1:30", "1:30")),
        *(("12:30:45", "12:30:45"), ("2026-11-27", "2026-11-27"), ("1e3", 1000.0), ("6e-4", 6e-4), (".5", 0.5)),
        *(("5.", 5.0), (".inf", float("inf")), ("1e", "1e"), (".", "."), ("yes", "yes"), ("No", "No"), ("on", "on")),
        *(("off", "off"), ("y", "y"), ("true", True), ("FALSE", False), ("tRUE", "tRUE"), ("~", None), ("null", None)),
        *(("", None), ("'010'", "010"), ("!!int '010'", 10), ("!!str 010", "010")),
    ],
)
def test_a_value_is_what_yaml_1_2_says_in_files_and_overrides_and_reads_back(written, value):
    read = read_yaml(written, "a trial")
    assert (type(read), read, read_override(f"name={written}")[1]) == (type(value), value, value)
    for parsed in (read_yaml, lambda text, _: yaml.safe_load(text)):  # whoever reads it, in YAML 1.1 as well
        for kept in (value, written):
            assert parsed(write_yaml({"a": [kept]}), "") == {"a": [kept]}


@pytest.mark.parametrize("written", ["6e-4", "6E-4", "0.6e-3", "6.0e-4", "60e-5", ".0006", ".6e-3"])
def test_a_float_may_be_written_with_an_exponent(small, written):
    assert small(f"pretrain.lr={written}").pretrain.lr == 6e-4
    assert small(added=f"pretrain: {{lr: {written}}}").pretrain.lr == 6e-4


def test_an_exponent_makes_a_float_and_only_a_float(small):
    assert small("output=6e-4x").output == "6e-4x"
    assert small("output='6e-4'").output == "6e-4"


# refusals


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("pretrain.stpes=200", "pretrain.stpes: unknown setting; did you mean `steps`?"),
        ("corpus.drills.mix.boxs=0.1", "corpus.drills.mix.boxs: unknown setting; did you mean `boxes`?"),
        ("verdict.secondary=[{outcom: x}]", "verdict.secondary.0.outcom: unknown setting; did you mean `outcome`?"),
        ("steps=200", "steps: unknown setting; did you mean `pretrain.steps`?"),
        ("sft={lr: 1, stages: []}", "sft.lr: unknown setting; did you mean `sft.stages.0.lr`?"),
        ("corpus.share=0.1", "corpus.share: unknown setting; did you mean `corpus.drills.share`?"),
        ("grpo={steps: 3}", "grpo.steps: unknown setting; expected one of task, prompts"),
        # of a union: one complaint, of the setting
        ("corpus.tokens=some", "\n  corpus.tokens: found 'some', expected a whole number (at least 1, below 2^63), or "
                               "'all' or 'budget'"),
        ("pretrain.nproc_per_node=0", "\n  pretrain.nproc_per_node: found 0, expected a whole number"),
        ("verdict.looks=[1]", "\n  verdict.looks: found [1], expected a list of 1 or more, each a whole number "
                              "(at least 2), 'blinded', or null"),
        ("verdict.gate=5", "\n  verdict.gate: found 5, expected settings below it, such as asked, or null"),
        ("tokenizer.qqq=1", "tokenizer.qqq: unknown setting; expected one of merges, path"),
        # wrong types and values
        ("pretrain.steps=many", "\n  pretrain.steps: found 'many'"),
        ("pretrain.steps='200'", "\n  pretrain.steps: found '200'"),
        ("pretrain.steps=1.5", "\n  pretrain.steps: found 1.5"),
        ("pretrain.steps=1e3", "\n  pretrain.steps: found 1000.0"),
        ("pretrain.steps=true", "\n  pretrain.steps: found True"),
        ("pretrain.steps=0", "\n  pretrain.steps: found 0"),
        ("pretrain.steps=", "\n  pretrain.steps: found None"),
        ("pretrain.lr=.inf", "\n  pretrain.lr: found inf"),
        ("pretrain.grad_clip=.nan", "\n  pretrain.grad_clip: found nan"),
        ("pretrain.optimizer=sgd", "\n  pretrain.optimizer: found 'sgd'"),
        ("pretrain.betas=[0.9]", "\n  pretrain.betas: found [0.9], expected a list of 2"),
        ("seeds=[1:30]", "\n  seeds.0: found '1:30'"),
        ("corpus.allow_short=yes", "\n  corpus.allow_short: found 'yes', expected true or false"),
        ("tokenizer.merges=50001", "\n  tokenizer.merges: found 50001"),
        ("corpus.val_share=0.5", "\n  corpus.val_share: found 0.5"),
        ("corpus.drills.share=1", "\n  corpus.drills.share: found 1"),
        ("corpus=sotu", "\n  corpus: found 'sotu'"),
        ("arms=[]", "\n  arms: found []"),
        ("arms=baseline", "\n  arms: found 'baseline'"),
        ("seeds=[-1]", "\n  seeds.0: found -1"),
        ("seeds=[9223372036854775808]", "\n  seeds.0: found 9223372036854775808"),  # JSON integers end before it
        ("name=../elsewhere", "\n  name: found '../elsewhere'"),
        ("name=5", "\n  name: found 5"),
        ("executor=slurm", "\n  executor: found 'slurm'"),
        ("verdict.alpha=0.5", "\n  verdict.alpha: found 0.5"),
        # settings that contradict each other
        ("corpus.drills.mix.boxes=0.5", "corpus.drills.mix: the shares add up to 1.35, expected 1"),
        ("pretrain.n_embd=100", "pretrain: n_embd is 100, expected a multiple of n_head, 12"),
        ("pretrain.batch_tokens=1000", "pretrain: batch_tokens is 1000, expected a multiple of context, 1024"),
        ("pretrain.micro_batch=7", "pretrain: micro_batch is 7, expected a divisor of the 256 rows a step"),
        ("seeds=[1, 2, 1]", "seeds is [1, 2, 1], expected no value twice"),
        ("arms=[baseline, mul_tokens, baseline]", "expected no value twice"),
        ("control=other", "control names 'other', expected one of arms, "),
        ("arms=[baseline]", "verdict.primary.contrast names 'mul_tokens', expected one of arms, "),
        ("verdict.primary.outcome=accuracy", "outcome is 'accuracy', expected stage/task/subset/metric"),
        ("verdict.primary.contrast=mul_tokens -  baseline", "contrast is 'mul_tokens -  baseline', expected"),
        ("verdict.primary.contrast=baseline - baseline", "contrast is 'baseline - baseline', expected 'arm - arm'"),
        ("grpo={task: word_problems, vllm: true}", "grpo: vllm is True; this setting was removed"),
        # rows without answers, refused before anything is trained
        ("grpo={task: 'path:SVAMP.json'}", "grpo: task is 'path:SVAMP.json', expected gsm8k or word_problems"),
        ("grpo={task: 'jsonl:rows.jsonl'}", "grpo: task is 'jsonl:rows.jsonl', expected gsm8k or word_problems"),
        # overrides that cannot be read
        ("pretrain.steps", "'pretrain.steps': expected key=value"),
        ("=5", "'=5': expected key=value"),
        ("seeds=[1, 2", "'seeds=[1, 2': not valid YAML"),
        ("seeds.first=1", "found first below a list, expected a place in it, 0 to 1"),
        ("seeds.2=1", "found 2 below a list"),
        ("name.first=1", "name has no settings below it"),
    ],
)  # fmt: skip
def test_a_setting_that_is_wrong_is_refused_by_name_with_what_was_found(refused, override, complaint):
    assert complaint in refused(override)


def test_every_complaint_is_made_at_once_each_once(refused):
    complaint = refused("pretrain.stpes=1", "seeds=none", "corpus.tokens=x")
    assert [line.split(":")[0] for line in complaint.splitlines()[1:]] == ["  seeds", "  corpus.tokens",
                                                                          "  pretrain.stpes"]  # fmt: skip


SFT = "sft={stages: [{sources: [{source: word_problems}]}]}"


@pytest.mark.parametrize(
    ("setting", "least", "refused_values"),
    [
        # AdamW in torch: 0 <= beta < 1; a rate or decay beyond 1, or a temperature near 0, ends in no number
        ("pretrain.betas.0", 0, [-0.1, 1, 1.5]),
        ("pretrain.betas.1", 0.999, [1, 2]),
        *((f"{of}.{name}", 1, [0, 1.01, 1e30]) for of in ("pretrain", "sft.stages.0", "grpo") for name in ("lr",)),
        ("pretrain.muon_lr", 0.02, [0, 2]),
        *((f"{of}.weight_decay", 0, [-1e-9, 1.5]) for of in ("pretrain", "sft")),
        ("grpo.temperature", 0.01, [0, 1e-9, 1e9]),
        ("grpo.kl_coef", 0, [-1, 1e30]),
        ("grpo.fact_token_bonus", 0, [-1, 1e300]),
        # what is held in memory, or done so often
        ("corpus.drills.lines", 1, [0, 10**12]),
        ("pretrain.probes", 0, [-1, 10**12]),
        ("pretrain.validations", 1, [0, 10**12]),
        ("sft.stages.0.sources.0.weight", 0.5, [0, 1e12]),
        # one that contradicts another
        ("grpo.batch", 1000, [1001]),
        ("grpo.max_new_tokens", 1023, [1024]),
        ("verdict.primary.smallest_effect", 0.99, [1, 5]),
        ("verdict.smallest_effect", 0.99, [0, 1]),
        ("ray.gpus", 2, [-1, 1.5]),
        # numpy's generator, which the Trainer seeds, ends at 2^32; JSON's integers at 2^63
        ("seeds.0", 2**32 - 1101, [2**32]),
        ("pretrain.context", 8, [7, 2**70]),
        ("corpus.shard_tokens", 1000, [999, 2**70]),
    ],
)  # fmt: skip
def test_a_number_with_which_training_fails_or_means_nothing_is_refused_before_it(
    small, refused, setting, least, refused_values
):
    def given(value):
        return (
            SFT,
            "grpo={task: word_problems, max_new_tokens: 4}",
            "pretrain={betas: [0.9, 0.95]}",
            f"{setting}={value}",
        )

    assert small(*given(least))
    for value in refused_values:
        assert setting.split(".")[-1] in refused(*given(value)) or setting in refused(*given(value))


@pytest.mark.parametrize(
    ("setting", "prefix"),
    [
        *(("output", ""), ("storage", ""), ("tokenizer.path", ""), ("pretrain.from_checkpoint", "")),
        *(("tasks.gsm8k", "path:"), ("corpus.source", "jsonl:"), ("evaluate.tasks.0", "path:")),
        ("sft.stages.0.sources.0.source", "jsonl:"),
    ],
)
def test_a_tilde_is_the_home_folder_and_without_one_a_path_with_it_is_refused(
    small, refused, monkeypatch, setting, prefix
):
    """What enters a fingerprint is the same for every user."""
    overrides = (SFT, "evaluate.tasks=[gsm8k]", f"{setting}={prefix}~/a")
    monkeypatch.setenv("HOME", "/home/of a user")
    found, experiment = (trial := small(*overrides)).model_dump(), trial.experiment(*trial.model_dump())
    for name in setting.split("."):
        found = found[int(name) if name.isdecimal() else name]
    assert found == f"{prefix}/home/of a user/a"
    assert prefix != "jsonl:" or "of a user" not in str(experiment | {"output": "", "storage": ""})
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)  # a container's user without an entry
    assert f"{setting}: found '~/a'" in refused(*overrides)


def test_an_override_reaches_into_a_list(small):
    trial = small(SFT, "sft.stages.0.lr=1e-4", "sft.stages.0.sources.0.weight=2", "seeds.1=7")
    assert (trial.sft.stages[0].lr, trial.sft.stages[0].sources[0].weight, trial.seeds) == (1e-4, 2, [1, 7])


@pytest.mark.parametrize("missing", ["name", "arms", "control", "seeds", "verdict"])
def test_a_missing_setting_is_named(missing):
    settings = {key: value for key, value in yaml.safe_load(MINIMAL).items() if key != missing}
    with pytest.raises(SettingsError, match=f"{missing}: missing"):
        parse(settings, "small")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"name: [1, 2", "not valid YAML"),
        (b"- a\n- b", "found list, expected settings"),
        (b"", "found NoneType, expected settings"),
        (b"name: a\nname: b", "name is given twice"),
        (b"pretrain: {steps: 1, lr: 0.1, steps: 2}", "steps is given twice"),
        (MINIMAL.encode("utf-16"), ""),
    ],
)
def test_a_file_that_is_no_trial_is_refused_by_name(tmp_path, content, complaint):
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        load(str(path))
    assert str(caught.value).startswith(str(path))
    assert complaint in str(caught.value)


def test_run_folders_from_before_vllm_was_dropped_are_read(small):
    assert small("grpo={task: word_problems, vllm: false}").grpo == small("grpo={task: word_problems}").grpo


def test_a_trial_cannot_be_changed(small):
    with pytest.raises(ValueError, match="frozen"):
        small().name = "other"


# what enters fingerprints


def test_what_is_merely_local_is_left_out_of_the_experiment(small):
    parts = ("pretrain", "tokenizer", "corpus")
    here = small().experiment(*parts)
    assert set(here) == {*parts}
    there = small("pretrain.micro_batch=4", "pretrain.device=cpu", "tokenizer.path=/elsewhere", "workers=7", "output=x")
    assert there.experiment(*parts) == here
    for changed in ("pretrain.lr=1e-3", "tokenizer.merges=512", "corpus.seed=1"):
        assert small(changed).experiment(*parts) != here


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["corpus.drills.holdout_folds=1"], "holdout_folds is 1, expected 0, or from 2 to 12"),
        (["facts={family: squares}", "corpus.drills.holdout_folds=12"], "is 12, expected 0, or from 2 to 9: the 9"),
        (["facts={range: [1, 40]}"], "tokenizer.rewrite is true with 820 facts, expected at most 500"),
        (["facts={family: csv, rows: [[X, a], [What is X, b]]}"], "facts: rows: fact 2, .* and fact 1, "),
    ],
)
def test_facts_that_no_run_could_serve_are_refused(refused, overrides, expected):
    assert re.search(expected, refused(*overrides))


def test_facts_at_a_limit_are_taken(small):
    assert small("facts={family: squares}", "corpus.drills.holdout_folds=9").corpus.drills.holdout_folds == 9
    assert small("facts={range: [1, 40]}", "tokenizer.rewrite=false").facts.range == (1, 40)


@pytest.mark.parametrize(
    ("seeds", "noted"), [([1, 4, 7], True), ([1, 2, 4], True), ([1, 2], False), ([4, 2, 6], False)]
)
def test_seeds_that_hold_out_the_same_facts_are_noted(small, capsys, seeds, noted):
    check(small(f"seeds={seeds}", "corpus.drills.holdout_folds=3"))
    assert ("of the 3 folds of facts" in capsys.readouterr().err) == noted


def test_compared_are_the_primary_and_the_secondary_family():
    trial = load("smoke")
    assert [pair.arms for pair in trial.compared] == [("mul_tokens", "baseline"), ("mul_append", "baseline")]


def test_the_names_of_0_1_are_read_and_noted(tmp_path, capsys):
    old = tmp_path / "old.yaml"
    old.write_text(
        "{name: t, arms: [baseline, mul_tokens], control: baseline, seeds: [1], verdict: {primary: {outcome: a/b/c/d,"
        " contrast: mul_tokens - baseline}}, corpus: {drills: {never_asked_folds: 3}}, also: [pretrain.clip=2.0],"
        " pretrain: {init: ./model, min_lr: 0.2, ranks: 2}, grpo: {kl: 0.3, new_tokens: 9},"
        " sweep: {pretrain.warmup: [0.1]}}"
    )
    trial = load(str(old), ["pretrain.decay=0.5", "evaluate.new_tokens=7"])
    noted = capsys.readouterr().err
    assert (trial.pretrain.from_checkpoint, trial.pretrain.min_lr_ratio) == (os.path.abspath("model"), 0.2)
    assert (trial.pretrain.nproc_per_node, trial.pretrain.decay_ratio) == (2, 0.5)
    assert (trial.grpo.kl_coef, trial.grpo.max_new_tokens, trial.evaluate.max_new_tokens) == (0.3, 9, 7)
    assert (trial.corpus.drills.holdout_folds, trial.sweep) == (3, {"pretrain.warmup_ratio": [0.1]})
    [_, rerun] = variants(trial)
    assert rerun.trial.pretrain.grad_clip == 2.0
    assert "pretrain.min_lr is now pretrain.min_lr_ratio" in noted
    below_null = ["sft=null", "sft.stages=[{sources: [{source: word_problems}]}]", "sft.batch=8"]
    assert load("smoke", below_null).sft.batch == 8
    assert load(str(old), ["pretrain.min_lr_ratio=0.4"]).pretrain.min_lr_ratio == 0.4  # what is given goes before
    capsys.readouterr()
    assert load("pilot").pretrain.init == "normal"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "setting", ["corpus.executor=ray", "corpus.cluster={partition: large}", "corpus.cluster.time=1"]
)
def test_a_setting_that_is_no_more_is_refused_with_what_stands_in_its_place(small, setting):
    with pytest.raises(SettingsError, match=r"corpus\.(executor|cluster): this setting was removed; .*scaling\.md"):
        small(setting)


@pytest.mark.parametrize(
    ("corpus", "noted"),
    [
        ("{executor: auto, cluster: {}}", []),
        ("{executor: slurm, cluster: {partition: large}}", ["corpus.executor", "corpus.cluster"]),
        ("{executor: ray}", ["corpus.executor"]),
    ],
)
def test_a_run_folder_that_holds_it_is_read_without(tmp_path, capsys, corpus, noted):
    (tmp_path / "trial.yaml").write_text(
        "{name: t, arms: [baseline, mul_tokens], control: baseline, seeds: [1], verdict: {primary: {outcome: a/b/c/d,"
        f" contrast: mul_tokens - baseline}}}}, corpus: {corpus}}}"
    )
    trial = load(str(tmp_path / "trial.yaml"))
    assert trial.corpus == load("gpt2_50m", ["corpus={}"]).corpus
    assert [line.split(": ")[1].split(" is left out")[0] for line in capsys.readouterr().err.splitlines()] == noted
