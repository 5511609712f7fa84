"""Tasks of word problems by name, and the examples that SFT and GRPO draw from their sources, the same in every arm:
what is drawn depends on the seed alone."""

import random
from collections.abc import Sequence
from pathlib import Path

from tokentrial.errors import SettingsError, TrialError
from tokentrial.facts.facts import Fact
from tokentrial.facts.families import build_facts
from tokentrial.tasks.arithmetic import PROBES
from tokentrial.tasks.gsm8k import GSM8K, SolutionTask
from tokentrial.tasks.own_rows import AnswerOnly, TrainingRows
from tokentrial.tasks.task import Example
from tokentrial.tasks.word_problems import WordProblems
from tokentrial.trial.settings import SFTSource
from tokentrial.trial.trial import Trial

# names of outcomes and of files of results that are no task of a file's
_TAKEN = (*PROBES, "arithmetic", "gsm8k", "word_problems", "heldout_text", "harness")


def get_task(name: str, trial: Trial, never_asked: frozenset[Fact]) -> SolutionTask:
    """`gsm8k`, `word_problems`, `path:FILE` of SVAMP or MultiArith (evaluation), `jsonl:FILE` of prompts and
    completions (SFT). Raises SettingsError where it is none of these."""
    if name == "word_problems":
        settings = trial.tasks.word_problems
        return WordProblems(settings.rows, settings.steps, settings.seed, never_asked, build_facts(trial.facts))
    return local_task(name, trial.tasks.gsm8k, "word_problems")


def local_task(name: str, gsm8k: str, other: str) -> SolutionTask:
    """A task that needs no trial; `gsm8k` says where GSM8K lies, `other` is what else may be asked for."""
    kind, _, file = name.partition(":")
    if name == "gsm8k":
        return GSM8K(gsm8k)
    if kind == "path" and file:
        return AnswerOnly(file)
    if kind == "jsonl" and file:
        return TrainingRows(file)
    hint = f"; did you mean path:{name} or jsonl:{name}?" if Path(name).suffix or "/" in name else ""
    raise SettingsError(
        f"no task {name!r}, expected gsm8k, {other}, path:FILE of questions with answers (evaluation) or jsonl:FILE of "
        f"prompts with completions (SFT){hint}"
    )


def check_task_names(names: Sequence[str]) -> None:
    """Refuse a file whose outcomes would have the name of another task's, or of one of ours."""
    files = [name for name in names if ":" in name]
    called = [task_name(name) for name in files]
    for file, name in zip(files, called, strict=True):
        if name in _TAKEN or name.endswith("_table") or called.count(name) > 1:
            raise SettingsError(f"{file}: its outcomes and others would be called {name!r}; rename it")
        if not name.isprintable() or len(name.encode()) > 200:
            raise SettingsError(f"{file}: its outcomes would be called {name!r}; give it a short name in plain letters")


def task_name(name: str) -> str:
    """What a task of `evaluate.tasks` is called in outcomes and files of results: that of a file after the file."""
    return local_task(name, "hub", "").name if ":" in name else name


def stage_sources(trial: Trial, stage: str) -> list[str]:
    """Names of the sources that `sft` or `grpo` reads; none where the trial has no such stage."""
    if stage == "grpo":
        return [trial.grpo.task] if trial.grpo else []
    return [source.source for part in (trial.sft.stages if trial.sft else ()) for source in part.sources]


def source_examples(trial: Trial, source: str, never_asked: frozenset[Fact]) -> Sequence[Example]:
    """All training examples of one source: a task's name, or `jsonl:FILE` of prompts and completions."""
    return get_task(source, trial, never_asked).examples("train")


def epoch_examples(
    trial: Trial, sources: Sequence[SFTSource], seed: int, never_asked: frozenset[Fact]
) -> list[Example]:
    """One epoch: each source's examples by its weight, 0.5 for half of them, 2 for each twice; shuffled by the seed."""
    rng = random.Random(f"sft {seed}")
    chosen: list[Example] = []
    for source in sources:
        examples = list(source_examples(trial, source.source, never_asked))
        whole, part = divmod(source.weight, 1)
        chosen += examples * int(whole) + rng.sample(examples, round(part * len(examples)))
    if not chosen:
        raise TrialError("sft.stages: the sources hold no rows; check their paths and weights")
    rng.shuffle(chosen)  # the order of rows that are held or trained on, alike in every arm
    return chosen


def stage_examples(trial: Trial, stage: str, seed: int, never_asked: frozenset[Fact]) -> list[Example]:
    """One epoch of every part of `sft`, or all that `grpo` may draw from."""
    if stage == "grpo":
        return [e for source in stage_sources(trial, stage) for e in source_examples(trial, source, never_asked)]
    parts = trial.sft.stages if trial.sft else ()
    return [e for part in parts for e in epoch_examples(trial, part.sources, seed, never_asked)]
