"""The laws of an arm, over texts that mix facts, near-facts, spaces, operators, token names and any character.

Spans and what is left of a text are taken from `sites`, which tests/arms/test_facts.py holds to the written rule.
"""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tokentrial.arms import arm as arms
from tokentrial.arms.families import TIMES_TABLE

ALL = arms.arm_names()
KEEPING = [name for name in ALL if arms.get_arm(name).keeps_content]
NAMES = sorted({token for name in ALL for token in arms.get_arm(name).tokens})

canonical = st.sampled_from(TIMES_TABLE).map(lambda fact: fact.equation)
factor, gap = st.integers(1, 9), st.sampled_from(["", " ", "  "])
fact_texts = st.builds(
    lambda a, b, sign, gaps: f"{a}{gaps[0]}{sign}{gaps[1]}{b}{gaps[2]}={gaps[3]}{a * b}",
    *(factor, factor, st.sampled_from("*×x"), st.tuples(gap, gap, gap, gap)),
)
near_facts = st.builds(
    lambda a, sign, b, equals, c: f"{a}{sign}{b}{equals}{c}",
    *(st.integers(0, 30), st.sampled_from(["*", "×", "x", " * ", "**"]), st.integers(0, 30)),
    *(st.sampled_from(["=", " = ", "==", ""]), st.integers(0, 100)),
)
marks = st.sampled_from([*" .,;:%$+-*×x/^=_−<>()0123456789ae\n\t", "\u00a0", "   ", "\r\n", ", ", ". ", "² ", "😀"])
plain_pieces = st.one_of(fact_texts, near_facts, marks, st.text(max_size=5))
beside = st.text("0123456789., ", max_size=3)
separated = st.sampled_from([" ", "\n", " and ", ", ", ". ", "; ", " (", ") ", ">> <<"])

texts = st.lists(st.one_of(plain_pieces, plain_pieces, st.sampled_from(NAMES)), max_size=8).map("".join)
nameless = st.lists(plain_pieces, max_size=8).map("".join).filter(lambda text: not any(n in text for n in NAMES))
# canonical facts and words, each set off from the next
written_canonically = st.lists(st.tuples(st.one_of(canonical, st.just("word")), separated), max_size=8).map(
    lambda parts: "".join(piece for part in parts for piece in part)
)


def equation(fact):
    return fact.equation


def with_each_site(text, write):
    """The text with every site replaced by `write(fact)`, all else as it is."""
    done, position = "", 0
    for site in TIMES_TABLE.sites(text):
        done += text[position : site.start] + write(site.fact)
        position = site.end
    return done + text[position:]


@pytest.mark.parametrize("name", ALL)
@given(text=texts)
@example(text="6*9=54<MUL_6_9_54> 6*9=54<FACT> 2*3=6<MUL_6_9_54>")
def test_rewriting_twice_is_rewriting_once(name, text):
    arm = arms.get_arm(name)
    once = arm.rewrite(text)
    assert arm.rewrite(once) == once


@pytest.mark.parametrize("name", ALL)
@given(text=texts)
def test_pieces_cover_the_text_exactly_and_in_order(name, text):
    position, source = 0, ""
    for piece in arms.get_arm(name).pieces(text):
        assert piece.start == position <= piece.end
        assert piece.text == text[piece.start : piece.end]
        assert piece.token or piece.text
        position, source = piece.end, source + piece.text
    assert source == text
    assert position == len(text)


@pytest.mark.parametrize("name", ALL)
@given(text=texts)
@example(text="1 6*9=54, 2 × 3 = 6")
def test_every_token_stands_for_a_site_or_beside_one(name, text):
    arm = arms.get_arm(name)
    sites = list(TIMES_TABLE.sites(text))
    spans = {(site.start, end) for site in sites for end in (site.left, site.end)}
    edges = {(edge, edge) for site in sites for edge in (site.start, site.answer, site.end)}
    for piece in arm.segments(text):
        if piece.token:
            assert piece.token in arm.tokens
            assert (piece.start, piece.end) in spans | edges


@pytest.mark.parametrize("name", [name for name in ALL if arms.get_arm(name).tokens])
@given(text=nameless)
def test_every_site_has_one_token(name, text):
    tokens = [piece.token for piece in arms.get_arm(name).pieces(text) if piece.token]
    assert len(tokens) == len(list(TIMES_TABLE.sites(text)))


@pytest.mark.parametrize("name", ["mul_append", "mul_before_answer", "mul_tokens"])
@given(text=nameless)
def test_the_token_of_a_site_is_that_of_its_fact(name, text):
    tokens = [piece.token for piece in arms.get_arm(name).pieces(text) if piece.token]
    assert tokens == [site.fact.token for site in TIMES_TABLE.sites(text)]


@pytest.mark.parametrize("name", KEEPING)
@given(text=written_canonically)
def test_canonical_facts_are_given_back_byte_for_byte(name, text):
    arm = arms.get_arm(name)
    assert arm.untokenize(arm.rewrite(text)) == text
    assert len(list(TIMES_TABLE.sites(text))) == text.count("=")


@pytest.mark.parametrize("name", KEEPING)
@given(text=nameless)
@example(text="9x6=54 or 6 × 9 = 54")
def test_every_fact_is_given_back_in_order_and_all_else_as_it_was(name, text):
    arm = arms.get_arm(name)
    back = arm.untokenize(arm.rewrite(text))
    assert [site.fact for site in TIMES_TABLE.sites(back)] == [site.fact for site in TIMES_TABLE.sites(text)]
    assert with_each_site(back, equation) == with_each_site(text, equation)


@pytest.mark.parametrize("name", ["baseline", "mul_append", "mul_before_answer", "append_slot", "digit_split"])
@given(text=nameless)
@example(text="2 × 3 = 6, 9x6=54\u00a0- and (1 * 1=1)")
def test_the_arms_that_leave_the_text_give_it_back_byte_for_byte(name, text):
    arm = arms.get_arm(name)
    assert arm.untokenize(arm.rewrite(text)) == text


@given(text=nameless)
def test_mul_tokens_gives_every_fact_back_canonically(text):
    arm = arms.get_arm("mul_tokens")
    assert arm.untokenize(arm.rewrite(text)) == with_each_site(text, equation)


@pytest.mark.parametrize("name", [name for name in ALL if name not in KEEPING])
@given(text=nameless)
def test_an_arm_that_drops_the_content_drops_nothing_else(name, text):
    arm = arms.get_arm(name)
    assert arm.untokenize(arm.rewrite(text)) == with_each_site(text, lambda fact: "")


@pytest.mark.parametrize("name", ALL)
@given(text=texts)
def test_no_token_is_left_in_plain_text(name, text):
    arm = arms.get_arm(name)
    back = arm.untokenize(arm.rewrite(text))
    assert not any(token in back for token in arm.tokens)


@pytest.mark.parametrize("name", ["mul_tokens", "mul_append", "mul_before_answer"])
@given(before=beside, fact=st.sampled_from(TIMES_TABLE), after=beside)
def test_a_lone_token_never_becomes_part_of_a_number_beside_it(name, before, fact, after):
    left, right = arms.get_arm(name).plain(before + fact.token + after).split(fact.equation)
    assert left in (before, before + " ")
    assert right in (after, " " + after)
    assert not re.search(r"[0-9][.,]?$", left)
    assert not re.match(r"[.,]?[0-9]", right)
