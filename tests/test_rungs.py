"""The sizes of a ladder: what follows from its rules, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tokentrial.trial.ladder import Ladder, Rung, rung_settings
from tokentrial.trial.pretraining import Pretrain

IDS = 500
OWN = Pretrain(n_layer=4, n_head=4, n_embd=128, context=64, steps=1000, batch_tokens=4096, micro_batch=64, lr=1e-3)
SIZES = [{"n_layer": 2, "n_head": 2, "n_embd": 64}, {"n_layer": 8, "n_head": 4, "n_embd": 256}]


def settings_of(**ladder):
    made = Ladder(sizes=SIZES, **ladder)
    return [rung_settings(made, rung, OWN, IDS, [1, 2, 3]) for rung in made.sizes]


def test_tokens_per_parameter_counts_the_layers_alone():
    """A layer's matrices, 12 n_embd^2, their biases and norms, 13 n_embd, and the last norm's 2 n_embd."""
    for rung, found in zip(SIZES, settings_of(tokens_per_parameter=20), strict=True):
        layers = rung["n_layer"] * (12 * rung["n_embd"] ** 2 + 13 * rung["n_embd"]) + 2 * rung["n_embd"]
        assert found["pretrain.steps"] == round(20 * layers / 4096)


@given(st.floats(0, 0.8))
def test_tokens_grow_as_compute_to_the_power(exponent):
    for rung, found in zip(SIZES, settings_of(tokens_exponent=exponent), strict=True):
        tokens = found["pretrain.steps"] * OWN.batch_tokens
        flops = tokens * OWN.model_copy(update=rung).flops_per_token(IDS)
        expected = OWN.tokens * (flops / (OWN.tokens * OWN.flops_per_token(IDS))) ** exponent
        assert tokens == pytest.approx(expected, rel=0.02, abs=OWN.batch_tokens)


def test_the_rate_falls_with_the_width_where_it_is_to():
    assert [found["pretrain.lr"] for found in settings_of(tokens_exponent=0.5)] == [1e-3, 1e-3]
    falling = settings_of(tokens_exponent=0.5, lr="inverse_width")
    assert [found["pretrain.lr"] for found in falling] == pytest.approx([2e-3, 5e-4])


def test_what_a_size_says_itself_goes_before_the_rules():
    rung = Rung(**SIZES[0], tokens=81920, lr=5e-3, seeds=2)
    found = rung_settings(Ladder(sizes=[rung]), rung, OWN, IDS, [4, 7, 9])
    assert (found["pretrain.steps"], found["pretrain.lr"], found["seeds"]) == (20, 5e-3, [4, 7])


@pytest.mark.parametrize(
    ("ladder", "what"),
    [
        ({"sizes": []}, "at least 1"),
        ({"sizes": SIZES}, "2x64"),
        ({"sizes": SIZES, "tokens_per_parameter": 20, "tokens_exponent": 0.5}, "2 rules"),
        ({"sizes": SIZES + SIZES[:1], "tokens_exponent": 0.5}, "2x64 twice"),
        ({"sizes": [{"n_layer": 2, "n_head": 3, "n_embd": 64}], "tokens_exponent": 0.5}, "n_head is 3"),
        ({"sizes": SIZES, "tokens_exponent": 1.0}, "less than 1"),
    ],
)
def test_a_ladder_that_leaves_something_open_is_refused(ladder, what):
    with pytest.raises(ValidationError, match=what):
        Ladder(**ladder)
