"""The probes, and how an answer is read: the same reader for every arm, in training, reward and evaluation."""

import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokentrial.facts.facts import Fact
from tokentrial.facts.families import TIMES_TABLE, build_facts
from tokentrial.facts.settings import FactSettings
from tokentrial.tasks.arithmetic import Arithmetic, fact_means, mean_over_facts, table_subsets, was_asked
from tokentrial.trial.load import load

EXAMPLES = Arithmetic().examples()
BY_TASK = {task: [e for e in EXAMPLES if e.task == task] for task in dict.fromkeys(e.task for e in EXAMPLES)}
CAPITALS = build_facts(load("smoke", ["facts={csv: tests/capitals.csv}"]).facts)

# what each question asks, worked out from its words
WORDS = {
    "mul_table": (r"What is ([1-9]) times ([1-9])\?", lambda a, b: a * b),
    "mul_multidigit": (r"What is ([1-9][0-9]) times ([2-9])\?", lambda a, b: a * b),
    "addition": (r"What is ([0-9]+) plus ([0-9]+)\?", lambda a, b: a + b),
    "division": (r"What is ([0-9]+) divided by ([2-9])\?", lambda a, b: a // b if a % b == 0 else None),
    "subtraction": (r"What is ([0-9]+) minus ([0-9]+)\?", lambda a, b: a - b if a >= b else None),
    "two_step": (r"What is ([1-9]) times ([1-9]) plus ([1-9])\?", lambda a, b, c: a * b + c),
}


# the items


def test_the_references_281_probes_and_a_hundred_each_of_three_more():
    sizes = {task: len(examples) for task, examples in BY_TASK.items()}
    assert sizes == dict.fromkeys(WORDS, 100) | {"mul_table": 81}
    assert sizes["mul_table"] + sizes["mul_multidigit"] + sizes["addition"] == 281


@pytest.mark.parametrize("task", WORDS)
def test_every_answer_is_right_and_every_prompt_asks_in_the_one_form(task):
    words, solve = WORDS[task]
    for example in BY_TASK[task]:
        operands = tuple(map(int, re.fullmatch(words, example.question).groups()))
        assert example.operands == operands
        assert example.answer == str(solve(*operands))
        assert example.prompt == f"User: {example.question}\nAssistant: The answer is"
        assert example.completion == f" {example.answer}."
        assert example.fact == (TIMES_TABLE.of(*operands) if task == "mul_table" else None)
        assert Arithmetic().score(example, example.completion)
        for wrong in (f" {solve(*operands) + 1}.", f" {example.answer}0.", ""):
            assert not Arithmetic().score(example, wrong)


def test_the_table_asks_every_pair_in_both_orders_with_the_floors_of_the_reference():
    """Constant answer 4/81, echo the larger operand 17/81, echo either operand 9/81 (FACTS R11)."""
    table = Arithmetic().table()
    assert [example.operands for example in table] == [(a, b) for a in range(1, 10) for b in range(1, 10)]
    assert max(Counter(example.answer for example in table).values()) == 4
    assert sum(example.answer == str(max(example.operands)) for example in table) == 17
    assert sum(example.answer == str(example.operands[0]) for example in table) == 9


def test_the_items_follow_from_the_seed_alone():
    assert Arithmetic(100, 0).examples() == EXAMPLES != Arithmetic(100, 1).examples()
    assert [e for e in Arithmetic(10, 0).examples() if e.task == "addition"] == BY_TASK["addition"][:10]


# the reader


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        (" 54.", "54"),
        (" is 54, or 12", "54"),  # the first number
        (" 6*9=54.", "54"),  # after a leading equation the number that follows
        (" 6 × 9 = 54", "54"),
        (" 6*9=", "6"),  # no equation without its result
        (" so 6*9=54", "6"),  # the equation does not lead
        (" 12*3=36 is", "36"),
        (" 6*9=-54", "-54"),
        (" 5\n4", "5"),  # cut at a newline
        ("\n54", None),
        (" none<|endoftext|>54", None),  # at eos
        (" none User: 54", None),  # at the next question
        ("", None),
        (" fifty-four", None),
        (" ٥٤", None),
        (" 54.9", "54.9"),  # another number than 54
        (" 54, 9", "54"),
        (" 1,234.", "1234"),
        (" 6*9=54.5", "54.5"),
    ],
)
def test_the_answer_of_a_completion(completion, answer):
    assert Arithmetic().extract_answer(completion) == answer


@given(st.text(max_size=40))
def test_any_text_is_read_without_an_error(text):
    for facts in (TIMES_TABLE, CAPITALS):
        answer = Arithmetic(facts=facts).extract_answer(text)
        assert answer is None or answer in text or answer in text.replace(",", "")


def test_of_answers_that_are_decimals_none_is_read_in_another_number():
    task = Arithmetic(facts=build_facts(FactSettings(rows=(("6", "/", "2", "3"), ("7", "/", "2", "3.5")))))
    read = {" 3.": "3", " 3.5.": "3.5", " 7/2=3.5": "3.5", " 3.57": "3.57", " 3.7": "3.7", " 3,5": "3,5"}
    assert {text: task.extract_answer(text) for text in read} == read


# subsets of the table


def rows():
    """Evaluated items: fact 2*3 never asked, right in one of its two orders; the squares asked and right."""
    facts = {"1*5=5": None, "2*3=6": False, "4*4=16": True, "5*5=25": True}
    table = [
        {"task": "mul_table", "fact": fact, "asked": asked, "correct": right}
        for fact, asked in facts.items()
        for right in ([True, False] if fact in ("1*5=5", "2*3=6") else [True])
    ]
    return [*table, {"task": "addition", "fact": None, "asked": None, "correct": True}]


def test_whether_a_fact_was_asked_is_looked_up_and_not_searched_for(monkeypatch):
    """Of the 10,000 facts that a trial may have, a search for each would take 50 million comparisons."""
    facts = build_facts(FactSettings(rows=tuple((f"word {number}", f"answer {number}") for number in range(1000))))
    never, compared, equal = facts.never_asked(1, 4), [], Fact.__eq__
    monkeypatch.setattr(Fact, "__eq__", lambda *both: compared.append(both) or equal(*both))
    asked = [was_asked(fact, facts, never) for fact in facts]
    assert asked == [number % 4 != 1 for number in range(1000)]
    assert len(compared) < 5000
    assert was_asked(None, facts, never) is None


def test_subsets_of_the_table():
    sizes = {name: len(subset) for name, subset in table_subsets(rows()).items()}
    assert sizes == {"all": 6, "from_2": 4, "asked": 2, "never_asked": 2}


def test_the_mean_is_over_unordered_facts():
    """A square has one order and a pair two: over items 3 of 4, over facts (1/2 + 1 + 1) / 3."""
    subset = table_subsets(rows())["from_2"]
    assert fact_means(subset, "correct") == {"2*3=6": 0.5, "4*4=16": 1.0, "5*5=25": 1.0}
    assert mean_over_facts(subset, "correct") == pytest.approx(2.5 / 3)
