"""The command line: verbs, exit codes, what it prints for a machine, and answers without heavy imports."""

import json
import re
import shutil
import subprocess
import sys

import pytest

from tokentrial import __version__
from tokentrial.arms import arm as arms
from tokentrial.arms.families import TIMES_TABLE
from tokentrial.cli import main as cli
from tokentrial.errors import Interrupted, SettingsError, TrialError
from tokentrial.tokenizer.vocabulary import Vocabulary

VERBS = {
    "run",
    "status",
    "report",
    "compare",
    "power",
    "inspect",
    "sample",
    "arms",
    "plan",
    "corpus",
    "pretrain",
    "export",
    "sft",
    "grpo",
    "evaluate",
    "bundle",
    "push",
    "pull",
}
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


# help


def test_help_lists_every_verb(tokentrial):
    code, out, _ = tokentrial("--help")
    assert code == 0
    assert {line.split()[0] for line in out.split("Commands:")[1].splitlines() if line.strip()} == VERBS


def test_the_version_is_told(tokentrial):
    assert tokentrial("--version") == (0, f"tokentrial {__version__}\n", "")


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_explains_itself_with_an_example(tokentrial, verb):
    code, out, _ = tokentrial(verb, "--help")
    assert code == 0
    assert f"Example: tokentrial {verb}" in out


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["arms"], ["arms", "--json"]], ids=" ".join)
def test_help_and_the_list_of_arms_answer_without_heavy_imports(words):
    script = """if True:
        import sys
        from tokentrial.cli.main import main
        sys.argv = ["tokentrial", *sys.argv[1:]]
        try:
            main()
        finally:
            print(*sys.modules, file=sys.stderr)
    """
    ended = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0
    assert ended.stdout
    loaded = {name.split(".")[0] for name in ended.stderr.split()}
    assert "tokentrial" in loaded
    assert loaded & HEAVY == set()


