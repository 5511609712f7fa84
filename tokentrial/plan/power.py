"""How many seeds an effect needs, what so many seeds find, and which outcome shows it best: for `tokentrial power`, and
for a trial's plan."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from tokentrial.errors import SettingsError, TrialError
from tokentrial.facts.families import build_facts
from tokentrial.report.formats import one_line
from tokentrial.report.outcomes import METRICS
from tokentrial.report.results import floor_accuracies, read_outcomes
from tokentrial.statistics.paired import Interval, paired_differences, paired_t
from tokentrial.statistics.power import mde, planning_sd, power, sd_interval, seeds_needed
from tokentrial.statistics.sequential import boundaries, expected
from tokentrial.store.files import read_json
from tokentrial.tasks.arithmetic import Arithmetic, table_subsets, was_asked
from tokentrial.trial.declaration import DECLARED
from tokentrial.trial.load import validated
from tokentrial.trial.settings import Compared, Verdict
from tokentrial.trial.trial import Trial

POWERS = (0.5, 0.8, 0.9, 0.95)
SIZES = (3, 4, 5, 6, 8, 10, 12, 16, 20, 30)
_IN_SDS = (0.5, 1.0, 2.0)  # effects asked about where the trial declares none for the outcome


@dataclass(frozen=True)
class Effect:
    """Seeds that one effect needs; None where more than 1,000 do not show it."""

    effect: float
    seeds: Mapping[str, int | None]  # by power in per cent, at the planning sd


@dataclass(frozen=True)
class Signal:
    """Of one outcome the paired differences of two arms over seeds, in the outcome's unit.

    `signal_to_noise` is |mean| / sd, Cohen's d_z; t is sqrt(n) times it. After Heineman et al. (2025, Signal and
    Noise), whose signal is the spread of many models' scores and whose noise is the sd of one model's last checkpoints:
    here two arms are compared, and a verdict rests on seeds, whose sd has the noise of checkpoints in it."""

    outcome: str
    n: int
    difference: float
    sd: float
    signal_to_noise: float | None  # None without any spread
    smallest_effect: float | None
    seeds: int | None  # that find the smallest effect with 80 % power, at the planning sd


@dataclass(frozen=True)
class SeedPlan:
    """Its fields are the keys of `tokentrial power --json`. Effects and sds share the outcome's unit."""

    of: str
    sd: float  # of the paired differences
    n: int | None  # the pilot's seeds; None: the sd was given
    sd_ci95: Interval | None  # of the true sd
    planning_sd: float  # of a pilot the upper 80 % bound; an sd that was given stands
    alpha: float
    effects: list[Effect]
    mde80: Mapping[str, float | None]  # by seeds, at the planning sd
    signals: list[Signal] = field(default_factory=list)  # of all outcomes of the run, the clearest first
    not_learnt: str | None = None  # why the run's control has not learnt: its noise is not that of one that has


class Noise(NamedTuple):
    """Standard deviation over seeds of the paired difference in an outcome."""

    sd: float | None  # None: not known
    source: str
    n: int | None = None  # the seeds that it was measured on; None: given or assumed, and taken as it is

    @property
    def planning_sd(self) -> float | None:
        return None if self.sd is None else planning_sd(self.sd, self.n)


ASSUMED = Noise(0.25, "assumed; pilots of the shipped size showed 0.12 to 0.33 in never-asked accuracy")


def noise_of(trial: Trial, given: float | None, pilot: Path | None) -> Noise:
    """The noise of a trial's primary outcome: as given, as a pilot shows it, or as assumed of accuracy on a table."""
    primary = trial.verdict.primary
    if given is not None:
        if given < 0 or not isfinite(given):
            raise SettingsError(f"--noise {given:g}: expected a standard deviation, 0 or more")
        return Noise(given, "given")
    if pilot is not None:
        signal = _noise_of_run(pilot, primary.outcome, primary.contrast).signal
        return Noise(signal.sd, f"{signal.n} seeds of {pilot}", signal.n)
    _, task, _, metric = primary.outcome.split("/", 3)
    return ASSUMED if task.endswith("_table") and metric == "accuracy" else Noise(None, "not known")


class _RunNoise(NamedTuple):
    signal: Signal  # of the outcome that was asked for
    contrast: str
    verdict: Verdict  # that the run declared
    signals: list[Signal]  # of all outcomes


def _noise_of_run(folder: Path, outcome: str | None, contrast: str | None) -> _RunNoise:
    """Of a run with a report: the paired differences in its primary outcome and contrast unless others are named, and
    in every outcome."""
    measured, verdict = read_outcomes(folder), _declared_verdict(folder)
    name, pair = outcome or verdict.primary.outcome, contrast or verdict.primary.contrast
    if name not in measured:
        raise SettingsError(one_line(f"{folder}: it has no outcome {name}; there are {', '.join(measured)}"))
    arms = measured[name]
    treatment, _, control = pair.partition(" - ")
    if treatment not in arms or control not in arms or treatment == control:
        raise SettingsError(one_line(f"{folder}: found no {pair!r}, expected 'a - b' of the arms {', '.join(arms)}"))
    of_pair = {key: (by_arm.get(treatment, {}), by_arm.get(control, {})) for key, by_arm in measured.items()}
    scores = {key: [(a[seed], b[seed]) for seed in a if seed in b] for key, (a, b) in of_pair.items()}
    signals = {key: _signal(key, pair, of_seeds, verdict) for key, of_seeds in scores.items() if len(of_seeds) > 1}
    if name not in signals:
        problem = f"found {len(scores[name])} seeds with both arms, expected two or more to estimate their noise"
        raise TrialError(one_line(f"{folder}: {name}: {problem}"))
    clearest = sorted(signals.values(), key=lambda signal: -(signal.signal_to_noise or 0.0))
    return _RunNoise(signals[name], pair, verdict, clearest)


