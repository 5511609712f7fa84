"""The speed of this machine in the training steps of a trial's own model, for the plan."""

import time
from typing import NamedTuple

import numpy as np
import torch

from tokentrial.pretrain.device import resolve_device, resolve_dtype
from tokentrial.pretrain.gpt import GPT, Config
from tokentrial.pretrain.loader import Batch
from tokentrial.pretrain.optim import optimizers
from tokentrial.pretrain.ranks import Ranks
from tokentrial.pretrain.train import Step
from tokentrial.settings import Pretrain

STEPS = 20
_SECONDS = 60.0  # after which no further step is begun


class Measured(NamedTuple):
    """Tokens a second of one worker over so many steps."""

    tokens_per_s: float
    steps: int


class RandomIds:
    """Batches of ids drawn evenly: a step costs the same whatever it reads."""

    def __init__(self, settings: Pretrain, vocabulary: int) -> None:
        self.rows = settings.micro_batch
        self.shape = settings.micro_batch, settings.context + 1
        self.vocabulary, self.generator = vocabulary, np.random.default_rng(0)

    def next(self) -> Batch:
        ids = self.generator.integers(self.vocabulary, size=self.shape, dtype=np.int64)
        return ids[:, :-1], ids[:, 1:]


def measure(settings: Pretrain, vocabulary: int) -> Measured:
    """Take 20 steps of one micro-batch each, fewer where a minute is over, after one that compiles and warms up; as one
    worker of a run does: on one GPU, or with one thread on a CPU."""
    device = torch.device(resolve_device(settings))
    if device.type == "cpu":
        torch.set_num_threads(1)
    model = GPT(Config(vocabulary, settings.n_layer, settings.n_head, settings.n_embd, settings.context), 0)
    model = model.to(device)
    made = optimizers(model, settings)
    if settings.compile == "on" or (settings.compile == "auto" and device.type == "cuda"):
        model.hidden = torch.compile(model.hidden)  # type: ignore[method-assign]
    ids = RandomIds(settings, vocabulary)
    step = Step(model, ids, settings, Ranks(device=device), resolve_dtype(settings))
    ends: list[float] = []
    while len(ends) < 2 or (len(ends) <= STEPS and ends[-1] - ends[0] < _SECONDS):
        loss, _ = step(made)
        loss.item()  # waits for the GPU
        ends.append(time.perf_counter())
    steps = len(ends) - 1
    return Measured(steps * settings.micro_batch * settings.context / (ends[-1] - ends[0]), steps)
