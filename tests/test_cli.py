"""The command line: verbs, exit codes, what it prints for a machine, and answers without heavy imports."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from tokentrial import __version__
from tokentrial.arms import arm as arms
from tokentrial.cli import main as cli
from tokentrial.errors import Interrupted, SettingsError, TrialError
from tokentrial.facts.families import TIMES_TABLE
from tokentrial.tokenizer.vocabulary import Vocabulary

VERBS = {
    "run", "status", "report", "compare", "power", "inspect", "sample", "arms", "plan", "corpus", "pretrain", "export",
    "sft", "grpo", "evaluate", "bundle", "push", "pull", "declare", "outcomes", "extend", "results",
    "collect", "doctor", "schema", "verdict",
}  # fmt: skip
HEAVY = {"torch", "transformers", "tokenizers", "tiktoken", "scipy", "statsmodels", "numpy", "pyarrow"}
SIX_TIMES_NINE = TIMES_TABLE.index(TIMES_TABLE.of(6, 9))  # its place in the block of fact ids


@pytest.fixture
def refused(tokentrial):
    """The one message of a command that ends with this code: no traceback, nothing on stdout."""

    def run(code, *words):
        ended, out, err = tokentrial(*words)
        assert (ended, out) == (code, "")
        assert "Traceback" not in err
        return err

    return run


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("evaluate smoke --limit 10 --tasks gsm8k", "--tasks, --limit: only with --model"),
        ("evaluate smoke --harness hellaswag --out x", "--harness, --out: only with --model"),
        ("evaluate smoke --model .", "smoke: --model evaluates a folder without a trial"),
        ("evaluate --model . --seed 1 --overwrite", "--seed, --overwrite: not with --model"),
        ("evaluate --model . --harness hellaswag --tasks gsm8k", "--tasks: not with --harness"),
        ("evaluate --model . --gsm8k path:x", "--gsm8k: given, but --tasks does not name gsm8k"),
        ("run smoke --placebo --also budget.match=bytes", "--placebo and --also"),
        ("plan smoke --budget -5", "--budget -5: expected dollars, more than 0"),
        ("corpus smoke --materialize baseline --seed 3", "--seed 3: it leaves out other facts than the seeds [1, 2]"),
        ("corpus smoke --full", "--full: only with --verify"),
        ("corpus smoke --seed 2 --out-dir x", "--seed, --out-dir: only with --materialize"),
        ("corpus smoke --seed 0", "--seed: only with --materialize"),
        ("corpus smoke --verify --materialize baseline", "--materialize: not with --verify"),
        ("corpus smoke --materialize baseline --overwrite", "--overwrite: not with --materialize"),
    ],
)
def test_options_that_a_command_would_not_read_are_refused(tokentrial, words, named):
    code, out, err = tokentrial(*words.split())
    assert (code, out) == (2, "")
    assert named in err


# help


def test_help_lists_every_verb_and_each_explains_itself_with_an_example(tokentrial):
    assert tokentrial("--version") == (0, f"tokentrial {__version__}\n", "")
    code, out, _ = tokentrial("--help")
    assert code == 0
    listed = [line.split()[0] for line in out.split("Run a trial:")[1].splitlines() if line.startswith("  ")]
    assert sorted(listed) == sorted(VERBS)  # each in one group
    for verb in VERBS:
        code, out, _ = tokentrial(verb, "--help")
        assert code == 0
        assert f"Example: tokentrial {verb}" in out


def test_help_plans_and_the_list_of_arms_answer_without_heavy_imports():
    """In one new process, the last of them as `python -m tokentrial`."""
    script = """if True:
        import runpy, sys
        from tokentrial.cli.main import app
        for words in (["--help"], ["run", "--help"], ["arms", "--json"]):
            app(words, standalone_mode=False)
        light = set(sys.modules)
        app(["plan", "pilot"], standalone_mode=False)
        print(*light, file=sys.stderr)
        print("PLANNED", *set(sys.modules) - light, file=sys.stderr)
        sys.argv = ["tokentrial", "arms"]
        runpy.run_module("tokentrial", run_name="__main__")
    """
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("mul_tokens") >= 2
    light, planned = ({name.split(".")[0] for name in part.split()} for part in ended.stderr.split("PLANNED"))
    assert "tokentrial" in light
    assert light & HEAVY == set()
    assert planned & {"torch", "transformers", "datasets", "trl"} == set()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_verbs_and_trials(tokentrial, tmp_path, monkeypatch, shell):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys.modules["__main__"], "__package__", None)  # else the command is `python -m pytest`
    for name in ("pilot-2.yaml", "p.txt", "other.yaml"):
        (tmp_path / name).touch()
    monkeypatch.setenv("_TOKENTRIAL_COMPLETE", f"complete_{shell}")
    monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")

    def completed(line):
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(line.count(" ")))
        monkeypatch.setenv("_TYPER_COMPLETE_ARGS", line)
        return set(re.findall(r'^(?:_arguments .*\(\()?"?([\w.-]+)', tokentrial()[1], re.MULTILINE))

    assert completed("tokentrial re") == {"report", "results"}
    assert completed("tokentrial run p") == {"pilot", "pilot-2.yaml"}


# for a machine


def test_arms_as_json(tokentrial):
    code, out, err = tokentrial("arms", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert (code, err, list(rows)) == (0, "", arms.arm_names())
    assert all({"name", "summary", "tokens", "keeps_content"} <= set(row) for row in rows.values())
    assert [rows[name]["tokens"] for name in ("baseline", "mul_tokens", "one_slot")] == [0, 45, 1]
    assert [rows[name]["keeps_content"] for name in ("mul_tokens", "one_slot")] == [True, False]


@pytest.mark.parametrize("name", arms.arm_names())
def test_inspect_sees_a_text_as_the_arm_does(tokentrial, name):
    text = "so 6 × 9 = 54, not 6*9=55"
    seen = json.loads(tokentrial("inspect", text, "--arm", name, "--json")[1])
    arm = arms.get_arm(name)
    assert len(seen["tokens"]) == len(seen["ids"])
    assert "".join(seen["tokens"]) == arm.rewrite(text)
    assert seen["plain"] == arm.untokenize(arm.rewrite(text))
    assert len(seen["sites"]) == bool(arm.tokens)


def test_inspect_as_json_in_the_vocabulary_of_a_trial_and_for_a_person(tokentrial):
    code, out, err = tokentrial("inspect", "is 6*9=54.", "--arm", "mul_tokens", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "arm": "mul_tokens",
        "text": "is 6*9=54.",
        "ids": [271, 220, 50304 + SIX_TIMES_NINE, 13],  # GPT-2's `is`, ` ` and `.`
        "tokens": ["is", " ", "<MUL_6_9_54>", "."],
        "plain": "is 6*9=54.",
        "sites": [[3, 9, "<MUL_6_9_54>"]],
    }
    seen = json.loads(tokentrial("inspect", "6*9=54", "--arm", "mul_append", "--trial", "smoke", "--json")[1])
    smoke = Vocabulary(256, len(TIMES_TABLE))  # 256 + 256 bytes and merges, eos, to 576
    assert seen["ids"] == [*smoke.encode("6*9=54").tolist(), 576 + SIX_TIMES_NINE]
    code, out, _ = tokentrial("inspect", "a\\n6*9=54", "--arm", "one_slot", "--arm", "baseline")
    assert code == 0
    assert all(part in out for part in (r"'a' '\n' '<FACT>'", r"'a' '\n' '6' '*' '9' '=' '54'", "2-8 <FACT>", "none"))
    # a byte that is no UTF-8 comes from the shell as a lone surrogate
    seen = json.loads(tokentrial("inspect", "six\udcff", "--arm", "baseline", "--json")[1])
    assert (seen["text"], seen["plain"]) == ("six\ufffd", "six\ufffd")


@pytest.mark.parametrize("text", ["-3*4=12", "--3*4=12", "--3.5*4=14", "-", "- 6*9=54", "-h"])
def test_a_text_may_begin_with_a_dash(tokentrial, text):
    code, out, _ = tokentrial("inspect", text, "--arm", "baseline", "--json")
    assert (code, json.loads(out)["text"]) == (0, text)
    assert tokentrial("sample", "absent/a/seed1", text)[0] == 2  # no cell, but no option either
    assert tokentrial("sample", "absent/a/seed1", text, "--tempratur", "1")[0] == 2


def test_a_terminal_that_is_ascii_gets_all_there_is(tmp_path):
    """In a new process, whose streams and arguments are of that encoding."""
    locale = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    script = "import sys; from tokentrial.cli.main import main; main()"

    def run(*words):
        command = [sys.executable, "-c", script, *words]
        return subprocess.run(command, capture_output=True, env=locale, cwd=tmp_path, timeout=120)

    ended = run("inspect", "6 × 9 = 54 é", "--arm", "mul_tokens")
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert b"<MUL_6_9_54>" in ended.stdout
    assert rb"\xe9" in ended.stdout
    ended = run("inspect", "6 × 9 = 54 é", "--arm", "mul_tokens", "--json")
    assert json.loads(ended.stdout)["text"] == "6 × 9 = 54 é"
    ended = run("status", "é")
    assert (ended.returncode, b"Traceback" in ended.stderr) == (2, False)


def test_inspect_of_several_arms_as_json_and_as_a_page(tokentrial, tmp_path):
    words = ("inspect", "<b>6*9=54", "--arm", "mul_tokens", "--arm", "mul_append", "--json")
    code, out, _ = tokentrial(*words, "--html", tmp_path / "seen.html")
    alone = [json.loads(tokentrial("inspect", "<b>6*9=54", "--arm", arm, "--json")[1]) for arm in words[3:6:2]]
    assert (code, json.loads(out)) == (0, alone)
    page = (tmp_path / "seen.html").read_text()
    assert page.count('<span class="fact">&#39;&lt;MUL_6_9_54&gt;&#39;</span>') == 2
    assert "<b>" not in page


# refusals: 2 for bad usage or settings, 1 for work that could not be done


@pytest.mark.parametrize(("error", "code"), [(TrialError, 1), (SettingsError, 2), (Interrupted, 75)])
def test_an_error_that_can_be_mended_is_one_message_and_its_exit_code(refused, monkeypatch, error, code):
    def fail():
        raise error("outputs/pilot: what to do")

    monkeypatch.setattr(cli, "app", fail)
    assert refused(code, "run", "pilot") == "tokentrial: outputs/pilot: what to do\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("rum", "Usage: "),
        ("arms --jsn", "Usage: "),
        ("inspect x", "Usage: "),
        ("run", "Usage: "),
        ("inspect 6*9=54 --arm mul_token", "arms: no arm 'mul_token'; there are append_random, append_slot, baseline"),
        *((f"{verb} smok", "smok: no such file or shipped trial")
          for verb in ("run", "plan", "corpus", "pretrain", "export", "evaluate")),
        *((f"{verb} absent", "absent: no trial.yaml there") for verb in ("status", "report")),
        ("status absent --watch --json", "--watch"),
        *((f"run smoke --placebo {option} 1", option)
          for option in ("--stages", "--arm", "--seed", "--budget-minutes")),
        ("run smoke --pretrain.lr=0.1", "give pretrain.lr=0.1"),
        ("run smoke --pretrain.lr 0.1", "give pretrain.lr=VALUE"),
        ("run smoke pretrain.stpes=200", "pretrain.stpes: unknown setting; did you mean `steps`?"),
        ("run smoke arms=[baseline,mul_tokens,mul_append,mul_tok]", "no arm 'mul_tok'"),
        ("corpus smoke corpus.source=parquet:absent.parquet", "corpus.source"),
        ("pretrain smoke --arm one_slot", "arm 'one_slot': not in this trial; it has baseline, mul_tokens, mul_append"),
        ("pretrain smoke --seed 7", "seed '7': not in this trial; it has 1, 2"),
    ],
)  # fmt: skip
def test_bad_usage_is_told_and_writes_nothing(refused, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    assert message in refused(2, *words.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("below", ["", "/run"])
def test_an_output_that_is_a_file_is_named_and_kept(refused, tmp_path, below):
    (tmp_path / "mine").write_text("notes")
    err = refused(1, "run", "smoke", f"output={tmp_path / 'mine'}{below}")
    assert f"{tmp_path / 'mine'}{below}: found a file, expected a folder; move it" in err
    assert (tmp_path / "mine").read_text() == "notes"


def test_a_stage_whose_input_is_missing_has_failed(refused, tmp_path):
    err = refused(1, "pretrain", "smoke", f"output={tmp_path}/out")
    assert "corpus: not ready; run `tokentrial corpus` with the same trial first" in err


def test_status_tells_of_each_cell_what_is_to_do(tokentrial, finished_copy):
    code, out, err = tokentrial("status", finished_copy, "--watch")  # which ends at once
    assert (code, err) == (0, "")
    assert out.splitlines() == ["smoke: 100%, 4 of 4 cells done", f"{finished_copy}: complete"]
    shutil.rmtree(finished_copy / "mul_tokens" / "seed1" / "eval_pretrain")
    code, out, _ = tokentrial("status", finished_copy)
    assert code == 0
    of_cells = dict(line.split(maxsplit=1) for line in out.splitlines()[1:] if "/seed" in line)
    assert of_cells.pop("mul_tokens/seed1") == "to do: eval_pretrain"
    assert set(of_cells.values()) == {"done"}
    assert "3 of 4 cells done" in out


def test_a_report_ends_with_the_path_of_its_page(tokentrial, finished_copy, undrawn):
    (finished_copy / "report.html").unlink()
    code, out, _ = tokentrial("report", str(finished_copy))
    assert code == 0
    assert out.splitlines()[-1] == f"Report: {finished_copy / 'report.html'}"
    assert (finished_copy / "report.html").is_file()
