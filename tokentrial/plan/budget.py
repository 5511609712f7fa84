"""What of a trial and its variants a budget buys, in time or in money: seed by seed, each with all of its arms."""

from collections.abc import Mapping, Sequence
from heapq import heapreplace
from typing import NamedTuple

from tokentrial.steps.costs import vocabulary_size
from tokentrial.trial.ladder import size_name
from tokentrial.trial.sweep import to_run
from tokentrial.trial.trial import Trial


class Part(NamedTuple):
    """A trial, or one of its variants, with what is still to be paid for. All costs share one unit."""

    name: str
    seeds: Mapping[int, Sequence[float]]  # costs of each seed's cells, arm by arm; 0 of those that are done
    workers: int  # cells at a time
    once: float = 0.0  # cost of the corpus

    def cost(self, seeds: Sequence[int]) -> float:
        """Until these seeds are done: each of their cells is taken up by the worker that is free first."""
        ends = [self.once] * self.workers
        pending = [cell for seed in seeds for cell in self.seeds[seed] if cell]
        for cell in pending:
            heapreplace(ends, ends[0] + cell)
        return max(ends) if pending else 0.0


def affordable(parts: Sequence[Part], budget: float) -> tuple[list[list[int]], float]:
    """The seeds of each part that are done or that a budget buys, and what these cost. The parts are gone through in
    order, up to the first seed that is too much: a larger budget buys the same and more, and never anything else
    instead."""
    bought, spent, is_spent = list[list[int]](), 0.0, False
    for part in parts:
        seeds: list[int] = []
        for seed, cells in part.seeds.items():
            is_spent = is_spent or spent + part.cost([*seeds, seed]) > budget
            if not (is_spent and any(cells)):
                seeds.append(seed)
        spent += part.cost(seeds)
        bought.append(seeds)
    return bought, spent


def budget_order(trial: Trial) -> list[tuple[str, Trial]]:
    """The trial and its variants, by name, in the order in which a budget is spent on them: its tuning, the trial, then
    its variants as they are declared; of a ladder all sizes first, the least compute first."""

    def flops(size: tuple[str, Trial]) -> float:
        settings = size[1].pretrain
        return settings.tokens * settings.flops_per_token(vocabulary_size(size[1]))

    variants = to_run(trial)
    sizes = [(f"ladder {variant.name}", variant.trial) for variant in variants if variant.kind == "ladder"]
    own = f"ladder {size_name(trial.pretrain)}" if trial.ladder else trial.name
    tuning, others = (
        [(f"{variant.kind} {variant.name}", variant.trial) for variant in variants if variant.kind in kinds]
        for kinds in (("tune",), ("sweep", "also"))
    )
    return [*tuning, *sorted([(own, trial), *sizes], key=flops), *others]


class Share(NamedTuple):
    """Of a part the pending seeds that are bought, and those that are left."""

    part: str
    bought: list[int]
    left: list[int]


def shares(parts: Sequence[Part], bought: Sequence[Sequence[int]]) -> list[Share]:
    """What `affordable` has found, without the seeds that are done."""
    return [
        Share(
            part.name,
            [seed for seed, cells in part.seeds.items() if any(cells) and seed in seeds],
            [seed for seed in part.seeds if seed not in seeds],
        )
        for part, seeds in zip(parts, bought, strict=True)
    ]
