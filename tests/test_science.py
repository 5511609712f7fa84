"""docs/science.md shows what its command prints, and the rates there keep what is promised."""

import json
import re
import sys
from pathlib import Path

import pytest

from tests.test_benchmarks import benchmark

ROOT = Path(__file__).resolve().parents[1]
GAUSSIAN = ("no seed noise", "seed noise 0.3, shared", "seed noise 0.3, own", "seed noise 0.6, shared")


@pytest.fixture(scope="module")
def shown():
    """Rates of the table in the docs: by row those of the paired t and, where there is one, its coverage."""
    rows = {}
    for line in (ROOT / "docs" / "science.md").read_text(encoding="utf-8").splitlines():
        found = re.fullmatch(r"    (\S.*?)((?: +[\d.]+%)+)(   promised: .*)?", line)
        if found and "trials of" not in found[1]:
            rows[found[1]] = [float(rate) / 100 for rate in re.findall(r"([\d.]+)%", found[2])]
    return rows


def test_false_alarms_and_coverage_are_as_promised(shown):
    alarms = {name: rates for name, rates in shown.items() if "noise" in name or "learn" in name}
    assert len(alarms) == 9
    assert all(rates[0] <= 0.07 for rates in alarms.values())
    assert all(alarms[name][0] >= 0.03 for name in GAUSSIAN)
    assert all(0.93 <= rates[3] <= 0.97 for rates in alarms.values() if len(rates) == 4)


def test_the_command_prints_that_table(shown, monkeypatch, capsys):
    """At 500 trials, within four standard errors: 4 points at 5 %. Crossed seeds and facts have a fourth of them."""
    simulations = benchmark("simulations")
    monkeypatch.setattr(simulations, "BLOCK", 500)
    monkeypatch.setattr(sys, "argv", ["simulations.py", "500"])
    simulations.main()
    rates = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert rates["trials"] == 500
    for name, of_docs in shown.items():
        ours = rates.get(name, rates.get(f"{name}: paired t"))
        trials = 125 if name.startswith("interval") else 500
        margin = 4 * (max(of_docs[0] * (1 - of_docs[0]), 0.005) / trials) ** 0.5
        assert ours == pytest.approx(of_docs[0], abs=margin), name
