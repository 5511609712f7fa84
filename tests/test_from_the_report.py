"""docs/from-the-report.md: every command of it runs, at smoke size, in its order; every file of ours that it names is
there, and so is a line for every file of the original report."""

import json
import re
import shlex
import sys
from pathlib import Path

import pytest
import yaml

from tokentrial.cli import main as cli
from tokentrial.trial.load import load, shipped

ROOT = Path(__file__).resolve().parents[1]
DOC = (ROOT / "docs" / "from-the-report.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", DOC, re.DOTALL) for line in block.splitlines()]

# with those of the tiny trial, after the command's own settings: its sizes shrink, its meaning stays
SMALL = (
    "seeds=[1]",
    "pretrain.steps=12",  # in fewer some fact is not served, and the audit says so
    "sft.stages=[{sources: [{source: gsm8k}], epochs: 1, lr: 0.01}]",
    "grpo.task=gsm8k",
    "grpo.prompts=4",
    "evaluate.tasks=[gsm8k]",
    "evaluate.limit=4",
    "tasks.gsm8k=path:gsm8k",
    "verdict.secondary=[]",
)
SMALL_OPTIONS = {"--target-tokens": "3000"}


def words_of(command):
    """The words of a command; `make TARGET` is what its recipe runs."""
    words = shlex.split(command)
    if words[0] == "make":
        recipe = re.search(rf"^{words[1]}:.*\n\t(.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert recipe, f"the Makefile has no {words[1]}"
        words = shlex.split(recipe[1].replace("$(BIN)/", ""))
    assert words[0] == "tokentrial"
    return words


def of_a_trial(words):
    return len(words) > 2 and words[2] in shipped()


def smoke_size(command, shrinking):
    """The words of a command, its trial small."""
    words = words_of(command)
    words = [SMALL_OPTIONS.get(before, word) for before, word in zip(["", *words], words, strict=False)]
    if of_a_trial(words):
        words += [*shrinking, *SMALL, f"corpus.source=jsonl:{Path('prose.jsonl').resolve()}"]
    if "--model" in words:
        words += ["--limit", "4"]
    return words


@pytest.fixture(scope="module")
def ran(source, shrinking, in_process, tmp_path_factory):
    """{command: (exit code, stdout)} of all commands, one after the other in one folder; and that folder."""
    folder, found = tmp_path_factory.mktemp("report"), {}
    (folder / "prose.jsonl").write_bytes(source.read_bytes())
    (folder / "gsm8k").mkdir()
    rows = []
    for n in range(2, 10):
        solved = f"{n}*6=<<{n}*6={n * 6}>>{n * 6} pens\n#### {n * 6}"
        rows.append({"question": f"Ann has {n} boxes of 6 pens. How many pens?", "answer": solved})
    for split in ("train", "test"):
        text = "".join(json.dumps(row) + "\n" for row in rows * 4)
        (folder / "gsm8k" / f"{split}.jsonl").write_text(text)
    with pytest.MonkeyPatch.context() as patch, pytest.MonkeyPatch.context() as printed:
        in_process(patch)
        patch.setattr("tokentrial.report.page.draw", lambda report: {})  # figures take seconds
        patch.chdir(folder)
        for number, command in enumerate(COMMANDS):
            patch.setattr(sys, "argv", smoke_size(command, shrinking))
            with (folder / f"{number}.txt").open("w") as out:
                printed.setattr(sys, "stdout", out)
                code = 0
                try:
                    cli.main()
                except SystemExit as ended:
                    code = ended.code or 0
                finally:
                    printed.undo()
            found[command] = code, (folder / f"{number}.txt").read_text()
    return folder, found


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_runs(ran, command):
    assert len(COMMANDS) >= 14
    code, out = ran[1][command]
    assert code == 0
    assert out


@pytest.mark.parametrize("command", [command for command in COMMANDS if of_a_trial(words_of(command))])
def test_its_own_settings_are_settings(command):
    words = words_of(command)
    load(words[2], [word for word in words[3:] if "=" in word])


@pytest.mark.slow
def test_they_leave_what_they_say(ran):
    folder, found = ran
    assert [*(folder / "data" / "fineweb_pilot" / "mul_tokens").glob("fineweb_train_*.npy")]
    for name in ("gpt2_50m", "gpt2_1b", "gpt2_10b"):
        report = json.loads((folder / "outputs" / name / "comparison_report.json").read_text())
        assert (report["stages"], report["missing"]) == (["pretrain", "sft", "grpo"], [])
    one_arm = folder / "outputs" / "gpt2_200m"
    assert {path.parent.parent.name for path in one_arm.glob("*/seed*/hf")} == {"mul_tokens"}
    assert not (one_arm / "comparison_report.json").exists()
    counts = next(command for command in COMMANDS if "--counts" in command)
    assert "0.0625" in found[counts][1]  # FACTS of the original finding: 5 of 81 against 0, exact


def test_every_file_of_the_report_has_its_line():
    """What the original report lists under "What Was Built" and "Appendix"."""
    files = """data/prepare_fineweb_pilot.py pretrain/train_nanogpt.py pretrain/export_hf.py
        pretrain/configs/gpt2_124m_pilot.yaml pretrain/configs/gpt2_124m_small.yaml tokenizer/hf_gpt2_with_mul.py
        sft/sft_gsm8k.py sft/configs/gsm8k.yaml rl/grpo_train.py rl/rewards.py rl/configs/grpo_pilot.yaml
        eval/run_gsm8k.py eval/run_arithmetic_probes.py scripts/compare_runs.py scripts/run_10b.sh
        scripts/run_pilot.sh"""
    assert [file for file in files.split() if f"`{file}`" not in DOC] == []
    trial = load("gpt2_10b")  # which stands for run_10b.sh
    assert trial.pretrain.tokens == pytest.approx(10e9, rel=1e-4)
    assert len(trial.arms) > 2
    assert None not in (trial.sft, trial.grpo)


def test_every_file_of_ours_that_it_names_is_there():
    named = re.findall(r"`(tokentrial/[\w/.*]+)`", DOC)
    assert len(named) > 10
    assert all([*ROOT.glob(name)] for name in named)
    for block in re.findall(r"`(\w+)` in each `(tokentrial/trials/gpt2_\*\.yaml)`", DOC):
        assert all(block[0] in yaml.safe_load(path.read_text()) for path in ROOT.glob(block[1]))
