"""What steps take, in units that no device changes: tokens, FLOPs, waits of decoding, bytes of memory and of disk.

A step's own figures stand in its file; here is what they share. Weights, gradients and AdamW's two moments are 16 bytes
a parameter. Activations are 34 bytes a token, width and layer in 16 bit (Korthikanti et al. 2022, eq. 1, without the
attention matrix, which is never whole), twice that in 32.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev
from typing import NamedTuple

import numpy as np

from tokentrial.facts.families import build_facts
from tokentrial.tasks.contents import lost
from tokentrial.tasks.task import Example
from tokentrial.tasks.training_examples import get_task, source_examples
from tokentrial.tokenizer.vocabulary import Vocabulary
from tokentrial.trial.pretraining import CHECKPOINT_BYTES
from tokentrial.trial.trial import Trial

_TRAINING_BYTES = 16  # a parameter: fp32 weights, gradients and AdamW's two moments
_ACTIVATIONS = 34
_LOGITS = 8  # bytes of a logit and its gradient, fp32
_TOKENIZER = 100_000, 100  # bytes, and bytes an id, of the files beside a model in transformers' format
# characters that a token stands for with so many of GPT-2's merges, measured on FineWeb-Edu; bytes alone: one
_CHARACTERS = ((0, 1.0), (256, 2.0), (512, 2.3), (768, 2.5), (1024, 2.6), (1792, 2.9), (3840, 3.4), (50_000, 4.6))


@dataclass(frozen=True)
class Work:
    """What one stage computes. `decoded`: tokens made one after the other, each a wait for all layers; `passes`: of
    training, each at least such a wait; `eager`: by transformers, not by the compiled model of pretraining."""

    tokens: float = 0.0
    flops: float = 0.0
    decoded: float = 0.0
    passes: float = 0.0
    eager: bool = True

    def plus(self, other: "Work", times: int = 1) -> "Work":
        """This and so many times another of the same kind."""
        return Work(
            self.tokens + times * other.tokens,
            self.flops + times * other.flops,
            self.decoded + times * other.decoded,
            self.passes + times * other.passes,
            self.eager,
        )


class Lengths(NamedTuple):
    """Rows of a task and their tokens: means of prompt and completion, and the spread of ln of a row's length."""

    rows: int
    prompt: float
    completion: float
    spread: float

    @property
    def row(self) -> float:
        return self.prompt + self.completion

    def longest_of(self, rows: int) -> float:
        """Expected length of the longest of so many rows, to which a batch is padded: Blom's (1958) normal score on the
        scale of ln."""
        score = NormalDist().inv_cdf((rows - 0.375) / (rows + 0.25))
        return self.row * math.exp(self.spread * score - self.spread**2 / 2)


# openai/gsm8k, GPT-2 tokens, eos counted: the published rows, so that the plan reads nothing
_GSM8K = {"train": Lengths(7_473, 59.9, 96.2, 0.34), "test": Lengths(1_319, 61.5, 98.7, 0.34)}


def lengths(trial: Trial, name: str, split: str) -> Lengths:
    """Lengths of a task's rows in the trial's tokens; GSM8K's of the Hub as published, of others from the rows
    themselves. Rows that are gone count as GSM8K's: their results exist, so the figure only weighs stages against each
    other."""
    per_token = characters_a_token(trial.tokenizer.merges)
    if (name == "gsm8k" and trial.tasks.gsm8k == "hub") or lost(trial, name):
        known, scale = _GSM8K[split], characters_a_token(50_000) / per_token
        return Lengths(known.rows, known.prompt * scale, known.completion * scale, known.spread)
    rows = (
        source_examples(trial, name, frozenset())
        if split == "train"
        else get_task(name, trial, frozenset()).examples(split)
    )

    def sizes(row: Example) -> tuple[float, float]:
        return len(row.prompt) / per_token, len(row.completion) / per_token + 1

    prompts, completions = zip(*map(sizes, rows), strict=True)
    totals = [math.log(prompt + completion) for prompt, completion in zip(prompts, completions, strict=True)]
    return Lengths(len(rows), fmean(prompts), fmean(completions), stdev(totals) if len(totals) > 1 else 0.0)


def vocabulary_size(trial: Trial) -> int:
    """Ids of the trial's models."""
    return Vocabulary(trial.tokenizer.merges, len(build_facts(trial.facts))).size


def characters_a_token(merges: int) -> float:
    """Characters of English that a token stands for, between the measured points on the scale of ln ids."""
    counts, values = zip(*_CHARACTERS, strict=True)
    return float(np.interp(math.log(256 + merges), np.log(256 + np.array(counts)), values))


def questions(trial: Trial) -> int:
    """Questions of the table: 81 of the 45 products of 1 to 9."""
    return sum(len(fact.wordings) for fact in build_facts(trial.facts))


def batches(items: int, trial: Trial) -> int:
    """Batches that an evaluation takes so many items in."""
    return math.ceil(items / trial.evaluate.batch)


def forward_flops(trial: Trial) -> float:
    """FLOPs of a token's forward pass."""
    return trial.pretrain.flops_per_token(vocabulary_size(trial)) / 3


def training_bytes(trial: Trial, width: int, rows: int, tokens: float, logits: float) -> float:
    """Memory of a pass of training over `rows` of `tokens`, of which so many `logits` are there at once; activations in
    16 bit or, `width` 2, in 32."""
    shape, ids = trial.pretrain, vocabulary_size(trial)
    activations = _ACTIVATIONS * width * shape.n_embd * shape.n_layer * rows * tokens
    return _TRAINING_BYTES * shape.parameters(ids) + activations + _LOGITS * ids * logits


def weights_bytes(trial: Trial) -> int:
    """Disk of a model's weights, fp32."""
    return 4 * trial.pretrain.parameters(vocabulary_size(trial))


def model_bytes(trial: Trial) -> int:
    """Disk of a model and the tokenizer beside it."""
    return weights_bytes(trial) + _TOKENIZER[0] + _TOKENIZER[1] * vocabulary_size(trial)


def trainer_checkpoint_bytes(trial: Trial) -> int:
    """Disk of the checkpoints of TRL's trainer at work: the new one beside the old one."""
    return 2 * CHECKPOINT_BYTES * trial.pretrain.parameters(vocabulary_size(trial))
