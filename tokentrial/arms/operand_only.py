"""The token stands for the operands alone and the answer stays text: `<MUL_6_9>=54`."""

import re

from tokentrial.arms.arm import SiteArm
from tokentrial.facts.facts import Fact


class OperandOnly(SiteArm):
    summary = "6*9=54 becomes <MUL_6_9>=54: the answer stays digits"
    version = 2  # before, the name of a fact of words kept its answer
    site_span = ("start", "left")

    def token(self, fact: Fact) -> str:
        """The fact's name without its answer, of which a name that is cut may hold the begin alone, or nothing."""
        name = fact.token.removesuffix(">")
        answer = "".join(f"_{word}" for word in re.findall("[A-Za-z0-9]+", fact.answer))
        ends = (answer[:size] for size in range(len(answer), 0, -1))
        held = next((end for end in ends if name.endswith(end)), "")
        # never the fact's own token, which would state the answer
        return f"{name.removesuffix(held)}>" if held else f"{name}_>"

    def expansion(self, token: str, before: str, after: str) -> str:
        return self.fact_of[token].wordings[0].spellings[0]


ARM = OperandOnly()
