"""Drills: documents of fact lines, and how to read from a line which fact it states in which form.

A fact is asked where a direct question form of it stands (`question`, `statement`). A never-asked fact appears in
the other forms like all, and where it would be asked it is an equation instead.
"""

import random
import re
from collections.abc import Iterator

from tokentrial.arms.facts import FACTS, Fact

TEMPLATES: dict[str, str] = {
    "equation": "{a}*{b}={c}",
    "times_sign": "{a} × {b} = {c}",
    "letter_x": "{a}x{b}={c}",
    "boxes": "If you have {a} boxes with {b} apples each, you have {a}*{b}={c} apples in total, so {c}.",
    "statement": "{a} times {b} equals {c}.",
    "question": "User: What is {a} times {b}?\nAssistant: The answer is {c}.",
}
FORMS: tuple[str, ...] = tuple(TEMPLATES)
ASKING: frozenset[str] = frozenset({"statement", "question"})

_BLANKS = {"{a}": r"(?P<a>[1-9])", "{b}": r"(?P<b>[1-9])", "{c}": r"(?P<c>[0-9]+)"}
# a direct question or statement of a product, in a text of any source
_ASKS = re.compile(r"(?<![0-9])([1-9]) times ([1-9])(?![0-9])(\?| equals| is )", re.ASCII)


def documents(mix: dict[str, float], lines: int, never_asked: frozenset[Fact], rng: random.Random) -> Iterator[str]:
    """Endless drill documents of `lines` lines: the fact drawn evenly from all, its factors in either order."""
    forms, weights = list(mix), list(mix.values())
    while True:
        chosen = rng.choices(forms, weights, k=lines)
        yield "\n".join(line(form, rng.choice(FACTS), never_asked, rng) for form in chosen)


def line(form: str, fact: Fact, never_asked: frozenset[Fact], rng: random.Random) -> str:
    """One line that states the fact in this form, or as an equation where it must not be asked."""
    a, b = (fact.left, fact.right) if rng.random() < 0.5 else (fact.right, fact.left)
    if form in ASKING and fact in never_asked:
        form = "equation"
    return TEMPLATES[form].format(a=a, b=b, c=fact.product)


def _reader(template: str) -> re.Pattern[str]:
    pattern, seen = re.escape(template), set()
    for blank, group in _BLANKS.items():
        name = re.escape(blank)
        while name in pattern:
            pattern = pattern.replace(name, f"(?P={blank[1]})" if blank in seen else group, 1)
            seen.add(blank)
    return re.compile(rf"^{pattern}$", re.MULTILINE)


_READERS = {form: _reader(template) for form, template in TEMPLATES.items()}


def read(document: str) -> Iterator[tuple[Fact, str]]:
    """Every (fact, form) that a drill document states, found by reading its lines, not by trusting its writer."""
    for form, reader in _READERS.items():
        for match in reader.finditer(document):
            fact = Fact.of(int(match["a"]), int(match["b"]))
            if int(match["c"]) == fact.product:
                yield fact, form


def asked_in(text: str) -> set[Fact]:
    """Facts that a text of any source asks directly."""
    if " times " not in text:
        return set()
    return {Fact.of(int(match[1]), int(match[2])) for match in _ASKS.finditer(text)}
