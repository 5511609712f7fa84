"""The part of a run that fits a budget of minutes, settled before the first cell begins."""

import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from tokentrial.corpus.prepare import CorpusPlan
from tokentrial.errors import SettingsError
from tokentrial.plan.budget import Part, affordable, budget_order, shares
from tokentrial.plan.work import expected_of_family
from tokentrial.run.run_folder import seconds, to_do, wanted_seeds
from tokentrial.steps.cell import Cell, cells
from tokentrial.steps.stage import phases, stage_names
from tokentrial.trial.trial import Trial

Pending = Mapping[Cell, Collection[str]]  # the stages that a cell still lacks


def affordable_cells(
    trial: Trial, wanted: Collection[str] | None, seconds_left: float, workers: Callable[[Trial, int], int]
) -> dict[Path, list[list[Cell]]]:
    """The cells whose wanted stages fit into so many seconds, whole seeds of all arms, by the run folder of the trial
    or variant and by the phases of its stages. Corpora are made already. The estimate is the plan's, corrected by what
    finished cells took; it is printed, with what is run and what is left. Raises SettingsError where not even the first
    seed fits."""
    family = budget_order(trial)
    measured = [
        {stage: by_cell.values() for stage, by_cell in seconds(member).items() if stage != "corpus"}
        for _, member in family
    ]
    expected_by_member = expected_of_family([member for _, member in family], measured)
    parts: list[Part] = []
    bought: dict[Path, list[list[Cell]]] = {}
    places: list[tuple[Trial, list[Cell]]] = []  # by part: whose it is, and where the cells that it buys go
    for (name, variant), expected in zip(family, expected_by_member, strict=True):
        asked = [stage for stage in stage_names(variant) if wanted is None or stage in wanted]
        # what is decided once for all cells comes when all have come so far
        in_turn = phases(variant, asked)
        bought[variant.folder] = [[] for _ in in_turn]
        corpus = CorpusPlan(variant)
        pending = to_do(corpus, cells(variant))
        for words, seeds in _seeds_in_turn(corpus, pending):
            for (decider, stages), cells_of_phase in zip(in_turn, bought[variant.folder], strict=True):
                if decider and decider.is_declined:
                    continue
                part = f"{name}{words}{f', {decider.name}' if decider else ''}"
                costs = _costs(variant, seeds, stages, expected, pending)
                parts.append(Part(part, costs, workers(variant, len(cells(variant)))))
                places.append((variant, cells_of_phase))
    least = next((cost for part in parts for seed in part.seeds if (cost := part.cost([seed]))), 0.0)
    if least and least > seconds_left:
        raise SettingsError(
            f"--budget-minutes: {seconds_left / 60:.3g} minutes are left, but the first pending seed needs about "
            f"{least / 60:.3g} in all arms; give more"
        )
    seeds_of_parts, spent = affordable(parts, seconds_left)
    source = "judging by finished cells" if any(measured) else "as planned for this machine"
    print(f"budget: {spent / 60:.3g} of {seconds_left / 60:.3g} minutes, {source}", file=sys.stderr)
    for share in shares(parts, seeds_of_parts):
        lines = [f"seeds {seeds} {when}" for seeds, when in ((share.bought, "now"), (share.left, "later")) if seeds]
        print(f"  {share.part}: {', '.join(lines) or 'done'}", file=sys.stderr)
    for (variant, cells_of_phase), seeds in zip(places, seeds_of_parts, strict=True):
        cells_of_phase += [Cell(arm, seed) for seed in seeds for arm in variant.arms]
    return bought


def _seeds_in_turn(corpus: CorpusPlan, pending: Pending) -> list[tuple[str, list[int]]]:
    """The seeds that the trial needs now; then, while it is not decided, those that a further look would add."""
    needed = wanted_seeds(corpus)
    is_open = any(left for cell, left in pending.items() if cell.seed in needed)
    further = [seed for seed in corpus.trial.seeds if seed not in needed]
    return [("", needed), *([(", if still needed", further)] if is_open and further else [])]


def _costs(
    trial: Trial, seeds: Collection[int], stages: Collection[str], expected: Mapping[str, float], pending: Pending
) -> dict[int, list[float]]:
    """Expected seconds of the pending cells of each seed, arm by arm."""

    def cost(cell: Cell) -> float:
        return sum(expected[stage] for stage in pending[cell] if stage in stages)

    return {seed: [cost(Cell(arm, seed)) for arm in trial.arms] for seed in seeds}
