"""The embedded word problems: every step is right, every answer follows, never-asked facts stay out of training."""

import re
from itertools import pairwise

import pytest
from hypothesis import example as such_as
from hypothesis import given, settings
from hypothesis import strategies as st

from tokentrial.facts.families import TIMES_TABLE, build_facts
from tokentrial.facts.settings import FactSettings
from tokentrial.tasks.word_problems import TEST_ROWS, WordProblems

STEP = re.compile(r"(\d+)([-+*/])(\d+)=<<(\d+)([-+*/])(\d+)=(\d+)>>(\d+)")


def steps(example):
    """Worked steps of a solution, each re-computed."""
    *lines, last = example.completion.strip().split("\n")
    assert last == f"#### {example.answer}"
    for line in lines:
        a, sign, b, a2, sign2, b2, result, stated = STEP.fullmatch(line).groups()
        assert (a, sign, b, result) == (a2, sign2, b2, stated)
        a, b, result = int(a), int(b), int(result)
        assert result == {"+": a + b, "-": a - b, "*": a * b, "/": a / b}[sign]
        yield a, sign, b, result


@such_as(seed=213, most=3, split="test")  # once sold from none, down to -1
@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), most=st.integers(1, 3), split=st.sampled_from(["train", "test"]))
def test_every_step_is_right_and_the_last_is_the_answer(seed, most, split):
    for example in WordProblems(rows=40, steps=most, seed=seed).examples(split):
        worked = list(steps(example))
        assert 1 <= len(worked) <= most
        assert str(worked[-1][3]) == example.answer
        assert int(example.answer) >= 0
        for before, after in pairwise(worked):
            assert after[0] == before[3]  # each step goes on from the one before
        numbers = re.findall(r"\d+", example.question)
        assert str(worked[0][0]) in numbers
        assert all(str(b) in numbers for _, _, b, _ in worked)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_step_of_training_uses_a_never_asked_fact(seed):
    never = TIMES_TABLE.never_asked(seed, 3)
    examples = WordProblems(rows=600, steps=3, never_asked=never).examples("train")
    used = set()
    for example in examples:
        assert example.fact not in never
        for a, sign, b, result in steps(example):
            if sign == "*":
                used.add(TIMES_TABLE.of(a, b))
            if sign == "/":
                used.add(TIMES_TABLE.of(b, result))
    assert len(used) == 24
    assert not used & never
    assert {example.fact for example in WordProblems(steps=1).examples("test")} & never  # it may be tested


def test_no_sum_of_training_is_a_never_asked_fact_where_the_facts_are_sums():
    facts = build_facts(FactSettings(family="addition", range=(1, 60)))
    never = facts.never_asked(1, 3)
    completions = [e.completion for e in WordProblems(rows=100, never_asked=never, facts=facts).examples("train")]
    assert never.isdisjoint(site.fact for completion in completions for site in facts.sites(completion))


def test_the_test_is_the_same_whatever_is_trained_and_none_of_it_stands_in_training():
    task = WordProblems(rows=1500, steps=1)
    tested = {example.question for example in task.examples("test")}
    assert (len(task.examples("test")), len(task.examples("train"))) == (TEST_ROWS, 1500)
    assert not tested & {example.question for example in task.examples("train")}
    other = WordProblems(rows=99, steps=1, never_asked=TIMES_TABLE.never_asked(1, 3))
    assert task.examples("test") == other.examples("test") != WordProblems(steps=1, seed=1).examples("test")


def test_all_four_operations_occur_and_a_problem_of_one_product_knows_its_fact():
    signs = set()
    for example in WordProblems(steps=3).examples():
        worked = list(steps(example))
        signs |= {sign for _, sign, _, _ in worked}
        a, sign, b, _ = worked[0]
        assert example.fact == (TIMES_TABLE.of(a, b) if sign == "*" and len(worked) == 1 else None)
    assert signs == {"+", "-", "*", "/"}
