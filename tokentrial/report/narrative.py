"""What a report means, in sentences: the verdict, each arm, what was not shown, what to run next, the limits."""

from collections.abc import Mapping
from statistics import mean, stdev
from typing import Any

from tokentrial.report.outcomes import METRICS
from tokentrial.report.tables import (
    DeclaredContrast,
    Report,
    declared_contrasts,
    format_interval,
    format_mean_sd,
    format_number,
    one_line,
)
from tokentrial.statistics.power import PLANNING_FACTOR, seeds_needed
from tokentrial.statistics.verdict import EQUIVALENT, HELPS, HURTS, NO_DIFFERENCE, NOT_LEARNT

_SUBSET_LABELS = {
    "all": "",
    "from_2": "facts from 2",
    "asked": "asked facts",
    "never_asked": "never-asked facts",
    "untouched": "untouched",
    "rewritten": "rewritten",
    "drills": "drills",
    "with_site": "solutions that state a fact",
    "without_site": "solutions that state none",
}
_TASK_LABELS = {"mul_table": "times table", "fact_table": "table", "heldout_text": "held-out text"}
STAGE_LABELS = {"pretrain": "after pretraining", "sft": "after SFT", "grpo": "after GRPO"}
_MOST_SEEDS = 200  # seeds past which more of them are no plan


def metric_label(metric: str) -> str:
    """What a metric measures, for a reader."""
    return METRICS[metric].label if metric in METRICS else metric.replace("_", " ")


def outcome_label(outcome: str, with_stage: bool = True) -> str:
    """An outcome's name for a reader: `pretrain/mul_table/asked/accuracy` is accuracy on asked facts."""
    stage, task, subset, metric = outcome.split("/", 3)
    items, task_label = _SUBSET_LABELS.get(subset, subset), _TASK_LABELS.get(task, task.replace("_", " "))
    # the facts of a table need no mention of it
    what = (items or f"the whole {task_label}") if task.endswith("_table") else f"{items} {task_label}".strip()
    after = f" {STAGE_LABELS.get(stage, f'after {stage}')}" if with_stage else ""
    return one_line(f"{metric_label(metric)} on {what}{after}")


def headline(report: Report) -> str:
    """The verdict in one sentence, in words."""
    primary = report["primary"]
    treatment, control = primary["contrast"].split(" - ")
    outcome, verdict = outcome_label(primary["outcome"]), primary["verdict"] or ""
    if verdict == NOT_LEARNT:
        return f"No verdict: {report['declared']['control']} has not learnt what the arms are compared by."
    if verdict in (HELPS, HURTS):
        finding = f"{treatment} {verdict}"
    elif verdict == NO_DIFFERENCE:
        finding = "No difference shown"
    elif verdict.startswith(EQUIVALENT):
        finding = f"{treatment} and {control} are {verdict}"
    else:
        return f"No verdict yet on {treatment} against {control} in {outcome}."
    per_seed = report["outcomes"][primary["outcome"]]["per_seed"]
    a, b = (mean(value for value in per_seed[arm] if value is not None) for arm in (treatment, control))
    return f"{finding}: {a:.2f} against {b:.2f} of {control}, {outcome}."


def arm_sentences(report: Report) -> list[tuple[str, str]]:
    """One sentence an arm: its primary outcome and every declared verdict on it."""
    contrasts = [contrast for contrast in declared_contrasts(report) if not contrast.is_rerun]
    primary = contrasts[0]
    if not primary.results:
        return [(arm, "no result yet.") for arm in report["arms"]]
    floor, sentences = primary.results["floor"], []
    for arm in report["arms"]:
        value = f"{format_mean_sd(primary.results['per_seed'][arm])} in {outcome_label(primary.outcome, False)}"
        if arm == report["declared"]["control"]:
            floor_words = "" if floor is None else f", where answers that know no arithmetic get {floor:.3f}"
            sentences.append((arm, f"{value}{floor_words}: the control."))
            continue
        outcomes: dict[str, list[str]] = {}  # by verdict
        for contrast in contrasts:
            if contrast.arms[0] == arm and contrast.stats and contrast.stats["verdict"]:
                outcomes.setdefault(contrast.stats["verdict"], []).append(outcome_label(contrast.outcome, False))
        verdicts = "; ".join(f"{verdict} ({', '.join(labels)})" for verdict, labels in outcomes.items())
        sentences.append((arm, f"{value}: {verdicts or 'no declared verdict'}."))
    return sentences


