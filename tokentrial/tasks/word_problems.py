"""Word problems in GSM8K's format, made by a seeded generator: enough for a pilot without any network.

One to three steps over + - x and /, each worked out as `a*b=<<a*b=c>>c`, the answer after `####`. In the training split
no step states a never-asked fact or divides by one.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from tokentrial.facts.facts import Fact, Facts
from tokentrial.facts.families import TIMES_TABLE
from tokentrial.tasks.gsm8k import MARKER, SolutionTask, solution_prompt
from tokentrial.tasks.task import Example

TEST_ROWS = 200
_NAMES = ("Ann", "Ben", "Eve", "Ian", "Kim", "Leo", "Mia", "Tom")
_THINGS = ("pens", "eggs", "cards", "books", "coins", "shells", "apples", "stamps")
_CONTAINERS = ("boxes", "bags", "jars", "packs")
_PAIRS = [(a, b) for a in range(2, 10) for b in range(a, 10)]


class _Story:
    """A problem as it grows: its sentences, its worked steps, how many things there are now. `pairs` are the factors
    that a step may multiply, or divide by."""

    def __init__(self, rng: random.Random, pairs: Sequence[tuple[int, int]]) -> None:
        self.rng, self.pairs = rng, pairs
        self.name, self.things = rng.choice(_NAMES), rng.choice(_THINGS)
        self.sentences: list[str] = []
        self.steps: list[str] = []
        self.multiplied: tuple[int, int] | None = None
        self.count = 0
        self.is_shared = False  # after which nothing follows but the question for a share

    def multiply(self) -> None:
        self.multiplied = self.rng.choice(self.pairs)
        a, b = self.rng.sample(self.multiplied, 2)
        self.append_step(f"{self.name} has {a} {self.rng.choice(_CONTAINERS)} of {b} {self.things}.", a, "*", b, a * b)

    def begin(self) -> None:
        self.count = self.rng.randint(10, 60)
        self.sentences.append(f"{self.name} has {self.count} {self.things}.")

    def add(self) -> None:
        more = self.rng.randint(2, 30)
        self.append_step(f"{self.name} gets {more} more.", self.count, "+", more, self.count + more)

    def subtract(self) -> None:
        """Sell some of what is there; where nothing is left, add."""
        if not self.count:
            self.add()
            return
        lost = self.rng.randint(1, max(1, self.count - 1))
        self.append_step(f"{self.name} sells {lost}.", self.count, "-", lost, self.count - lost)

    def divide(self) -> None:
        """Share evenly among friends, where a usable product lets it; else add."""
        divisors = [by for a, b in self.pairs if a * b == self.count for by in sorted({a, b})]
        if not divisors:
            self.add()
            return
        by = self.rng.choice(divisors)
        self.is_shared = True
        self.append_step(f"{by} friends share them.", self.count, "/", by, self.count // by)

    def append_step(self, sentence: str, a: int, sign: str, b: int, result: int) -> None:
        """Go on with a sentence and its step, worked out as in GSM8K."""
        self.sentences.append(sentence)
        self.steps.append(f"{a}{sign}{b}=<<{a}{sign}{b}={result}>>{result}")
        self.count = result


@dataclass(frozen=True)
class WordProblems(SolutionTask):
    """`rows` training problems and 200 for the test, of at most `steps` steps. No test question stands in train."""

    rows: int = 2000
    steps: int = 2
    seed: int = 0
    never_asked: frozenset[Fact] = frozenset()
    facts: Facts = TIMES_TABLE
    name = "word_problems"
    version = 2  # to be raised when other problems are drawn, so that what read them is made again

    @lru_cache(maxsize=16)  # noqa: B019 - a plan asks for the same ones a hundred times, and each stage of a cell again
    def examples(self, split: str = "test") -> tuple[Example, ...]:
        """All problems of a split, each split drawn by a seed of its own."""
        if split == "test":
            return tuple(self._draw(split, TEST_ROWS, frozenset(), set()))
        tested = {example.question for example in self.examples("test")}
        return tuple(self._draw(split, self.rows, self.never_asked, tested))

    def _draw(self, split: str, rows: int, never_stated: frozenset[Fact], tested: set[str]) -> list[Example]:
        rng = random.Random(f"word_problems {self.seed} {split}")
        pairs = [pair for pair in _PAIRS if self._stated_fact(pair) not in never_stated]
        examples: list[Example] = []
        while len(examples) < rows:
            example = self._problem(rng, pairs, split)
            # sums and differences may state a fact too, where the trial's facts are not products
            stated = {site.fact for site in self.facts.sites(example.completion)}
            if example.question not in tested and stated.isdisjoint(never_stated):
                examples.append(example)
        return examples

    def _stated_fact(self, pair: tuple[int, int]) -> Fact | None:
        """The trial's fact that a product of these two states, if it is one of them."""
        site = next(self.facts.sites(f"{pair[0]}*{pair[1]}={pair[0] * pair[1]}"), None)
        return site.fact if site else None

    def _problem(self, rng: random.Random, pairs: Sequence[tuple[int, int]], split: str) -> Example:
        story = _Story(rng, pairs)
        steps = rng.randint(1, self.steps)
        if rng.random() < 0.7:
            story.multiply()
        else:
            story.begin()
        while len(story.steps) < steps and not story.is_shared:
            rng.choice((story.add, story.subtract, story.divide))()
        ending = "each friend get" if story.is_shared else f"{story.name} have now"
        question = " ".join([*story.sentences, f"How many {story.things} does {ending}?"])
        solution = "\n".join([*story.steps, f"{MARKER} {story.count}"])
        fact = self._stated_fact(story.multiplied) if story.multiplied and len(story.steps) == 1 else None
        prompt = solution_prompt(question)
        return Example(self.name, question, prompt, f" {solution}", str(story.count), fact=fact, split=split)
