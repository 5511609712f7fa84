"""The original report's treatment: a whole fact `6*9=54` becomes one token `<MUL_6_9_54>`."""

from tokentrial.arms.arm import SiteArm


class MulTokens(SiteArm):
    summary = "6*9=54 becomes <MUL_6_9_54>"


ARM = MulTokens()
