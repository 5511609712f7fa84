"""Greedy completions: the same in a batch as alone, ended where an answer ends, of nothing but the arm's own ids."""

import pytest
import torch

from tokentrial.arms import arm as arms
from tokentrial.evaluate import generate
from tokentrial.evaluate.generate import unsayable
from tokentrial.tasks.arithmetic import Arithmetic
from tokentrial.tokenizer.vocabulary import Vocabulary

PROMPTS = ["a", "abc", "User: What is 6 times 9?\nAssistant: The answer is", "so "]


def complete(*given):
    """The texts alone."""
    return [completion.text for completion in generate.complete(*given)]


def ids(vocabulary, text):
    return vocabulary.encode(text).tolist()


def after(tokenizer, prompt):
    """Position of a prompt's last token."""
    return len(tokenizer(prompt, add_special_tokens=False)["input_ids"]) - 1


@pytest.mark.parametrize("arm", ["baseline", "mul_tokens"])
def test_batches_give_what_transformers_gives_one_prompt_at_a_time(babbling, arm):
    model, tokenizer, _treatment = babbling(arm)
    prompts = [example.prompt for example in Arithmetic(20).examples()[::9]]
    assert len({len(tokenizer(prompt)["input_ids"]) for prompt in prompts}) > 3  # so that rows are padded
    suppress = unsayable(tokenizer)
    newlines = [i for i in range(621) if "\n" in tokenizer.decode([i])]
    alone = []
    for prompt in prompts:
        given = tokenizer(prompt, return_tensors="pt")
        out = model.generate(
            **given,
            max_new_tokens=6,
            do_sample=False,
            eos_token_id=[tokenizer.eos_token_id, *newlines],
            suppress_tokens=suppress,
        )
        text = tokenizer.decode(out[0, given["input_ids"].shape[1] :], skip_special_tokens=True)
        alone.append(text.partition("\n")[0])
    for batch in (1, 7):
        assert complete(model, tokenizer, prompts, 6, batch) == alone
    assert len(set(alone)) > 12
    assert any("<MUL_" in text for text in alone) == (arm == "mul_tokens")


def test_each_prompt_of_a_batch_keeps_its_own_positions(scripted, vocabulary):
    model, tokenizer, _arm = scripted("baseline", lambda p: ids(vocabulary, chr(ord("a") + p % 26)))
    completions = complete(model, tokenizer, PROMPTS, 4, 3)
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        start = after(tokenizer, prompt)
        assert completion == "".join(chr(ord("a") + p % 26) for p in range(start, start + 4))


@pytest.mark.parametrize("end", ["\n", "\n\n", "eos"])
def test_a_completion_ends_at_a_newline_or_eos(scripted, rows_given, end):
    vocabulary = Vocabulary(512, 45)  # GPT-2 has one token for two newlines, within its first 512 merges
    [stop] = [vocabulary.eos] if end == "eos" else ids(vocabulary, end)
    script = {0: ids(vocabulary, "5"), 1: ids(vocabulary, "4"), 2: [stop]}
    model, tokenizer, _arm = scripted("baseline", lambda p: script.get(p, ids(vocabulary, "x")), vocabulary)
    done = complete(model, tokenizer, ["a", "a b"], 12, 2)
    assert done == ["54", "4"]  # after "a b", position 1 is the first that is asked
    passes = rows_given(model)
    complete(model, tokenizer, ["a", "a", "a b"], 40, 3)
    # defect R9: a row that has ended is asked nothing more
    assert [len(rows) for rows in passes][-3:] == [3, 3, 2]


@pytest.mark.parametrize("arm", ["baseline", "one_slot", "mul_tokens"])
def test_fillers_and_foreign_slots_are_never_said(scripted, vocabulary, monkeypatch, arm):
    own = len(arms.get_arm(arm).tokens)
    foreign = [*range(vocabulary.eos + 1, vocabulary.base), *range(vocabulary.base + own, vocabulary.size)]
    likeliest = foreign[:: max(1, len(foreign) // 3)]
    model, tokenizer, _ = scripted(arm, lambda p: [*likeliest[:3], *ids(vocabulary, "z")])
    assert unsayable(tokenizer) == foreign
    assert complete(model, tokenizer, PROMPTS, 3, 4) == ["zzz"] * 4
    monkeypatch.setattr(generate, "unsayable", lambda tokenizer: [])
    assert complete(model, tokenizer, ["a"], 1, 1) != ["z"]  # it would have said one


def test_fact_tokens_come_out_by_name(scripted, vocabulary):
    """Defect R5: as special tokens they vanished on decode."""
    model, tokenizer, arm = scripted("mul_tokens", lambda p: [vocabulary.base + 42])
    completions = complete(model, tokenizer, ["a"], 2, 1)
    assert completions == [arm.tokens[42] * 2]


def test_no_more_tokens_than_asked_for_nor_than_the_context_holds(scripted, vocabulary):
    model, tokenizer, _ = scripted("baseline", lambda p: ids(vocabulary, "x"))
    assert generate.complete(model, tokenizer, ["a"], 5, 1) == [generate.Completion("xxxxx", 5, False)]
    long = "a b c d e f g h " * 4
    room = 64 - 1 - after(tokenizer, long)
    assert 0 < room < 40
    assert complete(model, tokenizer, [long], 40, 1) == ["x" * room]


def test_a_solution_runs_over_lines_and_ends_at_a_new_turn(scripted, vocabulary):
    script = ids(vocabulary, "1\n2\nUser: 3")
    model, tokenizer, _ = scripted("baseline", lambda p: [script[p]] if p < len(script) else ids(vocabulary, "x"))
    [completion] = generate.complete(model, tokenizer, ["a"], 40, 1, False)
    assert completion.text == "1\n2\n"
    assert completion.stopped
    assert completion.tokens == len(ids(vocabulary, "1\n2\nUser:"))


def test_samples_are_drawn_from_the_seed_by_their_probabilities(babbling):
    """Of 4,000 draws each id has its softmax share at the temperature, within four standard errors."""
    model, tokenizer, _ = babbling("baseline")
    drawn = [
        [c.text for c in generate.complete(model, tokenizer, ["a"] * 4000, 1, 4000, True, 0.5, seed)]
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    with torch.no_grad():
        logits = model(torch.tensor([tokenizer("a")["input_ids"]])).logits[0, -1]
    logits[unsayable(tokenizer)] = -torch.inf
    shares = {}
    for i, share in enumerate((logits / 0.5).softmax(-1).tolist()):  # many a byte alone is the same text
        text = tokenizer.decode([i]).partition("\n")[0]
        shares[text] = shares.get(text, 0) + share
    for text, share in sorted(shares.items(), key=lambda of: -of[1])[:8]:
        margin = 4 * (share * (1 - share) / 4000) ** 0.5
        assert drawn[0].count(text) / 4000 == pytest.approx(share, abs=margin)