def not_shown(report: Report) -> list[str]:
    """What the declared outcomes leave open."""
    sentences = []
    for contrast in (contrast for contrast in declared_contrasts(report) if not contrast.is_rerun):
        label, stats = f"{contrast.pair} on {outcome_label(contrast.outcome)}", contrast.stats
        if stats is None:
            sentences.append(f"{label}: not measured.")
        elif stats["verdict"] == NO_DIFFERENCE:
            power = f"; {stats['n_seeds']} seeds find {stats['mde80']:.3g} four times in 5" if stats["mde80"] else ""
            ci95 = format_interval(stats["ci95"])
            sentences.append(f"{label}: a difference of either sign is left open, {ci95}{power}.")
        elif stats["verdict"] is None:
            sentences.append(f"{label}: {stats['note'] or 'no verdict'}.")
    if report["primary"]["verdict"] == NOT_LEARNT:
        sentences.append(f"Anything at all: {report['gate']['failed']}.")
    return [one_line(sentence) for sentence in sentences]


def next_steps(report: Report) -> list[dict[str, str]]:
    """What to run next, each with its reason, its command in the run folder, and what it costs on this hardware."""
    settings, primary = report["settings"], declared_contrasts(report)[0]
    if report["missing"] or primary.stats is None:
        return [_step("finish what is missing", "output=.")]
    if report["primary"]["verdict"] == NOT_LEARNT:
        longer = f"pretrain.steps={2 * settings['pretrain']['steps']} output=../again"
        return [_step("train longer, until the control passes its gate", longer, _cost(report, 2))]
    steps = _fresh_seeds(report, primary)
    if settings["budget"]["match"] == "tokens" and not report["also"]:
        why = "see whether the verdict holds where every arm reads the same text"
        steps.append(_step(why, "budget.match=bytes output=../again", _cost(report, 1)))
    return steps


def _step(why: str, change: str, cost: str = "") -> dict[str, str]:
    return {"why": why, "command": f"tokentrial run trial.yaml {change}", "cost": cost}


def _fresh_seeds(report: Report, primary: DeclaredContrast) -> list[dict[str, str]]:
    """As many fresh seeds as find again with 80 % power what was seen, or the smallest effect that matters where
    nothing was; none where their number is no plan. Fresh: more of the same trial after a look are no test."""
    found, seeds = report["primary"]["verdict"] in (HELPS, HURTS), report["seeds"]
    effect = abs(primary.stats["difference"]) if found else report["declared"]["smallest_effect"]
    # the sd of few seeds is uncertain: planned for one that is larger
    sd = PLANNING_FACTOR * stdev(primary.differences) if len(primary.differences) > 1 else 0.0
    if not (needed := seeds_needed(effect, sd, report["declared"]["alpha"], most=_MOST_SEEDS)):
        return []
    fresh = ",".join(str(max(seeds) + 1 + number) for number in range(needed))
    why = f"{'confirm' if found else 'decide'} on {needed} fresh seeds, which find a difference of {effect:.2g} four "
    return [_step(f"{why}times in five", f"'seeds=[{fresh}]' output=../again", _cost(report, needed / len(seeds)))]


def _cost(report: Report, runs: float) -> str:
    """Time of one device for so many times this run, from the seconds that its cells took."""
    seconds = [v for arm in report["consumed"].values() for key, v in arm.items() if key.endswith("seconds")]
    minutes = runs * sum(seconds) * len(report["seeds"]) / 60
    device = next((row["ran"] for row in report["ran"] if row["setting"] == "device"), "cpu")
    unit = "GPU" if device == "cuda" else "CPU worker"
    return f"about {minutes:,.0f} {unit} minutes" if minutes < 180 else f"about {minutes / 60:,.1f} {unit} hours"


