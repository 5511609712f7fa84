"""The text stays and the fact's token follows it: `6*9=54<MUL_6_9_54>`."""

from tokentrial.arms.arm import SiteArm


class MulAppend(SiteArm):
    summary = "6*9=54 becomes 6*9=54<MUL_6_9_54>"
    site_span = ("end", "end")

    def expansion(self, token: str, before: str, after: str) -> str:
        """Nothing after the token's own text, the equation where it stands alone."""
        follows = any(site.end == len(before) and site.fact.token == token for site in self.facts.sites(before))
        return "" if follows else self.facts.by_token[token].equation


ARM = MulAppend()
