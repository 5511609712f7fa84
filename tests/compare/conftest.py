"""Run folders as evaluations write them, and what `tokentrial compare` says of results."""

import json
import shutil
from dataclasses import asdict

import pytest
import yaml

from tests.report.conftest import known_facts, write_cell
from tokentrial.statistics.contrast import contrast
from tokentrial.store.files import write_bytes

LOW, HIGH = (5, 6, 7, 5, 6, 8), (10, 12, 11, 11, 12, 12)  # never-asked facts, of 12, that an arm knows by seed
SEEDS = (1, 2, 3, 4, 5, 6)
NEVER_ASKED = "pretrain/mul_table/never_asked/accuracy"
BITS = "pretrain/heldout_text/untouched/bits_per_byte"


@pytest.fixture(scope="session")
def run_folder(tiny, tmp_path_factory):
    """`run_folder(name, {arm: known facts by seed}, seeds)`: a run of which these arms are evaluated."""

    def make(name, knows, seeds=SEEDS):
        arms = [*dict.fromkeys(["baseline", "mul_tokens", *knows])]
        trial = tiny(tmp_path_factory.mktemp("runs") / name, f"seeds={[*seeds]}", f"arms=[{','.join(arms)}]")
        dumped = yaml.safe_dump(trial.model_dump(mode="json"), sort_keys=False)
        write_bytes(trial.folder / "trial.yaml", dumped.encode())
        for arm, counts in knows.items():
            for seed, count in zip(seeds, counts, strict=True):
                write_cell(trial, arm, seed, known_facts(seed, count))
        return trial.folder

    return make


@pytest.fixture(scope="session")
def low(run_folder):
    """A run of the control alone. Not to be changed."""
    return run_folder("low", {"baseline": LOW})


@pytest.fixture(scope="session")
def high(run_folder):
    """Another one, whose control is better. Not to be changed."""
    return run_folder("high", {"baseline": HIGH})


@pytest.fixture(scope="session")
def two_arms(run_folder):
    """A run of two arms without its report. Not to be changed."""
    return run_folder("two_arms", {"baseline": LOW, "mul_tokens": HIGH})


@pytest.fixture
def two_arms_copy(two_arms, tmp_path):
    return shutil.copytree(two_arms, tmp_path / "copy")


def reported(role, outcome, treatment="mul_tokens", control="baseline", **fields):
    """A contrast as a run's report lists it; its numbers are not those of the cells, so that a citation is seen."""
    found = contrast((0.5, 0.9, 0.8), (0.4, 0.5, 0.6), role=role, outcome=outcome, arms=(treatment, control))
    return asdict(found) | fields


def write_report(run, *contrasts):
    """The report of a run folder, with these contrasts; returns the folder."""
    outcomes = {c["outcome"]: {"floors": {"constant": 1 / 12}} for c in contrasts}
    (run / "comparison_report.json").write_text(json.dumps({"contrasts": contrasts, "outcomes": outcomes}))
    return run


@pytest.fixture
def compared(tokentrial):
    """`compared(*words)`: the contrasts of `tokentrial compare ... --json`."""

    def run(*words):
        code, out, err = tokentrial("compare", *words, "--json")
        assert (code, err) == (0, "")
        return json.loads(out)["contrasts"]

    return run


@pytest.fixture
def by_outcome(compared):
    """The contrasts of a single pair of systems, by outcome."""
    return lambda *words: {contrast["outcome"]: contrast for contrast in compared(*words)}


@pytest.fixture
def refused(tokentrial):
    """`refused(*paths)`: the one line with which `compare` ends, without a traceback."""

    def run(*words):
        code, out, err = tokentrial("compare", *words)
        assert (code in (1, 2), out, err.count("\n")) == (True, "", 1)
        assert "Traceback" not in err
        return err

    return run
