"""Bare counts: what can be said of the reference experiment's own figures."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tokentrial.compare.contrasts import compare
from tokentrial.compare.read import counts

SHAPE = {"outcome", "a", "b", "n_a", "n_b", "difference", "ci95", "p", "test", "mde80", "verdict", "note"}


def test_five_of_81_against_none_is_not_distinguishable_and_under_the_floor_of_an_echo(one):
    """FACTS R11: exact p = 0.0625, five discordant items on one side; floors 4/81, 9/81 and 17/81."""
    made = one("--counts", "5/81", "0/81", "--task", "mul_table")
    assert made.keys() >= SHAPE
    assert (made["outcome"], made["a"], made["b"]) == ("mul_table/all/accuracy", "5/81", "0/81")
    assert (made["p"], made["test"], made["discordant"]) == (0.0625, "mcnemar_exact", [5, 0])
    assert made["p"] == stats.binomtest(5, 5, 0.5).pvalue
    assert made["verdict"] == "not distinguishable at 5 %; one seed each"
    assert "no verdict on the arm" in made["note"]
    assert "5/81 and 0/81 under the floor of echo operand, 9/81" in made["note"]
    assert "5/81 and 0/81 under the floor of echo larger operand, 17/81" in made["note"]
    assert made["floors"] == pytest.approx({"constant": 4 / 81, "echo_operand": 9 / 81, "echo_larger_operand": 17 / 81})
    assert made["mde80"] > made["difference"] == pytest.approx(5 / 81)


def test_55_against_30_of_81_differ_one_seed_each(one):
    made = one("--counts", "55/81", "30/81", "--task", "mul_table")
    assert made["p"] == pytest.approx(stats.fisher_exact([[55, 26], [30, 51]]).pvalue)
    assert made["p"] == pytest.approx(1e-4, rel=0.5)
    assert made["verdict"] == "these two models differ; one seed each"
    assert "no verdict on the arm" in made["note"]
    assert "above every floor" in made["note"]
    # whichever way the same 81 items pair: from 25 discordant items to 77
    for only_a, only_b in ((25, 0), (51, 26)):
        assert f"{stats.binomtest(only_a, only_a + only_b, 0.5).pvalue:.1g}" in made["note"]


def test_seeds_and_items_are_kept_apart(one):
    made = one("--counts", "55/81", "30/81", "--task", "mul_table")
    assert (made["unit"], made["n_seeds"], made["n_items"], made["n_a"], made["n_b"]) == ("items", 1, 81, 81, 81)


def test_without_a_task_there_are_no_floors_and_the_items_may_be_others(one):
    made = one("--counts", "5/81", "0/81")
    assert (made["test"], made["floors"]) == ("fisher_exact", {})
    assert made["p"] == pytest.approx(stats.fisher_exact([[5, 76], [0, 81]]).pvalue)


def test_the_table_without_the_rows_of_one_has_floors_of_its_own(one):
    """64 items: 4 of them are 12, 16, 18 or 24, and an echo is never right."""
    floors = one("--counts", "20/64", "10/64", "--task", "mul_table")["floors"]
    assert floors == {"constant": 4 / 64, "echo_operand": 0, "echo_larger_operand": 0}


@given(st.integers(0, 81), st.integers(0, 81), st.sampled_from([None, "mul_table"]))
def test_swapping_the_sides_negates_the_difference_and_keeps_p(a, b, task):
    (one,), (other,) = (
        compare(counts(words, task)).contrasts for words in ((f"{a}/81", f"{b}/81"), (f"{b}/81", f"{a}/81"))
    )
    assert one.difference == -other.difference
    assert one.p == pytest.approx(other.p)
    assert one.ci95 == pytest.approx([-end for end in reversed(other.ci95)])
    assert (one.verdict, one.test) == (other.verdict, other.test)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("5", "0/81"), "'5'"),
        (("82/81", "0/81"), "'82/81'"),
        (("0/0", "0/81"), "'0/0'"),
        (("-1/81", "0/81"), "'-1/81'"),
        (("1e3/81", "0/81"), "'1e3/81'"),
        (("5/81", "1/" + "9" * 5000), "99999999"),
        (("²/81", "0/81"), "²"),
    ],
)
def test_what_is_no_count_is_bad_usage(tokentrial, words, found):
    code, out, err = tokentrial("compare", "--counts", *words)
    assert (code, out) == (2, "")
    assert found in err
    assert "expected" in err


def test_a_total_that_the_table_has_not_is_bad_usage(tokentrial):
    code, _, err = tokentrial("compare", "--counts", "5/80", "0/80", "--task", "mul_table")
    assert code == 2
    assert "expected 81 items, or 64" in err


@pytest.mark.parametrize("words", [(), ("x", "--counts", "5/81", "0/81"), ("x", "y", "--task", "mul_table")])
def test_paths_or_counts(tokentrial, words):
    code, _, err = tokentrial("compare", *words)
    assert code == 2
    assert "counts" in err


def test_for_a_person(tokentrial):
    code, out, _ = tokentrial("compare", "--counts", "5/81", "0/81", "--task", "mul_table")
    assert code == 0
    assert "a: 5/81" in out
    assert "not distinguishable at 5 %; one seed each" in " ".join(out.split())
    assert "5/81 and 0/81 under the floor of echo operand, 9/81." in out
