"""What of a trial is run now: stages, arms and seeds by name. The trial, and so every fingerprint, stays whole."""

from collections.abc import Sequence
from typing import NamedTuple

from tokentrial.errors import SettingsError
from tokentrial.steps.cell import Cell
from tokentrial.steps.stage import stage_names
from tokentrial.trial.trial import Trial


class Selection(NamedTuple):
    """The chosen stages and cells, None where all are; and the choice in words."""

    stages: list[str] | None
    cells: list[Cell] | None
    words: str


def select(trial: Trial, chosen_stages: str | None, arms: str | None, seeds: str | None) -> Selection:
    """Read names given by commas. An unknown name is refused, with the known ones."""
    every_stage = ["corpus", *stage_names(trial)]
    wanted, cells = _named("stage", chosen_stages, every_stage), select_cells(trial, arms, seeds)
    whole = len(cells) == len(trial.arms) * len(trial.seeds)
    of_arms, of_seeds = dict.fromkeys(cell.arm for cell in cells), dict.fromkeys(str(cell.seed) for cell in cells)
    return Selection(
        None if wanted == every_stage else wanted,
        None if whole else cells,
        f"{', '.join(wanted)} of {', '.join(of_arms)}, seeds {', '.join(of_seeds)}:",
    )


def select_cells(trial: Trial, arms: str | None, seeds: str | None) -> list[Cell]:
    """The cells of the arms and seeds that are given by commas, of all where none are, seed by seed."""
    of_arms, of_seeds = _named("arm", arms, trial.arms), _named("seed", seeds, [str(seed) for seed in trial.seeds])
    return [Cell(arm, int(seed)) for seed in of_seeds for arm in of_arms]


def _named(kind: str, given: str | None, known: Sequence[str]) -> list[str]:
    """The names that are given, in the trial's order; all where none are."""
    if given is None:
        return list(known)
    names = [name.strip() for name in given.split(",")]
    if strange := [name for name in names if name not in known]:
        raise SettingsError(f"{kind} {strange[0]!r}: not in this trial; it has {', '.join(known)}")
    return [name for name in known if name in names]
