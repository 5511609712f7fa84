"""Outcomes read from a cell's files: each figure against a count by hand, each floor against TIMES_TABLE."""

import math

import pytest

from tests.report.conftest import known_facts, solved_rows, table_rows, write_evaluation
from tokentrial.facts.families import TIMES_TABLE
from tokentrial.report import results
from tokentrial.store.files import read_json, write_json
from tokentrial.tasks.arithmetic import Arithmetic, table_subsets


def table(seed=0):
    return table_subsets([*table_rows(seed, (), "")])


# floors


def test_the_floors_of_the_whole_table():
    """FACTS, section 3: constant 4/81, echo operand 9/81, echo larger operand 17/81; 24 is 3*8, 8*3, 4*6 and 6*4."""
    floors = {"constant": 4 / 81, "echo_operand": 9 / 81, "echo_larger_operand": 17 / 81}
    assert results.floor_accuracies(table()["all"], False, None) == pytest.approx(floors)
    assert results.floor_accuracies(table()["all"], False, "24") == pytest.approx(floors | {"drill_unigram": 4 / 81})


def test_without_the_rows_of_one_an_echo_is_worth_nothing():
    rows = table()["from_2"]
    assert len(rows) == 64
    found = results.floor_accuracies(rows, True, None)
    assert (found["echo_operand"], found["echo_larger_operand"]) == (0, 0)
    # 36 unordered facts: 12, 18 and 24 are each the product of two of them
    assert found["constant"] == pytest.approx(2 / 36)


@pytest.mark.parametrize("fold", [0, 1, 2])
def test_the_floor_of_never_asked_facts_counts_facts_not_orders(fold):
    never = TIMES_TABLE.never_asked(fold, 3)
    rows = table(fold)["never_asked"]
    products = [int(fact.answer) for fact in never]
    most = max(map(products.count, products))
    assert results.floor_accuracies(rows, True, None)["constant"] == pytest.approx(most / 12)


@pytest.mark.parametrize(
    ("stated", "answer"),
    [
        ({"9*9=81": {"equation": 100}, "5*5=25": {"question": 3}, "7*7=49": {"statement": 5}}, "49"),
        # 4, 6, 8, 9, 12, 16, 18, 24 and 36 have two facts each, so four questions: of equals the smallest is taken
        ({"7*7=49": {"question": 3}}, "4"),
        (None, None),  # no drills
    ],
)
def test_the_answer_of_the_drills_is_that_most_often_asked_for_not_stated_in_equations(stated, answer):
    asked = {"equation": 0, "question": 0 if stated is None else 2, "statement": 0}
    facts = {fact.equation: asked | (stated or {}).get(fact.equation, {}) for fact in TIMES_TABLE}
    exposure = {"served": {"baseline": {"1": {"facts": facts}}}}
    assert results.most_asked_answer(exposure, "baseline", 1) == answer


# a cell


@pytest.fixture
def rows():
    """A cell of seed 1 that knows all but 7 of its 12 never-asked facts."""
    return [*table_rows(1, known_facts(1, 5), " 54."), *solved_rows("")]


@pytest.fixture
def read(rows, tmp_path):
    """`read(keeps_content)`: the results of the cell, whose second document is rewritten by some arm."""

    def read_cell(keeps_content=True):
        write_evaluation(tmp_path, "baseline", 1, rows)
        held_out = read_json(tmp_path / "heldout_text.json") | {"keeps_content": keeps_content}
        write_json(tmp_path / "heldout_text.json", held_out)
        cell = results.CellResults()
        shared = results.SharedItems(frozenset({"v:0", "v:2"}), frozenset())
        results.read_evaluation(cell, "pretrain", tmp_path, shared, None)
        return cell

    return read_cell


