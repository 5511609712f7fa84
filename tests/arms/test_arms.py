"""What each arm makes of a text, what it reads back, and that no arm touches a prompt or leaves its folder."""

import re
from collections import Counter
from pathlib import Path

import pytest

import tokentrial
from tokentrial.arms import arm as arms
from tokentrial.arms.arm import SiteArm
from tokentrial.errors import SettingsError
from tokentrial.facts.families import TIMES_TABLE, build_facts
from tokentrial.facts.settings import FactSettings
from tokentrial.tasks.arithmetic import Arithmetic, probe_prompt
from tokentrial.tokenizer.vocabulary import Vocabulary

ALL = arms.arm_names()
TEXT = "is 6*9=54; 2 × 3 = 6, <<9*9=81>>81."
REWRITTEN = {  # the text in each arm, and how that is read back
    "baseline": (TEXT, TEXT),
    "digit_split": (TEXT, TEXT),
    "digit_bytes": (TEXT, TEXT),
    "digits_left": (TEXT, TEXT),
    "digits_right": (TEXT, TEXT),
    "mul_tokens": ("is <MUL_6_9_54>; <MUL_2_3_6>, <<<MUL_9_9_81>>>81.", "is 6*9=54; 2*3=6, <<9*9=81>>81."),
    "mul_append": ("is 6*9=54<MUL_6_9_54>; 2 × 3 = 6<MUL_2_3_6>, <<9*9=81<MUL_9_9_81>>>81.", TEXT),
    "mul_before_answer": ("is 6*9=<MUL_6_9_54>54; 2 × 3 = <MUL_2_3_6>6, <<9*9=<MUL_9_9_81>81>>81.", TEXT),
    "operand_only": ("is <MUL_6_9>=54; <MUL_2_3> = 6, <<<MUL_9_9>=81>>81.", "is 6*9=54; 2*3 = 6, <<9*9=81>>81."),
    "one_slot": ("is <FACT>; <FACT>, <<<FACT>>>81.", "is ; , <<>>81."),
    "append_slot": ("is 6*9=54<FACT>; 2 × 3 = 6<FACT>, <<9*9=81<FACT>>>81.", TEXT),
}


def test_the_arms_are_the_files_of_the_folder():
    assert {*REWRITTEN, "random_slot"} <= set(ALL)
    files = Path(tokentrial.__file__).parent.joinpath("arms").glob("*.py")
    assert sorted(ALL) == ALL
    assert {path.stem for path in files} == {*ALL, "__init__", "arm"}


ROWS = (
    ("What is the capital of France?", "Paris"),
    ("Who was the third of all to come here?", "Ann Lee"),  # the token's name is cut within the answer
    ("Who was the third of those that came before the others?", "Zoë"),  # and here before it
    ("5", "/", "2", "2.5"),
)


OF_ROWS = ["<FACT_0_What_is_the_capital_of_France>", "<FACT_1_Who_was_the_third_of_all_to_come_here>"]
OF_ROWS += ["<FACT_2_Who_was_the_third_of_those_that_came_bef_>", "<FACT_3_5_2>"]


@pytest.mark.parametrize(
    ("settings", "tokens"),
    [({"family": "units"}, ["<UNIT_1_km>"]), ({"rows": ROWS}, OF_ROWS), ({"family": "squares"}, ["<SQR_1>"])],
)
def test_a_token_for_the_operands_does_not_say_the_answer(settings, tokens):
    facts = build_facts(FactSettings(**settings))
    arm = arms.get_arm("operand_only", facts)
    assert [*arm.tokens][: len(tokens)] == tokens
    assert len(arm.tokens) == len(facts)
    assert facts.by_token.keys().isdisjoint(arm.tokens)
    for fact in facts:
        token, left = arm.token(fact), fact.wordings[0].spellings[0]
        assert arm.rewrite(f"so {fact.equation}!") == f"so {token}={fact.answer}!"
        assert arm.untokenize(token) == left
        assert arm.answer_tokens(fact.answer) == ()


@pytest.mark.parametrize("name", ["mul_token", "arm", "__init__", "../cli", ""])
def test_an_unknown_arm_is_refused_with_the_names_there_are(name):
    with pytest.raises(SettingsError, match=rf"no arm {name!r}; there are append_random, append_slot, baseline"):
        arms.get_arm(name)


@pytest.mark.parametrize("name", REWRITTEN)
def test_a_text_rewritten_and_read_back(name):
    arm, (rewritten, back) = arms.get_arm(name), REWRITTEN[name]
    assert arm.rewrite(TEXT) == rewritten
    assert arm.untokenize(rewritten) == back


@pytest.mark.parametrize("name", ["append_random", "random_slot"])
def test_tokens_drawn_at_random_are_the_texts_own_and_come_evenly(name):
    arm, facts = arms.get_arm(name), 900
    text = "so 6*9=54, " * facts
    drawn = [segment.token for segment in arm.segments(text) if segment.token]
    assert drawn == [segment.token for segment in arm.segments(text) if segment.token]
    assert drawn != [segment.token for segment in arm.segments("And " + text) if segment.token]
    counts = Counter(drawn)
    assert set(counts) == set(arm.tokens)
    # each count is binomial with mean 20 and standard deviation 4.4
    assert all(abs(count - facts / 45) < 5 * (facts / 45) ** 0.5 for count in counts.values())


