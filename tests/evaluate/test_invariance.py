"""No text and no score depends on what is asked beside it: on batch, padding, order, threads or device. Evaluation asks
by `complete` and the scores, SFT's held rows by `solve`, GRPO samples by `continue_ids`."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tokentrial.evaluate.generate import complete, continue_ids, encode_prompts
from tokentrial.evaluate.score import choice_logprobs, document_bits
from tokentrial.evaluate.solve import gold_nats, solve
from tokentrial.tasks.arithmetic import Arithmetic
from tokentrial.tasks.gsm8k import SolutionTask
from tokentrial.tasks.word_problems import WordProblems

TABLE = Arithmetic().table()[::11]  # of several lengths, as the problems are
PROBLEMS = sorted(WordProblems(60, 1).examples("train"), key=lambda e: len(e.prompt + e.completion))[:8]  # that fit
DOCUMENTS = [np.random.default_rng(n).integers(0, 500, n).astype(np.uint16) for n in (2, 9, 64, 65, 130, 190)]
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
TOKENS = 12


def answers(model, tokenizer, arm, examples, batch):
    found = complete(model, tokenizer, [example.prompt for example in examples], TOKENS, batch)
    return [completion.text for completion in found]


def solutions(model, tokenizer, arm, examples, batch):
    return [row["completion"] for row in solve(model, tokenizer, arm, SolutionTask(), examples, TOKENS, batch)]


def choices(model, tokenizer, arm, examples, batch):
    return choice_logprobs(model, tokenizer, arm, examples)


def bits(model, tokenizer, arm, documents, batch):
    return document_bits(model, documents, batch)


ASKED = ((answers, TABLE), (solutions, PROBLEMS), (choices, TABLE), (gold_nats, PROBLEMS), (bits, DOCUMENTS))


def samples(model, tokenizer, batch):
    """A sample's draws are those of its place in the row, so all are asked in their order."""
    ids = encode_prompts(tokenizer, [example.prompt for example in TABLE])
    return continue_ids(model, tokenizer, ids, TOKENS, batch, 0.8, seed=5)


@pytest.fixture(params=["baseline", "mul_tokens"])
def alone(request, babbling):
    """A model, and all that it says and gives of each item by itself."""
    model, tokenizer, arm = babbling(request.param)
    found = [[ask(model, tokenizer, arm, [item], 1)[0] for item in items] for ask, items in ASKED]
    assert len({*found[0]}) > 5
    assert np.isfinite(found[3]).any()
    return (model, tokenizer, arm), found, samples(model, tokenizer, 1)


# a failure is not made smaller: that takes minutes
@settings(
    max_examples=10,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_nothing_depends_on_what_is_asked_beside_it(alone, data):
    (model, tokenizer, arm), found, sampled = alone
    batch, device = data.draw(st.integers(1, 12)), data.draw(st.sampled_from(DEVICES))
    places = [data.draw(st.lists(st.sampled_from(range(len(items))), unique=True, min_size=1)) for _, items in ASKED]
    threads = torch.get_num_threads()
    torch.set_num_threads(data.draw(st.sampled_from([1, 2])))
    try:
        model.to(device)
        assert samples(model, tokenizer, batch) == sampled
        for (ask, items), by_itself, chosen in zip(ASKED, found, places, strict=True):
            together = ask(model, tokenizer, arm, [items[i] for i in chosen], batch)
            expected = [by_itself[i] for i in chosen]
            # a tie of two ids within rounding could go either way: these models have none
            assert together == (
                expected if isinstance(expected[0], str) else pytest.approx(expected, abs=1e-4, nan_ok=True)
            )
    finally:
        model.to("cpu")
        torch.set_num_threads(threads)
