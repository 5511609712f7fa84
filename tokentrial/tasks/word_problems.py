"""Word problems in GSM8K's format, made by a seeded generator: enough for a pilot without any network.

One to three steps over + - x and /, each worked out as `a*b=<<a*b=c>>c`, the answer after `####`. In the training split
no step multiplies or divides by a never-asked fact.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tokentrial.arms.facts import FACTS, Fact
from tokentrial.tasks.gsm8k import MARKER, Solutions, solution_prompt
from tokentrial.tasks.task import Example

TEST_ROWS = 200
_NAMES = ("Ann", "Ben", "Eve", "Ian", "Kim", "Leo", "Mia", "Tom")
_THINGS = ("pens", "eggs", "cards", "books", "coins", "shells", "apples", "stamps")
_HOLDERS = ("boxes", "bags", "jars", "packs")


@dataclass
class Story:
    """A problem as it grows: its sentences, its worked steps, how many things there are now."""

    rng: random.Random
    facts: Sequence[Fact]  # that a step may use
    name: str
    things: str
    sentences: list[str] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    used: list[Fact] = field(default_factory=list)
    count: int = 0
    question: str = ""

    def work(self, a: int, sign: str, b: int, result: int) -> None:
        """Write a step as GSM8K does."""
        self.steps.append(f"{a}{sign}{b}=<<{a}{sign}{b}={result}>>{result}")
        self.count = result


def _multiply(story: Story) -> None:
    fact = story.rng.choice(story.facts)
    a, b = story.rng.sample((fact.left, fact.right), 2)
    story.sentences.append(f"{story.name} has {a} {story.rng.choice(_HOLDERS)} of {b} {story.things}.")
    story.used.append(fact)
    story.work(a, "*", b, fact.product)


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
    """Share evenly among friends, where a usable fact lets it; else add."""
    fitting = [fact for fact in story.facts if fact.product == story.count]
    ways = [(fact, by) for fact in fitting for by in sorted({fact.left, fact.right})]
    if not ways:
        _add(story)
        return
    fact, by = story.rng.choice(ways)
    story.sentences.append(f"{by} friends share them.")
    story.question = f"How many {story.things} does each friend get?"
    story.used.append(fact)
    story.work(story.count, "/", by, story.count // by)


class WordProblems(Solutions):
    """`rows` training problems and 200 for the test, of at most `steps` steps. No test question stands in train."""

    name = "word_problems"

    def __init__(
        self, rows: int = 2000, steps: int = 2, seed: int = 0, never_asked: frozenset[Fact] = frozenset()
    ) -> None:
        self.rows, self.steps, self.seed, self.never_asked = rows, steps, seed, never_asked

    def examples(self, split: str = "test") -> Sequence[Example]:
        """All problems of a split, each split drawn by a seed of its own."""
        test = self._draw("test", TEST_ROWS, frozenset(), set())
        if split == "test":
            return test
        return self._draw(split, self.rows, self.never_asked, {example.question for example in test})

    def _draw(self, split: str, rows: int, left_out: frozenset[Fact], tested: set[str]) -> list[Example]:
        rng = random.Random(f"word_problems {self.seed} {split}")
        facts = [fact for fact in FACTS if fact.left >= 2 and fact not in left_out]
        examples: list[Example] = []
        while len(examples) < rows:
            example = self._problem(rng, facts, split)
            if example.question not in tested:
                examples.append(example)
        return examples

    def _problem(self, rng: random.Random, facts: Sequence[Fact], split: str) -> Example:
        story = Story(rng, facts, rng.choice(_NAMES), rng.choice(_THINGS))
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
        fact = story.used[0] if len(story.steps) == 1 and "*" in story.steps[0] else None
        return Example(
            self.name, question, solution_prompt(question), f" {solution}", str(story.count), fact=fact, split=split
        )
