"""Facts, the sites where a text states one, and which facts a seed never asks.

A site is a whole, correct, standalone `6*9=54` or `capital of France=Paris`: a spelling of the fact's left side, the
right answer, and no neighbour that makes it part of a longer number, word or expression (defects R3 and R4 of the
original report).

The rule in full, where every blank is one of `_BLANKS` and the farthest neighbour that counts is the 32nd:

- beside a site stands no letter or digit, no `_.,$` before and no `_%`, `.5` or `,5` after it, and no character with
  which another fact's answer ends, before it, or another's left side begins, after it;
- over blanks beside it stands no operator: of `OPERATORS`, or of the facts' own; one of letters (`x`, `mod`) is none
  within a word. A left side that itself begins with an operator, `-3+4`, and an answer that ends with one are part of
  a longer expression, too, where another fact may end before or begin after them;
- where an answer runs on into what would be another fact's site, `city=Old New York=big`, neither is one.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple, Self

from tokentrial.facts.settings import FactSettings

DRILL_FORMS = ("equation", "times_sign", "letter_x", "boxes", "statement", "question")  # as in drills.mix
SLOT_TOKEN = "<FACT>"  # the one token of arms whose token says nothing of the fact
ASKING_FORMS = frozenset({"statement", "question"})  # the forms that ask a fact directly
NEIGHBOURHOOD = 32  # characters on either side of a site in which an operator counts
OPERATORS = ("+", "-", "*", "×", "/", "÷", "^", "=", "−", "x")
_BLANKS = " \t\u00a0"
_ASKING = re.compile(r"\?| equals| is ")  # what follows a phrase that is asked


@dataclass(frozen=True)
class Wording:
    """One order of a fact's operands: the spellings of its left side, the canonical one first, and its drill lines."""

    operands: tuple[int, ...]  # none where the fact is not one of numbers
    phrase: str  # 6 times 9
    question: str  # What is 6 times 9?
    spellings: tuple[str, ...]
    drill_lines: Mapping[str, str]


@dataclass(frozen=True, order=True)
class Fact:
    """What a token stands for: an unordered pair and its product, or a question and its answer."""

    token: str
    answer: str
    wordings: tuple[Wording, ...] = field(compare=False, repr=False)

    @property
    def equation(self) -> str:
        """The fact written canonically: `6*9=54`."""
        return f"{self.wordings[0].spellings[0]}={self.answer}"

    @property
    def operands(self) -> tuple[int, ...]:
        """The operands in their canonical order."""
        return self.wordings[0].operands


class Site(NamedTuple):
    """Where a text states a fact: characters `start` to `end`, its left side up to `left`, its answer from `answer`."""

    start: int
    end: int
    fact: Fact
    left: int
    answer: int


