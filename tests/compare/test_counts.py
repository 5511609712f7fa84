"""Bare counts: what can be said of the original report's own figures."""

import pytest
from scipy import stats

ALIKE, DIFFER = "not distinguishable at 5 %; one seed each", "these two models differ; one seed each"


def test_five_of_81_against_none_is_not_distinguishable_and_under_the_floor_of_an_echo(compared):
    """FACTS R11: exact p = 0.0625, five discordant items on one side; floors 4/81, 9/81 and 17/81."""
    [contrast] = compared("--counts", "5/81", "0/81", "--task", "mul_table")
    assert (contrast["outcome"], contrast["a"], contrast["b"]) == ("mul_table/all/accuracy", "5/81", "0/81")
    assert (contrast["unit"], contrast["n_a"], contrast["n_b"]) == ("items", 81, 81)
    assert (contrast["test"], contrast["discordant"]) == ("mcnemar_exact", [5, 0])
    assert contrast["p"] == 0.0625 == stats.binomtest(5, 5, 0.5).pvalue
    assert contrast["difference"] == pytest.approx(5 / 81)
    assert (contrast["finding"], contrast["verdict"]) == (ALIKE, None)
    assert "5/81 and 0/81 under the highest floor" in contrast["note"]
    floors = {"constant": 4 / 81, "echo_operand": 9 / 81, "echo_larger_operand": 17 / 81}
    assert contrast["floors"] == pytest.approx(floors)


def test_55_against_30_of_81_differ_one_seed_each(compared):
    [contrast] = compared("--counts", "55/81", "30/81", "--task", "mul_table")
    assert contrast["p"] == pytest.approx(stats.fisher_exact([[55, 26], [30, 51]]).pvalue)
    assert contrast["finding"] == DIFFER
    assert "above every floor" in contrast["note"]
    # whichever way the same 81 items pair: from 25 discordant items to 77
    for only_a, only_b in ((25, 0), (51, 26)):
        assert f"{stats.binomtest(only_a, only_a + only_b, 0.5).pvalue:.1g}" in contrast["note"]


def test_totals_differ_only_if_they_do_where_both_orders_of_a_fact_go_together(compared):
    """Six items of six facts give p = 2 / 2^6, of three facts 2 / 2^3: which of the two, totals do not tell."""
    [contrast] = compared("--counts", "6/81", "0/81", "--task", "mul_table")
    assert (contrast["p"], contrast["finding"]) == (2 / 2**6, ALIKE)
    assert "0.25" in contrast["note"]
    [independent] = compared("--counts", "6/81", "0/81")
    assert independent["finding"] == DIFFER


@pytest.mark.parametrize(("count", "at"), [("17/81", True), ("18/81", False)])
def test_exactly_at_a_floor_is_not_above_it(compared, count, at):
    [contrast] = compared("--counts", count, "40/81", "--task", "mul_table")
    assert (f"{count} at the highest floor" in contrast["note"]) is at
    assert ("above every floor" in contrast["note"]) is not at


def test_without_a_task_there_are_no_floors_and_the_items_may_differ(compared):
    [contrast] = compared("--counts", "5/81", "0/81")
    assert (contrast["test"], contrast["floors"]) == ("fisher_exact", {})
    assert contrast["p"] == pytest.approx(stats.fisher_exact([[5, 76], [0, 81]]).pvalue)


def test_the_table_without_the_rows_of_one_has_floors_of_its_own(compared):
    """64 items: 4 of them are 12, 16, 18 or 24, and an echo is never right."""
    [contrast] = compared("--counts", "20/64", "10/64", "--task", "mul_table")
    assert contrast["floors"] == {"constant": 4 / 64, "echo_operand": 0, "echo_larger_operand": 0}


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("--counts", "5", "0/81"), "'5': expected"),
        (("--counts", "82/81", "0/81"), "'82/81': expected"),
        (("--counts", "0/0", "0/81"), "'0/0': expected"),
        (("--counts", "-1/81", "0/81"), "'-1/81': expected"),
        (("--counts", "5/81", "1/" + "9" * 5000), "at most 99999999 items"),
        (("--counts", "²/81", "0/81"), "²"),
        (("--counts", "5/80", "0/80", "--task", "mul_table"), "expected 81 items, or 64"),
        ((), "counts"),
        (("x", "--counts", "5/81", "0/81"), "counts"),
        (("x", "y", "--task", "mul_table"), "counts"),
    ],
)
def test_what_is_no_count_is_bad_usage(tokentrial, words, found):
    code, out, err = tokentrial("compare", *words)
    assert (code, out) == (2, "")
    assert found in err
