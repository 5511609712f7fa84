"""The 45 multiplication facts, the sites where a text states one, and which facts a seed never asks.

A site is a whole, correct, standalone `a*b=c`: both factors from 1 to 9, the right product, and no neighbour
that makes it part of a longer number, word or expression (defects R3 and R4 of the reference experiment).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, order=True)
class Fact:
    """An unordered pair of factors, `left <= right`."""

    left: int
    right: int

    @property
    def product(self) -> int:
        return self.left * self.right

    @property
    def token(self) -> str:
        """Name of the fact's token, as in the reference: `<MUL_6_9_54>`."""
        return f"<MUL_{self.left}_{self.right}_{self.product}>"

    @property
    def equation(self) -> str:
        """The fact written canonically: `6*9=54`."""
        return f"{self.left}*{self.right}={self.product}"

    @classmethod
    def of(cls, a: int, b: int) -> "Fact":
        return cls(min(a, b), max(a, b))


FACTS: tuple[Fact, ...] = tuple(Fact(a, b) for a in range(1, 10) for b in range(a, 10))
PRODUCTS: tuple[int, ...] = tuple(sorted({fact.product for fact in FACTS}))
BY_TOKEN: dict[str, Fact] = {fact.token: fact for fact in FACTS}


class Site(NamedTuple):
    """Where a text states a fact: characters `start` to `end`."""

    start: int
    end: int
    fact: Fact


# From the first factor to "=" there are at most nine characters: two factors, an operator, three gaps of two spaces.
_REACH = 9
_NEIGHBOURS = 32
_SITE = re.compile(r"([1-9]) {0,2}([*×x]) {0,2}([1-9]) {0,2}= {0,2}([1-9][0-9]?)", re.ASCII)
_OPERATORS = "+-*×/÷^=−"


def sites(text: str) -> Iterator[Site]:
    """All sites of a text in order. Looks for "=" first: a regular expression over all of it is 70 times slower."""
    sign = text.find("=")
    while sign != -1:
        site = _site_at(text, sign)
        if site:
            yield site
        sign = text.find("=", sign + 1)


def _site_at(text: str, sign: int) -> Site | None:
    if not text[sign + 1 : sign + 4].lstrip(" ")[:1].isdigit():
        return None
    for start in range(max(0, sign - _REACH), sign - 2):
        match = _SITE.match(text, start)
        if match and match.end(3) <= sign < match.start(4):
            fact = Fact.of(int(match[1]), int(match[3]))
            if int(match[4]) == fact.product and stands_alone(text, match.start(), match.end()):
                return Site(match.start(), match.end(), fact)
    return None


def stands_alone(text: str, start: int, end: int) -> bool:
    """Whether nothing beside `text[start:end]` makes it part of a longer number, word or expression."""
    before, after = text[max(0, start - _NEIGHBOURS) : start], text[end : end + _NEIGHBOURS]
    if before and (_wordlike(before[-1]) or before[-1] in ".,$"):
        return False
    if after and (_wordlike(after[0]) or after[0] == "%" or (after[0] in ".," and after[1:2].isdigit())):
        return False
    left, right = before.rstrip(" \t\u00a0"), after.lstrip(" \t\u00a0")
    if left and (left[-1] in _OPERATORS or (left[-1] == "x" and not left[-2:-1].isalpha())):
        return False
    return not (right and (right[0] in _OPERATORS or (right[0] == "x" and not right[1:2].isalpha())))


def _wordlike(character: str) -> bool:
    return character.isalnum() or character == "_"


def never_asked(seed: int, folds: int) -> frozenset[Fact]:
    """The facts that seed `seed` never asks directly: fold `seed mod folds` of the 36 facts with both factors
    at least 2, dealt out squares first and in the order of their products, so that the folds are equally hard.
    None where `folds` is 0."""
    if folds == 0:
        return frozenset()
    hard = sorted((fact for fact in FACTS if fact.left >= 2), key=lambda fact: (fact.left != fact.right, fact.product))
    return frozenset(hard[seed % folds :: folds])
