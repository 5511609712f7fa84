"""What stands inside a model: planted probes are found, the lens ends in the model's own words, untrained rows show."""

import json
import math

import numpy as np
import pytest
import torch

from tokentrial.arms import arm as arms
from tokentrial.corpus.prepare import CorpusPlan
from tokentrial.evaluate.evaluate import load
from tokentrial.evaluate.mechanism import by_subset, lens, rows, times_served
from tokentrial.evaluate.probe import left_out_r2, probe, shuffled
from tokentrial.evaluate.score import scored
from tokentrial.facts.families import TIMES_TABLE
from tokentrial.pretrain.validate import token_nats
from tokentrial.steps.cell import Cell
from tokentrial.tasks.arithmetic import Arithmetic

TABLE = Arithmetic().table()
ORDERED = np.array([example.operands for example in TABLE])
UNORDERED = np.array([fact.operands for fact in TIMES_TABLE])


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def rng():
    return np.random.default_rng(1)


# probes


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


# lens


@pytest.mark.parametrize("arm", ["baseline", "mul_tokens"])
def test_the_last_layer_says_what_the_model_says(babbling, vocabulary, arm):
    """By score's own computation: the nats of the answer's tokens behind the prompt."""
    model, tokenizer, _ = babbling(arm)
    states, logprobs = lens(model, tokenizer, TABLE)
    prompts = [vocabulary.encode(e.prompt).tolist() for e in TABLE]
    sequences = [vocabulary.encode(f"{e.prompt} {e.answer}").tolist() for e in TABLE]
    nats = token_nats(scored(model), sequences, 16)
    expected = [-of[len(prompt) - 1 :].sum() for of, prompt in zip(nats, prompts, strict=True)]
    assert logprobs.shape == (81, 2 + 1)
    assert logprobs[:, -1] == pytest.approx(np.array(expected), abs=1e-4)
    last = [model.transformer(torch.tensor([ids])).last_hidden_state[0, -1].detach().numpy() for ids in prompts]
    assert states == pytest.approx(np.array(last), abs=1e-4)


@torch.no_grad()
def test_the_other_layers_are_the_stream_through_the_last_norm_and_the_head(babbling, vocabulary):
    model, tokenizer, _ = babbling("baseline")
    [nine_times_three] = [i for i, example in enumerate(TABLE) if example.operands == (9, 3)]
    _, logprobs = lens(model, tokenizer, TABLE)
    prompt = vocabulary.encode(TABLE[nine_times_three].prompt).tolist()
    answer = vocabulary.encode(" 27").tolist()
    gpt = model.transformer
    ids = torch.tensor([prompt + answer])
    stream = gpt.wte(ids) + gpt.wpe(torch.arange(ids.shape[1]))
    for layer in range(2):
        normed = torch.nn.functional.layer_norm(stream[0], (32,), gpt.ln_f.weight, gpt.ln_f.bias, gpt.ln_f.eps)
        words = (normed @ gpt.wte.weight.T).log_softmax(-1)
        expected = sum(words[len(prompt) - 1 + k, token].item() for k, token in enumerate(answer))
        assert logprobs[nine_times_three, layer] == pytest.approx(expected, abs=1e-4)
        stream = gpt.h[layer](stream)


def test_facts_that_were_asked_stand_apart_from_those_that_never_were():
    never = TIMES_TABLE.never_asked(1, 3)
    logprobs = np.array([[-1.0, -float(e.fact in never)] for e in TABLE])
    assert by_subset(logprobs, TABLE, TIMES_TABLE, never) == {"asked": [-1, 0], "never_asked": [-1, -1]}
    assert by_subset(logprobs, TABLE, TIMES_TABLE, frozenset()) == {"asked": [-1, pytest.approx(-12 / 36)]}


# rows


