"""The 45 facts, the sites of a text, and the folds of facts that a seed never asks."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokentrial.arms.families import TIMES_TABLE

HARD = {fact for fact in TIMES_TABLE if fact.operands[0] >= 2}

# item 3 of the trial's specification, and defect R4 of the reference experiment
NO_SITE = [
    "1.5*4=6", "106*9=54", "6*9=54.5", "6*9=54,000", "6*9=55", "4x4 truck", "6*9", "2*3*4=24", "1*2*3=6", "6*9=54/2",
    "6*9=54%", "a6*9=54", "06*9=54", "-3*4=12", "2^3*4=12", "6*9==54", "6*9=54e3",
]  # fmt: skip
# the same rules, one neighbour at a time
NO_SITE_BESIDE = {
    "a digit, a letter or _ before": ["16*9=54", "x6*9=54", "_6*9=54", "é6*9=54", "٣6*9=54", "²6*9=54"],
    "a digit, a letter or _ after": ["6*9=540", "6*9=54x", "6*9=54_", "6*9=54km", "6*9=54²", "6*9=54٣"],
    "a point, a comma or $ before": [".6*9=54", "1,6*9=54", "$6*9=54"],
    "a decimal or a thousands group after": ["6*9=54.0", "6*9=54,0", "2*2=4.5"],
    "an operator before": [f"2{sign}6*9=54" for sign in "+-*×x/^=−÷"],
    "an operator and spaces before": [f"2 {sign}  6*9=54" for sign in "+-*×x/^=−"],
    "an operator after": [f"6*9=54{sign}2" for sign in "+-*×x/^=−"],
    "an operator and spaces after": [f"6*9=54  {sign} 2" for sign in "+-*×x/^=−"],
    "another kind of space beside an operator": ["2 +\t6*9=54", "2 +\u00a06*9=54", "6*9=54\t+ 2"],
}
NO_SITE_IN_ITSELF = [
    "0*9=0", "6*0=0", "10*5=50", "6*9=", "=54", "6*9=5", "6*9=045", "2*3=06", "٦*٩=٥٤", "6 9=54", "6**9=54", "6X9=54",
    "6*9\n=54", "6*9:54", "6*9≠54", "6*9   =54", "6*9=   54", "",
]  # fmt: skip

SITES = {
    "is 6*9=54": "6*9=54",
    "6*9=54.": "6*9=54",
    "(6*9=54)": "6*9=54",
    "6 × 9 = 54, a": "6 × 9 = 54",
    "9x6=54": "9x6=54",
    "<<6*9=54>>54 apples": "6*9=54",
    "1*1=1": "1*1=1",
    "9*9=81": "9*9=81",
    "9 *9= 81!": "9 *9= 81",
    "so 6  ×  9  =  54": "6  ×  9  =  54",
    "box 6*9=54": "6*9=54",
    "an ox 6*9=54": "6*9=54",
    "6*9=54 xi": "6*9=54",
    "so 6*9=54 xylophones": "6*9=54",
    "one, 6*9=54": "6*9=54",
    "Done. 6*9=54": "6*9=54",
    "'6*9=54': yes": "6*9=54",
    "6*9=54. 5 more": "6*9=54",
    "6*9=54, 5 more": "6*9=54",
    "6*9=54\n- an item": "6*9=54",
    "1 +\n6*9=54": "6*9=54",
    "50% 6*9=54": "6*9=54",
}


def found(text):
    return [text[site.start : site.end] for site in TIMES_TABLE.sites(text)]


def test_forty_five_facts_in_the_order_of_the_reference():
    pairs = [(a, b) for a in range(1, 10) for b in range(a, 10)]
    assert [fact.token for fact in TIMES_TABLE] == [f"<MUL_{a}_{b}_{a * b}>" for a, b in pairs]
    assert len(TIMES_TABLE) == 45
    assert (TIMES_TABLE[0].token, TIMES_TABLE[-1].token) == ("<MUL_1_1_1>", "<MUL_9_9_81>")
    assert TIMES_TABLE.by_token["<MUL_6_9_54>"] == TIMES_TABLE.of(6, 9)
    assert len(TIMES_TABLE.answers) == 36  # the floor of choice_logprob is -ln 36


def test_a_fact_is_an_unordered_pair():
    assert TIMES_TABLE.of(9, 6) == TIMES_TABLE.of(6, 9)
    assert (TIMES_TABLE.of(6, 9).answer, TIMES_TABLE.of(6, 9).equation) == ("54", "6*9=54")


@pytest.mark.parametrize("text", [*NO_SITE, *NO_SITE_IN_ITSELF])
def test_never_a_site(text):
    assert found(text) == []


@pytest.mark.parametrize("why", NO_SITE_BESIDE)
def test_never_a_site_beside(why):
    assert [text for text in NO_SITE_BESIDE[why] if found(text)] == []


@pytest.mark.parametrize("text", SITES)
def test_a_site_is_the_whole_fact_and_nothing_more(text):
    assert found(text) == [SITES[text]]


@pytest.mark.parametrize("sign", ["*", "×", "x"])
def test_every_fact_is_a_site_in_both_orders_and_with_every_sign(sign):
    for a in range(1, 10):
        for b in range(1, 10):
            text = f"so {a}{sign}{b}={a * b}."
            assert [(site.start, site.end, site.fact) for site in TIMES_TABLE.sites(text)] == [
                (3, len(text) - 1, TIMES_TABLE.of(a, b))
            ]


def test_only_the_right_product_makes_a_site():
    for a in range(1, 10):
        for b in range(1, 10):
            assert [c for c in range(100) if found(f"{a}*{b}={c}")] == [a * b]


def test_sites_come_in_order_and_do_not_touch_each_other():
    assert found("6*9=54 and 2*3=6;1*1=1\n9*9=81") == ["6*9=54", "2*3=6", "1*1=1", "9*9=81"]


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
pieces = st.one_of(near_facts, st.sampled_from([*" .,%$+-x×*/^=_a5\n\t(<>", "2*3=6", "2*3=6", "3 × 4 = 12", "", "ex "]))


@settings(max_examples=500)
@given(st.lists(pieces, max_size=5).map("".join))
def test_sites_are_the_spans_that_the_rule_names_and_no_others(text):
    spans = [(i, j) for i in range(len(text)) for j in range(i + 5, min(i + 17, len(text) + 1)) if is_site(text, i, j)]
    assert [(site.start, site.end) for site in TIMES_TABLE.sites(text)] == spans


# never asked


@pytest.mark.parametrize("folds", [2, 3, 4, 12])
def test_the_folds_partition_the_36_facts_without_a_factor_of_one(folds):
    parts = [TIMES_TABLE.never_asked(seed, folds) for seed in range(folds)]
    assert {len(part) for part in parts} == {36 // folds}
    assert frozenset().union(*parts) == HARD
    assert len(HARD) == 36


@given(st.integers(0, 10**6))
def test_three_folds_take_turns(seed):
    assert TIMES_TABLE.never_asked(seed, 3) == TIMES_TABLE.never_asked(seed + 3, 3)
    assert TIMES_TABLE.never_asked(seed, 3) != TIMES_TABLE.never_asked(seed + 1, 3)


def test_without_folds_every_fact_is_asked():
    assert TIMES_TABLE.never_asked(0, 0) == TIMES_TABLE.never_asked(7, 0) == frozenset()


def test_the_three_folds_are_about_equally_hard():
    parts = [TIMES_TABLE.never_asked(seed, 3) for seed in range(3)]
    assert {sum(fact.operands[0] == fact.operands[1] for fact in part) for part in parts} <= {2, 3}  # eight squares
    mean = sum(int(fact.answer) for fact in HARD) / 36
    assert [sum(int(fact.answer) for fact in part) / 12 for part in parts] == [pytest.approx(mean, rel=0.1)] * 3
