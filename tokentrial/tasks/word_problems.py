"""Word problems in GSM8K's format, made by a seeded generator: enough for a pilot without any network.

One to three steps over + - x and /, each worked out as `a*b=<<a*b=c>>c`, the answer after `####`. In the training split
no step states a never-asked fact or divides by one.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tokentrial.arms.facts import Fact, Facts
from tokentrial.arms.families import TIMES_TABLE
from tokentrial.tasks.gsm8k import MARKER, Solutions, solution_prompt
from tokentrial.tasks.task import Example

TEST_ROWS = 200
_NAMES = ("Ann", "Ben", "Eve", "Ian", "Kim", "Leo", "Mia", "Tom")
_THINGS = ("pens", "eggs", "cards", "books", "coins", "shells", "apples", "stamps")
_HOLDERS = ("boxes", "bags", "jars", "packs")
_PAIRS = [(a, b) for a in range(2, 10) for b in range(a, 10)]


@dataclass
class Story:
    """A problem as it grows: its sentences, its worked steps, how many things there are now."""

    rng: random.Random
    pairs: Sequence[tuple[int, int]]  # that a step may multiply or divide
    name: str
    things: str
    sentences: list[str] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    pair: tuple[int, int] | None = None
    count: int = 0
    question: str = ""

    def work(self, a: int, sign: str, b: int, result: int) -> None:
        """Write a step as GSM8K does."""
        self.steps.append(f"{a}{sign}{b}=<<{a}{sign}{b}={result}>>{result}")
        self.count = result


def _multiply(story: Story) -> None:
    story.pair = story.rng.choice(story.pairs)
    a, b = story.rng.sample(story.pair, 2)
    story.sentences.append(f"{story.name} has {a} {story.rng.choice(_HOLDERS)} of {b} {story.things}.")
    story.work(a, "*", b, a * b)


def _begin_with_some(story: Story) -> None:
    story.count = story.rng.randint(10, 60)
    story.sentences.append(f"{story.name} has {story.count} {story.things}.")


def _add(story: Story) -> None:
    more = story.rng.randint(2, 30)
    story.sentences.append(f"{story.name} gets {more} more.")
    story.work(story.count, "+", more, story.count + more)


def _subtract(story: Story) -> None:
    lost = story.rng.randint(1, max(1, story.count - 1))
    story.sentences.append(f"{story.name} sells {lost}.")
    story.work(story.count, "-", lost, story.count - lost)


def _divide(story: Story) -> None:
    """Share evenly among friends, where a usable product lets it; else add."""
    fitting = [pair for pair in story.pairs if pair[0] * pair[1] == story.count]
    ways = [by for pair in fitting for by in sorted(set(pair))]
    if not ways:
        _add(story)
        return
    by = story.rng.choice(ways)
    story.sentences.append(f"{by} friends share them.")
    story.question = f"How many {story.things} does each friend get?"
    story.work(story.count, "/", by, story.count // by)


class WordProblems(Solutions):
    """`rows` training problems and 200 for the test, of at most `steps` steps. No test question stands in train."""

    name = "word_problems"

    def __init__(
        self,
        rows: int = 2000,
        steps: int = 2,
        seed: int = 0,
        never_asked: frozenset[Fact] = frozenset(),
        facts: Facts = TIMES_TABLE,
    ) -> None:
        self.rows, self.steps, self.seed, self.never_asked, self.facts = rows, steps, seed, never_asked, facts

    def examples(self, split: str = "test") -> Sequence[Example]:
        """All problems of a split, each split drawn by a seed of its own."""
        test = self._draw("test", TEST_ROWS, frozenset(), set())
        if split == "test":
            return test
        return self._draw(split, self.rows, self.never_asked, {example.question for example in test})

    def _draw(self, split: str, rows: int, left_out: frozenset[Fact], tested: set[str]) -> list[Example]:
        rng = random.Random(f"word_problems {self.seed} {split}")
        pairs = [pair for pair in _PAIRS if self._stated(pair) not in left_out]
        examples: list[Example] = []
        while len(examples) < rows:
            example = self._problem(rng, pairs, split)
            states = {site.fact for site in self.facts.sites(example.completion)}
            if example.question not in tested and states.isdisjoint(left_out):
                examples.append(example)
        return examples

    def _stated(self, pair: tuple[int, int]) -> Fact | None:
        """The trial's fact that a product of these two states, if it is one of them."""
        site = next(self.facts.sites(f"{pair[0]}*{pair[1]}={pair[0] * pair[1]}"), None)
        return site.fact if site else None

    def _problem(self, rng: random.Random, pairs: Sequence[tuple[int, int]], split: str) -> Example:
        story = Story(rng, pairs, rng.choice(_NAMES), rng.choice(_THINGS))
        steps = rng.randint(1, self.steps)
        if rng.random() < 0.7:
            _multiply(story)
        else:
            _begin_with_some(story)
        changes: tuple[Callable[[Story], None], ...] = (_add, _subtract, _divide)
        while len(story.steps) < steps and not story.question:
            rng.choice(changes)(story)
        asked = story.question or f"How many {story.things} does {story.name} have now?"
        question = " ".join([*story.sentences, asked])
        solution = "\n".join([*story.steps, f"{MARKER} {story.count}"])
        fact = self._stated(story.pair) if story.pair and len(story.steps) == 1 else None
        return Example(
            self.name, question, solution_prompt(question), f" {solution}", str(story.count), fact=fact, split=split
        )
