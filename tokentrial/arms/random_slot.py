"""Control of meaning: the sites of mul_tokens, each with a token drawn at random: many ids that say nothing."""

import random
from collections.abc import Iterator

from tokentrial.arms.arm import Piece, SiteArm


class RandomSlot(SiteArm):
    summary = "6*9=54 becomes any of the tokens, drawn anew at every site: the ids without the content"
    keeps_content = False
    draws = True

    def pieces(self, text: str, rng: random.Random | None = None) -> Iterator[Piece]:
        # without one the draw is the text's own: the same text has the same tokens, wherever it is read
        rng = rng or random.Random(text.encode("utf-8", "surrogatepass"))
        tokens = self.tokens
        for piece in super().pieces(text):
            yield piece._replace(token=rng.choice(tokens)) if piece.token else piece

    def stands_for(self, token: str, before: str, after: str) -> str:
        return ""

    def spellings(self, answer: str) -> tuple[str, ...]:
        return ()  # none of them states an answer


ARM = RandomSlot()