def limits(report: Report) -> list[str]:
    """What this run cannot show, from what it was."""
    settings, seeds, consumed = report["settings"], report["seeds"], report["consumed"]
    sentences = []
    if consumed:
        first, model = next(iter(consumed.values())), settings["pretrain"]
        sentences.append(
            f"One size of model: {first['parameters']:,} parameters in {model['n_layer']} layers, trained on "
            f"{first['tokens']:,.0f} tokens. Nothing here says what a larger one would do."
        )
        if start := model["from_checkpoint"]:
            sentences.append(
                f"Every seed starts from the same checkpoint, {start}: seeds differ in the order of documents and in "
                "what is never asked, and nothing here speaks of other checkpoints."
            )
        shares = [f"{means['drill_share']:.0%} in {arm}" for arm, means in consumed.items()]
        sentences.append(f"Drills are, of the training tokens: {', '.join(shares)}. Plain text states hardly any fact.")
        sentences.append(_budget(settings["budget"]["match"], report["control"], consumed))
    if later := _after_last_stage(report):
        sentences.append(later)
    stats = declared_contrasts(report)[0].stats
    if stats and stats["mde80"] is not None:
        sentences.append(
            f"{stats['n_seeds']} seeds: a true difference below {stats['mde80']:.2g} in the primary outcome would be "
            "missed more often than once in five. The seed is the unit; the items of one model are not independent."
        )
    if stats and stats["facts_ci95"]:
        facts_ci95 = format_interval(stats["facts_ci95"])
        sentences.append(f"These facts: over facts like these, and not only these, the difference is {facts_ci95}.")
    if report["arms_left_out"]:
        arms = "; ".join(f"{name} ({summary})" for name, summary in report["arms_left_out"].items())
        sentences.append(f"Controls that did not run: {arms}.")
    if overlap := report["corpus"]["overlap"].get(report["facts"]["table"]):
        sentences.append(
            f"{overlap:.0%} of the table's questions stand word for word in the drills of some fold: asked facts "
            "measure recall, and only never-asked ones more than that."
        )
    source = settings["corpus"]["source"].split("/")[-1]
    sentences.append(f"One source of text ({source}), greedy answers, one prompt form.")
    if len(seeds) < 2:
        sentences.append("One seed an arm: two models are compared, not two treatments.")
    if report["missing"]:
        sentences.append(f"Not all is there: {len(report['missing'])} evaluations are missing.")
    sentences += [f"{one_line(change)}." for change in report["extended"]]
    return [one_line(sentence) for sentence in sentences]


def _after_last_stage(report: Report) -> str:
    """What is left of the primary outcome after the last stage, where that is a later one."""
    stage, _, rest = report["primary"]["outcome"].partition("/")
    last = report["stages"][-1] if report["stages"] else stage
    outcome = report["outcomes"].get(f"{last}/{rest}")
    if last == stage or outcome is None:
        return ""
    values = ", ".join(f"{format_mean_sd(per_seed)} in {arm}" for arm, per_seed in outcome["per_seed"].items())
    model, later = STAGE_LABELS.get(stage, stage), STAGE_LABELS.get(last, last)
    return f"The verdict is of the model {model}; {later} the same is {values}."


def _budget(match: str, control: str, consumed: Mapping[str, Mapping[str, float]]) -> str:
    if match == "bytes":
        return "Every arm read the same source bytes; arms with shorter text took fewer steps for it."
    more = []
    if control in consumed:
        more = [
            f"{arm} {means['bytes'] / consumed[control]['bytes'] - 1:+.0%}"
            for arm, means in consumed.items()
            if arm != control
        ]
    difference = ", ".join(more) or "unknown"
    return f"Every arm read the same tokens, not the same text; original bytes against {control}: {difference}."


def declared_rows(report: Report) -> list[dict[str, Any]]:
    """The declared comparisons in words and figures, the primary first; reruns of it have no verdict."""
    return [_declared_row(contrast) for contrast in declared_contrasts(report)]


def _declared_row(contrast: DeclaredContrast) -> dict[str, Any]:
    stats, per_seed = contrast.stats, contrast.results.get("per_seed", {})
    treatment, control = (format_mean_sd(per_seed.get(arm, [])) for arm in contrast.arms)
    row = {"role": contrast.role, "contrast": one_line(contrast.pair), "outcome": outcome_label(contrast.outcome)}
    row |= {"treatment": treatment, "control": control}
    if stats is None:
        unknown = dict.fromkeys(("difference", "interval", "p", "p_sign_flip"), "-")
        return row | unknown | {"p_holm": "", "test": "", "verdict": "none", "note": "not measured"}
    return row | {
        "difference": f"{stats['difference']:+.3f}",
        "interval": format_interval(stats["ci95"]),
        "p": format_number(stats["p"]),
        "p_holm": "" if stats["p_holm"] is None else format_number(stats["p_holm"]),
        "p_sign_flip": format_number(stats["p_sign_flip"]),
        "test": stats["test"],
        "verdict": "none" if contrast.is_rerun else stats["verdict"] or "none",
        "note": "a check of robustness; the verdict is the primary's" if contrast.is_rerun else stats["note"],
    }
