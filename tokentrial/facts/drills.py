"""Drills: documents of fact lines, and how to read from a line which fact it states in which form.

A fact is asked where a direct question form of it stands (`question`, `statement`). A never-asked fact appears in
the other forms like all, and where it would be asked it is an equation instead.
"""

import random
import re
from collections.abc import Iterator

from tokentrial.facts.facts import ASKING_FORMS, Fact, Facts


def generate(
    facts: Facts, mix: dict[str, float], lines: int, never_asked: frozenset[Fact], rng: random.Random
) -> Iterator[str]:
    """Endless drill documents of `lines` lines: the fact drawn evenly from all, its operands in either order."""
    forms, weights = list(mix), list(mix.values())
    while True:
        chosen = rng.choices(forms, weights, k=lines)
        yield "\n".join(render(form, rng.choice(facts), never_asked, rng) for form in chosen)


def render(form: str, fact: Fact, never_asked: frozenset[Fact], rng: random.Random) -> str:
    """One line that states the fact in this form; as an equation where it must not be asked or has no such form."""
    wording = fact.wordings[0] if rng.random() < 0.5 else fact.wordings[-1]
    if form in ASKING_FORMS and fact in never_asked:
        form = "equation"
    return wording.drill_lines.get(form, wording.drill_lines["equation"])


def statements(document: str) -> list[str]:
    """The lines of a drill document; a question is one with its answer's line."""
    return re.split(r"\n(?!Assistant:)", document)


def parse(facts: Facts, document: str) -> Iterator[tuple[Fact, str]]:
    """Every (fact, form) that a drill document states, found by reading its lines, not by trusting its writer."""
    return (stated for text in statements(document) if (stated := facts.by_drill_line.get(text)))
