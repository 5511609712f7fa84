"""Linear probes: what is planted is found, what is left out is predicted by the others, a model's own state is read."""

import json

import numpy as np
import pytest
import torch

from tokentrial.evaluate.probe import end_states, left_out_r2, probe, shuffled
from tokentrial.facts.families import TIMES_TABLE
from tokentrial.steps.cell import Cell
from tokentrial.tasks.arithmetic import Arithmetic

TABLE = Arithmetic().table()
ORDERED = np.array([example.operands for example in TABLE])
UNORDERED = np.array([fact.operands for fact in TIMES_TABLE])


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def rng():
    return np.random.default_rng(1)


@pytest.mark.parametrize("operands", [ORDERED, UNORDERED], ids=["81 questions", "45 tokens"])
def test_operands_that_lie_along_two_directions_are_read(operands):
    found = probe(operands @ noise(2, 96) * 3 + noise(len(operands), 96, seed=1), operands, rng())
    assert found["a"]["r2"] > 0.95
    assert found["b"]["r2"] > 0.95
    assert found["a"]["r2"] > found["a"]["shuffled_r2"] + 0.5
    assert abs(found["beyond"]["r2"]) < 0.3  # the operands alone do not multiply


def test_operands_alone_give_the_product_to_0_88():
    """On the 9 x 9 table: 50 var / (var^2 + 50 var), var = 60 / 9 of 1 to 9, less what leaving out costs."""
    var = 60 / 9
    expected = 50 * var / (var**2 + 50 * var)
    found = probe(ORDERED.astype(float), ORDERED, rng())
    assert expected == pytest.approx(0.882, abs=0.001)
    assert found["product"]["r2"] == pytest.approx(expected, abs=0.02)
    assert found["beyond"]["r2"] < 0.01


def test_of_a_table_with_0_the_logarithm_of_the_product_is_not_asked_for():
    with_0 = np.array([(a, b) for a in range(10) for b in range(10)])
    found = probe(with_0.astype(float), with_0, rng())
    assert "log_product" not in found
    assert all(np.isfinite(figures["r2"]) for figures in found.values())


def test_a_product_in_the_vector_is_read_beyond_the_operands():
    vectors = np.column_stack([ORDERED, ORDERED.prod(1)]) @ noise(3, 96) + 0.1 * noise(81, 96, seed=1)
    found = probe(vectors, ORDERED, rng())
    assert found["product"]["r2"] > 0.99
    assert found["beyond"]["r2"] > 0.9


@pytest.mark.parametrize("operands", [ORDERED, UNORDERED], ids=["81 questions", "45 tokens"])
def test_vectors_that_say_nothing_are_read_no_better_than_shuffled_ones(operands):
    """One in twenty lies above 95 % of its shuffles: of 5 draws with 5 targets each, 1.25 on average. Were the five of
    a draw one, more than 7 would take two draws, which has a chance of 2 %."""
    found = [
        of
        for seed in range(5)
        for of in probe(noise(len(operands), 16, seed=seed), operands, np.random.default_rng(seed)).values()
    ]
    assert sum(of["r2"] > of["shuffled_r2"] for of in found) <= 7
    assert np.mean([of["r2"] for of in found]) < 0


def test_what_is_left_out_is_predicted_by_the_others_alone():
    """Ridge regression by its normal equations, fact by fact, both orders out; the ridge too is chosen without them."""
    operands = ORDERED[(ORDERED >= 5).all(1)]
    facts = np.unique(np.sort(operands), axis=0, return_inverse=True)[1].ravel()
    vectors, y = noise(len(operands), 7), noise(len(operands), 2, seed=3) + operands

    def variance(x):
        return ((x - x.mean(0)) ** 2).sum() / len(x)

    def predict(x, known, penalty, new):
        centred = x - x.mean(0)
        weights = np.linalg.solve(centred.T @ centred + penalty * np.eye(7), centred.T @ (known - known.mean()))
        return known.mean() + (new - x.mean(0)) @ weights

    def error(x, known, groups, penalty):
        """Of leaving out each fact in turn; the inner fits keep the outer ridge, as the closed form does."""
        kept = [groups != group for group in set(groups)]
        return sum(((known[~k] - predict(x[k], known[k], penalty, x[~k])) ** 2).sum() for k in kept)

    expected = []
    for column in y.T:
        errors = deviations = 0.0
        for fact in set(facts):
            out = facts == fact
            x, known, groups = vectors[~out], column[~out], facts[~out]
            penalties = [ridge * variance(x) for ridge in (0.001, 0.01, 0.1, 1.0, 10.0)]
            best = min(penalties, key=lambda penalty, of=(x, known, groups): error(*of, penalty))
            errors += ((column[out] - predict(x, known, best, vectors[out])) ** 2).sum()
            deviations += ((column[out] - known.mean()) ** 2).sum()
        expected.append(1 - errors / deviations)
    assert left_out_r2(vectors, y, facts) == pytest.approx(expected, rel=1e-6)
    few = UNORDERED[:10]  # fewer facts are not probed
    assert probe(noise(9, 8), few[:9], rng()) is None
    assert probe(noise(10, 8), few, rng()) is not None


def test_shuffling_keeps_a_fact_s_orders_together():
    facts = np.unique(np.sort(ORDERED), axis=0, return_inverse=True)[1].ravel()
    order = shuffled(facts, rng())
    assert sorted(order) == list(range(81))
    assert len({(old, new) for old, new in zip(facts, facts[order], strict=True)}) == 45
    assert sum(facts == facts[order]) < 20


# of a model


@pytest.mark.parametrize("arm", ["baseline", "mul_tokens"])
def test_the_state_is_the_last_layer_s_at_the_question_s_end(babbling, vocabulary, arm):
    model, tokenizer, _ = babbling(arm)
    prompts = [torch.tensor([vocabulary.encode(e.prompt).tolist()]) for e in TABLE]
    last = [model.transformer(ids).last_hidden_state[0, -1].detach().numpy() for ids in prompts]
    assert end_states(model, tokenizer, TABLE) == pytest.approx(np.array(last), abs=1e-4)


def test_a_cell_s_file_holds_the_probes_of_tokens_and_state(finished):
    for arm, has_tokens in (("baseline", False), ("mul_tokens", True)):
        inside = json.loads((Cell(arm, 1).folder(finished, "eval_pretrain") / "mechanism.json").read_bytes())
        assert (inside["probes"]["tokens"] is not None) == has_tokens
        assert set(inside["probes"]["state"]) == {"a", "b", "product", "log_product", "beyond"}
