"""Outcomes read from a cell's files: each figure against a count by hand, each floor against TIMES_TABLE."""

import math

import pytest

from tokentrial.arms.families import TIMES_TABLE
from tokentrial.report.outcomes import CellResults, favourite_answer, floors, read_stage, untouched_documents
from tokentrial.store.files import read_json, write_json
from tokentrial.tasks.arithmetic import Arithmetic, table_subsets


def table(never=frozenset()):
    return [
        {
            "task": "mul_table",
            "operands": example.operands,
            "answer": example.answer,
            "fact": example.fact.equation,
            "asked": example.fact not in never if example.fact.operands[0] >= 2 else None,
        }
        for example in Arithmetic().table()
    ]


# floors


def test_the_floors_of_the_whole_table():
    """TIMES_TABLE, section 3: constant 4/81, echo operand 9/81, echo larger operand 17/81."""
    found = floors(table(), False, None)
    assert found == pytest.approx({"constant": 4 / 81, "echo_operand": 9 / 81, "echo_larger_operand": 17 / 81})


def test_without_the_rows_of_one_an_echo_is_worth_nothing():
    rows = table_subsets(table())["from_2"]
    assert len(rows) == 64
    found = floors(rows, True, None)
    assert (found["echo_operand"], found["echo_larger_operand"]) == (0, 0)
    # 36 unordered facts: 12, 18 and 24 are each the product of two of them
    assert found["constant"] == pytest.approx(2 / 36)


def test_the_drills_most_frequent_answer_is_a_floor_too():
    found = floors(table(), False, "24")
    assert found["drill_unigram"] == pytest.approx(4 / 81)  # 3*8, 8*3, 4*6, 6*4
    assert floors(table(), False, "81")["drill_unigram"] == pytest.approx(1 / 81)


@pytest.mark.parametrize("fold", [0, 1, 2])
def test_the_floor_of_never_asked_facts_counts_facts_not_orders(fold):
    never = TIMES_TABLE.never_asked(fold, 3)
    rows = table_subsets(table(never))["never_asked"]
    products = [int(fact.answer) for fact in never]
    assert floors(rows, True, None)["constant"] == pytest.approx(max(map(products.count, products)) / 12)


def test_the_favourite_is_of_the_questions_not_of_the_equations():
    forms = {"equation": 0, "question": 1, "statement": 0}
    facts = {fact.equation: dict(forms) for fact in TIMES_TABLE}
    facts["9*9=81"]["equation"] = 100
    facts["5*5=25"]["question"] = 3
    facts["7*7=49"]["statement"] = 4
    exposure = {"served": {"baseline": {"1": {"facts": facts}}}}
    assert favourite_answer(exposure, "baseline", 1) == "49"
    for stated in facts.values():
        stated.update(question=0, statement=0)
    assert favourite_answer(exposure, "baseline", 1) is None


def test_answers_of_several_facts_are_counted_together():
    facts = {fact.equation: {"question": 2, "statement": 0} for fact in TIMES_TABLE}
    facts["7*7=49"]["question"] = 3
    exposure = {"served": {"baseline": {"1": {"facts": facts}}}}
    # 4, 6, 8, 9, 12, 16, 18, 24 and 36 each have two facts: four questions; of equals the smallest is taken
    assert favourite_answer(exposure, "baseline", 1) == "4"


# a cell


@pytest.fixture
def cell(made_up):
    trial = made_up(knows={"baseline": (5,)})
    return trial.folder / "baseline" / "seed1" / "eval_pretrain"


def read(folder, untouched, keeps_content=True):
    record = read_json(folder / "heldout_text.json")
    write_json(folder / "heldout_text.json", record | {"keeps_content": keeps_content})
    results = CellResults()
    read_stage(results, "pretrain", folder, untouched, None)
    return results


def test_of_the_table_the_whole_is_over_items_and_the_parts_over_facts(cell):
    values = read(cell, {"v:0", "v:2"}).values
    never = sorted(TIMES_TABLE.never_asked(1, 3))
    missed = never[5:]
    items = sum(1 if fact.operands[0] == fact.operands[1] else 2 for fact in missed)
    assert values["pretrain/mul_table/all/accuracy"] == pytest.approx((81 - items) / 81)
    assert values["pretrain/mul_table/from_2/accuracy"] == pytest.approx((36 - 7) / 36)
    assert values["pretrain/mul_table/asked/accuracy"] == 1
    assert values["pretrain/mul_table/never_asked/accuracy"] == pytest.approx(5 / 12)
    expected = (5 * -0.1 + 7 * -math.log(36)) / 12
    assert values["pretrain/mul_table/never_asked/choice_logprob"] == pytest.approx(expected)


def test_half_a_fact_is_half(cell):
    """A fact known in one order only counts one half, squares are known or not."""
    lines = (cell / "samples.jsonl").read_text().splitlines()
    kept = [line.replace('"correct":true', '"correct":false') if '"operands":[9,8]' in line else line for line in lines]
    assert kept != lines
    (cell / "samples.jsonl").write_text("\n".join(kept) + "\n")
    results = read(cell, set())
    subset = "never_asked" if TIMES_TABLE.of(8, 9) in TIMES_TABLE.never_asked(1, 3) else "asked"
    assert results.facts[f"pretrain/mul_table/{subset}/accuracy"]["8*9=72"] == 0.5


def test_the_other_probes_are_over_items(cell):
    values = read(cell, set()).values
    rows = Arithmetic(5).examples()
    for task in ("addition", "division", "two_step"):
        right = [number % 4 == 0 for number, example in enumerate(rows) if example.task == task]
        assert values[f"pretrain/{task}/all/accuracy"] == sum(right) / 5


def test_bits_per_byte_are_over_all_bytes_of_the_documents(cell):
    """Untouched, rewritten and drilled documents apart; long documents weigh more."""
    values = read(cell, {"v:0", "v:2"}).values
    assert values["pretrain/heldout_text/untouched/bits_per_byte"] == pytest.approx((201 + 500) / 400)
    assert values["pretrain/heldout_text/rewritten/bits_per_byte"] == pytest.approx(150 / 50)
    assert values["pretrain/heldout_text/drills/bits_per_byte"] == pytest.approx(30 / 40)


def test_an_arm_that_drops_the_content_is_not_measured_on_what_it_rewrote(cell):
    values = read(cell, {"v:0", "v:2"}, keeps_content=False).values
    assert "pretrain/heldout_text/untouched/bits_per_byte" in values
    assert "pretrain/heldout_text/rewritten/bits_per_byte" not in values
    assert "pretrain/heldout_text/drills/bits_per_byte" not in values


def test_untouched_is_what_no_arm_rewrites(made_up):
    trial = made_up()
    folders = {arm: trial.folder / arm / "seed1" / "eval_pretrain" for arm in trial.arms}
    assert untouched_documents([folders["baseline"]]) == {"v:0", "v:1", "v:2", "d:0"}
    assert untouched_documents([*folders.values()]) == {"v:0", "v:2"}
    assert untouched_documents([]) == set()
