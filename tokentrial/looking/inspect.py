"""How an arm sees a text."""

from typing import Any

from tokentrial.arms import arm as arms
from tokentrial.arms.families import TIMES_TABLE, facts_of
from tokentrial.looking.side_by_side import Column, Span
from tokentrial.tokenizer.vocabulary import Vocabulary, well_formed
from tokentrial.trial.trial import Trial


def inspect_text(text: str, arm: str, trial: Trial | None) -> dict[str, Any]:
    """Ids, tokens, sites `[start, end, token]` and `plain` of a text in an arm, in the trial's vocabulary."""
    text = well_formed(text)
    facts = facts_of(trial.facts) if trial else TIMES_TABLE
    treatment = arms.find(arm, facts)
    merges = trial.tokenizer.merges if trial else 50_000
    vocabulary = Vocabulary(merges, len(facts), trial.tokenizer.path if trial else None)
    names = {i: token for token, i in vocabulary.token_ids(treatment).items()}
    texts = {i: token.decode("utf-8", errors="replace") for token, i in vocabulary.ranks.items()}
    ids = vocabulary.encode_arm(treatment, text).tolist()
    return {
        "arm": arm,
        "text": text,
        "ids": ids,
        "tokens": [names.get(i) or texts[i] for i in ids],
        "plain": treatment.plain(treatment.rewrite(text)),
        "sites": [[piece.start, piece.end, piece.token] for piece in treatment.pieces(text) if piece.token],
    }


def column(seen: dict[str, Any]) -> Column:
    """How an arm sees a text, to stand beside others: neighbouring tokens are told apart by their colour."""
    own = {token for *_, token in seen["sites"]}
    tokens: list[Span] = []
    for number, token in enumerate(seen["tokens"]):
        look = "fact" if token in own else ("plain", "other")[number % 2]
        tokens += [Span(" ")] * bool(tokens) + [Span(repr(token), look)]
    sites = "; ".join(f"{start}-{end} {token}" for start, end, token in seen["sites"])
    return {
        "tokens": tokens,
        "ids": [Span(" ".join(map(str, seen["ids"])))],
        "sites": [Span(sites or "none")],
        "plain": [Span(repr(seen["plain"]))],
    }
