"""Families of facts: what a trial says it is about is what its tokens, sites, drills and probes are about."""

import math
import pickle
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokentrial.arms import arm as arms
from tokentrial.arms.facts import ASKING
from tokentrial.arms.families import TIMES_TABLE, facts_of
from tokentrial.corpus import drills
from tokentrial.errors import SettingsError
from tokentrial.tasks.arithmetic import Arithmetic
from tokentrial.trial.load import load
from tokentrial.trial.settings import Mix

FAMILIES = {
    "additions": "{family: addition, range: [1, 9]}",
    "products to 12": "{range: [1, 12]}",
    "products to 20": "{range: [1, 20]}",
    "squares": "{family: squares, range: [2, 30]}",
    "units": "{family: units}",
    "capitals": "{csv: tests/capitals.csv}",
    "sums of a file": "{csv: FILE}",
}
made_anew = facts_of.__wrapped__  # none that another test has asked for already
SUMS = "left,operator,right,result\n3,+,4,7\n10,-,2,8\nsodium,+,chlorine,table salt\n"


@pytest.fixture(params=FAMILIES)
def facts(request, tmp_path):
    (tmp_path / "sums.csv").write_text(SUMS)
    setting = FAMILIES[request.param].replace("FILE", str(tmp_path / "sums.csv"))
    return made_anew(load("smoke", [f"facts={setting}"]).facts)


def test_a_family_has_as_many_facts_and_answers_as_arithmetic_says():
    def of(setting):
        return made_anew(load("smoke", [f"facts={setting}"]).facts)

    for limit in (9, 12, 20):
        pairs = [(a, b) for a in range(1, limit + 1) for b in range(a, limit + 1)]
        made = of(f"{{range: [1, {limit}]}}")
        assert [fact.equation for fact in made] == [f"{a}*{b}={a * b}" for a, b in pairs]
        assert len(made.answers) == len({a * b for a, b in pairs})
    added = of("{family: addition, range: [0, 9]}")
    assert [fact.equation for fact in added] == [f"{a}+{b}={a + b}" for a in range(10) for b in range(a, 10)]
    assert added.answers == tuple(map(str, range(19)))
    assert [fact.equation for fact in of("{family: squares, range: [2, 4]}")] == ["2^2=4", "3^2=9", "4^2=16"]
    assert "3 h=180 min" in [fact.equation for fact in of("{family: units}")]


def said(question, answer):
    return f"User: {question}\nAssistant: The answer is {answer}."


LINES = {
    "{range: [6, 9]}": {
        "<MUL_6_9_54>": [
            "6*9=54",
            "6 × 9 = 54",
            "If you have 6 boxes with 9 apples each, you have 6*9=54 apples in total, so 54.",
            "6 times 9 equals 54.",
            said("What is 6 times 9?", 54),
            "6x9=54",
        ]
    },
    "{family: addition}": {
        "<ADD_6_9_15>": [
            "6+9=15",
            "6 + 9 = 15",
            "If you have 6 apples and get 9 more, you have 6+9=15 apples in total, so 15.",
            "6 plus 9 equals 15.",
            said("What is 6 plus 9?", 15),
        ]
    },
    "{family: squares}": {
        "<SQR_7_49>": [
            "7^2=49",
            "7^2 = 49",
            "A floor of 7 by 7 tiles has 7^2=49 tiles in total, so 49.",
            "7 squared equals 49.",
            said("What is 7 squared?", 49),
        ]
    },
    "{family: units}": {
        "<UNIT_3_h_180_min>": [
            "3 h=180 min",
            "3 h = 180 min",
            "Remember that 3 h=180 min, so 180 min.",
            "3 h in min equals 180 min.",
            said("What is 3 h in min?", "180 min"),
        ]
    },
    "{csv: OPERATIONS}": {
        "<FACT_0_10_2_8>": [
            "10-2=8",
            "10-2 = 8",
            "Remember that 10-2=8, so 8.",
            "10 minus 2 equals 8.",
            said("What is 10 minus 2?", 8),
        ],
        "<FACT_1_sodium_chlorine_table_salt>": [
            "sodium~chlorine=table salt",
            "sodium~chlorine = table salt",
            "Remember that sodium~chlorine=table salt, so table salt.",
            "sodium ~ chlorine equals table salt.",
            said("What is sodium ~ chlorine?", "table salt"),
        ],
    },
    "{csv: QUESTIONS}": {
        "<FACT_0_What_is_the_capital_of_France_Paris>": [
            "the capital of France=Paris",
            "the capital of France = Paris",
            "Remember that the capital of France=Paris, so Paris.",
            "the capital of France is Paris.",
            said("What is the capital of France?", "Paris"),
        ],
        "<FACT_1_How_many_legs_has_a_spider_Eight_legs_ar>": [  # 40 characters of it
            "How many legs has a spider=Eight legs are right",
            "How many legs has a spider = Eight legs are right",
            "Remember that How many legs has a spider=Eight legs are right, so Eight legs are right.",
            "How many legs has a spider? Eight legs are right.",
            said("How many legs has a spider?", "Eight legs are right"),
        ],
    },
}


