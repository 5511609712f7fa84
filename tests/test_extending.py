"""docs/extending.md is enough: what it shows, in under 40 lines each, goes through the smoke trial."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from tokentrial.store.files import read_json

ROOT = Path(__file__).resolve().parents[1]
DOC = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
PARTS = ("tokenizer", "corpus", "pretrain", "sft", "grpo", "tasks", "evaluate")


def shown(kind):
    [block] = re.findall(rf"^```{kind}\n(.*?)```", DOC, re.DOTALL | re.MULTILINE)
    assert len(block.splitlines()) < 40
    return block


# what a user does, in a copy of the package, as other tests list its arms meanwhile
_ARM = """
import json, sys
from tests.conftest import Inline
from tokentrial.run import run as runs
from tokentrial.arms import arm as arms
from tokentrial.trial.load import load
arm = arms.get_arm("mul_prepend")
text = "so 6*9=54, 7 x 8 = 56."
written = arm.rewrite(text)
read = [written, arm.rewrite(written), arm.untokenize(written), arm.untokenize("so <MUL_6_9_54>.")]
runs.LocalExecutor = Inline
report = runs.run(load("smoke", sys.argv[1:]))
print(json.dumps({"read": read, "stages": report["stages"], "missing": report["missing"],
                  "metric": report["outcomes"]["quantized/mul_table/never_asked/last_digit"]["per_seed"]}))
"""


@pytest.mark.slow
def test_the_arm_the_stage_and_the_metric_of_the_docs_go_through_the_smoke_trial(ladder, tmp_path):
    copy, out = tmp_path / "package", tmp_path / "run"
    shutil.copytree(ROOT / "tokentrial", copy / "tokentrial", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "tests", copy / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "tokentrial" / "arms" / "mul_prepend.py").write_text(shown("python"), encoding="utf-8")
    (copy / "tokentrial" / "steps" / "quantized.py").write_text(shown("python stage"), encoding="utf-8")
    metrics = copy / "tokentrial" / "report" / "outcomes.py"
    metrics.write_text(metrics.read_text().replace("METRICS = {\n", "METRICS = {\n" + shown("python metric")))
    primary = "{outcome: quantized/mul_table/never_asked/accuracy, contrast: mul_prepend - baseline}"
    trial = ladder(out)
    settings = [f"{part}={getattr(trial, part).model_dump_json()}" for part in PARTS]
    settings += ["arms=[baseline,mul_prepend]", f"verdict.primary={primary}", "verdict.secondary=[]", f"output={out}"]
    settings += ["stages={quantized: {bits: 4}}"]
    ended = subprocess.run(
        [sys.executable, "-c", _ARM, *settings],
        cwd=copy,
        env=os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    said = json.loads(ended.stdout.splitlines()[-1])
    rewritten = "so <MUL_6_9_54>6*9=54, <MUL_7_8_56>7 x 8 = 56."
    assert said["read"] == [rewritten, rewritten, "so 6*9=54, 7 x 8 = 56.", "so 6*9=54."]
    assert all(0 <= share <= 1 for shares in said["metric"].values() for share in shares)
    assert (said["stages"], said["missing"]) == (["pretrain", "sft", "grpo", "quantized"], [])
    weights = load_file(out / "baseline" / "seed1" / "quantized" / "model.safetensors")["transformer.wpe.weight"]
    assert all(len(set(column)) <= 15 for column in weights.T.round(6).tolist())  # of 4 bits, one for the sign
    served = read_json(out / "corpus" / "exposure.json")["served"]
    assert served["mul_prepend"]["1"]["fact_tokens"] > 100
    assert served["baseline"]["1"]["fact_tokens"] == 0


@pytest.mark.slow
def test_the_facts_of_the_docs_go_through_the_smoke_trial(tokentrial, tmp_path, monkeypatch, inline):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "capitals.csv").write_text(shown("csv"), encoding="utf-8")
    program, *words = shlex.split(shown("sh"))
    assert program == "tokentrial"
    code, out, err = tokentrial(*words)
    assert (code, "Verdict: mul_tokens - baseline on pretrain/fact_table/never_asked/accuracy" in out) == (0, True), err
    report = read_json(tmp_path / "outputs" / "capitals" / "comparison_report.json")
    assert report["facts"]["facts"] == 6
    assert report["missing"] == []
