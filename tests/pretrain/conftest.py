"""Cells of the tiny corpus, trained for a few short steps."""

import json
from pathlib import Path

import pytest

from tokentrial.corpus.stream import Stream
from tokentrial.pretrain.train import pretrain
from tokentrial.trial.pretraining import Pretrain

STEPS = 5
TIMED = {"seconds", "tokens_per_s", "tflops_per_s", "mfu", "memory_gb"}


def results(folder):
    return json.loads((folder / "results.json").read_bytes())


def metrics(folder):
    """The records of training steps, without what a clock says."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_bytes().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMED} for line in lines if "loss" in line]


def stop_after(answers):
    """`stop()` that says so when it is asked once more than so many times."""
    asked = iter(range(10**6))
    return lambda: next(asked) >= answers


@pytest.fixture(scope="session")
def train(plan):
    """`train(folder, arm, seed, probe, progress, ranks, stop, start, **settings)`: a cell trained into `folder`; with
    checkpoints beside it where `stop` is given. Validation, of 50 kB in a run, is of 2 kB."""

    def train_cell(
        folder,
        arm="baseline",
        seed=1,
        probe=None,
        progress=None,
        ranks=None,
        stop=None,
        start=None,
        averaged=1,
        **changed,
    ):
        steps = {"steps": STEPS, "batch_tokens": 1024, "micro_batch": 16, "log_every": 1}
        rate = {"lr": changed.pop("lr", plan.trial.pretrain.lr)}  # also one that no trial may have
        settings = Pretrain(**plan.trial.pretrain.model_dump() | steps | changed).model_copy(update=rate)
        stream = Stream.of(plan.trial, plan.folder, plan.vocabulary, arm, seed)
        checkpoints = folder.with_name(f"{folder.name}.checkpoints") if stop else None
        Path(folder).mkdir(exist_ok=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tokentrial.pretrain.validate._VAL_BYTES", 2000)
            patch.setattr("tokentrial.pretrain.validate._VAL_TOKENS", 1000)
            how = {"stop": stop or bool, "start": start, "averaged": averaged}
            pretrain(folder, stream, settings, probe, progress, checkpoints, ranks, **how)
        return folder

    return train_cell


@pytest.fixture(scope="session")
def trained(train, tmp_path_factory):
    """Folder of one trained cell. Not to be changed."""
    return train(tmp_path_factory.mktemp("trained") / "cell", "mul_tokens", seed=2)
