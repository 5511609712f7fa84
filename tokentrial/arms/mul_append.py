"""The text stays and the fact's token follows it: `6*9=54<MUL_6_9_54>`."""

import random
from collections.abc import Iterator

from tokentrial.arms.arm import Arm, Piece, expand
from tokentrial.arms.facts import Fact


class MulAppend(Arm):
    summary = "6*9=54 becomes 6*9=54<MUL_6_9_54>"

    @property
    def tokens(self) -> tuple[str, ...]:
        return self.facts.tokens

    def token(self, fact: Fact) -> str:
        """The token that follows a fact."""
        return fact.token

    def pieces(self, text: str, rng: random.Random | None = None) -> Iterator[Piece]:
        position = 0
        for site in self.facts.sites(text):
            token = self.token(site.fact)
            if text.startswith(token, site.end):
                continue  # it has its token already: rewriting twice adds nothing
            yield Piece(text[position : site.end], None, position, site.end)
            yield Piece("", token, site.end, site.end)
            position = site.end
        if position < len(text):
            yield Piece(text[position:], None, position, len(text))

    def plain(self, text: str) -> str:
        return expand(text, self.tokens, self.stands_for)

    def stands_for(self, token: str, before: str, after: str) -> str:
        """Nothing after the token's own text, the equation where it stands alone."""
        tail = before[-self.facts.reach :]
        follows = any(site.end == len(tail) and self.token(site.fact) == token for site in self.facts.sites(tail))
        return "" if follows else self.facts.by_token[token].equation


ARM = MulAppend()
