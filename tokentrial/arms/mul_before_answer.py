"""The fact's token stands before the answer, so that it is predicted first: `6*9=<MUL_6_9_54>54`."""

from tokentrial.arms.arm import SiteArm


class MulBeforeAnswer(SiteArm):
    summary = "6*9=54 becomes 6*9=<MUL_6_9_54>54"
    site_span = ("answer", "answer")

    def expansion(self, token: str, before: str, after: str) -> str:
        """Nothing between the fact's own two sides, its answer where the left side waits for one, else the equation."""
        fact = self.facts.by_token[token]
        stated = before + fact.answer
        if not any(site.end == len(stated) and site.fact == fact for site in self.facts.sites(stated)):
            return fact.equation
        return "" if after.startswith(fact.answer) else fact.answer


ARM = MulBeforeAnswer()
