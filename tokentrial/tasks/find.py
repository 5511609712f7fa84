"""Tasks of word problems by name, as a trial sets them."""

from tokentrial.arms.facts import Fact
from tokentrial.arms.families import facts_of
from tokentrial.errors import SettingsError
from tokentrial.tasks.gsm8k import GSM8K, Solutions, Sums
from tokentrial.tasks.word_problems import WordProblems
from tokentrial.trial import Trial


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
