"""Every setting that names a file, a task, an arm, a fact or a place: what is wrong with one is said by its name,
before anything is written."""

import re
import sys

import pytest

from tokentrial.arms.arm import get_arm
from tokentrial.errors import SettingsError, TrialError
from tokentrial.evaluate.score import Spelling
from tokentrial.facts.families import build_facts
from tokentrial.run.check import check
from tokentrial.run.placebo import run_placebo
from tokentrial.run.run import run
from tokentrial.run.run_folder import open_run
from tokentrial.tasks.arithmetic import Arithmetic
from tokentrial.tokenizer.vocabulary import Vocabulary

ROWS = "sft={{stages: [{{sources: [{{source: '{}'}}]}}]}}"
SETTINGS = {
    "corpus.source": "corpus.source='{}'",
    "evaluate.tasks": "evaluate.tasks=['{}']",
    "sft.stages": ROWS,
    "grpo.task": "grpo={{task: '{}', max_new_tokens: 8}}",
    "tasks.gsm8k": "tasks.gsm8k='{}'",
    "facts.csv": "facts.csv='{}'",
    "tokenizer.path": "tokenizer.path='{}'",
    "pretrain.from_checkpoint": "pretrain.from_checkpoint='{}'",
    "arms": "arms=[baseline,'{}']",
    "storage": "storage='{}'",
}
NAMES = {
    "wrong": ("no_such_thing",),
    "empty": ("",),
    "missing": ("jsonl:absent.jsonl", "path:absent.json", "./absent", "~/absent.jsonl"),
    "hostile": ("jsonl:../../etc/passwd", "path:/dev/null", "jsonl:rows\\u001b[31m.jsonl", "s3://", "zip://x::y"),
}
# what is no refusal of this name, as it stands for something
FINE = {("storage", name) for kind in ("wrong", "missing", "hostile") for name in NAMES[kind]} - {
    ("storage", "s3://"), ("storage", "zip://x::y")
} | {("storage", ""), ("tokenizer.path", ""), ("pretrain.from_checkpoint", ""), ("facts.csv", "")}  # fmt: skip


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_name_that_stands_for_nothing_is_refused_by_its_setting(
    tiny, tmp_path, monkeypatch, no_workers, setting, kind
):
    monkeypatch.chdir(tmp_path)
    more = ["evaluate.tasks=[gsm8k]"] if setting == "tasks.gsm8k" else []
    for name in NAMES[kind]:
        if (setting, name) not in FINE:
            with pytest.raises((TrialError, SettingsError), match=setting.split(".")[-1]):
                run(tiny(tmp_path / "run", SETTINGS[setting].format(name), *more))
            assert not list((tmp_path / "run").glob("*/seed*")), (setting, name)


@pytest.mark.parametrize("arm", ["baseline", "mul_tokens", "mul_append"])
def test_a_context_that_does_not_hold_the_questions_is_refused_and_the_least_one_holds_all_ways_to_answer(
    tiny, tmp_path, arm
):
    path = tmp_path / "long.csv"
    path.write_text("question,answer\nWhat is the capital of the land of Singapore?,Singapore City\nWhat is 1?,one\n")
    settings = [f"facts.csv={path}", "tokenizer.merges=0", "corpus.drills={share: 0.6, holdout_folds: 0}"]
    settings.append("evaluate.max_new_tokens=16")
    outcome = "pretrain/fact_table/all/accuracy"
    settings.append(f"verdict={{primary: {{outcome: {outcome}, contrast: mul_tokens - baseline}}}}")
    with pytest.raises(SettingsError, match=r"pretrain\.context: 64, expected at least [0-9]+") as refused:
        check(tiny(tmp_path / "run", *settings))
    least = int(re.search("at least ([0-9]+)", str(refused.value))[1])
    trial = tiny(tmp_path / "run", *settings, f"pretrain.context={least}", f"pretrain.batch_tokens={64 * least}")
    check(trial)
    facts = build_facts(trial.facts)
    vocabulary, spelling = Vocabulary(0, len(facts)), Spelling(get_arm(arm, facts))
    for example in Arithmetic(facts=facts).table():
        for way in spelling.ways(example):
            spelled = re.sub("<FACT_[^>]+>", "#", way.text)  # a token is one id
            assert len(example.prompt) + len(vocabulary.encode(spelled)) <= least