class Facts(tuple[Fact, ...]):
    """All facts of a trial, in the order of their ids."""

    settings: FactSettings
    table_task: str  # name of the probes that ask them all
    hard: tuple[Fact, ...]  # those that the folds deal out
    operators: tuple[str, ...]  # of the facts' equations

    def __new__(
        cls,
        settings: FactSettings,
        table_task: str,
        facts: tuple[Fact, ...],
        hard: tuple[Fact, ...],
        operators: tuple[str, ...],
    ) -> Self:
        self = super().__new__(cls, facts)
        self.settings, self.table_task, self.hard, self.operators = settings, table_task, hard, operators
        return self

    def of(self, *operands: int) -> Fact:
        """The fact with these operands, in any order."""
        return next(fact for fact in self if any(operands == wording.operands for wording in fact.wordings))

    @cached_property
    def by_token(self) -> dict[str, Fact]:
        return {fact.token: fact for fact in self}

    @cached_property
    def index_of(self) -> dict[Fact, int]:
        """The index of each fact in their order."""
        return {fact: index for index, fact in enumerate(self)}

    @cached_property
    def in_folds(self) -> frozenset[Fact]:
        """Those that some fold leaves out."""
        return frozenset(self.hard)

    @cached_property
    def numeric(self) -> bool:
        """Whether every answer is a whole number."""
        return all(re.fullmatch("-?[0-9]+", fact.answer) for fact in self)

    @cached_property
    def answers(self) -> tuple[str, ...]:
        """The distinct answers, numbers by their size."""
        return tuple(sorted({fact.answer for fact in self}, key=lambda text: (len(text), text)))

    @cached_property
    def by_drill_line(self) -> dict[str, tuple[Fact, str]]:
        """The fact and form of every drill line there can be."""
        return {line: (fact, form) for fact in self for w in fact.wordings for form, line in w.drill_lines.items()}

    @cached_property
    def table_axes(self) -> list[list[int]]:
        """The operands at the rows and at the columns of a figure of the table; nothing where they are not two, or two
        questions have the same, such as 3+4 and 3*4."""
        operands = [wording.operands for fact in self for wording in fact.wordings]
        if any(len(of_question) != 2 for of_question in operands) or len(set(operands)) < len(operands):
            return []
        return [sorted({of_question[side] for of_question in operands}) for side in (0, 1)]

    @cached_property
    def table_cells(self) -> dict[str, tuple[int, int]]:
        """Row and column of every question in a figure of the table: of its operands where they are two, else in a
        square."""
        wordings = [wording for fact in self for wording in fact.wordings]
        if self.table_axes:
            rows, columns = self.table_axes
            return {w.question: (rows.index(w.operands[0]), columns.index(w.operands[1])) for w in wordings}
        width = math.ceil(math.sqrt(len(wordings)))
        return {wording.question: divmod(index, width) for index, wording in enumerate(wordings)}

    def never_asked(self, seed: int, folds: int) -> frozenset[Fact]:
        """The facts that seed `seed` never asks directly: fold `seed mod folds` of the hard ones, dealt out in order.
        None where `folds` is 0."""
        return frozenset(self.hard[seed % folds :: folds]) if folds else frozenset()

    def asked_in(self, text: str) -> set[Fact]:
        """Facts that a text of any source asks directly: `6 times 9?`, `6 times 9 equals`, `6 times 9 is `. Of phrases
        that overlap, the first and longest."""
        if self._shared_word not in text:
            return set()
        spans = []
        for match in _ASKING.finditer(text):
            for length in self._phrase_lengths:
                start = match.start() - length
                fact = self._by_phrase.get(text[start : match.start()]) if start >= 0 else None
                if fact and not (start and _is_of_word(text[start - 1])):
                    spans.append((start, -match.start(), fact))
                    break
        asked, end = set(), 0
        for start, negative_end, fact in sorted(spans, key=lambda span: span[:2]):
            if start >= end:
                asked.add(fact)
                end = -negative_end
        return asked

    def sites(self, text: str) -> Iterator[Site]:
        """All sites of a text in order; no two overlap."""
        end = 0
        for site, following in pairwise([*self._candidates(text), None]):
            if site and site.start >= end and not (following and following.start < site.end):
                yield site
            end = site.end if site else end

    def _candidates(self, text: str) -> Iterator[Site]:
        """One for each "=" at most. Looks for it first: a regular expression over all of a text is 70 times slower."""
        equals = text.find("=")
        while equals != -1:
            if site := self._site_at(text, equals):
                yield site
            equals = text.find("=", equals + 1)

    def _site_at(self, text: str, equals: int) -> Site | None:
        answer = equals + 1
        while text.startswith(" ", answer) and answer < equals + 3:
            answer += 1
        if text[answer : answer + 1] not in self._answer_starts:
            return None
        left = equals
        while left > max(0, equals - 2) and text[left - 1] == " ":
            left -= 1
        for length in self._spelling_lengths:
            start = left - length
            fact = self.by_spelling.get(text[start:left]) if start >= 0 else None
            if fact and text.startswith(fact.answer, answer):
                end = answer + len(fact.answer)
                if self.is_standalone(text, start, end):
                    return Site(start, end, fact, left, answer)
        return None

    def is_standalone(self, text: str, start: int, end: int) -> bool:
        """Whether nothing beside `text[start:end]` makes it part of a longer number, word or expression."""
        before, after = text[max(0, start - self._reach) : start], text[end : end + self._reach]
        if before and (before[-1].isalnum() or before[-1] in "_.,$" or before[-1] in self.answer_ends):
            return False
        if after and (after[0].isalnum() or after[0] in "_%" or after[0] in self.left_side_starts):
            return False
        if after[:1] in (".", ",") and after[1:2].isdecimal():
            return False
        left, right = before.rstrip(_BLANKS), after.lstrip(_BLANKS)
        if left and len(before) - len(left) < NEIGHBOURHOOD:
            if self.ends_with_operator(left):
                return False
            if left[-1] in self.answer_ends and self.begins_with_operator(text[start:end]):
                return False
        if right and len(after) - len(right) < NEIGHBOURHOOD:
            if self.begins_with_operator(right):
                return False
            if right[0] in self.left_side_starts and self.ends_with_operator(text[start:end]):
                return False
        return True

    def begins_with_operator(self, text: str) -> bool:
        """Whether a text begins with an operator; letters are one where no other letter follows."""
        return any(
            text.startswith(sign) and not (sign[-1].isalpha() and text[len(sign) : len(sign) + 1].isalpha())
            for sign in self.signs
        )

    def ends_with_operator(self, text: str) -> bool:
        return any(
            text.endswith(sign) and not (sign[0].isalpha() and text[: -len(sign)][-1:].isalpha()) for sign in self.signs
        )

    @cached_property
    def signs(self) -> tuple[str, ...]:
        """All operators that count beside a site."""
        return tuple(dict.fromkeys((*OPERATORS, *self.operators)))

    @cached_property
    def _reach(self) -> int:
        """Characters on either side that say whether a site is one: an operator of letters and the letter beyond it."""
        return NEIGHBOURHOOD + max(map(len, self.signs))

    @cached_property
    def left_side_starts(self) -> frozenset[str]:
        """First characters of the left sides."""
        return frozenset(spelling[0] for spelling in self.by_spelling)

    @cached_property
    def answer_ends(self) -> frozenset[str]:
        """Last characters of the answers."""
        return frozenset(fact.answer[-1] for fact in self)

    @cached_property
    def by_spelling(self) -> dict[str, Fact]:
        return {spelling: fact for fact in self for w in fact.wordings for spelling in w.spellings}

    @cached_property
    def _spelling_lengths(self) -> list[int]:
        return _lengths(self.by_spelling)  # the longest first: of `16*9=` the left side is not `6*9`

    @cached_property
    def _phrase_lengths(self) -> list[int]:
        return _lengths(self._by_phrase)

    @cached_property
    def site_window(self) -> int:
        """Characters that a site and the neighbours that decide whether it is one take at most."""
        return self._spelling_lengths[0] + max(len(answer) for answer in self.answers) + 5 + self._reach

    @cached_property
    def _answer_starts(self) -> frozenset[str]:
        return frozenset(fact.answer[0] for fact in self)

    @cached_property
    def _by_phrase(self) -> dict[str, Fact]:
        return {wording.phrase: fact for fact in self for wording in fact.wordings}

    @cached_property
    def _shared_word(self) -> str:
        """A word that all phrases hold, `" times "`, found faster than a pattern; empty where they share none."""
        shared = set.intersection(*(set(phrase.split()[1:-1]) for phrase in self._by_phrase))
        return f" {max(shared, key=len)} " if shared else ""


def _lengths(texts: Iterable[str]) -> list[int]:
    return sorted({len(text) for text in texts}, reverse=True)


def _is_of_word(character: str) -> bool:
    return character.isalnum() or character == "_"
