"""What a report means, in sentences: the verdict and its rules, each arm, what was not shown, the limits."""

from collections import Counter

from tokentrial.arms.arm import get_arm
from tokentrial.report.contrast_table import (
    Record,
    Report,
    declared_records,
    estimate,
    is_measured,
    is_rerun,
    pair,
    row,
    verdict_words,
)
from tokentrial.report.formats import format_estimate, format_interval, format_level, format_number, one_line
from tokentrial.report.outcomes import METRICS, STAGE_LABELS, outcome_label
from tokentrial.statistics.decision import EQUIVALENT, GAINS, HELPS, HURTS, LOSES, NO_DIFFERENCE, NOT_LEARNT
from tokentrial.trial.sweep import settings_text

_LARGER = "Nothing here says what a larger one would do."
_BEYOND_LADDER = "The ladder says what becomes of the difference at its other sizes, and nothing of larger ones."
_SPENDING = {"obrien_fleming": "O'Brien-Fleming", "pocock": "Pocock"}


def headline(report: Report) -> str:
    """The verdict in one sentence, in words."""
    primary = report["contrasts"][0]
    treatment, control, verdict = primary["treatment"], primary["control"], primary["verdict"] or ""
    outcome = outcome_label(primary["outcome"])
    if not verdict:
        return one_line(f"No verdict yet on {treatment} against {control} in {outcome}.")
    asked = report["declared"]["control"]  # the gate is the trial's control's, which need not be the contrast's
    finding = {
        NO_DIFFERENCE: f"{treatment} shows no difference",
        NOT_LEARNT: f"{treatment} shows no difference, and {asked} has not learnt enough for that to mean anything",
    }.get(verdict, f"{treatment} {verdict}")
    if verdict.startswith(EQUIVALENT):
        finding = f"{treatment} and {control} are {verdict}"
    means = f"{primary['treatment_mean']:.3f} against {primary['control_mean']:.3f} of {control}"
    return one_line(f"{finding}: {means}, {outcome}.")


def summary(report: Report) -> list[str]:
    """For a reader with one minute: what was compared, how sure the primary difference is, what else was found."""
    primary, chosen = report["contrasts"][0], (report["tuning"] or {}).get("chosen", {})
    treatment, control = primary["treatment"], primary["control"]
    is_tuned_apart = chosen.get(treatment) != chosen.get(control)
    tuned = "but for the values that each was tuned to, " if is_tuned_apart else ""
    read = {report["consumed"][arm]["bytes"] for arm in (treatment, control) if arm in report["consumed"]}
    same_text = report["settings"]["budget"]["match"] == "bytes" or len(read) < 2
    more_text = "" if same_text else ", but the same number of tokens holds more text in one of the two"
    rest = f"{tuned}all else is the same{more_text}"
    sentences = [
        f"Compared: {treatment} ({get_arm(treatment).summary}) with {control} ({get_arm(control).summary}); {rest}."
    ]
    if is_measured(primary):
        sign = 1 if METRICS[primary["outcome"].rsplit("/", 1)[1]].higher_is_better else -1
        better = sum(sign * difference > 0 for difference in primary["differences"])
        floor = "" if primary["floor"] is None else f"; knowing nothing gives {primary['floor']:.3f}"
        sentence = f"{treatment} is better than {control} in {better} of {len(primary['differences'])} seeds{floor}."
        # at a look, and of arms that were tuned apart, p says something else
        if primary["p"] is not None and report["declared"]["looks"] is None and not is_tuned_apart:
            sentence += (
                " If the two were equal, a mean difference at least this large, relative to its noise, "
                f"would come up in {format_number(100 * primary['p'])} % of such trials."
            )
        sentences.append(sentence)
    verdicts = Counter(verdict_words(record) for record in declared_records(report) if record["role"] == "secondary")
    if verdicts:
        counts = ", ".join(f"{count} {words}" for words, count in verdicts.items())
        sentences.append(f"Secondary contrasts, {verdicts.total()}: {counts}.")
    sentences += trends(report)[:1]
    return [one_line(sentence) for sentence in sentences]


def verdict_sentence(report: Report) -> str:
    """The verdict with its figures, the names as in the JSON."""
    primary = report["contrasts"][0]
    verdict = primary["verdict"] or "no verdict"
    return one_line(f"{pair(primary)} on {primary['outcome']}: {verdict} ({estimate(primary)}).")


