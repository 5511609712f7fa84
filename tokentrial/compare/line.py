"""One contrast, a - b, as `--json` prints it."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Line:
    """A difference and what may be said of it. Its fields are the keys of `--json`; None stands for undefined.

    `unit` says what was replicated: `seeds`, which alone can give a verdict on an arm, or `items`, which describe two
    models. `n_a` and `n_b` count these units; `n_seeds` and `n_items` are kept apart: seeds a side (pairs where they
    pair, else the fewer), and items that each seed answered (the shared ones where they pair, else the fewer).
    """

    outcome: str
    a: str
    b: str
    unit: str
    n_a: int
    n_b: int
    n_seeds: int
    n_items: int | None
    value_a: float
    value_b: float
    difference: float
    ci95: list[float] | None
    p: float | None
    p_holm: float | None = None  # over all contrasts of this unit that were asked for together
    p_by_fact: float | None = None  # sign-flip over unordered facts, where several items ask one fact
    test: str
    discordant: list[int] | None = None  # items that only a, and only b, answered
    mde80: float | None
    verdict: str | None
    note: str
    floors: Mapping[str, float] = field(default_factory=dict)
