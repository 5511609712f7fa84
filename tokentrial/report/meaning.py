"""What a report means, in sentences: the verdict, each arm, what was not shown, what to run next, the limits."""

from collections.abc import Mapping
from statistics import mean, stdev
from typing import Any

from tokentrial.report.outcomes import METRICS
from tokentrial.report.tables import Line, Report, declared, interval, number, one_line, spread
from tokentrial.statistics.power import PLANNING_FACTOR, seeds_needed
from tokentrial.statistics.verdict import EQUIVALENT, HELPS, HURTS, NO_DIFFERENCE, NOT_LEARNT
from tokentrial.trial.settings import DRAWN

_SUBSETS = {
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
_TASKS = {"mul_table": "times table", "fact_table": "table", "heldout_text": "held-out text"}
STAGES = {"pretrain": "after pretraining", "sft": "after SFT", "grpo": "after GRPO"}
_MANY = 200  # seeds past which more of them are no plan


def metric_words(metric: str) -> str:
    """What a metric measures, for a reader."""
    return METRICS[metric].words if metric in METRICS else metric.replace("_", " ")


def in_words(outcome: str, with_stage: bool = True) -> str:
    """An outcome's name for a reader: `pretrain/mul_table/asked/accuracy` is accuracy on asked facts."""
    stage, task, subset, metric = outcome.split("/", 3)
    what = metric_words(metric)
    if task.endswith("_table"):
        where = _SUBSETS.get(subset, subset) or f"the whole {_TASKS.get(task, task.replace('_', ' '))}"
    else:
        of = _SUBSETS.get(subset, subset)
        where = f"{of} {_TASKS.get(task, task.replace('_', ' '))}".strip()
    after = f" {STAGES.get(stage, f'after {stage}')}" if with_stage else ""
    return one_line(f"{what} on {where}{after}")


def headline(report: Report) -> str:
    """The verdict in one sentence, in words."""
    primary = report["primary"]
    treatment, control = primary["contrast"].split(" - ")
    what, verdict = in_words(primary["outcome"]), primary["verdict"] or ""
    if verdict == NOT_LEARNT:
        return f"No verdict: {report['declared']['control']} has not learnt what the arms are compared by."
    said = {HELPS: f"{treatment} {verdict}", HURTS: f"{treatment} {verdict}", NO_DIFFERENCE: "No difference shown"}
    if verdict.startswith(EQUIVALENT):
        said[verdict] = f"{treatment} and {control} are {verdict}"
    if verdict not in said:
        return f"No verdict yet on {treatment} against {control} in {what}."
    values = report["outcomes"][primary["outcome"]]["per_seed"]
    a, b = (mean(value for value in values[arm] if value is not None) for arm in (treatment, control))
    return f"{said[verdict]}: {a:.2f} against {b:.2f} of {control}, {what}."


def arm_sentences(report: Report) -> list[tuple[str, str]]:
    """One sentence an arm: its primary outcome and every declared verdict on it."""
    first, *others = (line for line in declared(report) if not line.again)
    if not first.outcome:
        return [(arm, "no result yet.") for arm in report["arms"]]
    floor, sentences = first.outcome["floor"], []
    for arm in report["arms"]:
        said = f"{spread(first.outcome['per_seed'][arm])} in {in_words(first.name, with_stage=False)}"
        if arm == report["declared"]["control"]:
            near = "" if floor is None else f", where answers that know no arithmetic get {floor:.3f}"
            sentences.append((arm, f"{said}{near}: the control."))
            continue
        judged: dict[str, list[str]] = {}
        for line in (first, *others):
            if line.arms[0] == arm and line.made and line.made["verdict"]:
                judged.setdefault(line.made["verdict"], []).append(in_words(line.name, with_stage=False))
        verdicts = "; ".join(f"{verdict} ({', '.join(outcomes)})" for verdict, outcomes in judged.items())
        sentences.append((arm, f"{said}: {verdicts or 'no declared verdict'}."))
    return sentences


def not_shown(report: Report) -> list[str]:
    """What the declared outcomes leave open."""
    open_ones = []
    for _, name, contrast, _, made in (line for line in declared(report) if not line.again):
        what = f"{contrast} on {in_words(name)}"
        if made is None:
            open_ones.append(f"{what}: not measured.")
        elif made["verdict"] == NO_DIFFERENCE:
            seen = made["mde80"] and f"; {made['n_seeds']} seeds find {made['mde80']:.3g} four times in 5"
            open_ones.append(f"{what}: a difference of either sign is left open, {interval(made['ci95'])}{seen or ''}.")
        elif made["verdict"] is None:
            open_ones.append(f"{what}: {made['note'] or 'no verdict'}.")
    if report["primary"]["verdict"] == NOT_LEARNT:
        open_ones.append(f"Anything at all: {report['gate']['failed']}.")
    return [one_line(sentence) for sentence in open_ones]


def next_steps(report: Report) -> list[dict[str, str]]:
    """What to run next, each with its reason, its command in the run folder, and what it costs on this hardware."""
    settings, first = report["settings"], declared(report)[0]
    if report["missing"] or first.made is None:
        return [_step("finish what is missing", "output=.")]
    if report["primary"]["verdict"] == NOT_LEARNT:
        longer = f"pretrain.steps={2 * settings['pretrain']['steps']} output=../again"
        return [_step("train longer, until the control passes its gate", longer, cost(report, 2))]
    steps = _fresh_seeds(report, first)
    if settings["budget"]["match"] == "tokens" and not report["also"]:
        why = "see whether the verdict holds where every arm reads the same text"
        steps.append(_step(why, "budget.match=bytes output=../again", cost(report, 1)))
    return steps


def _step(why: str, change: str, cost: str = "") -> dict[str, str]:
    return {"why": why, "command": f"tokentrial run trial.yaml {change}", "cost": cost}


def _fresh_seeds(report: Report, first: Line) -> list[dict[str, str]]:
    """As many fresh seeds as find again with 80 % power what was seen, or the smallest effect that matters where
    nothing was; none where their number is no plan. Fresh: more of the same trial after a look are no test."""
    found, seeds = report["primary"]["verdict"] in (HELPS, HURTS), report["seeds"]
    effect = abs(first.made["difference"]) if found else report["declared"]["smallest_effect"]
    sd = PLANNING_FACTOR * stdev(first.differences) if len(first.differences) > 1 else 0.0
    if not (needed := seeds_needed(effect, sd, report["declared"]["alpha"], most=_MANY)):
        return []
    fresh = ",".join(str(max(seeds) + 1 + number) for number in range(needed))
    why = f"{'confirm' if found else 'decide'} on {needed} fresh seeds, which find a difference of {effect:.2g} four "
    return [_step(f"{why}times in five", f"'seeds=[{fresh}]' output=../again", cost(report, needed / len(seeds)))]


def cost(report: Report, share: float) -> str:
    """Time of one device for so many times this run, from the seconds that its cells took."""
    each = [sum(v for k, v in spent.items() if k.endswith("seconds")) for spent in report["consumed"].values()]
    minutes = share * sum(each) * len(report["seeds"]) / 60
    device = next((row["ran"] for row in report["ran"] if row["setting"] == "device"), "cpu")
    unit = "GPU" if device == "cuda" else "CPU worker"
    return f"about {minutes:,.0f} {unit} minutes" if minutes < 180 else f"about {minutes / 60:,.1f} {unit} hours"


def limits(report: Report) -> list[str]:
    """What this run cannot show, from what it was."""
    settings, seeds, consumed = report["settings"], report["seeds"], report["consumed"]
    found = []
    if consumed:
        first = next(iter(consumed.values()))
        shape = settings["pretrain"]
        found.append(
            f"One size of model: {first['parameters']:,} parameters in {shape['n_layer']} layers, trained on "
            f"{first['tokens']:,.0f} tokens. Nothing here says what a larger one would do."
        )
        if (start := shape["init"]) not in DRAWN:
            found.append(
                f"Every seed starts from the same checkpoint, {start}: seeds differ in the order of documents and in "
                "what is never asked, and nothing here speaks of other checkpoints."
            )
        shares = [f"{spent['drill_share']:.0%} in {arm}" for arm, spent in consumed.items()]
        found.append(f"Drills are, of the training tokens: {', '.join(shares)}. Plain text states hardly any fact.")
        found.append(_budget(settings["budget"]["match"], report["control"], consumed))
    made = declared(report)[0].made
    if later := _at_the_end(report):
        found.append(later)
    if made and made["mde80"] is not None:
        found.append(
            f"{made['n_seeds']} seeds: a true difference below {made['mde80']:.2g} in the primary outcome would be "
            "missed more often than once in five. The seed is the unit; the items of one model are not independent."
        )
    if made and made["facts_ci95"]:
        found.append(
            f"These facts: over facts like these, and not only these, the difference is {interval(made['facts_ci95'])}."
        )
    if report["arms_left_out"]:
        left = "; ".join(f"{name} ({summary})" for name, summary in report["arms_left_out"].items())
        found.append(f"Controls that did not run: {left}.")
    overlap = report["corpus"]["overlap"].get(report["facts"]["table"])
    if overlap:
        found.append(
            f"{overlap:.0%} of the table's questions stand word for word in the drills of some fold: asked facts "
            "measure recall, and only never-asked ones more than that."
        )
    found.append(
        f"One source of text ({settings['corpus']['source'].split('/')[-1]}), greedy answers, one prompt form."
    )
    if len(seeds) < 2:
        found.append("One seed an arm: two models are compared, not two treatments.")
    if report["missing"]:
        found.append(f"Not all is there: {len(report['missing'])} evaluations are missing.")
    return [one_line(limit) for limit in found] + [f"{change}." for change in map(one_line, report["extended"])]


def _at_the_end(report: Report) -> str:
    """What is left of the primary outcome after the last stage, where that is a later one."""
    stage, _, rest = report["primary"]["outcome"].partition("/")
    last = report["stages"][-1] if report["stages"] else stage
    outcome = report["outcomes"].get(f"{last}/{rest}")
    if last == stage or outcome is None:
        return ""
    left = ", ".join(f"{spread(values)} in {arm}" for arm, values in outcome["per_seed"].items())
    return f"The verdict is of the model {STAGES.get(stage, stage)}; {STAGES.get(last, last)} the same is {left}."


def _budget(match: str, control: str, consumed: Mapping[str, Mapping[str, float]]) -> str:
    if match == "bytes":
        return "Every arm read the same source bytes; arms with shorter text took fewer steps for it."
    text = {
        arm: spent["bytes"] / consumed[control]["bytes"] - 1 for arm, spent in consumed.items() if control in consumed
    }
    more = ", ".join(f"{arm} {share:+.0%}" for arm, share in text.items() if arm != control)
    return f"Every arm read the same tokens, not the same text; original bytes against {control}: {more or 'unknown'}."


def declared_rows(report: Report) -> list[dict[str, Any]]:
    """The declared comparisons in words and figures, the primary first; reruns of it have no verdict."""
    return [_declared_row(line) for line in declared(report)]


def _declared_row(line: Line) -> dict[str, Any]:
    made, values = line.made, line.outcome.get("per_seed", {})
    treatment, control = (spread(values.get(arm, [])) for arm in line.arms)
    row = {"role": line.role, "contrast": one_line(line.contrast), "outcome": in_words(line.name)}
    row |= {"treatment": treatment, "control": control}
    if made is None:
        absent = dict.fromkeys(("difference", "interval", "p", "p_sign_flip"), "-")
        return row | absent | {"p_holm": "", "test": "", "verdict": "none", "note": "not measured"}
    return row | {
        "difference": f"{made['difference']:+.3f}",
        "interval": interval(made["ci95"]),
        "p": number(made["p"]),
        "p_holm": "" if made["p_holm"] is None else number(made["p_holm"]),
        "p_sign_flip": number(made["p_sign_flip"]),
        "test": made["test"],
        "verdict": "none" if line.again else made["verdict"] or "none",
        "note": "a check of robustness; the verdict is the primary's" if line.again else made["note"],
    }
