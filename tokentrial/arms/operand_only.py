"""The token stands for the operands alone and the answer stays text: `<MUL_6_9>=54`."""

from tokentrial.arms.arm import SiteArm
from tokentrial.facts.facts import Fact


class OperandOnly(SiteArm):
    summary = "6*9=54 becomes <MUL_6_9>=54: the answer stays digits"
    site_span = ("start", "left")

    def token(self, fact: Fact) -> str:
        """The fact's name without its answer."""
        return fact.token.removesuffix(">").removesuffix(f"_{fact.answer}") + ">"

    def expansion(self, token: str, before: str, after: str) -> str:
        return self.fact_of[token].wordings[0].spellings[0]


ARM = OperandOnly()
