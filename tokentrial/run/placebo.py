"""A placebo: the control against a copy of itself on other seeds, where the truth is known. What the trial's outcomes
come to there is noise, weights and documents and all.

    OUT/placebo/    the control's cells on seeds + 1000, or a little more
"""

from typing import Any

import numpy as np
from rich.console import Console

from tokentrial.corpus.prepare import CorpusPlan
from tokentrial.errors import SettingsError
from tokentrial.report.formats import format_interval, format_number
from tokentrial.report.items import EvaluationFolders
from tokentrial.report.outcomes import METRICS, outcome_label
from tokentrial.report.results import CellResults, SharedItems, read_evaluation, shared_items
from tokentrial.report.text_report import terminal_table
from tokentrial.run.check import check, check_machine
from tokentrial.run.run import interruptible, run_one
from tokentrial.run.run_folder import evaluated
from tokentrial.statistics.contrast import Contrast, contrast
from tokentrial.steps.cell import Cell
from tokentrial.steps.stage import phases, stage_names
from tokentrial.trial.sweep import ALONE, places_below
from tokentrial.trial.trial import Trial

SHIFT = 1000  # of the seeds, at least


def run_placebo(trial: Trial, overwrite: bool = False) -> list[Contrast]:
    """Run the control on the trial's seeds and on others, and compare the two on each declared outcome, pair by pair.
    Every seed is one of its arm's draws: a difference that is significant is a false alarm. Finished results of other
    settings are replaced only with `overwrite`."""
    if trial.tune:
        raise SettingsError("tune: a placebo is the control against itself with the same values; give tune=null")
    check(trial)
    check_machine(trial)
    folds = trial.corpus.drills.holdout_folds or 1
    shift = -(-SHIFT // folds) * folds  # a seed holds out fold seed mod folds: of a pair both hold out the same facts
    update: dict[str, Any] = ALONE | {"seeds": [seed + shift for seed in trial.seeds]}
    pair = trial, trial.model_copy(update=update | places_below(trial, "placebo"))
    # GRPO is decided for all arms at once, and has none to be decided by here
    before_decisions = ["corpus", *phases(trial, stage_names(trial))[0][1]]
    with interruptible(trial.folder):
        for member, earlier in zip(pair, ((), (trial,)), strict=True):
            its_cells = [Cell(trial.control, seed) for seed in member.seeds]
            run_one(member, before_decisions, its_cells, earlier, overwrite)
    folders = [{cell: stages for cell, stages in evaluated(CorpusPlan(member)).items() if stages} for member in pair]
    shared = shared_items(
        [folder for of_member in folders for stages in of_member.values() for folder in stages.values()]
    )
    own, other = (
        [_results(of_member, trial.control, seed, shared) for seed in member.seeds]
        for of_member, member in zip(folders, pair, strict=True)
    )
    contrasts = []
    for name in dict.fromkeys(compared.outcome for compared in trial.compared):
        if all(name in cell.values for cell in (*own, *other)):
            values = ([cell.values[name] for cell in cells] for cells in (other, own))
            better = METRICS[name.rsplit("/", 1)[1]].higher_is_better
            pair_of = contrast(
                *values,
                alpha=trial.verdict.alpha,
                outcome=name,
                arms=("placebo", trial.control),
                seeds=trial.seeds,
                higher_is_better=better,
                rng=np.random.default_rng(0),
            )
            contrasts.append(pair_of)
    return contrasts


def _results(folders: EvaluationFolders, arm: str, seed: int, shared: SharedItems) -> CellResults:
    results = CellResults()
    for stage, folder in folders.get((arm, seed), {}).items():
        read_evaluation(results, stage, folder, shared, None)
    return results


def print_placebo(contrasts: list[Contrast], console: Console) -> None:
    """One row per outcome, and whether it is a false alarm."""
    rows = [
        [
            outcome_label(c.outcome),
            f"{c.difference:+.3f} {format_interval(c.interval)}",
            format_number(c.p),
            "not tested" if c.p is None else "a false alarm" if c.p < c.alpha else "nothing, rightly",
        ]
        for c in contrasts
    ]
    console.print(terminal_table(["outcome", "placebo - control", "p", "found"], rows, "The control against itself"))
