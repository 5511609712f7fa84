"""A benchmark that is seldom run must not break as the code moves: those that need no peer run here, small."""

import importlib.util
import json
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
def test_cells_by_each_executor(monkeypatch, capsys):
    pytest.importorskip("ray")
    monkeypatch.setattr(sys, "argv", ["executors.py", "--cells", "2"])
    module = benchmark("executors")
    monkeypatch.setattr(module, "LIMIT_S", float("inf"))
    module.main()
    assert "local" in capsys.readouterr().out