@pytest.mark.parametrize("setting", LINES)
def test_the_drill_lines_of_a_fact_are_what_a_reader_would_write(setting, tmp_path):
    (tmp_path / "OPERATIONS").write_text("left,operator,right,result\n10,-,2,8\nsodium,~,chlorine,table salt\n")
    questions = "What is the capital of France?,Paris\nHow many legs has a spider ?,Eight legs are right\n"
    (tmp_path / "QUESTIONS").write_text(f"question,answer\n{questions}")
    where = setting.replace("csv: ", f"csv: {tmp_path}/")
    facts = made_anew(load("smoke", [f"facts={where}"]).facts)
    for token, lines in LINES[setting].items():
        wording = facts.by_token[token].wordings[0]
        forms = ["equation", "times_sign", "boxes", "statement", "question", "letter_x"][: len(lines)]
        assert [wording.lines[form] for form in forms] == lines


def test_operands_are_the_numbers_of_a_fact(tmp_path):
    (tmp_path / "mixed.csv").write_text("left,operator,right,result\n10,-,x2,8\n3,+,4,7\n")
    mixed, numbers = made_anew(load("smoke", [f"facts={{csv: {tmp_path}/mixed.csv}}"]).facts)
    assert [wording.operands for wording in (*mixed.wordings, *numbers.wordings)] == [(10,), (3, 4)]


def test_the_same_facts_are_made_once():
    assert facts_of(load("smoke", ["facts={range: [1, 9]}"]).facts) is TIMES_TABLE


def test_every_fact_has_a_token_of_its_own_and_is_a_site_in_every_spelling(facts):
    assert len(set(facts.tokens)) == len(facts)
    for fact in facts:
        for wording in fact.wordings:
            for spelling in wording.spellings:
                text = f"so {spelling}={fact.answer}, and {spelling} = {fact.answer}."
                assert [(site.fact, text[site.start : site.end]) for site in facts.sites(text)] == [
                    (fact, f"{spelling}={fact.answer}"),
                    (fact, f"{spelling} = {fact.answer}"),
                ]
                assert list(facts.sites(f"so {spelling}={fact.answer}7 and {spelling}=no.")) == []


def test_drills_state_what_they_say_and_never_ask_what_must_not_be_asked(facts):
    never = facts.never_asked(1, 3)
    assert 0 < len(never) <= len(facts) / 3 + 1
    made = drills.documents(facts, Mix().model_dump(), 12, never, random.Random(0))
    lines = 0
    for _, text in zip(range(60), made, strict=False):
        stated = list(drills.read(facts, text))
        assert len(stated) == 12
        assert not {fact for fact, form in stated if form in ASKING} & never
        assert not facts.asked_in(text) & never
        lines += len(stated)
    assert lines == 720


def test_a_question_or_statement_asks_its_fact(facts):
    for fact in facts:
        for wording in fact.wordings:
            for form in ASKING:
                assert facts.asked_in(wording.lines[form]) == {fact}
            assert facts.asked_in(wording.lines["equation"]) == set()