def remarks(report: Report) -> list[str]:
    """The rules that the verdict came by, and what else bears on it."""
    grpo = report["grpo"]
    sentences = [
        *looks(report),
        *averaged(report),
        *_budgets(report),
        *trends(report),
        *tuning(report),
        gate(report),
        error_rates(report),
    ]
    if grpo and not grpo["go_on"]:
        sentences.append("GRPO skipped: pass@k is zero in every cell; there is nothing to learn from.")
    if grpo and grpo["go_on"] and grpo["fact_token_bonus"]:
        bonus = f"{grpo['fact_token_bonus']:g}"
        sentences.append(f"GRPO paid a bonus of {bonus} for fact tokens, which only some arms can earn.")
    if split := report["made_by"]["split_pairs"]:
        seeds = ", ".join(map(str, split))
        sentences.append(f"Arms of seed {seeds} ran on different machines, which is part of their difference.")
    sentences += [*declaration(report), *([missing(report)] if report["missing"] else [])]
    return [one_line(sentence) for sentence in sentences]


def looks(report: Report) -> list[str]:
    """Which look this is, its boundary, what its interval means, and what an early stop does to the difference."""
    look, declared, primary = report["look"], report["declared"], report["contrasts"][0]
    if declared["looks"] is None:
        return []
    if declared["looks"] == "blinded":
        sentences = [
            f"Blinded look (Kieser & Friede 2003): {look['why']}. Signs of differences are not used, so the one test "
            "keeps its level."
        ]
    else:
        sentences = [
            f"Look {look['number']} of {look['of']}, after {look['seeds']} seeds: it decides at |t| "
            f"{look['boundary']:.3g} or more, p below {look['alpha']:.3g} ({_SPENDING[declared['spending']]} spending, "
            "Lan & DeMets 1983). The interval is the repeated one (Jennison & Turnbull 1989): "
            f"{format_level(look['alpha'])} at this look, {format_level(declared['alpha'])} over all of them."
        ]
    if primary["verdict"] is None and len(primary["seeds"]) < look["wanted"]:
        sentences.append(f"Not decided yet: the trial goes on to {look['wanted']} seeds.")
    elif primary["verdict"] in (HELPS, HURTS) and look["may_go_on"]:
        sentences.append("Stopped early: the difference is biased away from zero (Jennison & Turnbull 2000).")
    return sentences


def averaged(report: Report) -> list[str]:
    """Over how many checkpoints an outcome is the mean, where over more than one."""
    number = report["settings"]["evaluate"]["checkpoints"]
    words = (
        f"Every outcome after pretraining is the mean over {number} checkpoints of the last tenth of its steps; single "
        "facts and completions are of its end."
    )
    return [words] if number > 1 else []


def _budgets(report: Report) -> list[str]:
    """Whether the primary difference depends on the budget rule."""
    if not (both := report["budgets"]):
        return []
    return [
        f"The primary difference minus that with {both['rerun']}, seed by seed: {both['difference']:+.3f}, "
        f"{format_level(both['alpha'])} interval {format_interval(both['interval'])}, p {format_number(both['p'])}."
    ]


def trends(report: Report) -> list[str]:
    """What becomes of each declared difference as models grow, the primary one first; of a ladder that is not complete,
    what is missing."""
    if not (ladder := report["ladder"]):
        return []
    if ladder["missing"]:
        return [f"No trend over sizes is tested before these are complete: {', '.join(ladder['missing'])}."]
    sentences = []
    for trend in ladder["trends"]:
        verdict = {None: "no verdict", GAINS: f"the treatment {GAINS}", LOSES: f"the treatment {LOSES}"}
        slope = "not measured" if trend["slope"] is None else f"{trend['slope']:+.3f} {format_interval(trend['ci95'])}"
        bounds = [f"{point['size']} ({point['bound']})" for point in trend["by_size"] if point["bound"]]
        lacks = f"; seeds {', '.join(map(str, trend['lacks']))} are not at every size" if trend["lacks"] else ""
        room = f"; the scale leaves no room for a difference at {', '.join(bounds)}" if bounds else ""
        sentences.append(
            f"Over {len(trend['by_size'])} sizes of model, {trend['contrast']} in {outcome_label(trend['outcome'])}: "
            f"{verdict.get(trend['verdict'], trend['verdict'])}, slope per tenfold compute {slope}, "
            f"p {format_number(trend['p_adjusted'])}{room}{lacks}."
        )
    return sentences


