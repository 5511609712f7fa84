r"""The vocabulary as a transformers tokenizer that gives the same ids, fact tokens and all, and rewrites a text as the
arm does: one `Replace` a fact in tokenizer.json, so that transformers, lm-eval and vLLM apply the arm without our code.

The pattern of a fact is its site as `Facts.sites` finds it: a spelling of the left side, "=", the answer, and around
them nothing that `is_standalone` refuses. What the arm keeps before its token is left by `\K`, what it keeps after it
by looking ahead.
"""

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokentrial.arms.arm import Arm, SiteArm
from tokentrial.facts.facts import NEIGHBOURHOOD, OPERATORS, Fact
from tokentrial.tokenizer.vocabulary import EOS, Vocabulary, gpt2_merges, unicode_to_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ARM_KEY = "tokentrial_arm"  # in tokenizer_config.json: says that an export is ours, and of which arm

_BLANK = rf"[ \t\u00a0]{{0,{NEIGHBOURHOOD - 1}}}"
_SIGN = f"[{re.escape(OPERATORS)}]"
# Python's isalnum is Unicode's letters and numbers
_BEFORE = rf"(?<![\p{{L}}\p{{N}}_.,$])(?<!{_SIGN}{_BLANK})(?<!(?<!\p{{L}})x{_BLANK})"
_AFTER = rf"(?![\p{{L}}\p{{N}}_%])(?![.,][\p{{Nd}}])(?!{_BLANK}{_SIGN})(?!{_BLANK}x(?!\p{{L}}))"


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
        # longer left sides first: `New York` is not `York`
        facts = sorted(arm.facts, key=lambda fact: -len(fact.wordings[0].spellings[0]))
        replacements: Any = [normalizers.Replace(Regex(_site_pattern(arm, fact)), arm.token(fact)) for fact in facts]
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


def _site_pattern(arm: SiteArm, fact: Fact) -> str:
    spellings = sorted((s for wording in fact.wordings for s in wording.spellings), key=len, reverse=True)
    parts = [f"(?:{'|'.join(map(_escape, spellings))})", " {0,2}= {0,2}", _escape(fact.answer)]
    points = ("start", "left", "answer", "end")
    first, last = (points.index(name) for name in arm.site_span)
    token = _escape(arm.token(fact))
    not_beside_token = f"(?<!{token})(?!{token})" if first == last else ""
    kept, replaced, followed_by = "".join(parts[:first]), "".join(parts[first:last]), "".join(parts[last:])
    return f"{_BEFORE}{kept}\\K{not_beside_token}{replaced}(?={followed_by}{_AFTER})"


def _escape(text: str) -> str:
    return re.sub(r"([^\w\s])", r"\\\1", text)