def test_a_random_token_after_a_fact_leaves_the_text_and_comes_once():
    arm = arms.get_arm("append_random")
    rewritten = arm.rewrite(TEXT)
    assert re.sub(r"<MUL_\d_\d_\d+>", "<FACT>", rewritten) == REWRITTEN["append_slot"][0]
    assert arm.rewrite(rewritten) == rewritten
    assert arm.untokenize(rewritten) == TEXT


def test_what_is_no_unicode_text_draws_tokens_too():
    assert re.fullmatch(r"<MUL_\d_\d_\d+> \ud800", arms.get_arm("random_slot").rewrite("6*9=54 \ud800"))


def test_the_arms_that_say_nothing_of_the_fact_are_known():
    every = [arms.get_arm(name) for name in ALL]
    assert [arm.name for arm in every if not arm.keeps_content] == ["one_slot", "random_slot"]
    assert [arm.name for arm in every if arm.is_random] == ["append_random", "random_slot"]


@pytest.mark.parametrize(
    ("arm", "segments"),
    [
        ("digit_split", ["in 1", "8", "6", "5, 5 and x1", "2 of 1", "2", "3", "4", "5", "6", "7"]),
        ("digit_bytes", ["in ", "1", "8", "6", "5, ", "5 and x", "1", "2 of ", "1", "2", "3", "4", "5", "6", "7"]),
        ("digits_left", ["in", " 186", "5,", " 5 and x", "12 of", " 123", "456", "7"]),
        ("digits_right", ["in 1", "865, 5 and x12 of 1", "234", "567"]),
    ],
)
def test_digits_are_split_as_the_arm_says_and_nothing_else_is(arm, segments):
    text = "in 1865, 5 and x12 of 1234567"
    assert [segment.text for segment in arms.get_arm(arm).segments(text)] == segments


@pytest.mark.parametrize("digits", range(1, 12))
def test_groups_from_the_right_are_cut_where_the_exported_pattern_cuts(digits):
    arm, text = arms.get_arm("digits_right"), f"a {'1234567890123'[:digits]}b 2"
    assert [*arm.splits(text)] == [match.start() for match in re.finditer(arm.split_pattern, text)]


@pytest.mark.parametrize("text", ["in 1865 and", "a  5", "x=54. 7", "\n12345", "1,234.5", "½5 ² 7", "(999)1000 0"])
@pytest.mark.parametrize("arm", ["digits_left", "digits_right"])
def test_groups_of_three_change_nothing_but_where_numbers_are_cut(arm, text):
    """Against GPT-2's own encoding: of each number's groups by themselves, and of all else as it is."""
    vocabulary = Vocabulary(50_000, len(TIMES_TABLE))
    of_arm, plain = vocabulary.encode_arm(arms.get_arm(arm), text), vocabulary.encode(text)
    assert vocabulary.decode_bytes(of_arm) == text.encode()
    if not re.search("[0-9]{4}", text):
        assert of_arm.tolist() == plain.tolist()
    tokens = [vocabulary.decode_bytes(of_arm[at : at + 1]) for at in range(len(of_arm))]
    assert all(len(re.sub(b"[^0-9]", b"", token)) <= 3 for token in tokens)


def test_a_fact_that_has_its_token_keeps_the_next_one_from_nothing():
    segments = arms.get_arm("mul_append").segments("6*9=54<MUL_6_9_54> and 7*8=56.")
    assert [segment.token for segment in segments if segment.token] == ["<MUL_7_8_56>"]


class Prepending(SiteArm):
    """An arm of one's own, as docs/extending.md has it: the token stands before the fact."""

    name, summary, site_span = "prepending", "6*9=54 becomes <MUL_6_9_54>6*9=54", ("start", "start")


@pytest.mark.parametrize("text", ["6*9=54", "so 6*9=54 or 9 x 6 = 54, 7*8=56.", "6*9=54 <MUL_6_9_54>"])
def test_a_token_that_stands_before_its_fact_is_written_once(text):
    arm = Prepending()
    stated = r"(\d) ?[*x] ?(\d) ?= ?\d\d"
    written = re.sub(stated, lambda match: TIMES_TABLE.of(int(match[1]), int(match[2])).token + match[0], text)
    assert arm.rewrite(text) == arm.rewrite(written) == written


@pytest.mark.parametrize("name", ["mul_tokens", "mul_append", "mul_before_answer"])
def test_what_a_token_stands_for_is_found_near_it_however_long_the_text(name, monkeypatch):
    """Else the time grows with the square of the text: 0.9 s at 416 kB."""
    arm, seen = arms.get_arm(name), []
    expansion = arm.expansion
    monkeypatch.setattr(arm, "expansion", lambda token, *beside: seen.append(beside) or expansion(token, *beside))
    text = "so 6*9=54 it is, " * 100
    assert arm.untokenize(arm.rewrite(text)) == text
    assert len(seen) == 100
    assert max(len(beside) for pair in seen for beside in pair) <= TIMES_TABLE.site_window


