"""Control of meaning: the sites of mul_tokens, each with a token drawn at random: many ids that say nothing."""

import random
from collections.abc import Iterable, Iterator

from tokentrial.arms.arm import Segment, SiteArm
from tokentrial.facts.facts import Site


class RandomSlot(SiteArm):
    summary = "6*9=54 becomes a random token, drawn anew at every site: the ids without the content"
    keeps_content = False
    is_random = True

    def segments(self, text: str, sites: Iterable[Site] | None = None) -> Iterator[Segment]:
        # seeded by the text: the same text has the same tokens wherever and whenever it is read
        rng, tokens = random.Random(text.encode("utf-8", "surrogatepass")), self.tokens
        for segment in super().segments(text, sites):
            yield segment._replace(token=rng.choice(tokens)) if segment.token else segment

    def expansion(self, token: str, before: str, after: str) -> str:
        return ""


ARM = RandomSlot()
