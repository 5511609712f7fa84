"""Run folders as evaluations write them, and what `tokentrial compare` says of results."""

import json
import shutil

import pytest
import yaml

from tests.report.conftest import known_facts, write_cell
from tokentrial.run.run_folder import declare
from tokentrial.store.files import write_bytes

LOW, HIGH = (5, 6, 7, 5, 6, 8), (10, 12, 11, 11, 12, 12)  # never-asked facts, of 12, that an arm knows by seed
SEEDS = (1, 2, 3, 4, 5, 6)
NEVER_ASKED = "pretrain/mul_table/never_asked/accuracy"


@pytest.fixture(scope="session")
def run_folder(tiny, tmp_path_factory):
    """`run_folder(name, {arm: known facts by seed}, seeds)`: a run of which these arms are evaluated."""

    def make(name, knows, seeds=SEEDS):
        overrides = [f"seeds={[*seeds]}", "verdict.gate={asked: 0.6, never_asked: 0.4}", "verdict.smallest_effect=0.1"]
        trial = tiny(tmp_path_factory.mktemp("runs") / name, *overrides)
        dumped = yaml.safe_dump(trial.model_dump(mode="json"), sort_keys=False)
        write_bytes(trial.folder / "trial.yaml", dumped.encode())
        declare(trial)
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
