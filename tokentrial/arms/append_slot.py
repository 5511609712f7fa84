"""Control of position: the sites of mul_append, one shared token that says nothing of the fact."""

from tokentrial.arms.facts import SLOT, Fact
from tokentrial.arms.mul_append import MulAppend


class AppendSlot(MulAppend):
    summary = "6*9=54 becomes 6*9=54<FACT>, the same for every fact: a mark without the content"
    tokens = (SLOT,)

    def token(self, fact: Fact) -> str:
        return SLOT

    def stands_for(self, token: str, before: str, after: str) -> str:
        return ""


ARM = AppendSlot()
