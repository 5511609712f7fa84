"""The package from Python: what a notebook or a script of a user does, and that what docs/python.md shows works."""

import json
import re
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest

import tokentrial
from tokentrial.errors import SettingsError

ROOT = Path(__file__).parents[1]


def test_importing_it_loads_nothing_of_weight():
    loaded = "import sys, tokentrial; print(*{'torch', 'numpy', 'pandas', 'pydantic'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_settings_from_python_mean_what_they_mean_on_the_command_line(tmp_path):
    from tokentrial.trial.load import load

    given = tokentrial.load_trial("smoke", {"pretrain.steps": 7, "seeds": [3, 4]}, output=tmp_path)
    assert given == load("smoke", ["pretrain.steps=7", "seeds=[3,4]", f"output={tmp_path}"])
    with pytest.raises(SettingsError, match="did you mean `steps`"):
        tokentrial.load_trial("smoke", {"pretrain.stpes": 7})


def test_results_are_the_run_s_table_and_a_run_compared_with_itself_its_report(finished, undrawn):
    report = tokentrial.build_report(finished.folder)
    outcome = report["primary"]["outcome"]
    results = tokentrial.read_results(finished.folder)
    names = results["stage"].str.cat(results[["task", "subset", "metric"]], sep="/")
    chosen = results[names == outcome]
    per_seed = {arm: list(rows["value"]) for arm, rows in chosen.sort_values("seed").groupby("arm")}
    assert per_seed == report["outcomes"][outcome]["per_seed"]
    assert {"item", "fact"} & {*results.columns} == set()
    assert {"item", "fact"} < {*tokentrial.read_results(finished.folder, items=True).columns}
    [row] = tokentrial.compare_results(finished.folder, outcomes=[outcome]).to_dict("records")
    assert (row["verdict"], row["difference"]) == (report["primary"]["verdict"], report["contrasts"][0]["difference"])


@pytest.fixture
def tiny_smoke(monkeypatch, shrinking, source, tmp_path, inline):
    """`smoke` is the tiny trial, run in this process, in an empty folder."""
    from tokentrial.trial import load as loading

    def smaller(trial, overrides=(), output=None):
        given = overrides.items() if isinstance(overrides, dict) else map(loading.read_override, overrides)
        small = [*shrinking, "sft=null", "grpo=null", "evaluate.tasks=[]", f"corpus.source=jsonl:{source}"]
        return load(trial, dict([*map(loading.read_override, small), *given]), output)

    load = loading.load
    monkeypatch.setattr(loading, "load", smaller)
    monkeypatch.chdir(tmp_path)


def test_the_code_of_the_documentation_runs(tiny_smoke):
    names: dict[str, object] = {}
    for block in re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/python.md").read_text(), re.DOTALL | re.MULTILINE):
        exec(block, names)
    assert names["report"]["seeds"] == [1, 2]


def test_the_notebook_runs_and_draws_its_figure(tiny_smoke, monkeypatch):
    matplotlib.use("Agg")
    shown = []
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: shown.append(True))
    names: dict[str, object] = {}
    for cell in json.loads((ROOT / "examples/pilot.ipynb").read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    [drawn] = names["axes"].get_legend_handles_labels()[1:]
    assert drawn == [f"seed {seed}" for seed in names["trial"].seeds]
    assert shown
