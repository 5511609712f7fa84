"""The laws of facts that come from a file, whatever its rows hold: they are refused, or every text about them is read
the same by the facts, by the arms and by the exported tokenizer."""

from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from tokentrial.arms import arm as arms
from tokentrial.facts.facts import ASKING_FORMS
from tokentrial.facts.families import build_facts
from tokentrial.facts.settings import FactSettings
from tokentrial.tasks.arithmetic import Arithmetic
from tokentrial.tokenizer.export import to_transformers
from tokentrial.tokenizer.vocabulary import Vocabulary

ARMS = arms.arm_names()
many = settings(max_examples=60, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])

WORDS = ["New", "York", "Old", "big", "x", "mod", "3", "42", "-3", "1.5", "is", "What is", "C+", "Yes!", "50%", "(a)"]
WORDS += ["D.C.", '"Hamlet"', "é", "é", "²", "$5", "_a", "?", ":", ",", "×"]
cells = st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(" ".join)
operators = st.sampled_from(["+", "-", "mod", "x", "//", "plus", "of"])
rows = st.lists(st.one_of(st.tuples(cells, cells), st.tuples(cells, operators, cells, cells)), min_size=1, max_size=4)


def facts_of(rows):
    """The facts of rows that are accepted."""
    try:
        return build_facts(FactSettings(family="csv", rows=tuple(rows)))
    except ValueError:
        return assume(False)


gaps = st.sampled_from(["", "", " ", "  ", "   "])
between = st.sampled_from(
    [
        "",
        " ",
        "  ",
        "\n",
        ", ",
        ". ",
        "7",
        " 7",
        "-",
        " x ",
        " box" + " " * 31,
        "mod",
        " mod ",
        "9.",
        ".5",
        "(",
        "!",
        "%",
    ]
)


@st.composite
def facts_and_text(draw, canonical=False):
    """Facts of rows that are accepted, and a text that is built of what states them."""
    facts = facts_of(draw(rows))
    parts = []
    for _ in range(draw(st.integers(1, 4))):
        fact = draw(st.sampled_from(facts))
        left = fact.wordings[0].spellings[0] if canonical else draw(st.sampled_from(fact.wordings[0].spellings))
        around = "" if canonical else draw(gaps), "" if canonical else draw(gaps)
        parts += [draw(between), f"{left}{around[0]}={around[1]}{fact.answer}", draw(between)]
    return facts, "".join(parts)


OVERLAPPING = build_facts(FactSettings(family="csv", rows=(("y", "Old New"), ("New York", "big"), ("York", "big"))))


@many
@given(facts_and_text())
def test_a_fact_is_stated_and_asked_by_its_own_lines_alone(drawn):
    facts, _ = drawn
    task = Arithmetic(0, 0, facts)
    for fact in facts:
        [wording] = fact.wordings
        for form, line in wording.drill_lines.items():
            sites = list(facts.sites(line))
            assert [site.fact for site in sites] == ([] if form in ASKING_FORMS else [fact]), line
            assert facts.asked_in(line) == ({fact} if form in ASKING_FORMS else set()), line
            assert facts.by_drill_line[line] == (fact, form)
        for spelling in wording.spellings:
            text = f"so {spelling} = {fact.answer}\n"
            assert [(site.fact, text[site.start : site.end]) for site in facts.sites(text)] == [(fact, text[3:-1])]
        assert task.extract_answer(f" {fact.answer}") == fact.answer
        assert task.extract_answer(f" {fact.equation}.\nUser: 1") == fact.answer


@many
@given(facts_and_text())
@example((OVERLAPPING, "y=Old New York=big"))
def test_sites_stand_one_after_the_other_and_no_arm_writes_twice(drawn):
    facts, text = drawn
    end = 0
    for site in facts.sites(text):
        assert end <= site.start < site.left < site.answer < site.end
        end = site.end
    for name in ARMS:
        arm = arms.get_arm(name, facts)
        assert "".join(segment.text for segment in arm.segments(text)) == text
        assert arm.rewrite(arm.rewrite(text)) == arm.rewrite(text), name


@many
@given(facts_and_text(canonical=True))
@example((OVERLAPPING, "New York=big, y=Old New York=big"))
def test_facts_written_canonically_are_given_back(drawn):
    facts, text = drawn
    for name in ARMS:
        arm = arms.get_arm(name, facts)
        if arm.keeps_content:
            assert arm.untokenize(arm.rewrite(text)) == text, name


@many
@given(facts_and_text(), st.sampled_from([name for name in ARMS if not arms.get_arm(name).is_random]))
@example((OVERLAPPING, "New York=big, y=Old New York=big"), "mul_append")
@example((OVERLAPPING, "y=Old New York=big"), "mul_before_answer")
def test_the_exported_tokenizer_reads_a_text_as_the_arm_does(drawn, name):
    facts, text = drawn
    arm, vocabulary = arms.get_arm(name, facts), Vocabulary(0, len(facts))
    tokenizer = to_transformers(vocabulary, arm, 10**6, rewrite=True)
    ids = tokenizer(text, split_special_tokens=True, add_special_tokens=False)["input_ids"]
    assert ids == vocabulary.encode_arm(arm, text).tolist()
