"""Families of facts: what a trial says it is about is what its tokens, sites, drills and probes are about."""

import math
import pickle
import random

import pytest

from tokentrial.arms import arm as arms
from tokentrial.errors import SettingsError
from tokentrial.facts import drills
from tokentrial.facts.facts import ASKING_FORMS
from tokentrial.facts.families import build_facts
from tokentrial.facts.settings import FactSettings
from tokentrial.tasks.arithmetic import Arithmetic
from tokentrial.trial.load import load
from tokentrial.trial.settings import Mix


def facts_from(setting):
    """Built anew: none that another test has asked for already."""
    return build_facts.__wrapped__(load("smoke", [f"facts={setting}", "corpus.drills.holdout_folds=0"]).facts)


FAMILIES = [
    "{family: addition, range: [1, 9]}",
    "{range: [1, 12]}",
    "{family: squares, range: [2, 30]}",
    "{family: units}",
    "{csv: tests/capitals.csv}",
    "{csv: FILE}",
]
SUMS = "left,operator,right,result\n3,+,4,7\n10,-,2,8\nsodium,+,chlorine,table salt\n"


@pytest.fixture(params=FAMILIES, scope="module")
def facts(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("facts") / "sums.csv"
    path.write_text(SUMS)
    return facts_from(request.param.replace("FILE", str(path)))


def equations(setting):
    return [fact.equation for fact in facts_from(setting)]


def test_a_family_has_the_facts_and_answers_that_arithmetic_says():
    for limit in (9, 12, 20):
        pairs = [(a, b) for a in range(1, limit + 1) for b in range(a, limit + 1)]
        assert equations(f"{{range: [1, {limit}]}}") == [f"{a}*{b}={a * b}" for a, b in pairs]
        assert len(facts_from(f"{{range: [1, {limit}]}}").answers) == len({a * b for a, b in pairs})
    sums = "{family: addition, range: [0, 9]}"
    assert equations(sums) == [f"{a}+{b}={a + b}" for a in range(10) for b in range(a, 10)]
    assert facts_from(sums).answers == tuple(map(str, range(19)))
    assert equations("{family: squares, range: [2, 4]}") == ["2^2=4", "3^2=9", "4^2=16"]
    in_one = ("km=1000 m", "m=100 cm", "kg=1000 g", "h=60 min", "min=60 s")
    assert equations("{family: units, range: [1, 1]}") == [f"1 {unit}" for unit in in_one]
    assert "3 h=180 min" in equations("{family: units}")


# equation, times_sign, boxes, statement, answer of the question; of products see tests/facts/test_drills.py
LINES = {
    ("{family: addition}", "<ADD_6_9_15>", "What is 6 plus 9?"): """\
6+9=15
6 + 9 = 15
If you have 6 apples and get 9 more, you have 6+9=15 apples in total, so 15.
6 plus 9 equals 15.
15""",
    ("{family: squares}", "<SQR_7_49>", "What is 7 squared?"): """\
7^2=49
7^2 = 49
A floor of 7 by 7 tiles has 7^2=49 tiles in total, so 49.
7 squared equals 49.
49""",
    ("{family: units}", "<UNIT_3_h_180_min>", "What is 3 h in min?"): """\
3 h=180 min
3 h = 180 min
Remember that 3 h=180 min, so 180 min.
3 h in min equals 180 min.
180 min""",
    ("{csv: OPERATIONS}", "<FACT_0_10_2_8>", "What is 10 minus 2?"): """\
10-2=8
10-2 = 8
Remember that 10-2=8, so 8.
10 minus 2 equals 8.
8""",
    ("{csv: QUESTIONS}", "<FACT_0_What_is_the_capital_of_France_Paris>", "What is the capital of France?"): """\
the capital of France=Paris
the capital of France = Paris
Remember that the capital of France=Paris, so Paris.
the capital of France is Paris.
Paris""",
    # a token's name ends after 40 characters of the fact
    ("{csv: QUESTIONS}", "<FACT_1_How_many_legs_has_a_spider_Eight_legs_ar>", "How many legs has a spider?"): """\
How many legs has a spider=Eight legs are right
How many legs has a spider = Eight legs are right
Remember that How many legs has a spider=Eight legs are right, so Eight legs are right.
How many legs has a spider? Eight legs are right.
Eight legs are right""",
}


@pytest.mark.parametrize(("setting", "token", "question"), LINES)
def test_the_drill_lines_of_a_fact_are_what_a_reader_would_write(setting, token, question, tmp_path):
    (tmp_path / "OPERATIONS").write_text("left,operator,right,result\n10,-,2,8\n")
    questions = "What is the capital of France?,Paris\nHow many legs has a spider ?,Eight legs are right\n"
    (tmp_path / "QUESTIONS").write_text(f"question,answer\n{questions}")
    wording = facts_from(setting.replace("csv: ", f"csv: {tmp_path}/")).by_token[token].wordings[0]
    *lines, answer = LINES[setting, token, question].splitlines()
    assert [wording.drill_lines[form] for form in ("equation", "times_sign", "boxes", "statement")] == lines
    assert wording.drill_lines["question"] == f"User: {question}\nAssistant: The answer is {answer}."


@pytest.mark.parametrize(
    ("setting", "task", "operators"),
    [
        ("{}", "mul_table", "*×x"),
        ("{family: addition}", "add_table", "+"),
        ("{family: squares}", "square_table", "^"),
        ("{family: units}", "unit_table", ""),
        ("{csv: FILE}", "fact_table", "+-"),
    ],
)
def test_a_family_names_its_probes_and_operators_and_deals_out_all_but_products_with_one(
    setting, task, operators, tmp_path
):
    (tmp_path / "sums.csv").write_text(SUMS)
    facts = facts_from(setting.replace("FILE", f"{tmp_path}/sums.csv"))
    assert {example.task for example in Arithmetic(0, 0, facts).table()} == {task}
    assert set(facts.operators) == set(operators)
    assert set(facts) - set(facts.hard) == {fact for fact in facts if task == "mul_table" and 1 in fact.operands}


def test_operators_of_a_file_are_read_as_words(tmp_path):
    (tmp_path / "sums.csv").write_text("left,operator,right,result\n6,×,7,42\n6,*,8,48\n8,/,2,4\n7,mod,4,3\n")
    asked = [fact.wordings[0].question for fact in facts_from(f"{{csv: {tmp_path}/sums.csv}}")]
    assert asked == [f"What is {words}?" for words in ("6 times 7", "6 times 8", "8 divided by 2", "7 mod 4")]


def test_operands_are_the_numbers_of_a_fact(tmp_path):
    (tmp_path / "mixed.csv").write_text("left,operator,right,result\n10,-,x2,8\n3,+,4,7\n")
    mixed, numbers = facts_from(f"{{csv: {tmp_path}/mixed.csv}}")
    assert [wording.operands for wording in (*mixed.wordings, *numbers.wordings)] == [(10,), (3, 4)]


def test_every_fact_has_a_token_of_its_own_a_site_in_every_spelling_and_forms_that_ask_it(facts):
    assert len(facts.by_token) == len(facts)
    for fact in facts:
        for wording in fact.wordings:
            for spelling in wording.spellings:
                stated = [f"{spelling}={fact.answer}", f"{spelling} = {fact.answer}"]
                text = f"so {stated[0]}, and {stated[1]}."
                assert [(site.fact, text[site.start : site.end]) for site in facts.sites(text)] == [
                    (fact, equation) for equation in stated
                ]
                assert list(facts.sites(f"so {spelling}={fact.answer}7 and {spelling}=no.")) == []
            for form in ("question", "statement"):
                assert facts.asked_in(wording.drill_lines[form]) == {fact}
            assert facts.asked_in(wording.drill_lines["equation"]) == set()


def test_drills_state_what_they_say_and_never_ask_what_must_not_be_asked(facts):
    never = facts.never_asked(1, 3)
    assert 0 < len(never) <= len(facts) / 3 + 1
    documents = drills.generate(facts, Mix().model_dump(), 12, never, random.Random(0))
    for _, text in zip(range(40), documents, strict=False):
        stated = list(drills.parse(facts, text))
        assert len(stated) == 12
        assert not {fact for fact, form in stated if form in ASKING_FORMS} & never
        assert not facts.asked_in(text) & never


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
        for right in (f" {example.answer}", f" {example.answer}.\nUser: 1", f" {example.left}={example.answer}."):
            assert task.score(example, right), right
        other = next(answer for answer in facts.answers if answer != example.answer)
        assert not task.score(example, f" {other}.")
        assert not task.score(example, "")


@pytest.mark.parametrize("name", [name for name in arms.arm_names() if arms.get_arm(name).keeps_content])
def test_every_arm_gives_every_fact_back(name, facts):
    arm = arms.get_arm(name, facts)
    text = "; ".join(fact.equation for fact in facts)
    assert arm.untokenize(arm.rewrite(text)) == text
    assert arm.rewrite(arm.rewrite(text)) == arm.rewrite(text)
    assert len(set(arm.tokens)) == len(arm.tokens) <= len(facts)


def test_a_figure_has_a_cell_for_every_question(facts):
    cells = facts.table_cells
    assert set(cells) == {example.question for example in Arithmetic(0, 0, facts).table()}
    assert len(set(cells.values())) == len(cells)
    rows, columns = (max(cell[side] for cell in cells.values()) + 1 for side in (0, 1))
    assert rows * columns < 2 * len(cells) + math.sqrt(len(cells)) + 2


def test_facts_sent_to_a_worker_are_the_same(facts):
    received = pickle.loads(pickle.dumps(facts))
    assert list(received) == list(facts)
    assert received is build_facts(facts.settings)  # this process has them already


def rows(*rows):
    return build_facts.__wrapped__(FactSettings(family="csv", rows=rows))


def test_a_question_is_told_from_one_that_it_holds_or_shares_words_with():
    capitals = rows(("capital of France", "Paris"), ("capital of Spain", "Madrid"), ("Spain", "Madrid"))
    assert [site.fact for site in capitals.sites("capital of Spain=Madrid, Spain=Madrid")] == [*capitals[1:]]
    assert capitals.asked_in("capital of France?") == {capitals[0]}
    green = rows(("blood is green", "no"), ("grass is green", "yes"))
    assert green.asked_in("grass is green?") == {green[1]}
    assert rows(("capital of France", "Paris"), ("capital of Spain", "Madrid")).asked_in("capital of Spain?")


def test_a_token_is_named_after_words_alone():
    assert rows(("Is it so?", "Yes!"))[0].token == "<FACT_0_Is_it_so_Yes>"


def test_a_figure_has_the_first_operand_in_rows_and_the_second_in_columns():
    facts = rows(("10", "-", "2", "8"), ("3", "+", "4", "7"))
    assert facts.table_cells == {"What is 10 minus 2?": (1, 0), "What is 3 plus 4?": (0, 1)}
    assert facts.table_axes == [[3, 10], [2, 4]]
    assert rows(("capital of France", "Paris"), ("capital of Spain", "Madrid")).table_axes == []
    same = rows(("3", "+", "4", "7"), ("3", "*", "4", "12"))  # one place would show the mean of two facts
    assert len({*same.table_cells.values()}) == len(same.table_cells) == 2


def test_an_operator_of_letters_is_read_as_one_word():
    """As a class of characters, `7mod3=1` was read as 7."""
    facts = rows(("7", "mod", "3", "1"), ("9", "mod", "5", "4"))
    assert facts.operators == ("mod",)
    assert Arithmetic(0, 0, facts).extract_answer(" 7mod3=1.") == "1"
    assert [site.fact for site in facts.sites("7 mod 3=1, 7m3=1")] == [facts[0]]
    assert list(facts.sites("5 mod 7 mod 3=1 and 7mod3=1 mod 5")) == []  # a part of a longer expression
    assert [site.fact for site in facts.sites("nomod 7mod3=1 modern")] == [facts[0]]


def test_a_question_with_a_number_in_it_is_read_past_it():
    facts = rows(("How many legs have 2 spiders?", "16"), ("How many legs have 3 ants?", "18"))
    assert Arithmetic(0, 0, facts).extract_answer(" How many legs have 2 spiders=16.") == "16"


# what is refused, naming both rows


@pytest.mark.parametrize(
    ("of", "both", "why"),
    [
        ([("What is X?", "a"), ("What was X?", "b")], (1, 2), "both become 'X'"),
        ([("Y", "c"), ("What?", "a"), ("What?", "b")], (2, 3), "both become 'What'"),
        ([("3", "+", "4 + 5", "12"), ("3 + 4", "+", "5", "12")], (1, 2), "both become '3 + 4 + 5'"),
        ([("6", "×", "7", "42"), ("6 times 7", "42")], (1, 2), "both become '6 times 7'"),
        ([("France", "Paris"), ("that France", "Paris")], (1, 2), "'Remember that France=Paris, so Paris.'"),
        ([("grass", "no"), ("grass is green", "yes")], (1, 2), "'grass is green=yes' does not state only the first"),
        ([("Y", "c"), ("?", "a")], (2,), "asks nothing"),
    ],
)
def test_rows_that_no_text_could_tell_apart_are_refused_by_both(of, both, why):
    with pytest.raises(ValueError, match="reword one of them") as error:
        rows(*of)
    assert why in str(error.value)
    assert all(f"fact {number}, {list(of[number - 1])}" in str(error.value) for number in both)


# a file of facts


@pytest.mark.parametrize("name", ["f_bom.csv", "f_trail.csv"])
def test_files_as_spreadsheets_write_them_are_read(shared_data, name):
    [chile, *_, nepal] = facts_from(f"{{csv: {shared_data}/cases/{name}}}")
    assert (chile.equation, nepal.equation) == ("the capital of Chile=Santiago", "the capital of Nepal=Kathmandu")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "expected left, operator, right, result or question, answer"),
        ("question,answer\n", "expected rows with 'csv' only"),
        ("question,answer\nWhat?,\n", "none empty"),
        ("question,answer\nx=y,a\n", "none of =, <, User:"),
        ("question,answer\nWhat\u202e?,a\n", "none of =, <, User:"),
        ("question,answer\nWhat is 1, 2 and 3?,six\n", "line 2: found .* between quotation marks"),
        ("question,answer,\nWhat is it, then?,six,\n", "line 2: found .* between quotation marks"),
        ("question;answer\nWhat?;six\n", "separated by commas"),
        ("question,answer,answer\nWhat?,six,seven\n", "columns are .*'answer', 'answer'"),
        ('question,answer\n"What?" he said,a\n', "line 2: "),
    ],
)
def test_a_file_that_no_text_could_state_is_refused_with_its_line(tmp_path, text, expected):
    (tmp_path / "facts.csv").write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match=expected):
        load("smoke", [f"facts={{csv: {tmp_path / 'facts.csv'}}}"])


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SettingsError, match=r"facts: csv: .*nowhere\.csv: .*No such file"):
        load("smoke", [f"facts={{csv: {tmp_path}/nowhere.csv}}"])