def _signal(outcome: str, pair: str, scores: Sequence[tuple[float, float]], verdict: Verdict) -> Signal:
    """Of the scores by seed of treatment and control, two or more."""
    n, difference, sd, *_ = paired_t(paired_differences(*zip(*scores, strict=True)))
    assert sd is not None
    declared = (
        compared
        for compared in (verdict.primary, *verdict.secondary)
        if (compared.outcome, compared.contrast) == (outcome, pair)
    )
    least = verdict.margin(next(declared, Compared(outcome=outcome, contrast=pair)))
    seeds = seeds_needed(least, planning_sd(sd, n), verdict.alpha) if least else None
    return Signal(outcome, n, difference, sd, abs(difference) / sd if sd else None, least, seeds)


def _declared_verdict(folder: Path) -> Verdict:
    """What a run declared; of release 0.1 the verdict's settings stand in the file itself."""
    path = folder / DECLARED
    value = read_json(path)
    if isinstance(value, dict):
        whole, of_verdict = value.get("declaration"), Verdict.model_fields
        value = whole.get("verdict") if isinstance(whole, dict) else {k: value[k] for k in of_verdict if k in value}
    return validated(Verdict, value, str(path))


def from_run(folder: Path, outcome: str | None, contrast: str | None, effects: Sequence[float]) -> SeedPlan:
    """The plan from the noise of a run, for the effects given, else about the smallest that it declared."""
    signal, pair, verdict, signals = _noise_of_run(folder, outcome, contrast)
    least = signal.smallest_effect
    asked = effects or ([least / 2, least, 2 * least] if least else ())
    of = one_line(f"{pair} on {signal.outcome}, {signal.n} seeds")
    plan = plan_seeds(of, signal.sd, asked, signal.n, verdict.alpha)
    return replace(plan, signals=signals, not_learnt=_gate_failure(folder))


def _gate_failure(folder: Path) -> str | None:
    """Why the run's control failed its gate, by its report; None where it passed, or where nothing says so."""
    path = folder / "comparison_report.json"
    report = read_json(path) if path.exists() else None
    gate = report.get("gate") if isinstance(report, dict) else None
    return one_line(str(gate["failed"])) if isinstance(gate, dict) and gate.get("failed") else None


def plan_seeds(of: str, sd: float, effects: Sequence[float], n: int | None = None, alpha: float = 0.05) -> SeedPlan:
    """Seeds for each effect, or for some sds, and what so many seeds detect; `n` are the pilot's seeds, None for an sd
    that is given."""
    if any(effect == 0 or not isfinite(effect) for effect in effects):
        raise SettingsError(f"power: effects: found {list(effects)}, expected finite numbers other than 0")
    if sd < 0 or not isfinite(sd):
        raise SettingsError(f"power: sd: found {sd}, expected a finite number, 0 or more")
    planning = planning_sd(sd, n)
    return SeedPlan(
        of=of,
        sd=sd,
        n=n,
        sd_ci95=sd_interval(sd, n) if n else None,
        planning_sd=planning,
        alpha=alpha,
        effects=[
            Effect(abs(effect), {f"{100 * power:g}": seeds_needed(effect, planning, alpha, power) for power in POWERS})
            for effect in effects or [times * sd for times in _IN_SDS if sd]
        ],
        mde80={str(size): mde(planning, size, alpha) for size in SIZES},
    )


def largest_effect(trial: Trial) -> float | None:
    """How far the primary outcome can rise above its floor, mean over seeds; None of an outcome without limits."""
    _, task, subset, metric = trial.verdict.primary.outcome.split("/", 3)
    if METRICS[metric].ceiling != 1.0:
        return None
    facts, folds = build_facts(trial.facts), trial.corpus.drills.holdout_folds
    if task != facts.table_task:
        return 1.0
    floors = []
    for seed in trial.seeds:
        never = facts.never_asked(seed, folds)
        rows = [vars(item) | {"asked": was_asked(item.fact, facts, never)} for item in Arithmetic(facts=facts).table()]
        floors.append(max(floor_accuracies(table_subsets(rows)[subset], subset != "all", None).values()))
    return 1.0 - mean(floors)


def seeds(trial: Trial, noise: Noise) -> dict[str, Any]:
    """How many seeds the declared smallest effect needs, and what those of the trial can find; None where the effect
    or the noise is not known."""
    verdict, sd = trial.verdict, noise.planning_sd
    effect, looks, alpha = verdict.margin(verdict.primary), verdict.looks, verdict.alpha
    declared = looks[-1] if isinstance(looks, list) else len(trial.seeds)  # seeds beyond the last look are in no test
    figures = {
        "outcome": verdict.primary.outcome,
        "contrast": verdict.primary.contrast,
        "smallest_effect": effect,
        "noise_sd": noise.sd,
        "noise_source": noise.source,
        "planning_sd": sd,
        "needed": seeds_needed(effect, sd, alpha) if effect and sd else None,
        "declared": declared,
        "mde80": None if sd is None else mde(sd, declared, alpha),
        "power": power(effect, sd, declared, alpha) if effect and sd else None,
        "largest_effect": largest_effect(trial),
        "looks": looks,
        "boundaries": boundaries(tuple(looks), verdict.spending, alpha) if isinstance(looks, list) else None,
    }
    if looks and effect and sd:
        figures |= expected(declared, looks, verdict.spending, alpha, effect, sd)._asdict()
    return figures
