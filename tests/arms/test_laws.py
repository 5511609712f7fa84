"""The laws of every arm, over texts that mix facts, near-facts, spaces, operators, token names and any character.

Spans and what is left of a text are taken from `sites`, which tests/arms/test_facts.py holds to the written rule.
"""

import re
from itertools import combinations_with_replacement

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tokentrial.arms import arm as arms
from tokentrial.facts.families import TIMES_TABLE

ARMS = [arms.get_arm(name) for name in arms.arm_names()]
TOKENS = sorted({token for arm in ARMS for token in arm.tokens})
many = settings(max_examples=250)  # each is a text for all arms

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
part = st.one_of(fact_texts, near_facts, marks, st.text(max_size=5))
neighbours = st.text("0123456789., ", max_size=3)
separators = st.sampled_from([" ", "\n", " and ", ", ", ". ", "; ", " (", ") ", ">> <<"])

texts = st.lists(st.one_of(part, part, st.sampled_from(TOKENS)), max_size=8).map("".join)
nameless = st.lists(part, max_size=8).map("".join).filter(lambda text: not any(n in text for n in TOKENS))
# canonical facts and words, each set off from the next
written_canonically = st.lists(st.tuples(st.one_of(canonical, st.just("word")), separators), max_size=8).map(
    lambda pairs: "".join(text for pair in pairs for text in pair)
)


def replace_sites(text, write):
    """The text with every site replaced by `write(fact)`, all else as it is."""
    done, position = "", 0
    for site in TIMES_TABLE.sites(text):
        done += text[position : site.start] + write(site.fact)
        position = site.end
    return done + text[position:]


@many
@given(text=texts)
@example(text="6*9=54<MUL_6_9_54> 6*9=54<FACT> 2*3=6<MUL_2_3_6>")
@example(text="1 6*9=54, 2 × 3 = 6")
def test_segments_cover_the_text_and_each_token_stands_for_a_site_or_beside_one(text):
    sites = list(TIMES_TABLE.sites(text))
    anywhere = list(combinations_with_replacement(("start", "left", "answer", "end"), 2))
    for arm in ARMS:
        points = [arm.site_span] if isinstance(arm, arms.SiteArm) else anywhere
        spans = {(getattr(site, a), getattr(site, b)) for site in sites for a, b in points}
        position = 0
        for segment in arm.segments(text):
            assert segment.start == position <= segment.end
            assert segment.text == text[segment.start : segment.end]
            assert segment.token or segment.text
            assert segment.token is None or (segment.token in arm.tokens and (segment.start, segment.end) in spans)
            position = segment.end
        assert position == len(text), arm.name


@many
@given(text=texts)
@example(text="6*9=54<MUL_6_9_54> 6*9=54<FACT> 2*3=6<MUL_2_3_6>")
def test_rewriting_twice_is_rewriting_once_and_no_token_is_left_when_it_is_undone(text):
    for arm in ARMS:
        rewritten = arm.rewrite(text)
        assert arm.rewrite(rewritten) == rewritten, arm.name
        back = arm.untokenize(rewritten)
        assert not any(token in back for token in arm.tokens), arm.name


@many
@given(text=nameless)
def test_every_site_has_one_token_that_of_its_fact_where_it_names_one(text):
    facts = [site.fact for site in TIMES_TABLE.sites(text)]
    for arm in ARMS:
        tokens = [segment.token for segment in arm.segments(text) if segment.token]
        assert len(tokens) == (len(facts) if arm.tokens else 0), arm.name
        if arm.name in ("mul_append", "mul_before_answer", "mul_tokens"):
            assert tokens == [fact.token for fact in facts], arm.name


@many
@given(text=written_canonically)
def test_canonical_facts_are_given_back_byte_for_byte(text):
    assert len(list(TIMES_TABLE.sites(text))) == text.count("=")
    for arm in ARMS:
        assert not arm.keeps_content or arm.untokenize(arm.rewrite(text)) == text, arm.name


@many
@given(text=nameless)
@example(text="9x6=54 or 6 × 9 = 54")
@example(text="2 × 3 = 6, 9x6=54\u00a0- and (1 * 1=1)")
def test_what_an_arm_gives_back(text):
    """Every fact in order and all else as it was; an arm that drops the content drops nothing else."""
    canonical = replace_sites(text, lambda fact: fact.equation)
    for arm in ARMS:
        back = arm.untokenize(arm.rewrite(text))
        if not arm.keeps_content:
            assert back == replace_sites(text, lambda fact: ""), arm.name
        elif arm.name == "mul_tokens":
            assert back == canonical
        elif arm.name in ("mul_append", "mul_before_answer", "append_slot", "append_random") or not arm.tokens:
            assert back == text, arm.name
        else:
            assert [site.fact for site in TIMES_TABLE.sites(back)] == [site.fact for site in TIMES_TABLE.sites(text)]
            assert replace_sites(back, lambda fact: fact.equation) == canonical, arm.name


@many
@given(before=neighbours, fact=st.sampled_from(TIMES_TABLE), after=neighbours)
def test_a_lone_token_never_becomes_part_of_a_number_beside_it(before, fact, after):
    for name in ("mul_tokens", "mul_append", "mul_before_answer"):
        left, right = arms.get_arm(name).untokenize(before + fact.token + after).split(fact.equation)
        assert left in (before, before + " ")
        assert right in (after, " " + after)
        assert not re.search(r"[0-9][.,]?$", left)
        assert not re.match(r"[.,]?[0-9]", right)
