"""A benchmark that is seldom run must not break as the code moves: those that need no peer run here, small."""

import argparse
import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def benchmark(name):
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_report_of_made_up_results(monkeypatch, capsys, only):
    only("forest")
    module = benchmark("report")
    monkeypatch.setattr(module, "SEEDS", range(1, 4))
    monkeypatch.setattr(module, "ITEMS", 40)
    monkeypatch.setattr(module, "LIMITS", dict.fromkeys(module.LIMITS, float("inf")))
    module.main()
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "3 arms x 3 seeds x 40 items x 3 stages"
    assert json.loads(out[-1]).keys() == module.LIMITS.keys()


@pytest.mark.slow
def test_what_runs_on_a_gpu_is_rehearsed_without_one(monkeypatch, tmp_path, capsys):
    """A part that fails is said, and the others still run."""
    module = benchmark("gpu")
    large = module.parts(
        argparse.Namespace(out=tmp_path / "out", nanogpt=None, text="sotu", gsm8k=None, rehearse=True)
    )[-1]
    broken = module.Part("broken", ["-c", "raise SystemExit(3)"], 60)
    monkeypatch.setattr(module, "parts", lambda given: [broken, large._replace(limit_s=300)])
    monkeypatch.setattr(module, "LIMIT_S", 600)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--rehearse", "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="not ok: broken"):
        module.main()
    assert "broken: failed (3)" in capsys.readouterr().out
    assert "failed (3)" in (written := (tmp_path / "out/gpu.md").read_text())
    assert re.search(r"one cell of gpt2_50m on real text\n\nok, ", written)


@pytest.mark.slow
def test_cells_by_each_executor(monkeypatch, capsys):
    pytest.importorskip("ray")
    monkeypatch.setattr(sys, "argv", ["executors.py", "--cells", "2"])
    module = benchmark("executors")
    monkeypatch.setattr(module, "LIMIT_S", float("inf"))
    module.main()
    assert "local" in capsys.readouterr().out
