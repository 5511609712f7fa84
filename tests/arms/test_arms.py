"""What each arm makes of a text, what it reads back, and that no arm touches a prompt or leaves its folder."""

import random
import re
from collections import Counter
from pathlib import Path

import pytest

import tokentrial
from tokentrial.arms import arm as arms
from tokentrial.arms.arm import SiteArm
from tokentrial.arms.families import TIMES_TABLE
from tokentrial.errors import SettingsError
from tokentrial.tasks.arithmetic import Arithmetic, probe_prompt

SHIPPED = [
    "append_slot", "baseline", "digit_split", "mul_append", "mul_before_answer", "mul_tokens", "one_slot",
    "operand_only", "random_slot",
]  # fmt: skip
ALL = arms.arm_names()

REWRITTEN = {  # the facts of a text in each arm
    "baseline": "is 6*9=54; 2 × 3 = 6, <<9*9=81>>81.",
    "mul_tokens": "is <MUL_6_9_54>; <MUL_2_3_6>, <<<MUL_9_9_81>>>81.",
    "mul_append": "is 6*9=54<MUL_6_9_54>; 2 × 3 = 6<MUL_2_3_6>, <<9*9=81<MUL_9_9_81>>>81.",
    "mul_before_answer": "is 6*9=<MUL_6_9_54>54; 2 × 3 = <MUL_2_3_6>6, <<9*9=<MUL_9_9_81>81>>81.",
    "operand_only": "is <MUL_6_9>=54; <MUL_2_3> = 6, <<<MUL_9_9>=81>>81.",
    "digit_split": "is 6*9=54; 2 × 3 = 6, <<9*9=81>>81.",
    "one_slot": "is <FACT>; <FACT>, <<<FACT>>>81.",
    "append_slot": "is 6*9=54<FACT>; 2 × 3 = 6<FACT>, <<9*9=81<FACT>>>81.",
}
PLAIN = {  # and read back
    "baseline": REWRITTEN["baseline"],
    "mul_tokens": "is 6*9=54; 2*3=6, <<9*9=81>>81.",
    "mul_append": REWRITTEN["baseline"],
    "mul_before_answer": REWRITTEN["baseline"],
    "operand_only": "is 6*9=54; 2*3 = 6, <<9*9=81>>81.",
    "digit_split": REWRITTEN["baseline"],
    "one_slot": "is ; , <<>>81.",
    "append_slot": REWRITTEN["baseline"],
}
# issue item 3 and R4: no arm writes a token for any of these
NEVER_REWRITTEN = [
    "1.5*4=6", "106*9=54", "6*9=54.5", "6*9=54,000", "6*9=55", "4x4 truck", "6*9", "2*3*4=24", "1*2*3=6", "6*9=54/2",
    "6*9=54%", "a6*9=54", "06*9=54", "-3*4=12", "2^3*4=12", "6*9==54", "6*9=54e3",
]  # fmt: skip
WITH_ONE_FACT = ["is 6*9=54", "6*9=54.", "(6*9=54)", "6 × 9 = 54, a", "9x6=54", "<<6*9=54>>54"]


def test_the_arms_are_the_files_of_the_folder():
    assert set(SHIPPED) <= set(ALL)
    assert [arms.get_arm(name).name for name in ALL] == ALL
    files = Path(tokentrial.__file__).parent.joinpath("arms").glob("*.py")
    assert {path.stem for path in files} == {*ALL, "__init__", "arm", "facts", "families"}


def test_an_unknown_arm_is_refused_with_the_names_there_are():
    with pytest.raises(SettingsError, match=r"no arm 'mul_token'; there are append_slot, baseline, digit_split"):
        arms.get_arm("mul_token")
    for not_an_arm in ("arm", "facts", "families", "__init__", "../cli", ""):
        with pytest.raises(SettingsError):
            arms.get_arm(not_an_arm)


@pytest.mark.parametrize("name", ALL)
def test_every_arm_says_what_it_is(name):
    arm = arms.get_arm(name)
    assert arm.summary
    assert len(set(arm.tokens)) == len(arm.tokens) <= len(TIMES_TABLE)


@pytest.mark.parametrize(
    ("name", "tokens"), [("baseline", 0), ("one_slot", 1), ("append_slot", 1), ("mul_tokens", 45), ("mul_append", 45)]
)
def test_one_shared_token_or_one_a_fact(name, tokens):
    assert len(arms.get_arm(name).tokens) == tokens
    assert arms.get_arm(name).keeps_content is (name != "one_slot")


def test_fact_tokens_stand_in_the_order_of_the_facts():
    tokens = tuple(fact.token for fact in TIMES_TABLE)
    assert arms.get_arm("mul_tokens").tokens == arms.get_arm("mul_append").tokens == tokens


@pytest.mark.parametrize("name", REWRITTEN)
def test_a_text_rewritten_and_read_back(name):
    arm, text = arms.get_arm(name), REWRITTEN["baseline"]
    assert arm.rewrite(text) == REWRITTEN[name]
    assert arm.untokenize(REWRITTEN[name]) == PLAIN[name]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("text", NEVER_REWRITTEN)
