"""The 45 facts, the sites of a text, and the folds of facts that a seed never asks."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokentrial.facts.facts import DRILL_FORMS
from tokentrial.facts.families import TIMES_TABLE

HARD = {fact for fact in TIMES_TABLE if fact.operands[0] >= 2}

# defect R4 of the original report, and the rules one neighbour at a time
NO_SITE = {
    "the reference's": ["1.5*4=6", "106*9=54", "6*9=54.5", "6*9=54,000", "4x4 truck", "1*2*3=6", "-3*4=12", "2^3*4=12"],
    "another number": ["6*9=55", "0*9=0", "6*0=0", "10*5=50", "6*9=5", "6*9=045", "2*3=06", "06*9=54", "6*9=54e3"],
    "not all of it": ["6*9", "6*9=", "=54", "", "6 9=54", "6*9:54"],
    "other signs": ["6**9=54", "6X9=54", "6*9==54", "6*9≠54", "٦*٩=٥٤", "6*9\n=54", "6*9   =54", "6*9=   54"],
    "a digit, a letter or _ before": ["16*9=54", "x6*9=54", "_6*9=54", "é6*9=54", "٣6*9=54", "²6*9=54"],
    "a digit, a letter or _ after": ["6*9=540", "6*9=54x", "6*9=54_", "6*9=54km", "6*9=54²", "6*9=54٣"],
    "a point, a comma or $ before": [".6*9=54", "1,6*9=54", "$6*9=54"],
    "a decimal, a thousands group or % after": ["6*9=54.0", "6*9=54,0 m", "2*2=4.5", "6*9=54%"],
    "an operator before": [f"2{sign}6*9=54" for sign in "+-*×x/^=−÷"],
    "an operator and spaces before": [f"2 {sign}  6*9=54" for sign in "+-*×x/^=−"],
    "an operator after": [f"6*9=54{sign}2" for sign in "+-*×x/^=−"],
    "an operator and spaces after": [f"6*9=54  {sign} 2" for sign in "+-*×x/^=−"],
    "an operator at the edge of the text": ["x 6*9=54", "6*9=54 x", "- 6*9=54", "6*9=54 ="],
    "an operator that is just near enough": [f"1 +{' ' * 31}6*9=54", f"6*9=54{' ' * 31}+ 1"],
    "another kind of space beside an operator": ["2 +\t6*9=54", "2 +\u00a06*9=54", "6*9=54\t+ 2"],
}
SITE = [  # each states exactly what stands in brackets
    "is [6*9=54]", "[6*9=54].", "([6*9=54])", "[6 × 9 = 54], a", "[9x6=54]", "<<[6*9=54]>>54 apples", "[9 *9= 81]!",
    "so [6  ×  9  =  54]", "box [6*9=54]", "an ox [6*9=54]", "[6*9=54] xi", "so [6*9=54] xylophones", "one, [6*9=54]",
    "Done. [6*9=54]", "'[6*9=54]': yes", "[6*9=54]. 5 more", "[6*9=54], 5 more", "[6*9=54]\n- an item",
    "1 +\n[6*9=54]", "50% [6*9=54]", "[6*9=54] and [2*3=6];[1*1=1]\n[9*9=81]",
    "[6*9=54] xi is", "- X [6*9=54] X - 1", f"1 +{' ' * 32}[6*9=54]", f"[6*9=54]{' ' * 32}+ 1",
    f"box{' ' * 31}[6*9=54]", f"[6*9=54]{' ' * 31}xylophones",
]  # fmt: skip


def site_texts(text):
    return [text[site.start : site.end] for site in TIMES_TABLE.sites(text)]


def test_the_facts_are_the_unordered_pairs_in_the_order_of_the_reference():
    pairs = [(a, b) for a in range(1, 10) for b in range(a, 10)]
    assert [fact.token for fact in TIMES_TABLE] == [f"<MUL_{a}_{b}_{a * b}>" for a, b in pairs]
    assert TIMES_TABLE.of(9, 6) == TIMES_TABLE.of(6, 9) == TIMES_TABLE.by_token["<MUL_6_9_54>"]
    assert len(TIMES_TABLE.answers) == 36  # the floor of choice_logprob is -ln 36
    assert [TIMES_TABLE.index_of[fact] for fact in TIMES_TABLE] == list(range(45))
    assert all(set(wording.drill_lines) == set(DRILL_FORMS) for fact in TIMES_TABLE for wording in fact.wordings)


@pytest.mark.parametrize("why", NO_SITE)
def test_never_a_site(why):
    assert [text for text in NO_SITE[why] if site_texts(text)] == []


@pytest.mark.parametrize("marked", SITE)
def test_a_site_is_the_whole_fact_and_nothing_more(marked):
    assert site_texts(re.sub(r"[\[\]]", "", marked)) == re.findall(r"\[(.*?)\]", marked)


# An oracle: the rule as it is written down, asked of every span of a short text.

SPAN = re.compile(r"([1-9]) {0,2}[*×x] {0,2}([1-9]) {0,2}= {0,2}([1-9][0-9]?)")
OPERATORS = set("+-*×/÷^=−")


def is_site(text, start, end):
    span = SPAN.fullmatch(text, start, end)
    if not span or int(span[1]) * int(span[2]) != int(span[3]):
        return False
    before, after = text[:start], text[end:]
    if before and (before[-1].isalnum() or before[-1] in "_.,$"):
        return False
    if after and (after[0].isalnum() or after[0] in "_%" or re.match(r"[.,]\d", after)):
        return False
    left, right = before.rstrip(" \t\u00a0"), after.lstrip(" \t\u00a0")
    times_before = left.endswith("x") and not left[:-1][-1:].isalpha()  # "2 x", not "box"
    times_after = right.startswith("x") and not right[1:2].isalpha()
    return not (left[-1:] in OPERATORS or times_before or right[:1] in OPERATORS or times_after)


near_facts = st.builds(
    lambda a, sign, b, equals, c: f"{a}{sign}{b}{equals}{c}",
    st.sampled_from(["2", "3", "6", "06", "1.5"]),
    st.sampled_from(["*", "×", "x", " * ", "  x", "*2*", " "]),
    st.sampled_from(["3", "2", "4"]),
    st.sampled_from(["=", " = ", "==", "  =", "=\n"]),
    st.sampled_from(["6", "12", "9", "4", "8", "18", "6.5", "60"]),
)
parts = st.one_of(near_facts, st.sampled_from([*" .,%$+-x×*/^=_a5\n\t(<>", "2*3=6", "2*3=6", "3 × 4 = 12", "", "ex "]))


@settings(max_examples=300)
@given(st.lists(parts, max_size=5).map("".join))
def test_sites_are_the_spans_that_the_rule_names_and_no_others(text):
    spans = [(i, j) for i in range(len(text)) for j in range(i + 5, min(i + 17, len(text) + 1)) if is_site(text, i, j)]
    assert [(site.start, site.end) for site in TIMES_TABLE.sites(text)] == spans


# never asked


@pytest.mark.parametrize("folds", [2, 3, 4, 12])
def test_the_folds_partition_the_36_facts_without_a_factor_of_one(folds):
    parts = [TIMES_TABLE.never_asked(seed, folds) for seed in range(folds)]
    assert {len(part) for part in parts} == {36 // folds}
    assert frozenset().union(*parts) == HARD
    assert TIMES_TABLE.never_asked(10**6 * folds + 1, folds) == parts[1]  # they take turns
    assert TIMES_TABLE.never_asked(7, 0) == frozenset()  # without folds every fact is asked


def test_the_three_folds_are_about_equally_hard():
    parts = [TIMES_TABLE.never_asked(seed, 3) for seed in range(3)]
    assert {sum(fact.operands[0] == fact.operands[1] for fact in part) for part in parts} <= {2, 3}  # eight squares
    mean = sum(int(fact.answer) for fact in HARD) / 36
    assert [sum(int(fact.answer) for fact in part) / 12 for part in parts] == [pytest.approx(mean, rel=0.1)] * 3
