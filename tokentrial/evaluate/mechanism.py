"""What stands inside a model, beside what it answers. Exploratory: no verdict rests on it.

probes  how well a linear map reads a fact's operands and product from its token's embedding, and from the model's
        state where it is about to answer the fact's question
lens    how sure the model is of the answer after each layer: the logit lens (nostalgebraist 2020)
rows    fact tokens whose embedding looks hardly trained (Land & Bartolo 2024, arXiv 2405.05417)
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils.rnn import pad_sequence

from tokentrial.arms.arm import Arm
from tokentrial.evaluate.generate import encode_plain, encode_prompts, unsayable
from tokentrial.evaluate.probe import probe
from tokentrial.facts.facts import ASKING_FORMS, Fact, Facts
from tokentrial.tasks.arithmetic import mean_over_facts, table_subsets, was_asked
from tokentrial.tasks.task import Example

_HALF_ITS_OWN = 2 / 5**0.5  # cosine to a vector of a sum of it and half as long a one across

Floats = NDArray[np.float64]


def mechanism(
    model: Any,
    tokenizer: Any,
    arm: Arm,
    table: Sequence[Example],
    never: frozenset[Fact],
    served: Mapping[str, Any],
    rng: np.random.Generator,
) -> dict[str, Any]:
    """What `mechanism.json` holds of a GPT2LMHeadModel. `served` is what the cell was served: its record in
    `exposure.json`. Probes are of products: other facts have none."""
    embedding = model.get_input_embeddings().weight.detach().double().cpu().numpy()
    ids = dict(zip(arm.tokens, tokenizer.convert_tokens_to_ids(list(arm.tokens)), strict=True))
    products = arm.facts.settings.family == "multiplication"
    content = [token for token in arm.tokens if products and token in arm.facts.by_token and not arm.is_random]
    factors = np.array([arm.facts.by_token[token].operands for token in content], np.int64).reshape(-1, 2)
    states, logprobs = lens(model, tokenizer, table)
    return {
        "probes": {
            "tokens": probe(embedding[[ids[token] for token in content]], factors, rng),
            "state": probe(states, np.array([example.operands for example in table]), rng) if products else None,
        },
        "lens": by_subset(logprobs, table, arm.facts, never),
        "rows": rows(embedding, ids, times_served(arm, served), tokenizer.eos_token_id, unsayable(tokenizer)),
    }


@torch.no_grad()
def lens(model: Any, tokenizer: Any, table: Sequence[Example]) -> tuple[Floats, Floats]:
    """Of each question the state at its end after the last layer [questions, width], and the log-probability of the
    right answer in digits after the embedding and each layer [questions, layers + 1]: each layer's stream through
    the last norm and the head, summed over the answer's tokens, of which GPT-2's whole vocabulary needs one."""
    prompts = encode_prompts(tokenizer, [example.prompt for example in table])
    answers = encode_plain(tokenizer, [f" {example.answer}" for example in table])
    whole = [torch.tensor(prompt + answer) for prompt, answer in zip(prompts, answers, strict=True)]
    # (questions, T), padded on the right
    padded = pad_sequence(whole, batch_first=True, padding_value=tokenizer.eos_token_id)
    answer_tokens = [  # question, position before, token
        (i, len(prompt) - 1 + k, token)
        for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))
        for k, token in enumerate(answer)
    ]
    question, before, token = torch.tensor(answer_tokens, device=model.device).T
    # the padding stands behind every real id, so a causal model needs no mask; the one given only says so
    padded = padded.to(model.device)
    out = model.transformer(padded, attention_mask=torch.ones_like(padded), output_hidden_states=True)
    # transformers norms the last one itself
    streams = [*map(model.transformer.ln_f, out.hidden_states[:-1]), out.hidden_states[-1]]
    logprobs = torch.zeros((len(table), len(streams)), dtype=torch.double, device=model.device)
    for layer, stream in enumerate(streams):
        nats = model.lm_head(stream[question, before]).float().log_softmax(-1).gather(1, token[:, None])[:, 0]
        logprobs[:, layer].index_add_(0, question, nats.double())
    ends = torch.tensor([len(prompt) - 1 for prompt in prompts], device=model.device)
    state = streams[-1][torch.arange(len(table), device=model.device), ends]  # (questions, C)
    return state.double().cpu().numpy(), logprobs.cpu().numpy()


def by_subset(
    logprobs: Floats, table: Sequence[Example], facts: Facts, never: frozenset[Fact]
) -> dict[str, list[float]]:
    """Log-probabilities [questions, layers + 1] as means over the facts that were asked and over those that never were;
    a kind that there is none of is left out."""
    questions: list[dict[str, Any]] = [
        {"task": e.task, "fact": e.fact, "asked": was_asked(e.fact, facts, never)}
        | {str(i): v for i, v in enumerate(of)}
        for e, of in zip(table, logprobs, strict=True)
    ]
    subsets = table_subsets(questions)
    return {
        name: [mean_over_facts(subsets[name], str(layer)) for layer in range(logprobs.shape[1])]
        for name in ("asked", "never_asked")
        if subsets[name]
    }


def times_served(arm: Arm, served: Mapping[str, Any]) -> dict[str, int]:
    """How often each of the arm's tokens was served: once a site of its fact, or of any for a shared token."""
    if arm.is_random:  # every token is as likely at every site
        return {token: served["fact_tokens"] // len(arm.tokens) for token in arm.tokens}
    if len(arm.tokens) != len(arm.facts):
        return dict.fromkeys(arm.tokens, served["fact_tokens"])
    return {
        token: sum(count for form, count in served["facts"][fact.equation].items() if form not in ASKING_FORMS)
        for token, fact in zip(arm.tokens, arm.facts, strict=True)
    }


def rows(
    embedding: Floats, ids: Mapping[str, int], times: Mapping[str, int], plain: int, unused: Sequence[int]
) -> dict[str, Any]:
    """Each fact token's length against the median of the `plain` first rows, and its cosine to the mean of the `unused`
    rows, which stand for nothing and are only ever pushed away, all the same way. A row looks hardly trained where
    what is its own is not half as long as what it shares with them, or where it is as near to them as the farthest
    of them is to the others; None where there are no two unused rows."""
    median = float(np.median(np.linalg.norm(embedding[:plain], axis=1)))
    of_unused = embedding[list(unused)]
    total = of_unused.sum(0)
    found: dict[str, Any] = {"unused_rows": len(of_unused), "hardly_from": None, "tokens": {}}
    if len(of_unused) >= 2:
        found["hardly_from"] = min(_HALF_ITS_OWN, *(_cosine(row, total - row) for row in of_unused))
    for token, i in ids.items():
        near = _cosine(embedding[i], total) if len(of_unused) >= 2 else None
        found["tokens"][token] = {
            "seen": times[token],
            "length": float(np.linalg.norm(embedding[i])) / median,
            "to_unused": near,
            "hardly_trained": None if near is None else near >= found["hardly_from"],
        }
    return found


def _cosine(a: Floats, b: Floats) -> float:
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / lengths if lengths else 0.0
