"""Which prompts of SFT and GRPO leave room for an answer: the same in every arm.

A prompt is never in an arm's tokens (defect R3), but an arm that splits its text may spell it in more ids.
"""

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

from tokentrial.arms.arm import get_arm
from tokentrial.facts.families import build_facts
from tokentrial.tasks.task import Example
from tokentrial.tokenizer.vocabulary import Vocabulary
from tokentrial.trial.trial import Trial


def fitting(trial: Trial, examples: Iterable[Example], room: int) -> list[Example]:
    """The examples whose prompt takes at most `room` ids in every arm of the trial."""
    ids = longest_in_any_arm(trial)
    return [example for example in examples if ids(example.prompt) <= room]


def longest_in_any_arm(trial: Trial) -> Callable[[str], int]:
    """A function of a text without sites: the most ids that an arm of the trial spells it in."""
    facts = build_facts(trial.facts)
    vocabulary = Vocabulary(trial.tokenizer.merges, len(facts), trial.tokenizer.path)
    arms = {arm.split_pattern: arm for arm in (get_arm(name, facts) for name in trial.arms)}

    def longest(text: str) -> int:
        cuts = ([0, *(arm.splits(text) if pattern else ()), len(text)] for pattern, arm in arms.items())
        return max(sum(len(vocabulary.encode(text[a:b])) for a, b in pairwise(of_arm)) for of_arm in cuts)

    return longest


def split_inputs(trial: Trial) -> dict[str, Any]:
    """What of the arms decides which prompts fit, for a fingerprint; nothing where no arm splits its text."""
    patterns = {get_arm(name).split_pattern for name in trial.arms} - {None}
    return {"splits": sorted(map(str, patterns))} if patterns else {}
