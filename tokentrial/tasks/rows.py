"""Tasks of word problems by name, and the rows that SFT and GRPO draw from their sources, the same in every arm: what
is drawn depends on the seed alone."""

import random
from collections.abc import Sequence
from pathlib import Path

import orjson

from tokentrial.arms.facts import Fact
from tokentrial.arms.families import facts_of
from tokentrial.errors import SettingsError, TrialError
from tokentrial.store.files import file_hash
from tokentrial.tasks.gsm8k import GSM8K, Solutions, Sums
from tokentrial.tasks.task import Example
from tokentrial.tasks.word_problems import WordProblems
from tokentrial.trial.settings import SFTSource
from tokentrial.trial.trial import Trial


def find(name: str, trial: Trial, never_asked: frozenset[Fact]) -> Solutions:
    """`gsm8k`, `word_problems`, or `path:FILE.json` of SVAMP or MultiArith (evaluation only)."""
    if name == "gsm8k":
        return GSM8K(trial.tasks.gsm8k)
    if name == "word_problems":
        settings = trial.tasks.word_problems
        return WordProblems(settings.rows, settings.steps, settings.seed, never_asked, facts_of(trial.facts))
    if name.startswith("path:"):
        return Sums(name)
    raise SettingsError(f"tasks: no task {name!r}; there are gsm8k, word_problems and path:FILE.json")


def rows(trial: Trial, sources: Sequence[SFTSource], seed: int, never: frozenset[Fact]) -> list[Example]:
    """One epoch of rows: each source's by its weight, 0.5 for half of them, 2 for each twice; shuffled by the seed."""
    rng = random.Random(f"sft {seed}")
    chosen: list[Example] = []
    for source in sources:
        examples = list(source_rows(trial, source.source, never))
        whole, part = divmod(source.weight, 1)
        chosen += examples * int(whole) + rng.sample(examples, round(part * len(examples)))
    if not chosen:
        raise TrialError("sft: the sources hold no row; check their paths and weights")
    rng.shuffle(chosen)
    return chosen


def source_rows(trial: Trial, source: str, never: frozenset[Fact]) -> Sequence[Example]:
    """All training rows of one source: a task's name, or `jsonl:PATH` of prompts and completions."""
    kind, _, path = source.partition(":")
    if kind == "jsonl":
        return _jsonl(Path(path).expanduser())
    return find(source, trial, never).examples("train")


def _jsonl(path: Path) -> list[Example]:
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


def contents(trial: Trial, names: Sequence[str]) -> dict[str, str]:
    """What local files the named sources read, by hash; made-up problems by their version; any other source by its own
    name."""
    found = {}
    for number, name in enumerate(names):
        kind, _, path = (trial.tasks.gsm8k if name == "gsm8k" else name).partition(":")
        place = Path(path).expanduser()
        files = sorted(place.glob("*.jsonl")) if name == "gsm8k" else [place]
        hashes = [file_hash(file) for file in files if path and file.is_file()]
        if name == WordProblems.name:
            hashes = [str(WordProblems.version)]
        found[f"{number} {name.partition(':')[0]} {kind}"] = ",".join(hashes)
    return found


def sources(trial: Trial, stage: str) -> list[str]:
    """Names of the rows that `sft` or `grpo` reads; none where the trial has no such stage."""
    if stage == "grpo":
        return [trial.grpo.task] if trial.grpo else []
    return [source.source for part in (trial.sft.stages if trial.sft else ()) for source in part.sources]


def trained_rows(trial: Trial, stage: str, seed: int, never: frozenset[Fact]) -> list[Example]:
    """The rows of one epoch of `sft`, all its stages, or all prompts that `grpo` may draw from."""
    if stage == "grpo":
        return [example for source in sources(trial, stage) for example in source_rows(trial, source, never)]
    return [
        example
        for part in (trial.sft.stages if trial.sft else ())
        for example in rows(trial, part.sources, seed, never)
    ]
