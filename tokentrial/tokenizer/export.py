r"""The vocabulary as a transformers tokenizer that gives the same ids, fact tokens and all, and rewrites a text as the
arm does: one `Replace` a fact in tokenizer.json, so that transformers, lm-eval and vLLM apply the arm without our code.

The pattern of a fact is its site as `Facts.sites` finds it: a spelling of the left side, "=", the answer, around them
nothing that `is_standalone` refuses, and no site of another fact that takes a part of it. What the arm keeps before its
token is left by `\K`, what it keeps after it by looking ahead.
"""

import re
import shutil
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokentrial.arms.arm import Arm, SiteArm
from tokentrial.facts.facts import NEIGHBOURHOOD, Fact
from tokentrial.tokenizer.vocabulary import EOS, Vocabulary, gpt2_merges, unicode_to_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ARM_KEY = "tokentrial_arm"  # in tokenizer_config.json: says that an export is ours, and of which arm

_BLANK = rf"[ \t\u00a0]{{0,{NEIGHBOURHOOD - 1}}}"


def to_transformers(vocabulary: Vocabulary, arm: Arm, context: int, rewrite: bool = False) -> "PreTrainedTokenizerBase":
    """A tokenizer of `vocabulary.size` ids. Every id stands in the BPE vocabulary, fillers included: `add_tokens`
    alone would number the facts from the end of the merges. The arm's tokens are regular added tokens, which
    `decode(skip_special_tokens=True)` keeps (defect R5); eos is the one special token. With `rewrite` the tokenizer
    rewrites a text as the arm does before it encodes it."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    merges = list(gpt2_merges(vocabulary.path)[: vocabulary.n_merges])
    tokens = {i: f"<|filler_{i}|>" for i in range(vocabulary.size)}
    tokens |= dict(enumerate([*unicode_to_bytes(), *map("".join, merges), EOS]))
    tokens |= {i: token for token, i in vocabulary.token_ids(arm).items()}
    bpe: Any = Tokenizer(models.BPE({token: i for i, token in tokens.items()}, merges))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    split = [pre_tokenizers.Split(Regex(arm.split_pattern), "isolated")] if arm.split_pattern else []
    bpe.pre_tokenizer = pre_tokenizers.Sequence([*split, byte_level]) if split else byte_level
    if rewrite and isinstance(arm, SiteArm) and not arm.is_random:  # no pattern gives what is drawn at random
        patterns = _SitePatterns(arm)
        replacements: Any = [normalizers.Replace(Regex(patterns.of(fact)), arm.token(fact)) for fact in arm.facts]
        bpe.normalizer = normalizers.Sequence(replacements)
    bpe.decoder = decoders.ByteLevel()
    bpe.add_special_tokens([AddedToken(EOS, special=True, normalized=False)])
    bpe.add_tokens([AddedToken(token, special=False, normalized=rewrite) for token in arm.tokens])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=EOS,
        bos_token=EOS,
        pad_token=EOS,
        padding_side="left",
        model_max_length=context,
        clean_up_tokenization_spaces=False,
        **{ARM_KEY: arm.name},
    )


def copy_tokenizer(source: Path, folder: Path) -> None:
    """The files of a tokenizer, as they are: a tokenizer loaded for training has lost what rewrites a text."""
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (source / name).exists():
            shutil.copyfile(source / name, folder / name)


class _SitePatterns:
    """The patterns of the sites of an arm's facts."""

    def __init__(self, arm: SiteArm) -> None:
        self.arm, self.facts = arm, arm.facts
        facts = arm.facts
        firsts, lasts = ("".join(map(_escape, sorted(chars))) for chars in (facts.left_side_starts, facts.answer_ends))
        signs = "".join(_escape(sign) for sign in facts.signs if len(sign) == 1 and not sign.isalpha())
        # Python's isalnum is Unicode's letters and numbers
        self.before = rf"(?<![\p{{L}}\p{{N}}_.,${lasts}])(?<![{signs}]{_BLANK})"
        self.after = rf"(?![\p{{L}}\p{{N}}_%{firsts}])(?![.,]\p{{Nd}})(?!{_BLANK}[{signs}])"
        for sign in (sign for sign in facts.signs if len(sign) > 1 or sign.isalpha()):
            before, after = (r"(?<!\p{L})" if sign[0].isalpha() else "", r"(?!\p{L})" if sign[-1].isalpha() else "")
            self.before += f"(?<!{before}{_escape(sign)}{_BLANK})"
            self.after += f"(?!{_BLANK}{_escape(sign)}{after})"
        # what else must not stand before or after the site of a fact
        self.not_before, self.not_after = defaultdict[Fact, str](str), defaultdict[Fact, str](str)
        spellings = [(spelling, fact) for fact in facts for w in fact.wordings for spelling in w.spellings]
        for spelling, fact in spellings:
            if facts.begins_with_operator(f"{spelling}="):
                self.not_before[fact] = f"(?<![{lasts}]{_BLANK})"
            if facts.ends_with_operator(f"={fact.answer}"):
                self.not_after[fact] = f"(?!{_BLANK}[{firsts}])"
        fact_of, ends = dict(spellings), defaultdict[str, list[tuple[Fact, str]]](list)
        for fact in facts:
            for cut in range(1, len(fact.answer)):
                ends[fact.answer[cut:]].append((fact, fact.answer[:cut]))
        for spelling, fact in spellings:
            for cut in range(1, len(spelling)):
                more, rest = spelling[:cut], spelling[cut:]
                # of the longer left side `New York` the left side `York` is only the end
                if (other := fact_of.get(rest, fact)) != fact and facts.is_standalone(spelling, cut, len(spelling)):
                    self.not_before[other] += f"(?:(?<!{self.before}{_escape(more)})|(?!{self._other(rest, fact)}))"
                # where an answer `Old New` runs on into `New York=big`, neither is a site
                if rest[0].isalnum() or facts.begins_with_operator(rest.lstrip()):
                    continue  # as everywhere among numbers: what ends here is no site in any case
                for other, begin in ends.get(more, ()):
                    whole, start, end = begin + spelling, len(begin), len(begin) + cut
                    if facts.is_standalone(whole, start, len(whole)) and facts.is_standalone(whole, 0, end):
                        self.not_after[other] += f"(?!{self._other(rest, fact)})"
                        before_answer = f"(?:{_left_sides(other)}) {{0,2}}= {{0,2}}{_escape(begin)}"
                        self.not_before[fact] += f"(?<!{self.before}{before_answer})"

    def _other(self, left: str, fact: Fact) -> str:
        """The site of another fact from the end of its left side on, with its token or without."""
        token = f"(?:{_escape(self.arm.token(fact))})?"
        return f"{_escape(left)}{token} {{0,2}}= {{0,2}}{token}{_escape(fact.answer)}{self.after}"

    def of(self, fact: Fact) -> str:
        """The site of a fact, of which the text between the arm's two points is matched."""
        parts = [f"(?:{_left_sides(fact)})", " {0,2}= {0,2}", _escape(fact.answer)]
        points = ("start", "left", "answer", "end")
        first, last = (points.index(name) for name in self.arm.site_span)
        token = _escape(self.arm.token(fact))
        not_beside_token = f"(?<!{token})(?!{token})" if first == last else ""
        kept, replaced, followed_by = "".join(parts[:first]), "".join(parts[first:last]), "".join(parts[last:])
        before, after = self.before + self.not_before[fact], self.after + self.not_after[fact]
        return f"{before}{kept}\\K{not_beside_token}{replaced}(?={followed_by}{after})"


def _left_sides(fact: Fact) -> str:
    spellings = sorted((spelling for w in fact.wordings for spelling in w.spellings), key=len, reverse=True)
    return "|".join(map(_escape, spellings))


def _escape(text: str) -> str:
    return re.sub(r"([^\w\s])", r"\\\1", text)
