"""The speed of this machine in the training steps of a trial's own model, for the plan."""

import time
from typing import NamedTuple

import numpy as np
import torch

from tokentrial.pretrain.gpt import GPT, Config
from tokentrial.pretrain.loader import Batch, Position
from tokentrial.pretrain.optim import TrainStep
from tokentrial.pretrain.ranks import process_group
from tokentrial.trial.pretraining import Pretrain

STEPS = 20
_SECONDS = 60.0  # after which no further step is begun


class Throughput(NamedTuple):
    """Tokens a second of one worker over so many steps."""

    tokens_per_s: float
    steps: int


def measure(settings: Pretrain, vocabulary: int) -> Throughput:
    """Take 20 steps of one micro-batch each, fewer where a minute is over, after one that compiles and warms up; as one
    worker of a run does: on one GPU, or with one thread on a CPU. A step costs the same whatever ids it reads."""
    with process_group(settings) as ranks:
        if ranks.device.type == "cpu":
            torch.set_num_threads(1)
        shape, generator = (settings.micro_batch, settings.context + 1), np.random.default_rng(0)

        def random_batch() -> Batch:
            ids = generator.integers(vocabulary, size=shape, dtype=np.int64)
            return Batch(ids[:, :-1], ids[:, 1:], Position(0, 0, ""))

        config = Config(vocabulary, settings.n_layer, settings.n_head, settings.n_embd, settings.context)
        compiled = "on" if settings.compiles(ranks.device.type, vocabulary) else "off"
        one_micro_batch = settings.model_copy(
            update={"batch_tokens": settings.micro_batch * settings.context, "compile": compiled}
        )
        step = TrainStep(GPT(config, 0).to(ranks.device), random_batch, one_micro_batch, ranks)
        ends: list[float] = []
        while len(ends) < 2 or (len(ends) <= STEPS and ends[-1] - ends[0] < _SECONDS):
            loss, _ = step(1.0)
            loss.item()  # waits for the GPU
            ends.append(time.perf_counter())
    steps = len(ends) - 1
    return Throughput(steps * one_micro_batch.batch_tokens / (ends[-1] - ends[0]), steps)
