"""The interface of an arm: how one treatment splits a text into plain segments and fact tokens, and undoes it.

A new arm is one file in this folder that defines `ARM = SomeArm()`; it is found by its file's name.
"""

import copy
import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from tokentrial.errors import SettingsError
from tokentrial.facts.facts import Fact, Facts, Site
from tokentrial.facts.families import TIMES_TABLE


class Segment(NamedTuple):
    """A part of a text. `token` is the fact token it becomes, or None for text that stays plain.

    `start` and `end` are the span of source it stands for, empty where a token replaces nothing.
    """

    text: str
    token: str | None
    start: int
    end: int


class Arm:
    """One treatment of the text; this one is the identity. Laws: `rewrite` is idempotent; `untokenize(rewrite(x))` has
    the meaning of `x`, and its very bytes where facts are written canonically; both hold without the content where
    `keeps_content` is False."""

    name: str
    summary: str
    version: int = 1
    keeps_content: bool = True
    trigger_bytes: bytes = b"="  # a text without any of these characters is left as it is
    split_pattern: str | None = None  # a regular expression: where it matches, text is split before it is encoded
    is_random: bool = False  # whether it draws its tokens at random
    facts: Facts = TIMES_TABLE

    @property
    def tokens(self) -> tuple[str, ...]:
        """The fact tokens it may emit."""
        return ()

    @property
    def has_comparable_bits(self) -> bool:
        """Whether bits per byte of text with its tokens compare with those of other arms: not where tokens say less
        than what they replaced, nor where they are drawn, as nobody can foresee which."""
        return self.keeps_content and not self.is_random

    def segments(self, text: str, sites: Iterable[Site] | None = None) -> Iterator[Segment]:
        """The text in segments; each plain one is encoded by itself. `sites` are those of the text where they are
        known: they are found once for all arms."""
        for start, end in pairwise([0, *self.splits(text), len(text)]):
            if end > start:
                yield Segment(text[start:end], None, start, end)

    def splits(self, text: str) -> Iterator[int]:
        """Where the text is split before it is encoded, in order."""
        if self.split_pattern:
            yield from (match.start() for match in re.finditer(self.split_pattern, text))

    def untokenize(self, text: str) -> str:
        """The text with its tokens' names turned back into what they stand for."""
        return text

    def rewrite(self, text: str) -> str:
        """The text with its tokens written by name."""
        return "".join(segment.token or segment.text for segment in self.segments(text))

    def answer_tokens(self, answer: str) -> tuple[str, ...]:
        """The arm's own tokens that state this answer."""
        return self._tokens_by_answer.get(answer, ())

    @cached_property
    def _tokens_by_answer(self) -> dict[str, tuple[str, ...]]:
        by_answer: dict[str, tuple[str, ...]] = {}
        for token in () if self.is_random else self.tokens:
            if fact := self.facts.by_token.get(token):
                by_answer[fact.answer] = (*by_answer.get(fact.answer, ()), token)
        return by_answer


class SiteArm(Arm):
    """An arm that writes a token at every site, in place of the text between two points of the site."""

    site_span: tuple[str, str] = ("start", "end")  # names of a Site's fields: start, left, answer, end

    @property
    def tokens(self) -> tuple[str, ...]:
        return tuple(self.fact_of)

    @cached_property
    def fact_of(self) -> dict[str, Fact]:
        """The fact of each token, the last of those that share it."""
        return {self.token(fact): fact for fact in self.facts}

    @cached_property
    def _token_pattern(self) -> re.Pattern[str]:
        """Compiled once: every completion of an evaluation is read through it."""
        return re.compile("|".join(map(re.escape, self.tokens)))

    def token(self, fact: Fact) -> str:
        """The token of a site that states this fact."""
        return fact.token

    def expansion(self, token: str, before: str, after: str) -> str:
        """What `untokenize` writes for a token, given what it wrote before it and the text after it, of each as much as
        bears on a site: its fact, or nothing where it names none."""
        fact = self.facts.by_token.get(token)
        return fact.equation if fact else ""

    def segments(self, text: str, sites: Iterable[Site] | None = None) -> Iterator[Segment]:
        position = 0
        for site in self.facts.sites(text) if sites is None else sites:
            start, end = (getattr(site, name) for name in self.site_span)
            token = self.token(site.fact)
            if start == end and (text.startswith(token, end) or text.endswith(token, 0, start)):
                continue  # it has its token already: rewriting twice adds nothing
            if start > position:
                yield Segment(text[position:start], None, position, start)
            yield Segment(text[start:end], token, start, end)
            position = end
        if position < len(text):
            yield Segment(text[position:], None, position, len(text))

    def untokenize(self, text: str) -> str:
        """Each token's name replaced by its expansion, set off by a space from a number beside it: `1<MUL_6_9_54>` is
        not 16*9=54, and `54<FACT>0` is not 540."""
        done, before, position = [], "", 0
        for match in self._token_pattern.finditer(text):
            plain, position = text[position : match.start()], match.end()
            before, after = (
                (before + plain)[-self.facts.site_window :],
                text[position : position + self.facts.site_window],
            )
            expansion = self.expansion(match[0], before, after)
            left = " " if re.search(r"[0-9][.,]?\Z", before[-2:]) else ""
            right = " " if re.match("[.,]?[0-9]", after[:2]) else ""
            written = left + expansion + right if expansion else " " if left and right else ""
            before += written
            done += [plain, written]
        return "".join(done) + text[position:]


def arm_names() -> list[str]:
    """Names of the arms in this folder, the interface and the facts left out."""
    files = Path(__file__).parent.glob("*.py")
    return sorted(path.stem for path in files if path.stem not in ("__init__", "arm"))


def get_arm(name: str, facts: Facts = TIMES_TABLE) -> Arm:
    """The arm of this name over these facts. Raises SettingsError with the names there are."""
    if name not in arm_names():
        raise SettingsError(f"arms: no arm {name!r}; there are {', '.join(arm_names())}")
    module = import_module(f"tokentrial.arms.{name}")
    if not hasattr(module, "ARM"):
        raise SettingsError(f"{module.__file__}: no ARM in it, which every file of this folder has but the interface")
    arm: Arm = copy.copy(module.ARM)
    arm.name, arm.facts = name, facts
    return arm