def test_answers_that_no_completion_has_room_for_are_refused(tiny, tmp_path):
    path = tmp_path / "capitals.csv"
    path.write_text("question,answer\nWhat is the capital of Sri Lanka?,Sri Jayawardenepura Kotte\nWhat is 1?,one\n")
    outcome = "verdict={primary: {outcome: pretrain/fact_table/all/accuracy, contrast: mul_tokens - baseline}}"
    settings = [f"facts.csv={path}", "tokenizer.merges=0", "corpus.drills={share: 0.6, holdout_folds: 0}", outcome]
    settings += ["pretrain.context=128", "pretrain.batch_tokens=1024", "pretrain.micro_batch=8"]
    with pytest.raises(SettingsError, match=r"evaluate\.max_new_tokens: 16, expected at least 26"):
        check(tiny(tmp_path / "run", *settings, "evaluate.max_new_tokens=16"))
    check(tiny(tmp_path / "run", *settings, "evaluate.max_new_tokens=26"))


@pytest.mark.parametrize("name", ["rows [1].jsonl", "a,b=c.jsonl", "ünï 😀.jsonl", "x::y.jsonl", "-3.jsonl"])
def test_an_odd_name_is_a_name(tiny, tmp_path, monkeypatch, no_workers, source, name):
    monkeypatch.chdir(tmp_path)
    row = '{"prompt": "User: 1?", "completion": " #### 1"}\n'
    (tmp_path / name).write_text(row * 30)
    trial = tiny(tmp_path / "run", ROWS.format(f"jsonl:{name}"))
    check(trial)
    [place] = [s.source for part in trial.sft.stages for s in part.sources]
    assert place == f"jsonl:{tmp_path / name}"


@pytest.mark.parametrize("tracker", ["tensorboard", "trackio", "wandb"])
def test_a_tracker_that_is_not_installed_is_named_at_once(tiny, tmp_path, monkeypatch, no_workers, tracker):
    monkeypatch.setitem(sys.modules, tracker, None)
    monkeypatch.setattr("tokentrial.run.check.find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=rf"report_to: {tracker} is not installed"):
        run(tiny(tmp_path / "run", f"pretrain.report_to={tracker}"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_gpu_that_torch_does_not_see_is_named_at_once(tiny, tmp_path, monkeypatch, no_workers, device):
    monkeypatch.setattr(f"torch.{device}.is_available", lambda: False)
    trial = tiny(tmp_path / "run", f"pretrain.device={device}")
    for command in (run, run_placebo):
        with pytest.raises(SettingsError, match=rf"pretrain\.device: {device}"):
            command(trial)
    assert not (tmp_path / "run").exists()


# another trial's folder


@pytest.mark.parametrize(
    "words",
    ["run", "run --stages corpus", "run --placebo", "corpus", "corpus --verify", "corpus --materialize baseline",
     "pretrain --seed 1", "export", "evaluate", "sft", "grpo"],
)  # fmt: skip
def test_no_verb_takes_over_the_folder_of_another_trial(climbed_copy, tokentrial, tmp_path, no_workers, words):
    text = (climbed_copy / "trial.yaml").read_text().replace("name: smoke", "name: other")
    (tmp_path / "other.yaml").write_text(text)
    before = {path: path.read_bytes() for path in climbed_copy.rglob("*") if path.is_file()}
    verb, *options = words.split()
    sotu = "corpus.source=sotu"  # another text: not even its list of files may be written there
    code, _, err = tokentrial(verb, tmp_path / "other.yaml", f"output={climbed_copy}", sotu, *options)
    assert code == 1
    assert "holds the trial 'smoke', this is 'other'" in err
    after = {path: path.read_bytes() for path in climbed_copy.rglob("*") if path.is_file()}
    assert after == before
    assert open_run(climbed_copy).name == "smoke"


@pytest.mark.parametrize("what", ["report", "extend", "push", "pull", "bundle"])
def test_what_is_no_run_folder_is_written_by_no_verb(tokentrial, tmp_path, what):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "thesis.tex").write_text("x")
    words = {
        "report": ["report", folder],
        "extend": ["extend", folder, 1],
        "push": ["push", folder, "me/model"],
        "pull": ["pull", "me/model", folder],
        "bundle": ["bundle", folder],
    }[what]
    code, _, err = tokentrial(*words)
    assert code in (1, 2)
    assert "Traceback" not in err
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]