def test_the_folds_take_turns_and_leave_no_hard_fact_out(facts):
    folds = [facts.never_asked(seed, 3) for seed in range(3)]
    assert set().union(*folds) == set(facts.hard)
    assert sum(map(len, folds)) == len(facts.hard)
    assert facts.never_asked(5, 3) == folds[2]


def test_the_table_asks_every_fact_and_reads_its_answer_in_every_spelling(facts):
    task = Arithmetic(0, 0, facts)
    table = task.table()
    assert len({example.question for example in table}) == len(table) == sum(len(fact.wordings) for fact in facts)
    for example in table:
        for said in (f" {example.answer}", f" {example.answer}.\nUser: 1", f" {example.left}={example.answer}."):
            assert task.score(example, said), said
        other = next(answer for answer in facts.answers if answer != example.answer)
        assert not task.score(example, f" {other}.")
        assert not task.score(example, "")


@pytest.mark.parametrize("name", [name for name in arms.names() if arms.find(name).keeps_content])
def test_every_arm_gives_every_fact_back(name, facts):
    arm = arms.find(name, facts)
    text = "; ".join(fact.equation for fact in facts)
    assert arm.plain(arm.rewrite(text)) == text
    assert arm.rewrite(arm.rewrite(text)) == arm.rewrite(text)
    assert len(set(arm.tokens)) == len(arm.tokens) <= len(facts)


def test_a_picture_has_a_place_for_every_question(facts):
    places = facts.places
    assert set(places) == {example.question for example in Arithmetic(0, 0, facts).table()}
    assert len(set(places.values())) == len(places)
    rows, columns = (max(place[side] for place in places.values()) + 1 for side in (0, 1))
    assert rows * columns < 2 * len(places) + math.sqrt(len(places)) + 2


def test_facts_sent_to_a_worker_are_the_same(facts):
    received = pickle.loads(pickle.dumps(facts))
    assert list(received) == list(facts)
    assert received is facts_of(facts.settings)  # this process has them already


@given(st.text(max_size=60))
def test_words_of_any_kind_are_read_without_an_error(text):
    task = Arithmetic(0, 0, facts_of(load("smoke", ["facts={csv: tests/capitals.csv}"]).facts))
    read = task.read(text)
    assert read is None or read


# a file of facts


def refused(tmp_path, text, *more):
    (tmp_path / "facts.csv").write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError) as error:
        load("smoke", [f"facts={{csv: {tmp_path / 'facts.csv'}}}", *more])
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n", "expected left, operator, right, result or question, answer"),
        ("question,answer\n", "expected rows for 'csv' alone"),
        ("question,answer\nWhat?,\n", "none empty"),
        ("question,answer\nWhat?,a\nWhat?,b\n", "expected each question once"),
        ("question,answer\nx=y,a\n", "no '=' and no '<'"),
        ("question,answer\nWhat?,<b>\n", "no '=' and no '<'"),
        ('question,answer\n"What?" he said,a\n', "after line 1"),
        ("question,answer\nWhat\u202e?,a\n", "no '=' and no '<'"),
        ("", "expected left, operator, right, result or question, answer"),
    ],
)
def test_a_file_that_no_text_could_state_is_refused_with_its_line(tmp_path, text, said):
    assert said in refused(tmp_path, text)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SettingsError, match=r"facts: csv: .*nowhere\.csv: .*No such file"):
        load("smoke", [f"facts={{csv: {tmp_path}/nowhere.csv}}"])


def test_a_run_remembers_its_rows_and_not_where_they_lay(tmp_path):
    path = tmp_path / "sums.csv"
    path.write_text(SUMS)
    trial = load("smoke", [f"facts={{csv: {path}}}"])
    path.rename(tmp_path / "elsewhere.csv")
    moved = load("smoke", [f"facts={{csv: {tmp_path}/elsewhere.csv}}"])
    assert trial.experiment("facts") == moved.experiment("facts")
    assert [fact.equation for fact in facts_of(trial.facts)] == ["3+4=7", "10-2=8", "sodium+chlorine=table salt"]
