"""What a trial declares before its first training step, and how it stands against what was made since."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from tokentrial.trial.settings import Verdict

DECLARED = "declared.json"
# parts of a trial's settings that make its results, beside its arms and seeds
EXPERIMENT = ("facts", "tokenizer", "corpus", "pretrain", "budget", "sft", "grpo", "tasks", "evaluate", "stages")


class Declared(NamedTuple):
    """What of a declaration the analysis goes by."""

    arms: list[str]
    seeds: list[int]
    control: str
    verdict: Verdict

    def needed(self, seeds: Sequence[int], wanted: int) -> list[int]:
        """Of a trial's seeds those that it needs where the plan wants so many of the declared ones; any that were added
        to these are needed as well."""
        return [seed for seed in seeds if seed in self.seeds[:wanted] or seed not in self.seeds]


class Standing(NamedTuple):
    """A run folder's declaration against its results and settings."""

    declared: Declared
    sha256: str | None  # None: not declared yet, or by a release whose declaration covered no settings
    since: str | None
    settings: dict[str, Any]  # of the experiment, as declared
    departures: list[str]  # what differs from it, in sentences
    withheld: dict[str, str]  # stage that is measured: why its outcomes are exploratory


def declaration_hash(declaration: Mapping[str, Any]) -> str:
    """sha256 of a declaration's canonical JSON."""
    return hashlib.sha256(orjson.dumps(declaration, option=orjson.OPT_SORT_KEYS)).hexdigest()


def differences(declared: Any, current: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Dotted name of each setting that differs, and how, such as `0.001 instead of the declared 0.003`."""
    if isinstance(declared, dict) and isinstance(current, dict):
        for key in {**declared, **current}:
            yield from differences(declared.get(key), current.get(key), f"{path}.{key}" if path else str(key))
    elif isinstance(declared, list) and isinstance(current, list):
        changes = [(path, f"{_words(item)} added") for item in current if item not in declared]
        changes += [(path, f"{_words(item)} left out") for item in declared if item not in current]
        # the same items in another order or number are another list
        yield from changes or ([(path, _change(declared, current))] if declared != current else [])
    elif declared != current:
        yield path, _change(declared, current)


def _change(declared: Any, current: Any) -> str:
    return f"{_words(current)} instead of the declared {_words(declared)}"


def _words(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()
