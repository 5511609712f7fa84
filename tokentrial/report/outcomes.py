"""Outcomes: every figure that arms are compared by, their names and what their values mean.

An outcome's name is `stage/task/subset/metric`. Of the table, `all` is the mean of its items (81 products of 1 to 9) as
in the original report; the other subsets are means over unordered facts, the mean of a fact's two orders each.
"""

import difflib
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from tokentrial.arms.arm import get_arm
from tokentrial.errors import SettingsError
from tokentrial.facts.families import build_facts
from tokentrial.report.formats import one_line
from tokentrial.tasks.arithmetic import PROBES, TABLE_SUBSETS, is_table_row
from tokentrial.tasks.task import Row
from tokentrial.tasks.training_examples import task_name
from tokentrial.trial.settings import Compared
from tokentrial.trial.trial import Trial

GROUPS = ("asked", "never_asked")  # subsets of the table: a fact is in one of them, by seed


class Metric(NamedTuple):
    """What a metric's values mean, and how an answer is scored by it. A further one is a line of `METRICS`."""

    higher_is_better: bool
    ceiling: float | None
    label: str  # for a reader
    of: tuple[str, ...] = ()  # the kinds of items that have it: table, probe, solution
    score: Callable[[Row], float | None] = lambda row: None  # of one answer; None where it cannot have one
    subsets: tuple[str, ...] = ("all",)  # of solutions


GOLD_NATS = "gold_nats_per_byte"
METRICS = {
    "accuracy": Metric(True, 1.0, "accuracy", ("table", "probe", "solution"), lambda row: float(row["correct"])),
    "choice_logprob": Metric(
        True, 0.0, "log-probability of the right answer", ("table",), lambda row: float(row["choice_logprob"])
    ),
    "bits_per_byte": Metric(False, None, "bits per byte"),  # of documents
    "accuracy_flexible": Metric(
        True, 1.0, "accuracy, last number", ("solution",), lambda row: float(row["correct_flexible"])
    ),
    GOLD_NATS: Metric(
        False,
        None,
        "nats per byte of the gold solution",
        ("solution",),
        lambda row: row["gold_nats_per_byte"],
        ("all", "with_site", "without_site"),
    ),
    "fact_tokens": Metric(True, None, "fact tokens per answer", ("solution",), lambda row: float(row["fact_tokens"])),
}


def kind_of(row: Row) -> str:
    """What kind of item a row is of: of the table of facts, of another probe, or a worked solution."""
    return "table" if is_table_row(row) else "solution" if "stopped" in row else "probe"


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
_TASK_LABELS = {"heldout_text": "held-out text"}
STAGE_LABELS = {"pretrain": "after pretraining", "sft": "after SFT", "grpo": "after GRPO"}


def known_outcomes(trial: Trial, measured: Iterable[str]) -> list[str]:
    """Names of the outcomes that a trial measures after each stage of `measured`, and that it may so declare."""
    drills = trial.corpus.drills
    of_table = [subset for subset in TABLE_SUBSETS if subset != "never_asked" or drills.holdout_folds]
    tasks = [(build_facts(trial.facts).table_task, "table"), *((probe, "probe") for probe in PROBES)]
    for task in trial.evaluate.tasks:  # that of a file is called after it
        tasks.append((task_name(task), "solution"))
    names = [
        f"{task}/{subset}/{name}"
        for task, kind in tasks
        for name, metric in METRICS.items()
        if kind in metric.of
        for subset in (of_table if kind == "table" else metric.subsets if kind == "solution" else ("all",))
    ]
    texts = ["untouched", "rewritten", *(["drills"] if drills.share else [])]
    names += [f"heldout_text/{subset}/bits_per_byte" for subset in texts]
    return [f"{stage}/{name}" for stage in measured for name in names]


def after_pretraining(compared: Compared) -> Compared:
    """A comparison as it is measured after pretraining."""
    return compared.model_copy(update={"outcome": f"pretrain/{compared.outcome.partition('/')[2]}"})


def tuning_outcome(trial: Trial) -> str:
    """What arms are tuned by where the trial does not say it: the primary outcome after pretraining; of an accuracy
    the probability of the right answer to the same questions, which knows no floor and has less noise (2508.13144)."""
    if trial.tune and trial.tune.outcome:
        return trial.tune.outcome
    primary, known = after_pretraining(trial.verdict.primary).outcome, known_outcomes(trial, ["pretrain"])
    items, _, metric = primary.rpartition("/")
    names = ["choice_logprob", *([GOLD_NATS] if all(get_arm(arm).has_comparable_bits for arm in trial.arms) else [])]
    smooth = [f"{items}/{name}" for name in names if metric.startswith("accuracy")]
    return next((name for name in smooth if name in known), primary)


def check_outcomes(trial: Trial, measured: Sequence[str]) -> None:
    """Refuse a declared outcome that the trial does not measure, with the nearest that it does."""
    known = known_outcomes(trial, measured)
    wanted: list[tuple[str, str, Sequence[str]]] = [
        ("verdict", compared.outcome, compared.arms) for compared in trial.compared
    ]
    wanted += [("tune", tuning_outcome(trial), trial.arms)] if trial.tune else []
    for setting, outcome, of_arms in wanted:
        _, task, subset, metric = outcome.split("/")
        dropping = [arm for arm in of_arms if not get_arm(arm).has_comparable_bits]
        same_text = "untouched" if task == "heldout_text" else "without_site" if metric == GOLD_NATS else subset
        if subset != same_text and dropping:
            raise SettingsError(
                f"{setting}: outcome {outcome!r} of {', '.join(of_arms)}: {dropping[0]} drops content or draws tokens, "
                f"so only text without them is measured; declare the subset {same_text}"
            )
        if outcome not in known:
            [*nearest] = difflib.get_close_matches(outcome, known, n=1, cutoff=0.5)
            hint = f"did you mean {nearest[0]}?" if nearest else f"its stages are {', '.join(measured)};"
            raise SettingsError(
                f"{setting}: outcome {outcome!r}: the trial {trial.name} does not measure it; {hint} "
                f"`tokentrial outcomes` lists what may be declared"
            )


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
