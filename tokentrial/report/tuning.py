"""What the tuning of the arms came to: the curve of each, its best, and what the trial's own values would have said.
All of it is of the tuning seeds: no verdict rests on them."""

from collections.abc import Mapping, Sequence
from typing import Any

from tokentrial.report.variants import mean_with_interval
from tokentrial.statistics.paired import paired_differences
from tokentrial.store.tuned import read_tuned
from tokentrial.trial.trial import Trial
from tokentrial.trial.tuning import Tuned, Tuning, Values


def best(means: Sequence[float], own: int, higher_is_better: bool) -> int:
    """Place of the best of the means; where several are equal that of the trial's own values, else the first."""
    top = max(means) if higher_is_better else min(means)
    return own if means[own] == top else means.index(top)


def at_edge(tune: Tuning, chosen: Values) -> list[str]:
    """Which of the chosen values are the least or the largest that were tried, so that a better one may lie beyond.
    Below zero there is none."""
    return [name for name, values in tune.grid.items() if chosen[name] and chosen[name] in (min(values), max(values))]


def tuning(trial: Trial) -> dict[str, Any] | None:
    """What page and tables show of it, of which `chosen` is empty before its end; None where the trial has none."""
    if (tuned := read_tuned(trial)) is None:
        return {"chosen": {}, "seeds": trial.tune.seeds} if trial.tune else None
    return {
        "grid": tuned.tune.grid,
        "seeds": tuned.tune.seeds,
        "outcome": tuned.outcome,
        "own": tuned.own,
        "chosen": tuned.chosen,
        "at_edge": {arm: names for arm, values in tuned.chosen.items() if (names := at_edge(tuned.tune, values))},
        "points": [
            {"settings": p.settings, "arms": {a: mean_with_interval(v) for a, v in p.by_outcome[tuned.outcome].items()}}
            for p in tuned.points
        ],
        "primary": tuned.primary.model_dump(include={"outcome", "contrast"}),
        "untuned": _difference(tuned, dict.fromkeys(tuned.primary.arms, tuned.own)),
        "each_at_its_best": _difference(tuned, tuned.chosen),
    }


def _difference(tuned: Tuned, settings: Mapping[str, Values]) -> dict[str, Any] | None:
    """The primary difference with these settings of each arm; None where it is not measured after pretraining."""
    by_point = [(point.settings, point.by_outcome.get(tuned.primary.outcome, {})) for point in tuned.points]
    values = [next((v.get(arm) for given, v in by_point if given == settings[arm]), None) for arm in tuned.primary.arms]
    treatment, control = values
    if treatment is None or control is None:
        return None
    return mean_with_interval(paired_differences(treatment, control).tolist())