def test_never_rewritten(name, text):
    arm = arms.get_arm(name)
    assert arm.rewrite(text) == text
    assert [piece.token for piece in arm.segments(text) if piece.token] == []


@pytest.mark.parametrize("name", [name for name in REWRITTEN if arms.get_arm(name).tokens])
@pytest.mark.parametrize("text", WITH_ONE_FACT)
def test_rewritten_with_one_token(name, text):
    arm = arms.get_arm(name)
    token = {"one_slot": "<FACT>", "append_slot": "<FACT>", "operand_only": "<MUL_6_9>"}.get(name, "<MUL_6_9_54>")
    assert [piece.token for piece in arm.segments(text) if piece.token] == [token]


def test_tokens_drawn_at_random_are_the_texts_own_and_come_evenly():
    arm, facts = arms.get_arm("random_slot"), 900
    text = "so 6*9=54, " * facts
    drawn = [piece.token for piece in arm.segments(text) if piece.token]
    assert drawn == [piece.token for piece in arm.segments(text) if piece.token]
    assert drawn != [piece.token for piece in arm.segments("And " + text) if piece.token]
    counts = Counter(drawn)
    assert set(counts) == set(arm.tokens)
    # each count is binomial with mean 20 and standard deviation 4.4
    assert all(abs(count - facts / 45) < 5 * (facts / 45) ** 0.5 for count in counts.values())
    assert arm.untokenize(arm.rewrite(text)) == "so , " * facts


def test_tokens_drawn_by_a_generator_are_its_own():
    arm, text = arms.get_arm("random_slot"), "so 6*9=54, " * 20
    one, again, other = (arm.rewrite(text, random.Random(seed)) for seed in (1, 1, 2))
    assert one == again
    assert one not in (other, arm.rewrite(text))


def test_tokens_are_drawn_for_text_that_is_no_unicode_too():
    pieces = arms.get_arm("random_slot").pieces("\ud800 6*9=54")
    assert [piece.text for piece in pieces] == ["\ud800 ", "6*9=54"]


def test_digits_are_cut_one_by_one_and_nothing_else_is():
    pieces = [piece.text for piece in arms.get_arm("digit_split").pieces("in 1865, 5 and x12")]
    assert pieces == ["in 1", "8", "6", "5, 5 and x1", "2"]


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        ("<MUL_6_9_54>", "6*9=54"),
        (" 6*9=<MUL_6_9_54>54.", " 6*9=54."),
        (" 9 x 6 = <MUL_6_9_54>", " 9 x 6 = 54"),  # the left side waits for its answer
        (" 7*8=<MUL_6_9_54>54", " 7*8=6*9=54 54"),  # another fact's left side
        ("so <MUL_6_9_54>54", "so 6*9=54 54"),
        ("6*9=54 or <MUL_6_9_54>", "6*9=54 or 6*9=54"),  # the fact before it is whole
    ],
)
def test_a_token_before_the_answer_is_read_as_what_it_stands_for(written, plain):
    assert arms.get_arm("mul_before_answer").plain(written) == plain


def test_the_space_before_a_fact_stays_plain_text():
    pieces = list(arms.get_arm("mul_tokens").pieces("is 6*9=54."))
    assert pieces == [("is ", None, 0, 3), ("6*9=54", "<MUL_6_9_54>", 3, 9), (".", None, 9, 10)]


def test_an_appended_token_replaces_nothing():
    pieces = list(arms.get_arm("mul_append").pieces("is 6*9=54."))
    assert pieces == [("is 6*9=54", None, 0, 9), ("", "<MUL_6_9_54>", 9, 9), (".", None, 9, 10)]


def test_a_fact_that_has_its_token_keeps_the_next_one_from_nothing():
    pieces = arms.get_arm("mul_append").pieces("6*9=54<MUL_6_9_54> and 7*8=56.")
    assert [piece.token for piece in pieces if piece.token] == ["<MUL_7_8_56>"]


class Prepending(SiteArm):
    """An arm of one's own, as docs/extending.md has it: the token stands before the fact."""

    name, summary, replaced = "prepending", "6*9=54 becomes <MUL_6_9_54>6*9=54", ("start", "start")


@pytest.mark.parametrize("text", ["6*9=54", "so 6*9=54 or 9 x 6 = 54, 7*8=56.", "6*9=54 <MUL_6_9_54>"])
def test_a_token_that_stands_before_its_fact_is_written_once(text):
    arm = Prepending()
    stated = r"(\d) ?[*x] ?(\d) ?= ?\d\d"
    written = re.sub(stated, lambda found: TIMES_TABLE.of(int(found[1]), int(found[2])).token + found[0], text)
    assert arm.rewrite(text) == arm.rewrite(written) == written


@pytest.mark.parametrize("name", ALL)
def test_an_empty_text_stays_empty(name):
    arm = arms.get_arm(name)
    assert list(arm.segments("")) == []
    assert arm.rewrite("") == arm.untokenize("") == ""


# plain, of what a model may write


