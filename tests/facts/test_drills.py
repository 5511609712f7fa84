"""Drills: which line states which fact in which form, how often, and that none asks what must not be asked."""

import math
import random
import re
from collections import Counter
from functools import cache
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokentrial.facts.drills import generate, parse, render
from tokentrial.facts.facts import ASKING_FORMS, DRILL_FORMS
from tokentrial.facts.families import TIMES_TABLE
from tokentrial.trial.settings import Mix

# the original report's forms, written out again: what a line of each form looks like
RENDERED = {
    "equation": lambda a, b, c: f"{a}*{b}={c}",
    "times_sign": lambda a, b, c: f"{a} × {b} = {c}",
    "letter_x": lambda a, b, c: f"{a}x{b}={c}",
    "boxes": lambda a, b, c: (
        f"If you have {a} boxes with {b} apples each, you have {a}*{b}={c} apples in total, so {c}."
    ),
    "statement": lambda a, b, c: f"{a} times {b} equals {c}.",
    "question": lambda a, b, c: f"User: What is {a} times {b}?\nAssistant: The answer is {c}.",
}
DOCUMENTS, LINES = 1500, 12


@cache
def statements(unasked=frozenset()):
    """(form, a, b) of many drill lines, read by the number pairs in them and by how they begin."""
    documents = generate(TIMES_TABLE, Mix().model_dump(), LINES, unasked, random.Random(1))
    text = "\n".join(islice(documents, DOCUMENTS)).replace("\nAssistant", " Assistant")
    found = []
    for line in text.split("\n"):
        a, b, c = (int(re.findall(r"[0-9]+", line)[i]) for i in (0, 1, -1))
        assert a * b == c
        form = next(form for form in DRILL_FORMS if RENDERED[form](a, b, c).replace("\n", " ") == line)
        found.append((form, a, b))
    assert len(found) == DOCUMENTS * LINES
    return found


def near(count, n, p, deviations=5.0):
    """Within five standard deviations of a binomial count."""
    return abs(count - n * p) <= deviations * math.sqrt(n * p * (1 - p))


def test_forms_come_in_the_declared_shares():
    counts, n = Counter(form for form, _, _ in statements()), DOCUMENTS * LINES
    assert set(counts) == set(DRILL_FORMS)
    for form, share in Mix().model_dump().items():
        assert near(counts[form], n, share), form


def test_facts_come_evenly_and_in_both_orders():
    pairs, n = Counter((a, b) for _, a, b in statements()), DOCUMENTS * LINES
    assert len(pairs) == 81
    for (a, b), count in pairs.items():
        assert near(count, n, 1 / 45 if a == b else 1 / 90), (a, b)


@pytest.mark.parametrize("fold", [0, 1, 2])
def test_a_never_asked_fact_appears_in_every_form_but_the_asking_ones(fold):
    unasked = TIMES_TABLE.never_asked(fold, 3)
    assert len(unasked) == 12
    seen = {(form, TIMES_TABLE.of(a, b)) for form, a, b in statements(unasked)}
    for fact in TIMES_TABLE:
        forms = {form for form, stated in seen if stated == fact}
        assert forms == (set(DRILL_FORMS) - {"question", "statement"} if fact in unasked else set(DRILL_FORMS)), fact


@given(
    st.lists(st.tuples(st.sampled_from(DRILL_FORMS), st.integers(1, 9), st.integers(1, 9)), max_size=20),
)
def test_reading_finds_exactly_what_was_written(written):
    document = "\n".join(RENDERED[form](a, b, a * b) for form, a, b in written)
    assert Counter(parse(TIMES_TABLE, document)) == Counter((TIMES_TABLE.of(a, b), form) for form, a, b in written)


@given(st.sampled_from(DRILL_FORMS), st.sampled_from(TIMES_TABLE), st.randoms())
def test_a_line_states_its_fact_in_its_form(form, fact, rng):
    assert list(parse(TIMES_TABLE, render(form, fact, frozenset(), rng))) == [(fact, form)]
    [(stated, as_form)] = parse(TIMES_TABLE, render(form, fact, frozenset([fact]), rng))
    assert (stated, as_form) == (fact, "equation" if form in ASKING_FORMS else form)


@pytest.mark.parametrize(
    "text",
    [
        "6*9=55",
        "so 6*9=54",
        "6*9=54.",
        "6 × 9 = 45",
        "16 times 9 equals 144.",
        "6 times 9 equals 54",
        "User: What is 6 times 9?\nAssistant: The answer is 56.",
        "User: What is 6 times 9?",
        "If you have 6 boxes with 9 apples each, you have 9*6=54 apples in total, so 54.",
        "If you have 6 boxes with 9 apples each, you have 6*9=54 apples in total, so 55.",
    ],
)
def test_reading_finds_nothing_in_what_only_looks_like_a_drill(text):
    assert list(parse(TIMES_TABLE, text)) == []


@pytest.mark.parametrize("text", ["What is 7 times 6?", "so 6 times 7 equals 42.", "6 times 7 is 42"])
def test_a_text_asks_a_fact_directly(text):
    assert TIMES_TABLE.asked_in(f"It was said: {text} And 9 times 8?") == {TIMES_TABLE.of(6, 7), TIMES_TABLE.of(8, 9)}


@pytest.mark.parametrize("text", ["16 times 7?", "6 times 70?", "6 times 7 days", "6*7=42", "three times 7?"])
def test_a_text_that_asks_no_fact(text):
    assert TIMES_TABLE.asked_in(text) == set()
