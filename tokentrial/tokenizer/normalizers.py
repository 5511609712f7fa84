r"""An arm's rewrite inside tokenizer.json: one `Replace` a fact, so that transformers, lm-eval and vLLM apply the arm
without our code.

The pattern of a fact is its site as `Facts.sites` finds it: a spelling of the left side, "=", the answer, and around
them nothing that `stands_alone` refuses. What the arm keeps before its token is left by `\K`, what it keeps after it by
looking ahead.
"""

import re
from typing import TYPE_CHECKING, Any

from tokentrial.arms.arm import Arm, SiteArm
from tokentrial.arms.facts import NEIGHBOURS, OPERATORS, Fact

if TYPE_CHECKING:
    from tokenizers import normalizers

_BLANK = rf"[ \t\u00a0]{{0,{NEIGHBOURS - 1}}}"
_SIGN = f"[{re.escape(OPERATORS)}]"
# Python's isalnum is Unicode's letters and numbers
_BEFORE = rf"(?<![\p{{L}}\p{{N}}_.,$])(?<!{_SIGN}{_BLANK})(?<!(?<!\p{{L}})x{_BLANK})"
_AFTER = rf"(?![\p{{L}}\p{{N}}_%])(?![.,][\p{{Nd}}])(?!{_BLANK}{_SIGN})(?!{_BLANK}x(?!\p{{L}}))"


def rewriting(arm: Arm) -> "normalizers.Sequence | None":
    """The arm's rewrite; None of an arm that has none, or that draws its tokens at random, which no pattern does."""
    from tokenizers import Regex, normalizers

    if not isinstance(arm, SiteArm) or arm.draws:
        return None
    # longer left sides first: `New York` is not `York`
    facts = sorted(arm.facts, key=lambda fact: -len(fact.wordings[0].spellings[0]))
    steps: list[Any] = [normalizers.Replace(Regex(_pattern(arm, fact)), arm.token(fact)) for fact in facts]
    return normalizers.Sequence(steps)


def _pattern(arm: SiteArm, fact: Fact) -> str:
    spellings = sorted((s for wording in fact.wordings for s in wording.spellings), key=len, reverse=True)
    parts = [f"(?:{'|'.join(map(_quoted, spellings))})", " {0,2}= {0,2}", _quoted(fact.answer)]
    points = ("start", "left", "answer", "end")
    first, last = (points.index(name) for name in arm.replaced)
    token = _quoted(arm.token(fact))
    once = f"(?<!{token})(?!{token})" if first == last else ""
    kept = "".join(parts[:first])
    return f"{_BEFORE}{kept}\\K{once}{''.join(parts[first:last])}(?={''.join(parts[last:])}{_AFTER})"


def _quoted(text: str) -> str:
    return re.sub(r"([^\w\s])", r"\\\1", text)
