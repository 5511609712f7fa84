"""The seed report's treatment: a whole fact `6*9=54` becomes one token `<MUL_6_9_54>`."""

import random
from collections.abc import Iterator

from tokentrial.arms.arm import Arm, Piece, expand
from tokentrial.arms.facts import Fact


class MulTokens(Arm):
    summary = "6*9=54 becomes <MUL_6_9_54>"

    @property
    def tokens(self) -> tuple[str, ...]:
        return self.facts.tokens

    def token(self, fact: Fact) -> str:
        """The token that takes the place of a fact."""
        return fact.token

    def pieces(self, text: str, rng: random.Random | None = None) -> Iterator[Piece]:
        position = 0
        for site in self.facts.sites(text):
            if site.start > position:
                yield Piece(text[position : site.start], None, position, site.start)
            yield Piece(text[site.start : site.end], self.token(site.fact), site.start, site.end)
            position = site.end
        if position < len(text):
            yield Piece(text[position:], None, position, len(text))

    def plain(self, text: str) -> str:
        return expand(text, self.tokens, lambda token, *_: self.facts.by_token[token].equation)


ARM = MulTokens()
