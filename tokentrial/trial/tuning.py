"""Fair tuning: each arm's own best values of pretraining, found on seeds of their own before the verdict's cells."""

from typing import Annotated, Literal

from pydantic import Field

from tokentrial.trial.settings import CellSeed, Compared, Settings

# numbers of the optimizer and its schedule: what the model is, where it starts and how much it reads stay the same in
# every arm
Tunable = Literal[
    "pretrain.lr",
    "pretrain.muon_lr",
    "pretrain.weight_decay",
    "pretrain.grad_clip",
    "pretrain.warmup_ratio",
    "pretrain.decay_ratio",
    "pretrain.min_lr_ratio",
]
Values = dict[Tunable, float]


class Tuning(Settings):
    """Each arm's own best of a grid, found on seeds that the verdict does not rest on."""

    grid: Annotated[dict[Tunable, Annotated[list[float], Field(min_length=2)]], Field(min_length=1)]
    """values to try, such as {pretrain.lr: [0.001, 0.003]}: every combination of them is tried, and the trial's own
    values must be among them. Settings of pretrain that may be tuned: lr, muon_lr, weight_decay, grad_clip,
    warmup_ratio, decay_ratio, min_lr_ratio"""
    seeds: Annotated[list[CellSeed], Field(min_length=1)]
    """random seeds for the tuning only"""
    outcome: Annotated[str, Field(pattern="^pretrain/[^/]+/[^/]+/[^/]+$")] | None = None
    """outcome after pretraining that picks the best value; null: the primary outcome, or, if it is an accuracy,
    `choice_logprob` of the same questions"""


class Point(Settings):
    """One point of the grid, and what came out at it."""

    settings: Values
    by_outcome: dict[str, dict[str, list[float]]]
    """outcome: arm: its values, a seed each"""


class Tuned(Settings):
    """What a tuning came to, as `tuned.json` holds it."""

    tune: Tuning
    own: Values
    """the trial's own values"""
    outcome: str
    """what the best was chosen by"""
    primary: Compared
    """the primary contrast, after pretraining"""
    points: list[Point]
    chosen: dict[str, Values]
    """arm: its own best"""
