"""The reference experiment's result files: totals, and the first items where there are any."""

import json
from itertools import combinations

import pytest
from scipy import stats

from tokentrial.compare.theirs import read_results

TASKS = {"gsm8k": 16, "arithmetic": 8, "hellaswag": 8}


@pytest.fixture(scope="module")
def outputs(shared_data):
    return shared_data / "original_results" / "outputs"


def files(outputs, task):
    return sorted(outputs.glob(f"*/{task}_results.json"))


@pytest.mark.parametrize("task", TASKS)
def test_every_file_loads_with_its_totals(outputs, task):
    found = files(outputs, task)
    assert len(found) == TASKS[task]
    for path in found:
        metrics = json.loads(path.read_text())["metrics"]
        items, notes = read_results(path)
        stated = metrics.get("category_accuracies") or {task: metrics}
        read = {name: (items[f"{name}/all/accuracy"].correct, items[f"{name}/all/accuracy"].total) for name in stated}
        assert read == {name: (total["correct"], total["total"]) for name, total in stated.items()}
        assert any("totals of" in note for note in notes)


@pytest.mark.parametrize(("task", "shown"), [("gsm8k", 50), ("arithmetic", 81)])
def test_all_24_compare_in_one_call_as_scipy_does(outputs, compared, task, shown):
    """Each pair: Fisher on the totals, exact McNemar on the first 50 of GSM8K and the 81 of the table."""
    paths = files(outputs, task)
    outcome = {"gsm8k": "gsm8k/first_50/accuracy", "arithmetic": "mul_table/all/accuracy"}[task]
    totals = {"gsm8k": "gsm8k/all/accuracy", "arithmetic": "addition/all/accuracy"}[task]
    made = {(line["outcome"], line["a"], line["b"]): line for line in compared(*paths)}
    for one, other in combinations(paths, 2):
        a, b = (json.loads(path.read_text()) for path in (one, other))
        names = one.parent.name, other.parent.name
        right = [[e["is_correct"] for e in side["examples"][:shown]] for side in (a, b)]
        only_a, only_b = (sum(x and not y for x, y in zip(*sides, strict=True)) for sides in (right, right[::-1]))
        line = made[(outcome, *names)]
        exact = stats.binomtest(only_a, only_a + only_b, 0.5).pvalue if only_a + only_b else 1.0
        assert (line["test"], line["n_items"], line["n_seeds"]) == ("mcnemar_exact", shown, 1)
        assert line["discordant"] == [only_a, only_b]
        assert line["p"] == pytest.approx(exact)
        assert line["difference"] == pytest.approx((only_a - only_b) / shown)
        counts = [
            side["metrics"].get("category_accuracies", {"gsm8k": side["metrics"]})[totals.split("/")[0]]
            for side in (a, b)
        ]
        line = made[(totals, *names)]
        table = [[side["correct"], side["total"] - side["correct"]] for side in counts]
        assert line["test"] == "fisher_exact"
        assert line["p"] == pytest.approx(stats.fisher_exact(table).pvalue)
        assert "totals only" in line["note"]
        assert "no verdict on the arm" in line["note"]


def test_after_sft_the_table_differs_one_seed_each(outputs, compared):
    """55/81 against 30/81, paired item by item in the files; clusters by fact are named."""
    made = {
        line["outcome"]: line
        for line in compared(outputs / "eval_sft_gsm8k_baseline", outputs / "eval_sft_gsm8k_mul_tokens")
    }
    table = made["mul_table/all/accuracy"]
    assert (table["value_a"], table["value_b"]) == pytest.approx((55 / 81, 30 / 81))
    assert table["p"] == pytest.approx(stats.binomtest(table["discordant"][0], sum(table["discordant"])).pvalue)
    assert table["p"] < 1e-4
    assert table["verdict"] == "these two models differ; one seed each"
    assert "the 81 items ask 45 facts" in table["note"]
    assert table["p"] < table["p_by_fact"] < 0.001
    assert made.keys() >= {"gsm8k/all/accuracy", "gsm8k/first_50/accuracy", "hellaswag/all/accuracy_norm"}


def test_sets_of_another_size_are_said_to_overlap(outputs, compared):
    paths = [outputs / f"{name}/gsm8k_results.json" for name in ("eval_sft_gsm8k_baseline", "eval_grpo_baseline")]
    line = next(line for line in compared(*paths) if line["outcome"] == "gsm8k/all/accuracy")
    assert (line["n_a"], line["n_b"], line["n_items"]) == (200, 500, 200)
    assert "200 items against 500: if one set holds the other, they are not independent" in line["note"]


def test_our_own_results_in_that_shape_hold_every_item(tmp_path, compared):
    """`evaluate --model` writes all items, so they pair."""
    for name, right in (("one", (True, True, False)), ("two", (False, True, False))):
        rows = [{"question": f"{n} and {n}?", "true_answer": str(2 * n), "is_correct": r} for n, r in enumerate(right)]
        metrics = {"accuracy": 0, "correct": sum(right), "total": 3}
        (tmp_path / name).mkdir()
        (tmp_path / name / "sums_results.json").write_text(json.dumps({"metrics": metrics, "examples": rows}))
    [line] = compared(tmp_path / "one", tmp_path / "two")
    assert (line["outcome"], line["test"], line["discordant"]) == ("sums/all/accuracy", "mcnemar_exact", [1, 0])
