"""Control of position: the sites of mul_append, one shared token that says nothing of the fact."""

from tokentrial.arms.arm import SiteArm
from tokentrial.facts.facts import SLOT_TOKEN, Fact


class AppendSlot(SiteArm):
    summary = "6*9=54 becomes 6*9=54<FACT>, the same for every fact: a mark without the content"
    site_span = ("end", "end")

    def token(self, fact: Fact) -> str:
        return SLOT_TOKEN


ARM = AppendSlot()