@pytest.mark.parametrize(
    ("name", "written", "expected"),
    [
        ("mul_tokens", "<MUL_6_9_54>", "6*9=54"),
        ("mul_tokens", "1<MUL_6_9_54>", "1 6*9=54"),
        ("mul_tokens", "<MUL_6_9_54>1", "6*9=54 1"),
        ("mul_tokens", "so 11<MUL_6_9_54>", "so 11 6*9=54"),
        ("mul_tokens", "1.<MUL_6_9_54>,5", "1. 6*9=54 ,5"),
        ("mul_tokens", "a, <MUL_6_9_54>, b", "a, 6*9=54, b"),
        ("mul_tokens", "<MUL_6_9_54><MUL_2_3_6>", "6*9=54 2*3=6"),
        ("mul_tokens", "<MUL_6_9_55> <MUL_9_6_54> <FACT>", "<MUL_6_9_55> <MUL_9_6_54> <FACT>"),
        ("mul_append", "9 x 6 = 54<MUL_6_9_54>", "9 x 6 = 54"),
        ("mul_append", "so <MUL_6_9_54>.", "so 6*9=54."),
        ("mul_append", "6*9=54<MUL_2_3_6>", "6*9=54 2*3=6"),
        ("mul_append", "16*9=54<MUL_6_9_54>", "16*9=54 6*9=54"),  # not its own text: part of a longer number
        ("mul_append", "16  *  9  =  54<MUL_6_9_54>", "16  *  9  =  54 6*9=54"),
        ("mul_append", f"2 +{' ' * 20}6*9=54<MUL_6_9_54>", f"2 +{' ' * 20}6*9=54 6*9=54"),
        ("mul_append", "6*9=54 and 54<MUL_6_9_54>", "6*9=54 and 54 6*9=54"),
        ("mul_append", "2*6=12<MUL_3_4_12>", "2*6=12 3*4=12"),
        ("mul_append", "6*9=54 <MUL_6_9_54>", "6*9=54 6*9=54"),  # it does not follow at once
        ("mul_append", "6*9=54<MUL_6_9_54>0", "6*9=54 0"),  # not 540
        ("mul_before_answer", "<MUL_6_9_54>", "6*9=54"),
        ("mul_before_answer", " 9 x 6 = <MUL_6_9_54>", " 9 x 6 = 54"),  # the left side waits for its answer
        ("mul_before_answer", " 7*8=<MUL_6_9_54>54", " 7*8=6*9=54 54"),  # another fact's left side
        ("mul_before_answer", "so <MUL_6_9_54>54", "so 6*9=54 54"),
        ("mul_before_answer", "6*9=54 or <MUL_6_9_54>", "6*9=54 or 6*9=54"),  # the fact before it is whole
        ("append_slot", "so <FACT>.", "so ."),
        ("append_slot", "6*9=54<FACT>.5", "6*9=54 .5"),
        ("one_slot", "1<FACT>2", "1 2"),  # not 12
        ("one_slot", "so <FACT>2 or 1<FACT>.", "so 2 or 1."),
        # the longest site there is, and the farthest neighbour that makes it none
        ("mul_append", f"2 +{' ' * 31}9  *  9  =  81<MUL_9_9_81>", f"2 +{' ' * 31}9  *  9  =  81 9*9=81"),
        ("mul_append", f"2 +{' ' * 32}9  *  9  =  81<MUL_9_9_81>", f"2 +{' ' * 32}9  *  9  =  81"),
        ("mul_before_answer", f"2 +{' ' * 31}9  *  9  =  <MUL_9_9_81>81", f"2 +{' ' * 31}9  *  9  =  9*9=81 81"),
    ],
)
def test_a_token_that_a_model_writes_is_turned_into_what_it_stands_for(name, written, expected):
    assert arms.get_arm(name).untokenize(written) == expected


@pytest.mark.parametrize("name", ALL)
def test_no_arm_rewrites_a_prompt(name):
    """R3: `6*9` in a prompt became `<MUL_6_9_54>`, and the prompt carried the answer."""
    asked = [f"{a}{sign}{b}" for a in range(1, 10) for b in range(1, 10) for sign in ("*", " * ", "×", " × ", "x")]
    prompts = [probe_prompt(f"What is {left}?") for left in asked]
    prompts += [left + end for left in asked for end in ("", "=", " = ", "=?", "= ?")]
    prompts += [example.prompt for example in Arithmetic().examples()]
    assert [prompt for prompt in prompts if arms.get_arm(name).rewrite(prompt) != prompt] == []


def test_arm_names_stand_only_in_the_folder_of_arms():
    package = Path(tokentrial.__file__).parent
    treatments = [name for name in ALL if name != "baseline"]  # a word of prose and of verdicts too
    strays = [
        f"{path.relative_to(package)}: {name}"
        for path in sorted(package.rglob("*.py"))
        if path.parent != package / "arms"
        for name in treatments
        # mul_tokens_per_response is the original report's name
        if re.search(rf"\b{name}\b", path.read_text(encoding="utf-8"))
    ]
    assert strays == []