def tuning(report: Report) -> list[str]:
    """What each arm was tuned to and by what, where its best may lie beyond what was tried, and what the trial's own
    values would have said."""
    if (tuned := report["tuning"]) is None:
        return []
    seeds = f"seed{'s' if len(tuned['seeds']) > 1 else ''} {', '.join(map(str, tuned['seeds']))}"
    if not tuned["chosen"]:
        return [f"Not tuned yet, on {seeds}: the verdict's cells are trained after it."]
    chosen = "; ".join(f"{arm} {settings_text(values)}" for arm, values in tuned["chosen"].items())
    sentences = [
        f"Each arm is trained with its own best, by {outcome_label(tuned['outcome'])} on {seeds}, on which no verdict "
        f"rests: {chosen}."
    ]
    treatment, control = tuned["primary"]["contrast"].split(" - ")
    if tuned["chosen"][treatment] != tuned["chosen"][control]:
        sentences.append(
            "The verdict is of arms with these values. Where chance chose them, equal arms are told apart more often "
            "than at alpha: the fewer the tuning seeds, the more (docs/science.md, Fair tuning)."
        )
    for arm, names in tuned["at_edge"].items():
        values = {name: tuned["chosen"][arm][name] for name in names}
        sentences.append(
            f"The best of {arm}, {settings_text(values)}, is at the edge of what was tried: a better may lie beyond."
        )
    if tuned["untuned"]:
        primary = tuned["primary"]
        untuned, tuned_too = (format_estimate(tuned[key], "+") for key in ("untuned", "each_at_its_best"))
        sentences.append(
            f"On the tuning seeds {primary['contrast']}, {outcome_label(primary['outcome'])}, is {untuned} with the "
            f"trial's own {settings_text(tuned['own'])} in both arms, and {tuned_too} with each arm's best. That is no "
            "verdict: the values were chosen by these seeds."
        )
    return sentences


def gate(report: Report) -> str:
    """What the control must have learnt, and what it has."""
    needed, reached, control = report["declared"]["gate"], report["gate"], report["declared"]["control"]
    if needed is None:
        return "No gate was declared."
    rule = (
        'Gate: "no difference" counts only if the control has learnt its table, with a mean accuracy of at least '
        f"{needed['asked']:g} on asked and {needed['never_asked']:g} on never-asked facts"
    )
    if reached is None:
        return f"{rule}; it was not measured."
    never = "" if reached["never_asked"] is None else f" and {reached['never_asked']:.3f}"
    passed = "not passed" if reached["failed"] else "passed"
    return f"{rule}; {control} reached {reached['asked']:.3f}{never}: {passed}."


def error_rates(report: Report) -> str:
    """How often a trial like this one finds something where there is nothing."""
    declared = report["declared"]
    alpha, count = declared["alpha"], len(declared["secondary"])
    most = "about" if declared["looks"] else "at most"  # the levels of a family's looks add up to a little more
    family = f" and another {alpha:g} for the secondary family ({count}, Holm)" if count else ""
    words = (
        f"Alpha is {alpha:g} for the primary contrast{family}: without any effect {most} "
        f"{100 * alpha * (2 if count else 1):.3g} % of such trials find one."
    )
    if len({str(values) for values in ((report["tuning"] or {}).get("chosen") or {}).values()}) > 1:
        words += " Here it is more, as the arms' tuned values differ (docs/science.md, Fair tuning)."
    if any(record["margin"] is not None for record in declared_records(report)):
        rate = f"at most {100 * alpha:.3g} % for the primary"
        rate += f" and {100 * alpha:.3g} % for the family" if count else ""
        words += f" A wrong `equivalent` counts apart: {rate}."
    if report["ladder"]:
        words += f" Trends over sizes add {100 * alpha:.3g} % for the primary one"
        words += " and as much for the others." if count else "."
    return words


def declaration(report: Report) -> list[str]:
    """What was declared, since when, each departure from it, and what seeds that were added come to."""
    declared, sha256 = report["declaration"], report["declaration"]["sha256"]
    none = "Nothing differs from it" if sha256 else "Not declared: every setting may still change"
    sentences = declared["departures"] or [none]
    if sha256:
        whole = f"Declared {declared['since']}, before the first training step, as {sha256[:12]} (sha256 {sha256})"
        sentences = [whole, *sentences]
    return [*(f"{words}." for words in sentences), *(_with_added(record) for record in report.get("added", ()))]


def _with_added(record: Record) -> str:
    """A declared contrast over all seeds, those that were added after the declaration too."""
    words = row(record)
    return one_line(f"With the added seeds, exploratory: {words.contrast} on {words.outcome}: {estimate(record)}.")


def missing(report: Report) -> str:
    """Evaluations that are not there yet."""
    names = report["missing"]
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return f"Missing: {', '.join(names[:12])}{more}."


def findings(report: Report) -> tuple[list[str], list[str]]:
    """Of the declared contrasts the differences and equivalences that were shown, and what the others leave open."""
    shown, not_shown = list[str](), list[str]()
    for record in (record for record in declared_records(report) if not is_rerun(record)):
        is_shown = (record["verdict"] or "").startswith((HELPS, HURTS, EQUIVALENT))
        (shown if is_shown else not_shown).append(_finding(record))
    return shown, not_shown


