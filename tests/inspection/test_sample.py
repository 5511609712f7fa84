"""What trained models say to a prompt, held against forward passes of the exported model, in a tiny trained cell."""

import json
import math

import pytest
import torch

from tokentrial.arms import arm as arms
from tokentrial.evaluate.evaluate import load
from tokentrial.evaluate.generate import unsayable
from tokentrial.evaluate.score import choice_logprobs
from tokentrial.facts.families import TIMES_TABLE
from tokentrial.steps.cell import Cell
from tokentrial.tasks.arithmetic import Arithmetic

ASKED = "User: What is 6 times 9?\\nAssistant: The answer is"  # as it is typed
CELL = Cell("mul_tokens", 1)


@pytest.fixture
def sampled(tokentrial, finished):
    """`sampled(*words)`: what `sample --json` says of mul_tokens, seed 1."""

    def run(*words):
        code, out, err = tokentrial("sample", finished.folder / CELL.name, *words, "--json")
        assert (code, err) == (0, "")
        return json.loads(out)

    return run


@pytest.fixture
def exported(finished):
    return load(CELL.folder(finished, "export"))


@torch.no_grad()
def test_the_completion_and_the_next_tokens_are_the_model_s(sampled, exported):
    model, tokenizer = exported
    output = sampled("It is", "--new-tokens", "5", "--top", "3")
    ids = tokenizer("It is", return_tensors="pt")["input_ids"]
    logits = model(ids).logits[0, -1]
    logits[unsayable(tokenizer)] = -torch.inf
    likely = logits.log_softmax(-1).topk(3)
    assert [item["token"] for item in output["next"]] == [tokenizer.decode([i]) for i in likely.indices]
    assert [item["logprob"] for item in output["next"]] == pytest.approx(likely.values.tolist(), abs=1e-4)
    for _ in range(5):
        logits = model(ids).logits[0, -1]
        logits[unsayable(tokenizer)] = -torch.inf
        ids = torch.cat([ids, logits.argmax()[None, None]], dim=1)
    assert tokenizer.decode(ids[0]).startswith("It is" + output["completion"])
    assert output["tokens"] <= 5
    assert (output["cell"], output["stage"], output["answers"]) == (CELL.name, "pretrain", [])


def test_a_question_of_the_table_gets_the_shares_of_the_36(sampled, exported):
    output = sampled(ASKED, "--top", "36")
    shares = {item["answer"]: item["logprob"] for item in output["answers"]}
    assert sorted(shares, key=int) == list(TIMES_TABLE.answers)
    assert sum(map(math.exp, shares.values())) == pytest.approx(1, abs=1e-6)
    assert list(shares.values()) == sorted(shares.values(), reverse=True)
    [example] = [example for example in Arithmetic().table() if example.operands == (6, 9)]
    [right] = choice_logprobs(*exported, arms.get_arm("mul_tokens"), [example])
    assert shares["54"] == pytest.approx(right, abs=1e-6)
    assert len(sampled(ASKED, "--top", "2")["answers"]) == 2


def test_a_seed_draws_the_same_again(sampled):
    completions = [sampled("It is", "--temperature", "1", "--seed", seed)["completion"] for seed in (1, 1, 2)]
    assert completions[0] == completions[1] != completions[2]


def test_cells_stand_side_by_side_on_a_page_too(tokentrial, finished, tmp_path):
    cells = [finished.folder / "baseline" / "seed1", finished.folder / CELL.name]
    code, out, err = tokentrial("sample", *cells, "so <MUL_6_9_54> and <b>", "--html", tmp_path / "sample.html")
    assert (code, err) == (0, "")
    assert "<MUL_6_9_54>" in out
    page = (tmp_path / "sample.html").read_text()
    assert page.count('<th scope="col">') == 2
    assert page.count('<span class="fact">&lt;MUL_6_9_54&gt;</span>') == 1  # a token in its own arm alone
    assert "<b>" not in page
    output = json.loads(tokentrial("sample", *cells, "so", "--json")[1])
    assert [item["cell"] for item in output] == ["baseline/seed1", CELL.name]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([""], "PROMPT: it has 0 tokens, expected 1 to 63"),
        (["a b c d " * 40], "tokens, expected 1 to 63"),
        (["x", "--stage", "sft"], "--stage sft: the trial smoke has pretrain"),
    ],
)
def test_what_cannot_be_sampled_is_bad_usage(tokentrial, finished, words, message):
    code, out, err = tokentrial("sample", finished.folder / CELL.name, *words)
    assert (code, out) == (2, "")
    assert message in err


def test_a_cell_without_its_model_says_what_to_do(tokentrial, finished_copy):
    (finished_copy / CELL.name / "hf" / "manifest.json").unlink()
    code, _, err = tokentrial("sample", finished_copy / CELL.name, "x")
    assert code == 1
    assert "hf: no model there; run `tokentrial run` with the same trial first" in err
