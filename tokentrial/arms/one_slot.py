"""Control of compression: the sites of mul_tokens, one shared token that says nothing of the fact."""

from tokentrial.arms.arm import SiteArm, expand
from tokentrial.arms.facts import SLOT, Fact


class OneSlot(SiteArm):
    summary = "6*9=54 becomes <FACT>, the same for every fact: shorter text without the content"
    tokens = (SLOT,)
    keeps_content = False

    def token(self, fact: Fact) -> str:
        """The same for every fact."""
        return SLOT

    def plain(self, text: str) -> str:
        return expand(text, self.tokens, lambda token, *_: "")


ARM = OneSlot()