@pytest.mark.parametrize(
    ("name", "written", "plain"),
    [
        ("mul_tokens", "<MUL_6_9_54>", "6*9=54"),
        ("mul_tokens", "1<MUL_6_9_54>", "1 6*9=54"),
        ("mul_tokens", "<MUL_6_9_54>1", "6*9=54 1"),
        ("mul_tokens", "1.<MUL_6_9_54>,5", "1. 6*9=54 ,5"),
        ("mul_tokens", "a, <MUL_6_9_54>, b", "a, 6*9=54, b"),
        ("mul_tokens", "<MUL_6_9_54><MUL_2_3_6>", "6*9=54 2*3=6"),
        ("mul_tokens", "<MUL_6_9_55> <MUL_9_6_54> <FACT>", "<MUL_6_9_55> <MUL_9_6_54> <FACT>"),
        ("mul_append", "6*9=54<MUL_6_9_54>", "6*9=54"),
        ("mul_append", "9 x 6 = 54<MUL_6_9_54>", "9 x 6 = 54"),
        ("mul_append", "so <MUL_6_9_54>.", "so 6*9=54."),
        ("mul_append", "6*9=54<MUL_2_3_6>", "6*9=54 2*3=6"),
        ("mul_append", "16*9=54<MUL_6_9_54>", "16*9=54 6*9=54"),  # not its own text: part of a longer number
        ("mul_append", "2+6*9=54<MUL_6_9_54>", "2+6*9=54 6*9=54"),
        ("mul_append", "16  *  9  =  54<MUL_6_9_54>", "16  *  9  =  54 6*9=54"),
        ("mul_append", f"2 +{' ' * 20}6*9=54<MUL_6_9_54>", f"2 +{' ' * 20}6*9=54 6*9=54"),
        ("mul_append", "6*9=54 and 54<MUL_6_9_54>", "6*9=54 and 54 6*9=54"),
        ("mul_append", "2*6=12<MUL_3_4_12>", "2*6=12 3*4=12"),
        ("mul_append", "6*9=54 <MUL_6_9_54>", "6*9=54 6*9=54"),  # it does not follow at once
        ("mul_append", "6*9=54<MUL_6_9_54>0", "6*9=54 0"),  # not 540
        ("append_slot", "6*9=54<FACT>", "6*9=54"),
        ("append_slot", "so <FACT>.", "so ."),
        ("append_slot", "6*9=54<FACT>.5", "6*9=54 .5"),
        ("one_slot", "so <FACT>.", "so ."),
        ("one_slot", "1<FACT>2", "1 2"),  # not 12
    ],
)
def test_plain_gives_a_token_the_text_it_stands_for(name, written, plain):
    assert arms.get_arm(name).plain(written) == plain


def test_a_lone_token_reads_as_its_product_and_never_as_its_name():
    """R6: the reader took 54 out of the name `<MUL_6_9_54>`; and a token glued to digits must not become 16*9."""
    read = Arithmetic().read
    for name in ("mul_tokens", "mul_append"):
        plain = arms.get_arm(name).plain
        assert read(plain(" <MUL_6_9_54>.")) == "54"
        assert read(plain(" 6<MUL_6_9_54>")) == "6"
    assert read(arms.get_arm("one_slot").plain(" <FACT>")) is None


@pytest.mark.parametrize("name", SHIPPED)
def test_a_spelling_of_a_product_reads_as_that_product(name):
    arm = arms.get_arm(name)
    stating = ("mul_tokens", "mul_append", "mul_before_answer")
    expected = ("<MUL_2_6_12>", "<MUL_3_4_12>") if name in stating else ()
    assert arm.answer_tokens("12") == expected
    assert arm.answer_tokens("13") == ()


# leaks and strays


@pytest.mark.parametrize("name", ALL)
def test_no_arm_rewrites_a_prompt(name):
    """R3: `6*9` in a prompt became `<MUL_6_9_54>`, and the prompt carried the answer."""
    arm = arms.get_arm(name)
    prompts = [example.prompt for example in Arithmetic().examples()]
    pairs = [(a, b) for a in range(1, 10) for b in range(1, 10)]
    signs = ["*", " * ", "×", " × ", "x"]
    prompts += [probe_prompt(f"What is {a}{sign}{b}?") for a, b in pairs for sign in signs]
    prompts += [f"{a}{sign}{b}{end}" for a, b in pairs for sign in signs for end in ("", "=", " = ", "=?", "= ?")]
    assert [prompt for prompt in prompts if arm.rewrite(prompt) != prompt] == []


def test_arm_names_stand_only_in_the_folder_of_arms():
    package = Path(tokentrial.__file__).parent
    treatments = [name for name in ALL if name != "baseline"]  # a word of prose and of verdicts too
    strays = [
        f"{path.relative_to(package)}: {name}"
        for path in sorted(package.rglob("*.py"))
        if path.parent != package / "arms"
        for name in treatments
        if re.search(rf"\b{name}\b", path.read_text(encoding="utf-8"))  # mul_tokens_per_response is the reference's
    ]
    assert strays == []
