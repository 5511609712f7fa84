"""Linear probes: how well a ridge regression reads what a fact is from a vector that stands for it, on facts that the
regression has not seen, beside the same with facts and vectors shuffled (Alain & Bengio 2016, Hewitt & Liang 2019).
Exploratory: no verdict rests on them.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils.rnn import pad_sequence

from tokentrial.arms.arm import Arm
from tokentrial.evaluate.generate import encode_prompts
from tokentrial.tasks.task import Example

LEAST = 10  # facts from which on a probe says something
_SHUFFLES = 99
_RIDGES = (0.001, 0.01, 0.1, 1.0, 10.0)  # in units of the mean square length of the centred vectors

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def probe_model(
    model: Any, tokenizer: Any, arm: Arm, table: Sequence[Example], rng: np.random.Generator
) -> dict[str, Any]:
    """Probes of a GPT2LMHeadModel: of its fact tokens' embeddings, and of its state where it is about to answer a
    question of the table. Both None where the facts are no products."""
    if arm.facts.settings.family != "multiplication":
        return {"tokens": None, "state": None}
    content = [token for token in arm.tokens if token in arm.facts.by_token and not arm.is_random]
    factors = np.array([arm.facts.by_token[token].operands for token in content], np.int64).reshape(-1, 2)
    embedding = model.get_input_embeddings().weight.detach().double().cpu().numpy()
    return {
        "tokens": probe(embedding[tokenizer.convert_tokens_to_ids(content)], factors, rng),
        "state": probe(end_states(model, tokenizer, table), np.array([e.operands for e in table]), rng),
    }


@torch.no_grad()
def end_states(model: Any, tokenizer: Any, table: Sequence[Example]) -> Floats:
    """The last layer's state at each question's end [questions, width]."""
    prompts = [torch.tensor(ids) for ids in encode_prompts(tokenizer, [example.prompt for example in table])]
    # (questions, T). The padding stands behind every real id, so a causal model needs no mask; the one given says so.
    padded = pad_sequence(prompts, batch_first=True, padding_value=tokenizer.eos_token_id).to(model.device)
    states = model.transformer(padded, attention_mask=torch.ones_like(padded)).last_hidden_state
    ends = torch.tensor([len(prompt) - 1 for prompt in prompts])
    at_ends: Floats = states[torch.arange(len(table)), ends].double().cpu().numpy()
    return at_ends


def probe(vectors: Floats, operands: Ints, rng: np.random.Generator) -> dict[str, dict[str, float]] | None:
    """R^2 of each target from vectors [n, width] of the facts whose operands are [n, 2], leaving a fact out in turn,
    and the R^2 that 95 % of the shuffles stay below. Both orders of a fact are left out together. None for less than
    ten facts."""
    facts = np.unique(np.sort(operands), axis=0, return_inverse=True)[1].ravel()
    if facts.max(initial=-1) + 1 < LEAST:
        return None
    wanted = targets(operands)
    whole = np.stack([*wanted.values()], axis=1)
    columns = [whole, *(whole[shuffled(facts, rng)] for _ in range(_SHUFFLES))]
    r2 = left_out_r2(vectors, np.hstack(columns), facts).reshape(1 + _SHUFFLES, -1)
    return {
        name: {"r2": float(r2[0, i]), "shuffled_r2": float(np.quantile(r2[1:, i], 0.95))}
        for i, name in enumerate(wanted)
    }


def targets(operands: Ints) -> dict[str, Floats]:
    """What is read of facts [n, 2]: operands, product and, where none is 0, its logarithm; and `beyond`, what is left
    of the product after the best sum of a function of the one operand and a function of the other. Such a sum gives
    0.88 of the variance of the 9 x 9 table: a good reading of the product alone may be one of the operands."""
    a, b = operands.T.astype(np.float64)
    indicators = np.hstack([operands[:, :1] == np.unique(a), operands[:, 1:] == np.unique(b)]).astype(np.float64)
    beyond = a * b - indicators @ np.linalg.lstsq(indicators, a * b)[0]
    of_product = {"product": a * b} | ({"log_product": np.log(a * b)} if (a * b > 0).all() else {})
    return {"a": a, "b": b, **of_product, "beyond": beyond}


def left_out_r2(vectors: Floats, y: Floats, facts: Ints) -> Floats:
    """1 - errors^2 / deviations^2 of each column of y [n, columns], each fact predicted from the others; the deviation
    is from the others' mean, so that knowing nothing gives 0. The ridge is chosen column by column among the others,
    by leaving each of them out in its turn."""
    errors, deviations = np.zeros(y.shape[1]), np.zeros(y.shape[1])
    for fact in range(facts.max() + 1):
        out = facts == fact
        x, mean = vectors[~out] - vectors[~out].mean(0), y[~out].mean(0)  # (n, width), (columns,)
        known = y[~out] - mean  # (n, columns)
        # of the n x n Gram matrix, as a vector is wider than there are facts; one decomposition serves every ridge
        values, axes = np.linalg.eigh(x @ x.T)
        ridges = np.array(_RIDGES) * max(values.mean(), np.finfo(float).tiny)
        others = _rows_by_size(facts[~out])
        inner = np.stack([_left_out(axes * (values / (values + ridge)) @ axes.T, known, others) for ridge in ridges])
        chosen = ridges[inner.argmin(0)]
        weights = axes @ ((axes.T @ known) / (values[:, None] + chosen))
        predicted = (vectors[out] - vectors[~out].mean(0)) @ x.T @ weights
        errors += ((y[out] - mean - predicted) ** 2).sum(0)
        deviations += ((y[out] - mean) ** 2).sum(0)
    return 1 - errors / deviations


def _left_out(smoother: Floats, y: Floats, facts: Sequence[Ints]) -> Floats:
    """Sum of squares of each column's errors when facts, given by their rows, are left out in turn, without a fit for
    each: the errors of a fact's rows G are (1 - H_GG)^-1 (y - Hy)_G, H the hat matrix with its intercept (exact; Cook &
    Weisberg 1982)."""
    hat = smoother + 1 / len(y)
    residuals = y - hat @ y
    total: Floats = np.zeros(y.shape[1])
    for rows in facts:
        within = np.eye(rows.shape[1]) - hat[rows[:, :, None], rows[:, None, :]]
        total += ((np.linalg.inv(within) @ residuals[rows]) ** 2).sum(
            (0, 1)
        )  # of two rows at most, but of many columns
    return total


def shuffled(facts: Ints, rng: np.random.Generator) -> Ints:
    """An order of the rows in which facts have changed places with facts of as many rows, and a fact's orders with each
    other; a fact's rows stay together."""
    order = np.arange(len(facts))
    for rows in _rows_by_size(facts):
        order[rows] = rng.permuted(rng.permutation(rows), axis=1)
    return order


def _rows_by_size(facts: Ints) -> list[Ints]:
    """The rows of the facts, [facts, rows of each], of those with one row, of those with two and so on."""
    counts = np.unique(facts, return_counts=True)[1]
    order, firsts = np.argsort(facts, kind="stable"), counts.cumsum() - counts
    return [order[firsts[counts == size, None] + np.arange(size)] for size in np.unique(counts)]