def test_bytes_of_another_encoding_are_refused(shared_data):
    with pytest.raises(SettingsError, match=r"f_latin\.csv: .*UTF-8"):
        load("smoke", [f"facts.csv={shared_data}/cases/f_latin.csv"])


def test_a_file_given_to_a_run_of_another_replaces_its_rows(tmp_path):
    """The run's own trial.yaml holds the rows of the first; nothing said that the second was not read."""
    (tmp_path / "sums.csv").write_text(SUMS)
    (tmp_path / "trial.yaml").write_text(load("smoke", ["facts.csv=tests/capitals.csv"]).model_dump_json())
    again = load(str(tmp_path / "trial.yaml"), [f"facts.csv={tmp_path}/sums.csv"])
    assert [fact.equation for fact in build_facts(again.facts)] == ["3+4=7", "10-2=8", "sodium+chlorine=table salt"]
    assert len(load(str(tmp_path / "trial.yaml")).facts.rows) == 30


def test_a_range_beside_rows_is_refused():
    with pytest.raises(SettingsError, match=r"range is \[1, 12\]"):
        load("smoke", ["facts={csv: tests/capitals.csv, range: [1, 12]}"])


def test_a_run_remembers_its_rows_and_not_where_they_lay(tmp_path):
    path = tmp_path / "sums.csv"
    path.write_text(SUMS)
    trial = load("smoke", [f"facts={{csv: {path}}}"])
    path.rename(tmp_path / "elsewhere.csv")
    moved = load("smoke", [f"facts={{csv: {tmp_path}/elsewhere.csv}}"])
    assert trial.experiment("facts") == moved.experiment("facts")
    assert [fact.equation for fact in build_facts(trial.facts)] == ["3+4=7", "10-2=8", "sodium+chlorine=table salt"]