def test_of_the_table_the_whole_is_over_items_and_the_parts_over_facts(read):
    values = read().values
    missed = sorted(TIMES_TABLE.never_asked(1, 3))[5:]
    items = sum(1 if fact.operands[0] == fact.operands[1] else 2 for fact in missed)
    assert values["pretrain/mul_table/all/accuracy"] == pytest.approx((81 - items) / 81)
    assert values["pretrain/mul_table/from_2/accuracy"] == pytest.approx((36 - 7) / 36)
    assert values["pretrain/mul_table/asked/accuracy"] == 1
    assert values["pretrain/mul_table/never_asked/accuracy"] == pytest.approx(5 / 12)
    expected = (5 * -0.1 + 7 * -math.log(36)) / 12
    assert values["pretrain/mul_table/never_asked/choice_logprob"] == pytest.approx(expected)


def test_a_fact_known_in_one_order_only_counts_half(read, rows):
    [row] = [row for row in rows if row.get("operands") == (9, 8) and row["task"] == "mul_table"]
    row["correct"] = False
    subset = "never_asked" if TIMES_TABLE.of(8, 9) in TIMES_TABLE.never_asked(1, 3) else "asked"
    assert read().facts[f"pretrain/mul_table/{subset}/accuracy"]["8*9=72"] == 0.5


def test_the_other_tasks_are_over_items(read):
    values = read().values
    for task in ("addition", "division", "two_step"):
        right = [i % 4 == 0 for i, example in enumerate(Arithmetic(5).examples()) if example.task == task]
        assert values[f"pretrain/{task}/all/accuracy"] == sum(right) / 5
    expected = {"all/accuracy": 0.5, "all/accuracy_flexible": 1, "all/fact_tokens": 1, "all/gold_nats_per_byte": 1.5}
    expected |= {"with_site/gold_nats_per_byte": 1, "without_site/gold_nats_per_byte": 2}
    assert {k.partition("word_problems/")[2]: v for k, v in values.items() if "word_problems" in k} == expected


def test_bits_per_byte_are_over_all_bytes_of_the_documents(read):
    """Untouched, rewritten and drilled documents apart; long documents weigh more. An arm that drops the content is not
    measured on what it rewrote."""
    untouched = {"untouched": (201 + 500) / 400}
    for keeps_content, more in ((True, {"rewritten": 150 / 50, "drills": 30 / 40}), (False, {})):
        values = {k: v for k, v in read(keeps_content).values.items() if k.endswith("/bits_per_byte")}
        expected = {f"pretrain/heldout_text/{subset}/bits_per_byte": v for subset, v in (untouched | more).items()}
        assert values == pytest.approx(expected)


def test_untouched_is_what_no_arm_rewrites(tmp_path):
    for arm in ("baseline", "mul_tokens"):
        write_evaluation(tmp_path / arm, arm, 1, [])
    assert results.shared_items([tmp_path / "baseline"]).untouched == {"v:0", "v:1", "v:2", "d:0"}
    assert results.shared_items([tmp_path / "baseline", tmp_path / "mul_tokens"]).untouched == {"v:0", "v:2"}
    assert results.shared_items([]) == (set(), set())


def test_the_gold_nats_of_all_arms_are_over_the_solutions_that_fit_in_each(tmp_path):
    """An arm that spells its text longer would else be spared the long solutions."""
    nats = {"baseline": [1.0, 2.0, 9.0], "digit_bytes": [1.0, 2.0, None]}
    for arm, of_arm in nats.items():
        rows = [row | {"gold_nats_per_byte": value} for row, value in zip(solved_rows(""), of_arm, strict=False)]
        write_evaluation(tmp_path / arm, arm, 1, rows)
    shared = results.shared_items([tmp_path / arm for arm in nats])
    for arm in nats:
        cell = results.CellResults()
        results.read_evaluation(cell, "sft", tmp_path / arm, shared, None)
        assert cell.values["sft/word_problems/all/gold_nats_per_byte"] == 1.5
        assert cell.values["sft/word_problems/with_site/gold_nats_per_byte"] == 1.0
        assert cell.values["sft/word_problems/all/accuracy"] == pytest.approx(2 / 3)  # of all three
