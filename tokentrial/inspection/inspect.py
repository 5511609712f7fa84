"""How an arm sees a text."""

from typing import Any

from tokentrial.arms import arm as arms
from tokentrial.facts.families import TIMES_TABLE, build_facts
from tokentrial.inspection.side_by_side import Column, Span
from tokentrial.tokenizer.vocabulary import Vocabulary, replace_surrogates
from tokentrial.trial.trial import Trial


def inspect_text(text: str, arm: str, trial: Trial | None) -> dict[str, Any]:
    """Ids, tokens, sites `[start, end, token]` and `plain` of a text in an arm, in the trial's vocabulary."""
    text = replace_surrogates(text)
    facts = build_facts(trial.facts) if trial else TIMES_TABLE
    treatment = arms.get_arm(arm, facts)
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
        "plain": treatment.untokenize(treatment.rewrite(text)),
        "sites": [[piece.start, piece.end, piece.token] for piece in treatment.segments(text) if piece.token],
    }


def inspection_column(inspected: dict[str, Any]) -> Column:
    """How an arm sees a text, for a table: neighbouring tokens are told apart by their colour."""
    fact_tokens = {token for *_, token in inspected["sites"]}
    tokens: list[Span] = []
    for number, token in enumerate(inspected["tokens"]):
        style = "fact" if token in fact_tokens else ("plain", "other")[number % 2]
        tokens += [Span(" ")] * bool(tokens) + [Span(repr(token), style)]
    sites = "; ".join(f"{start}-{end} {token}" for start, end, token in inspected["sites"])
    return {
        "tokens": tokens,
        "ids": [Span(" ".join(map(str, inspected["ids"])))],
        "sites": [Span(sites or "none")],
        "plain": [Span(repr(inspected["plain"]))],
    }
