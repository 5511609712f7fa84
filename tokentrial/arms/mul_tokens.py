"""The seed report's treatment: a whole fact `6*9=54` becomes one token `<MUL_6_9_54>`."""

from tokentrial.arms.arm import SiteArm, expand


class MulTokens(SiteArm):
    summary = "6*9=54 becomes <MUL_6_9_54>"

    def plain(self, text: str) -> str:
        return expand(text, self.tokens, lambda token, *_: self.facts.by_token[token].equation)


ARM = MulTokens()
