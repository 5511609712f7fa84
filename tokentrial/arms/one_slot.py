"""Control of compression: the sites of mul_tokens, one shared token that says nothing of the fact."""

from tokentrial.arms.arm import SiteArm
from tokentrial.facts.facts import SLOT_TOKEN, Fact


class OneSlot(SiteArm):
    summary = "6*9=54 becomes <FACT>, the same for every fact: shorter text without the content"
    keeps_content = False

    def token(self, fact: Fact) -> str:
        return SLOT_TOKEN


ARM = OneSlot()
