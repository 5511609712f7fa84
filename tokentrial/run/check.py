"""What is refused of a trial before anything is written: names that stand for nothing, files that cannot be read."""

import re
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from tokentrial.arms.arm import arm_names, get_arm
from tokentrial.corpus.prepare import CorpusPlan
from tokentrial.corpus.sources import Source
from tokentrial.errors import Interrupted, SettingsError, TrialError
from tokentrial.facts.families import build_facts
from tokentrial.posttrain.prompts import longest_in_any_arm
from tokentrial.pretrain.device import resolve_device
from tokentrial.report.outcomes import check_outcomes
from tokentrial.steps.cell import Cell
from tokentrial.steps.corpus import is_ready
from tokentrial.steps.stage import stages
from tokentrial.store.folders import is_done
from tokentrial.store.storage import Storage
from tokentrial.tasks.arithmetic import Arithmetic
from tokentrial.tasks.contents import lost, require
from tokentrial.tasks.training_examples import check_task_names, get_task, stage_sources
from tokentrial.trial.sweep import refuse_without_effect, to_run
from tokentrial.trial.trial import Trial

_LONGEST = 20  # questions whose tokens are counted
# read from the network: checked when the trial runs, not when it is declared
_REMOTE = re.compile(r"hf:|fineweb-edu|.*://")


def check(trial: Trial) -> None:
    """Raises SettingsError that names the setting, of the trial or of one of its variants."""
    folds, seeds = trial.corpus.drills.holdout_folds, trial.seeds
    if folds and (taken := len({seed % folds for seed in seeds})) < min(folds, len(seeds)):
        print(
            f"seeds: {seeds} hold out only {taken} of the {folds} folds of facts (a seed's fold is seed mod {folds}): "
            "facts of the others are asked with every seed; give consecutive seeds to hold out all in turn",
            file=sys.stderr,
        )
    for setting in ("sweep", "robustness_reruns"):
        if trial.verdict.looks and getattr(trial, setting):  # not as a trial is read: earlier releases had run both
            raise SettingsError(
                f"verdict.looks and {setting}: each trial of {setting} would stop by its own results, and their "
                "figures could not be held against each other; leave one out"
            )
    for name in arm_names():  # of those that do not run the report says what they are
        get_arm(name)
    refuse_without_effect(trial)
    read = set()  # variants share most of their files
    for member in (trial, *(variant.trial for variant in to_run(trial))):
        for name in member.arms:
            get_arm(name)
        stages(member)
        _check_context(member)
        if not _REMOTE.match(member.corpus.source):
            Source(member.corpus.source, member.corpus.text_column, member.folder / "sources.json")
        try:
            check_task_names(member.evaluate.tasks)
        except TrialError as error:
            raise SettingsError(f"evaluate.tasks: {error}") from None
        sources = [("evaluate.tasks", "test", task) for task in member.evaluate.tasks]
        sources += [("sft.stages", "train", source) for source in stage_sources(member, "sft")]
        sources += [("grpo.task", "train", source) for source in stage_sources(member, "grpo")]
        for setting, split, source in sources:
            try:
                task = get_task(source, member, frozenset())
                # what a run has read and is gone is missed only where something has to be made from it
                if (setting, source, member.tasks.gsm8k) not in read and not lost(member, source):
                    task.check(split)
            except Interrupted:
                raise
            except TrialError as error:
                raise SettingsError(f"{setting}: {source}: {error}") from None
            read.add((setting, source, member.tasks.gsm8k))
    check_outcomes(trial, measured_stages(trial))


def _check_context(trial: Trial) -> None:
    """Every question of the facts has to fit the context, with its left side again and any of the answers behind it."""
    facts, ids = build_facts(trial.facts), longest_in_any_arm(trial)
    answers = sorted(facts.answers, key=lambda text: len(text.encode()))[-_LONGEST:]
    answer = answers[-1]
    texts = {f"{example.prompt} {example.left}={answer}" for example in Arithmetic(facts=facts).table()}
    # ids are at most bytes, and about as many for each: the longest is among the longest in bytes
    longest = sorted(texts, key=lambda text: len(text.encode()))[-_LONGEST:]
    needed = max(map(ids, longest)) + 1  # a token of the fact behind it
    if needed > trial.pretrain.context:
        raise SettingsError(
            f"pretrain.context: {trial.pretrain.context}, expected at least {needed}, the tokens of a fact's "
            f"question and answer, such as {longest[-1]!r}; give more context or tokenizer.merges, or shorter facts"
        )
    spelled, answer = max((ids(f" {answer}"), answer) for answer in answers)
    if spelled > trial.evaluate.max_new_tokens:
        raise SettingsError(
            f"evaluate.max_new_tokens: {trial.evaluate.max_new_tokens}, expected at least {spelled}, the tokens of the "
            f"answer {answer!r}: no model could spell it; give more, or more tokenizer.merges"
        )


def check_machine(trial: Trial) -> None:
    """Raises SettingsError where this machine lacks what a setting asks for; of a cluster it says nothing."""
    tracker = trial.pretrain.report_to
    if trial.executor == "ray":
        return
    if tracker != "none" and find_spec(tracker) is None:
        raise SettingsError(f"pretrain.report_to: {tracker} is not installed; `pip install {tracker}`, or give 'none'")
    if (kind := resolve_device(trial.pretrain)) == "mps" and trial.pretrain.nproc_per_node not in ("auto", 1):
        raise SettingsError("pretrain.nproc_per_node: one process trains on Apple's GPU; give 1, or device=cpu")
    if kind != "cpu":
        import torch

        if not (torch.cuda if kind == "cuda" else torch.mps).is_available():
            raise SettingsError(
                f"pretrain.device: {trial.pretrain.device} means a GPU, and torch {torch.__version__} sees none; give "
                f"cpu, or install a build of torch for {kind}"
            )


def check_inputs(corpus: CorpusPlan, cells: Sequence[Cell], asked: Sequence[str], storage: Storage) -> None:
    """Raises TrialError where a file is gone that the run has read before, and something is yet to be made from it."""

    def is_there(folder: Path, fingerprint: str) -> bool:
        return is_done(folder, fingerprint) or storage.holds(folder, fingerprint)

    trial = corpus.trial
    if not is_there(corpus.folder, corpus.text_fingerprint):
        corpus.source.require()
    gone = {name for stage in stages(trial) for name in stage.rows if lost(trial, name)}
    if gone and not is_ready(corpus):
        require(trial, gone & {*stage_sources(trial, "sft"), *stage_sources(trial, "grpo")}, "the audit")
    for cell in cells if gone else ():
        fingerprints = cell.fingerprints(corpus)
        for stage in stages(trial):
            if stage.name in asked and not is_there(cell.folder(trial, stage.name), fingerprints[stage.name]):
                require(trial, gone.intersection(stage.rows), f"{cell.name}: {stage.name}")


def measured_stages(trial: Trial) -> list[str]:
    """The stages after which a trial's cells are evaluated, in order."""
    return [stage.measures for stage in stages(trial) if stage.measures]