def test_a_row_that_lies_with_the_unused_ones_looks_hardly_trained():
    """Unused rows share a direction and differ by little; plain rows have length 2; one token lies with the unused."""
    embedding = np.zeros((14, 8))
    embedding[:6, :6] = 2 * np.eye(6)
    embedding[6:12] = [0, 0, 0, 0, 0, 0, 1, 0]
    embedding[6:12, :6] += 0.1 * np.eye(6)
    embedding[12, 0], embedding[13, 6] = 3.0, 0.5
    found = rows(embedding, {"<A>": 12, "<B>": 13}, {"<A>": 7, "<B>": 0}, 6, range(6, 12))
    assert found["tokens"]["<A>"]["length"] == pytest.approx(1.5)
    assert found["tokens"]["<B>"]["length"] == pytest.approx(0.25)
    assert {token: of["hardly_trained"] for token, of in found["tokens"].items()} == {"<A>": False, "<B>": True}
    assert found["tokens"]["<B>"]["to_unused"] == pytest.approx(6 / math.sqrt(36 + 6 * 0.01))
    assert found["tokens"]["<B>"]["seen"] == 0


def test_unused_rows_that_have_not_come_together_set_the_measure_themselves():
    """Rows (0.6, 1) across each other: each has cosine 5 / (|row| |sum of five|) to the sum of the others."""
    embedding = np.zeros((13, 8))
    embedding[:6, 7] = 1
    embedding[6:12, 6] = 1
    embedding[6:12, :6] = 0.6 * np.eye(6)
    embedding[12, 6:] = 1, 0.55
    nearest = 5 / (math.sqrt(1.36) * math.sqrt(25 + 5 * 0.36))
    found = rows(embedding, {"<A>": 12}, {"<A>": 1}, 6, range(6, 12))
    assert found["hardly_from"] == pytest.approx(nearest)
    assert found["tokens"]["<A>"]["to_unused"] > nearest
    assert found["tokens"]["<A>"]["hardly_trained"] is True


# of a real cell


def test_a_cell_s_file_holds_all_three(finished):
    for arm, tokens in (("baseline", 0), ("mul_tokens", 45)):
        cell = Cell(arm, 1)
        inside = json.loads((cell.folder(finished, "eval_pretrain") / "mechanism.json").read_bytes())
        assert (inside["probes"]["tokens"] is None) == (tokens == 0)
        assert set(inside["probes"]["state"]) == {"a", "b", "product", "log_product", "beyond"}
        assert set(inside["lens"]) == {"asked", "never_asked"}
        assert [len(values) for values in inside["lens"].values()] == [finished.pretrain.n_layer + 1] * 2
        assert len(inside["rows"]["tokens"]) == tokens


def test_tokens_were_served_as_often_as_the_corpus_counted_them(finished):
    """Sites fact by fact, and the fact tokens that the loader's own shards hold: two counts of one thing."""
    plan = CorpusPlan(finished)
    served = json.loads((plan.folder / "exposure.json").read_bytes())["served"]["mul_tokens"]["1"]
    counted = times_served(arms.get_arm("mul_tokens"), served)
    assert sum(counted.values()) == served["fact_tokens"] > 0
    assert times_served(arms.get_arm("one_slot"), served) == {"<FACT>": served["fact_tokens"]}
    assert times_served(arms.get_arm("baseline"), served) == {}


def test_rows_are_those_of_the_exported_model(finished):
    folder = Cell("mul_tokens", 1).folder(finished, "export")
    model, tokenizer = load(folder)
    weights = model.transformer.wte.weight.detach().numpy()
    inside = json.loads((folder.with_name("eval_pretrain") / "mechanism.json").read_bytes())
    token = TIMES_TABLE.of(6, 9).token
    expected = np.linalg.norm(weights[tokenizer.convert_tokens_to_ids(token)])
    plain = np.median(np.linalg.norm(weights[: tokenizer.eos_token_id], axis=1))
    assert inside["rows"]["tokens"][token]["length"] == pytest.approx(expected / plain, rel=1e-5)