def _finding(record: Record) -> str:
    """A contrast's verdict, means and figures; what is open where no difference is shown."""
    words, left_open = row(record), ""
    if not is_measured(record):
        return f"{words.contrast} on {words.outcome}: not measured."
    if record["verdict"] in (NO_DIFFERENCE, NOT_LEARNT):
        is_open = record["p"] >= record["alpha"]  # else only Holm's p, which the note gives, is too large
        finds = record["detectable"]
        power = f", so many seeds find a true difference of {finds:.3g} in four trials of five" if finds else ""
        left_open = f"; a difference of either sign is left open{power}" if is_open else "; significant before Holm"
    floor = "" if record["floor"] is None else f" (floor {record['floor']:.3f})"
    note = f"; {words.note}" if words.note else ""
    return one_line(
        f"{words.contrast} on {words.outcome}: {words.verdict}, {words.treatment} against {words.control}{floor}, "
        f"{estimate(record)}{left_open}{note}."
    )


def limits(report: Report) -> list[str]:
    """What this run cannot show, from what it was."""
    settings, consumed, primary = report["settings"], report["consumed"], report["contrasts"][0]
    sentences = _of_the_models(report) if consumed else []
    stage = primary["outcome"].partition("/")[0]
    if any(later != stage for later in report["stages"][-1:]):
        after = STAGE_LABELS.get(stage, stage)
        sentences.append(f"The verdict is on the model {after}; for later stages see Stage by stage.")
    if is_measured(primary) and primary["detectable"] is not None:
        sentences.append(
            f"{len(primary['seeds'])} seeds: a true difference below {primary['detectable']:.2g} in the primary outcome"
            " would be missed more often than once in five. The seed is the unit; the items of one model are not "
            "independent."
        )
        best = largest_gain(primary)
        if best is not None and primary["detectable"] > best:
            sentences.append(
                f"Too few seeds for any effect: the largest possible improvement of the primary outcome is {best:.2g}, "
                "and even that would be missed more often than once in five."
            )
    if any((record["verdict"] or "").startswith(EQUIVALENT) for record in declared_records(report)):
        sentences.append(
            "`equivalent` assumes that the differences of all seeds follow one normal distribution: if a seed in eight "
            "fails to learn, six seeds often show no failure, and arms that differ look alike."
        )
    if primary["facts_interval"]:
        over_facts = format_interval(primary["facts_interval"])
        level = format_level(report["declared"]["alpha"])
        sentences.append(f"Over facts like these, not only these, the {level} interval is {over_facts}.")
    if report["arms_left_out"]:
        arms = "; ".join(f"{name} ({summary})" for name, summary in report["arms_left_out"].items())
        sentences.append(f"Arms that did not run: {arms}.")
    if overlap := report["corpus"]["overlap"].get(report["facts"]["table"]):
        sentences.append(
            f"{overlap:.0%} of the table's questions stand word for word in the drills of some fold: asked facts "
            "measure recall, and only never-asked ones more than that."
        )
    source = settings["corpus"]["source"].split("/")[-1]
    drills = settings["corpus"]["drills"]
    drawn = f", one draw of the drills{' per fold' if drills['holdout_folds'] else ''}" if drills["share"] else ""
    sentences.append(
        f"One source of text ({source}){drawn}, greedy answers, one prompt form: no interval covers others."
    )
    return [one_line(sentence) for sentence in sentences]


def largest_gain(record: Record) -> float | None:
    """The most by which a treatment can be better than the control, in the outcome's unit; None where nothing bounds
    it."""
    metric = METRICS[record["outcome"].rsplit("/", 1)[1]]
    if not metric.higher_is_better:
        return float(record["control_mean"])  # such as bits: 0 is perfect
    return None if metric.ceiling is None else float(metric.ceiling - record["control_mean"])


def _of_the_models(report: Report) -> list[str]:
    consumed, settings = report["consumed"], report["settings"]
    first, model = next(iter(consumed.values())), settings["pretrain"]
    sentences = [
        f"The verdict is on one size of model: {first['parameters']:,} parameters in {model['n_layer']} layers, "
        f"trained on {first['tokens']:,.0f} tokens. {_BEYOND_LADDER if report['ladder'] else _LARGER}"
    ]
    if start := model["from_checkpoint"]:
        sentences.append(
            f"Every seed starts from the same checkpoint, {start}: seeds differ in the order of documents and in "
            "what is never asked, and nothing here applies to other checkpoints."
        )
    shares = [f"{means['drill_share']:.0%} in {arm}" for arm, means in consumed.items()]
    read = [f"{means['bytes']:,.0f} in {arm}" for arm, means in consumed.items()]
    match = "original text" if settings["budget"]["match"] == "bytes" else "number of tokens, not the same text"
    return [
        *sentences,
        f"Drills' share of the training tokens: {', '.join(shares)}.",
        f"Every arm read the same {match} (bytes of original text: {', '.join(read)}).",
    ]
