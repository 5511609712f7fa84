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
    prompts = [example.prompt for example in Arithmetic(20).examples()[::5]]
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
    for batch in (1, 7, 128):
        assert complete(model, tokenizer, prompts, 6, batch) == alone
    assert len(set(alone)) > 20
    assert any("<MUL_" in text for text in alone) == (arm == "mul_tokens")


def test_each_prompt_of_a_batch_keeps_its_own_positions(scripted, vocabulary):
    model, tokenizer, _arm = scripted("baseline", lambda p: ids(vocabulary, chr(ord("a") + p % 26)))
    completions = complete(model, tokenizer, PROMPTS, 4, 3)
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        start = after(tokenizer, prompt)
        assert completion == "".join(chr(ord("a") + p % 26) for p in range(start, start + 4))


@pytest.mark.parametrize("end", ["\n", "eos"])
def test_a_completion_ends_at_a_newline_or_eos(scripted, vocabulary, end):
    stop = vocabulary.eos if end == "eos" else ids(vocabulary, "\n")[0]
    script = {0: ids(vocabulary, "5"), 1: ids(vocabulary, "4"), 2: [stop]}
    model, tokenizer, _arm = scripted("baseline", lambda p: script.get(p, ids(vocabulary, "x")))
    done = complete(model, tokenizer, ["a", "a b"], 12, 2)
    assert done == ["54", "4"]  # after "a b", position 1 is the first that is asked
    longest = []
    generate = model.generate
    model.generate = lambda *given, **settings: longest.append(generate(*given, **settings)) or longest[-1]
    complete(model, tokenizer, ["a", "a"], 40, 2)
    assert longest[0].shape[1] == 1 + 3  # defect R9: nothing is generated once every row has ended


def test_a_token_that_begins_with_a_newline_ends_it_too(scripted):
    """GPT-2 has one token for two newlines, within its first 512 merges."""
    vocabulary = Vocabulary(512, 45)
    [blank_line] = ids(vocabulary, "\n\n")
    script = {0: ids(vocabulary, "5"), 1: [blank_line]}
    model, tokenizer, _ = scripted("baseline", lambda p: script.get(p, ids(vocabulary, "x")), vocabulary)
    assert complete(model, tokenizer, ["a"], 12, 1) == ["5"]


@pytest.mark.parametrize("arm", ["baseline", "one_slot", "mul_tokens"])
def test_fillers_and_foreign_slots_are_never_said(scripted, vocabulary, monkeypatch, arm):
    own = len(arms.find(arm).tokens)
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


def test_a_prompt_is_never_rewritten_and_holds_no_special_token(babbling):
    """Defect R3: what is asked goes in as plain text, in every arm."""
    model, tokenizer, _ = babbling("mul_tokens")
    given = []
    generate = model.generate
    model.generate = lambda prompt, **settings: given.append(prompt) or generate(prompt, **settings)
    complete(model, tokenizer, ["so 6*9=54 and <|endoftext|>"], 2, 1)
    assert given[0].max() < 512


def test_no_more_tokens_than_asked_for_nor_than_the_context_holds(scripted, vocabulary):
    model, tokenizer, _ = scripted("baseline", lambda p: ids(vocabulary, "x"))
    assert complete(model, tokenizer, ["a"], 5, 1) == ["x" * 5]
    long = "a b c d e f g h " * 4
    room = 64 - 1 - after(tokenizer, long)
    assert 0 < room < 40
    assert complete(model, tokenizer, [long], 40, 1) == ["x" * room]


def test_a_solution_runs_over_lines_and_ends_at_a_new_turn(scripted, vocabulary):
    said = ids(vocabulary, "1\n2\nUser: 3")
    model, tokenizer, _ = scripted("baseline", lambda p: [said[p]] if p < len(said) else ids(vocabulary, "x"))
    [completion] = generate.complete(model, tokenizer, ["a"], 40, 1, False)
    assert completion.text == "1\n2\n"
    assert completion.stopped
    assert completion.tokens == len(ids(vocabulary, "1\n2\nUser:"))


def test_a_cut_completion_did_not_stop(scripted, vocabulary):
    model, tokenizer, _ = scripted("baseline", lambda p: ids(vocabulary, "x"))
    assert generate.complete(model, tokenizer, ["a"], 5, 1) == [generate.Completion("xxxxx", 5, False)]


def test_samples_are_drawn_at_a_temperature_from_the_seed_of_torch(babbling):
    model, tokenizer, _ = babbling("baseline")
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append([c.text for c in generate.complete(model, tokenizer, ["a"] * 8, 6, 8, False, 1.0)])
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) > 1
