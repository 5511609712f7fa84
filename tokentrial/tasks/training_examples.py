"""Tasks of word problems by name, and the examples that SFT and GRPO draw from their sources, the same in every arm:
what is drawn depends on the seed alone."""

import random
from collections.abc import Sequence
from pathlib import Path

import orjson

from tokentrial.errors import SettingsError, TrialError
from tokentrial.facts.facts import Fact
from tokentrial.facts.families import build_facts
from tokentrial.store.files import file_hash
from tokentrial.tasks.gsm8k import GSM8K, AnswerOnly, SolutionTask
from tokentrial.tasks.task import Example
from tokentrial.tasks.word_problems import WordProblems
from tokentrial.trial.settings import SFTSource
from tokentrial.trial.trial import Trial


def get_task(name: str, trial: Trial, never_asked: frozenset[Fact]) -> SolutionTask:
    """`gsm8k`, `word_problems`, or `path:FILE.json` of SVAMP or MultiArith (evaluation only)."""
    if name == "gsm8k":
        return GSM8K(trial.tasks.gsm8k)
    if name == "word_problems":
        settings = trial.tasks.word_problems
        return WordProblems(settings.rows, settings.steps, settings.seed, never_asked, build_facts(trial.facts))
    if name.startswith("path:"):
        return AnswerOnly(name)
    raise SettingsError(f"tasks: no task {name!r}; there are gsm8k, word_problems and path:FILE.json")


def stage_sources(trial: Trial, stage: str) -> list[str]:
    """Names of the sources that `sft` or `grpo` reads; none where the trial has no such stage."""
    if stage == "grpo":
        return [trial.grpo.task] if trial.grpo else []
    return [source.source for part in (trial.sft.stages if trial.sft else ()) for source in part.sources]


def source_examples(trial: Trial, source: str, never_asked: frozenset[Fact]) -> Sequence[Example]:
    """All training examples of one source: a task's name, or `jsonl:PATH` of prompts and completions."""
    kind, _, path = source.partition(":")
    if kind == "jsonl":
        return _read_jsonl(Path(path).expanduser())
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
        raise TrialError("sft: the sources hold no row; check their paths and weights")
    rng.shuffle(chosen)  # the order of rows that are held or trained on, alike in every arm
    return chosen


def stage_examples(trial: Trial, stage: str, seed: int, never_asked: frozenset[Fact]) -> list[Example]:
    """One epoch of every part of `sft`, or all that `grpo` may draw from."""
    if stage == "grpo":
        return [e for source in stage_sources(trial, stage) for e in source_examples(trial, source, never_asked)]
    parts = trial.sft.stages if trial.sft else ()
    return [e for part in parts for e in epoch_examples(trial, part.sources, seed, never_asked)]


def _read_jsonl(path: Path) -> list[Example]:
    if not path.is_file():
        raise TrialError(f"sft: {path}: not found; expected a file of lines with prompt and completion")
    examples = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            row = orjson.loads(line)
            prompt, completion = row["prompt"], row["completion"]
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise TrialError(f"{path}, line {number}: expected prompt and completion: {error!r}") from error
        examples.append(Example("jsonl", prompt, prompt, completion, "", split="train"))
    return examples


def source_hashes(trial: Trial, names: Sequence[str]) -> dict[str, str]:
    """For a fingerprint: the hashes of the local files that sources read, the version of generated word problems,
    nothing of any other source but its name."""
    hashes = {}
    for index, name in enumerate(names):
        kind, _, path = (trial.tasks.gsm8k if name == "gsm8k" else name).partition(":")
        given = Path(path).expanduser()
        files = sorted(given.glob("*.jsonl")) if name == "gsm8k" else [given]
        of_files = [file_hash(file) for file in files if path and file.is_file()]
        version = [str(WordProblems.version)] if name == WordProblems.name else []
        hashes[f"{index} {name.partition(':')[0]} {kind}"] = ",".join(version or of_files)
    return hashes
