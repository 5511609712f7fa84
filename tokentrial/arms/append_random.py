"""Control of content: the sites of mul_append, each with a token drawn at random: as many ids, which say nothing."""

from collections.abc import Iterable, Iterator

from tokentrial.arms.arm import Segment
from tokentrial.arms.random_slot import RandomSlot
from tokentrial.facts.facts import Site


class AppendRandom(RandomSlot):
    summary = "6*9=54 is followed by a random token, drawn anew at every site: the ids without the content"
    keeps_content = True
    site_span = ("end", "end")

    def segments(self, text: str, sites: Iterable[Site] | None = None) -> Iterator[Segment]:
        sites_of_text = self.facts.sites(text) if sites is None else sites
        # one that has a token already, whichever was drawn, gets no second one
        return super().segments(text, [site for site in sites_of_text if not self._token_pattern.match(text, site.end)])


ARM = AppendRandom()
