"""The seam of an arm: how one treatment cuts a text into plain pieces and fact tokens, and undoes it.

A new arm is one file in this folder that defines `ARM = SomeArm()`; it is found by its file's name.
"""

import copy
import random
import re
from collections.abc import Iterator
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from tokentrial.arms.facts import Fact, Facts
from tokentrial.arms.families import TIMES_TABLE
from tokentrial.errors import SettingsError


class Piece(NamedTuple):
    """A part of a text. `token` is the fact token it becomes, or None for text that stays plain.

    `start` and `end` are the span of source it stands for, empty where a token replaces nothing.
    """

    text: str
    token: str | None
    start: int
    end: int


class Arm:
    """One treatment of the text; as it stands here, none. Laws: `rewrite` is idempotent; `plain(rewrite(x))` has the
    meaning of `x`, and its very bytes where facts are written canonically; both hold without the content where
    `keeps_content` is False."""

    name: str
    summary: str
    version: int = 1
    keeps_content: bool = True
    needles: bytes = b"="  # a text without any of these characters is left as it is
    cut: str | None = None  # a pattern: where it matches, plain text is cut before it is encoded
    draws: bool = False  # whether it draws at random
    facts: Facts = TIMES_TABLE

    @property
    def tokens(self) -> tuple[str, ...]:
        """The fact tokens it may emit."""
        return ()

    def pieces(self, text: str, rng: random.Random | None = None) -> Iterator[Piece]:
        """The text in pieces; each plain piece is encoded by itself. `rng` serves only arms that draw at random."""
        if text:
            yield Piece(text, None, 0, len(text))

    def plain(self, text: str) -> str:
        """Tokens back to the text they stand for."""
        return text

    def rewrite(self, text: str, rng: random.Random | None = None) -> str:
        """The text with its tokens written by name."""
        return "".join(piece.token or piece.text for piece in self.pieces(text, rng))

    def spellings(self, answer: str) -> tuple[str, ...]:
        """The arm's own tokens that state this answer."""
        stated = self.facts.by_token
        return tuple(token for token in self.tokens if token in stated and stated[token].answer == answer)


class SiteArm(Arm):
    """An arm that writes a token at every site: in place of what stands there between two of its points."""

    replaced: tuple[str, str] = ("start", "end")  # names of a Site's fields: start, left, answer, end

    @property
    def tokens(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(map(self.token, self.facts)))

    def token(self, fact: Fact) -> str:
        """The token of a site that states this fact."""
        return fact.token

    def stands_for(self, token: str, before: str, after: str) -> str:
        """What a token is in `plain`, given the text before and after it: its fact, or nothing where it names none."""
        fact = self.facts.by_token.get(token)
        return fact.equation if fact else ""

    def pieces(self, text: str, rng: random.Random | None = None) -> Iterator[Piece]:
        position = 0
        for site in self.facts.sites(text):
            start, end = (getattr(site, name) for name in self.replaced)
            token = self.token(site.fact)
            if start == end and (text.startswith(token, end) or text.endswith(token, 0, start)):
                continue  # it has its token already: rewriting twice adds nothing
            if start > position:
                yield Piece(text[position:start], None, position, start)
            yield Piece(text[start:end], token, start, end)
            position = end
        if position < len(text):
            yield Piece(text[position:], None, position, len(text))

    def plain(self, text: str) -> str:
        """Each token's name replaced by what it stands for, set off by a space from a number beside it:
        `1<MUL_6_9_54>` is not 16*9=54, and `54<FACT>0` is not 540."""
        done, position = "", 0
        for match in _any_of(self.tokens).finditer(text):
            done += text[position : match.start()]
            position = match.end()
            expansion = self.stands_for(match[0], done, text[position:])
            left = " " if re.search(r"[0-9][.,]?\Z", done[-2:]) else ""
            right = " " if re.match("[.,]?[0-9]", text[position : position + 2]) else ""
            if expansion:
                done += left + expansion + right
            elif left and right:
                done += " "
        return done + text[position:]


@lru_cache(maxsize=16)
def _any_of(tokens: tuple[str, ...]) -> re.Pattern[str]:
    """Made once: every completion of an evaluation is read through it."""
    return re.compile("|".join(map(re.escape, tokens)))


def names() -> list[str]:
    """Names of the arms in this folder, the seam and the facts left out."""
    files = Path(__file__).parent.glob("*.py")
    return sorted(path.stem for path in files if path.stem not in ("__init__", "arm", "facts", "families"))


def find(name: str, facts: Facts = TIMES_TABLE) -> Arm:
    """The arm of this name over these facts. Raises SettingsError with the names there are."""
    if name not in names():
        raise SettingsError(f"arms: no arm {name!r}; there are {', '.join(names())}")
    arm: Arm = copy.copy(import_module(f"tokentrial.arms.{name}").ARM)
    arm.name, arm.facts = name, facts
    return arm