def test_the_package_runs_as_a_module():
    ended = subprocess.run([sys.executable, "-m", "tokentrial", "arms"], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0
    assert all(name in ended.stdout for name in arms.arm_names())


# for a machine


def test_arms_as_json(tokentrial):
    code, out, err = tokentrial("arms", "--json")
    rows = json.loads(out)
    assert (code, err) == (0, "")
    assert [row["name"] for row in rows] == arms.arm_names()
    assert all({"name", "summary", "tokens", "keeps_content"} <= set(row) for row in rows)
    tokens = {row["name"]: row["tokens"] for row in rows}
    assert (tokens["baseline"], tokens["mul_tokens"], tokens["one_slot"]) == (0, 45, 1)
    keeping = {row["name"]: row["keeps_content"] for row in rows}
    assert (keeping["mul_tokens"], keeping["one_slot"]) == (True, False)


def test_inspect_as_json(tokentrial):
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


@pytest.mark.parametrize("name", arms.arm_names())
def test_inspect_sees_a_text_as_the_arm_does(tokentrial, name):
    text = "so 6 × 9 = 54, not 6*9=55"
    seen = json.loads(tokentrial("inspect", text, "--arm", name, "--json")[1])
    arm = arms.get_arm(name)
    assert len(seen["tokens"]) == len(seen["ids"])
    assert "".join(seen["tokens"]) == arm.rewrite(text)
    assert seen["plain"] == arm.untokenize(arm.rewrite(text))
    assert len(seen["sites"]) == bool(arm.tokens)


def test_inspect_in_the_vocabulary_of_a_trial(tokentrial):
    seen = json.loads(tokentrial("inspect", "6*9=54", "--arm", "mul_append", "--trial", "smoke", "--json")[1])
    smoke = Vocabulary(256, len(TIMES_TABLE))  # 256 + 256 bytes and merges, eos, to 576
    assert smoke.base == 576
    assert seen["ids"] == [*smoke.encode("6*9=54").tolist(), 576 + SIX_TIMES_NINE]


def table_of(out):
    """Label: what stands beside it in each column, of a printed table whose cells are one line high."""
    lines = [re.split(r" {3,}", line.strip()) for line in out.splitlines() if line.strip() and "─" not in line]
    return {label: cells for label, *cells in lines[1:]} | {"": lines[0]}


def test_inspect_for_a_person(tokentrial):
    code, out, _ = tokentrial("inspect", "a\\n6*9=54", "--arm", "one_slot", "--arm", "baseline")
    assert code == 0
    seen = table_of(out)
    assert seen[""] == ["one_slot", "baseline"]
    assert seen["tokens"] == [r"'a' '\n' '<FACT>'", r"'a' '\n' '6' '*' '9' '=' '54'"]
    assert seen["sites"] == ["2-8 <FACT>", "none"]
    assert seen["plain"] == [r"'a\n'", r"'a\n6*9=54'"]


def test_inspect_of_several_arms_as_json_and_as_a_page(tokentrial, tmp_path):
    words = ("inspect", "<b>6*9=54", "--arm", "mul_tokens", "--arm", "mul_append", "--json")
    code, out, _ = tokentrial(*words, "--html", tmp_path / "seen.html")
    alone = [json.loads(tokentrial("inspect", "<b>6*9=54", "--arm", arm, "--json")[1]) for arm in words[3:6:2]]
    assert (code, json.loads(out)) == (0, alone)
    page = (tmp_path / "seen.html").read_text()
    assert page.count('<span class="fact">&#39;&lt;MUL_6_9_54&gt;&#39;</span>') == 2
    assert "<b>" not in page


def test_inspect_of_bytes_that_are_no_text(tokentrial):
    """A byte that is no UTF-8 comes from the shell as a lone surrogate."""
    seen = json.loads(tokentrial("inspect", "six\udcff", "--arm", "baseline", "--json")[1])
    assert (seen["text"], seen["plain"]) == ("six\ufffd", "six\ufffd")


# refusals: 2 for bad usage or settings, 1 for work that could not be done


@pytest.mark.parametrize("error", [TrialError, SettingsError, Interrupted])
def test_an_error_that_can_be_mended_is_one_message_and_its_exit_code(refused, monkeypatch, error):
    def fail():
        raise error("outputs/pilot: what to do")

    monkeypatch.setattr(cli, "app", fail)
    code = {TrialError: 1, SettingsError: 2, Interrupted: 75}[error]
    assert refused(code, "run", "pilot") == "tokentrial: outputs/pilot: what to do\n"


def test_an_unknown_arm_is_bad_usage(refused):
    err = refused(2, "inspect", "6*9=54", "--arm", "mul_token")
    assert err.startswith("tokentrial: arms: no arm 'mul_token'; there are append_slot, baseline")


@pytest.mark.parametrize("words", [["rum"], ["arms", "--jsn"], ["inspect", "x"], ["run"]], ids=" ".join)
def test_bad_usage(refused, words):
    assert "Usage: " in refused(2, *words)


@pytest.mark.parametrize("verb", ["run", "plan", "corpus", "pretrain", "export", "evaluate"])
def test_an_unknown_trial_is_bad_usage(refused, verb):
    assert "smok: no such file, and no shipped trial of that name" in refused(2, verb, "smok")


def test_status_tells_of_each_cell_what_is_to_do(tokentrial, finished_copy):
    shutil.rmtree(finished_copy / "mul_tokens" / "seed1" / "eval_pretrain")
    code, out, _ = tokentrial("status", finished_copy)
    assert code == 0
    told = dict(line.split(maxsplit=1) for line in out.splitlines()[1:] if "/seed" in line)
    assert told.pop("mul_tokens/seed1") == "to do: eval_pretrain"
    assert set(told.values()) == {"done"}
    assert f"{len(told)} of {len(told) + 1} cells done" in out


@pytest.mark.parametrize("verb", ["status", "report"])
def test_a_folder_that_holds_no_run_is_bad_usage(refused, tmp_path, verb):
    assert f"{tmp_path / 'absent'}: no trial.yaml there" in refused(2, verb, str(tmp_path / "absent"))


def test_watching_is_for_a_person(refused, finished):
    assert "--watch" in refused(2, "status", str(finished.folder), "--watch", "--json")


def test_watching_a_run_that_is_complete_ends_at_once(tokentrial, finished):
    code, out, err = tokentrial("status", str(finished.folder), "--watch")
    assert (code, err) == (0, "")
    assert out.splitlines() == ["smoke: 100%, 4 of 4 cells done", f"{finished.folder}: complete"]


def test_a_report_ends_with_the_path_of_its_page(tokentrial, finished_copy):
    code, out, _ = tokentrial("report", str(finished_copy))
    assert code == 0
    assert out.splitlines()[-1] == f"Report: {finished_copy / 'report.html'}"
    assert (finished_copy / "report.html").is_file()


def test_a_bad_setting_is_bad_usage_and_writes_nothing(refused, tmp_path):
    err = refused(2, "run", "smoke", "pretrain.stpes=200", f"output={tmp_path / 'out'}")
    assert "pretrain.stpes: unknown setting; did you mean `steps`?" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("below", ["", "/run"])
def test_an_output_that_is_a_file_is_named_and_kept(refused, tmp_path, below):
    (tmp_path / "mine").write_text("notes")
    err = refused(1, "run", "smoke", f"output={tmp_path / 'mine'}{below}")
    assert f"{tmp_path / 'mine'}{below}: found a file, expected a folder; move it" in err
    assert (tmp_path / "mine").read_text() == "notes"


def test_an_arm_of_the_trial_that_there_is_none_of_is_refused_before_anything_is_written(refused, tmp_path):
    err = refused(2, "run", "smoke", "arms=[baseline, mul_tokens, mul_append, mul_tok]", f"output={tmp_path / 'out'}")
    assert "no arm 'mul_tok'" in err
    assert not (tmp_path / "out").exists()


def test_a_source_that_is_not_there_is_bad_usage(refused, tmp_path):
    err = refused(2, "corpus", "smoke", f"corpus.source=parquet:{tmp_path}/absent.parquet", f"output={tmp_path}/out")
    assert "corpus.source" in err
    assert "absent.parquet" in err


@pytest.mark.parametrize(
    ("words", "known"),
    [
        (["--arm", "one_slot"], "arm 'one_slot': not in this trial; it has baseline, mul_tokens, mul_append"),
        (["--seed", "7"], "seed '7': not in this trial; it has 1, 2"),
    ],
)
def test_a_cell_that_the_trial_has_not_is_bad_usage(refused, tmp_path, words, known):
    assert known in refused(2, "pretrain", "smoke", f"output={tmp_path}/out", *words)


def test_a_stage_whose_input_is_missing_has_failed(refused, tmp_path):
    err = refused(1, "pretrain", "smoke", f"output={tmp_path}/out")
    assert "corpus: not ready; run `tokentrial corpus` with the same trial first" in err
