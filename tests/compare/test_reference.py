"""The original report's result files: totals, and the first items where there are any."""

import json

import pytest
from scipy import stats

from tokentrial.compare.external_formats import read_results

NUM_FILES = {"gsm8k": 16, "arithmetic": 8, "hellaswag": 8}


@pytest.fixture(scope="module")
def outputs(shared_data):
    return shared_data / "original_results" / "outputs"


@pytest.mark.parametrize("task", NUM_FILES)
def test_every_file_loads_with_its_totals(outputs, task):
    files = sorted(outputs.glob(f"*/{task}_results.json"))
    assert len(files) == NUM_FILES[task]
    for path in files:
        metrics = json.loads(path.read_text())["metrics"]
        items, notes = read_results(path)
        stated = metrics.get("category_accuracies") or {task: metrics}
        read = {name: (items[f"{name}/all/accuracy"].correct, items[f"{name}/all/accuracy"].total) for name in stated}
        assert read == {name: (total["correct"], total["total"]) for name, total in stated.items()}
        assert any("totals of" in note for note in notes)


def test_after_sft_the_table_differs_one_seed_each(outputs, by_outcome):
    """55/81 against 30/81, item by item in the files: of 45 facts, and not of 81 items."""
    contrasts = by_outcome(outputs / "eval_sft_gsm8k_baseline", outputs / "eval_sft_gsm8k_mul_tokens")
    table = contrasts["mul_table/all/accuracy"]
    assert (table["value_a"], table["value_b"]) == pytest.approx((55 / 81, 30 / 81))
    assert table["finding"] == "these two models differ; one seed each"
    assert (table["unit"], table["n_a"], table["test"]) == ("facts", 45, "sign_flip_over_facts")
    assert stats.binomtest(table["discordant"][0], sum(table["discordant"])).pvalue < 1e-4 < table["p"] < 0.001
    totals = contrasts["addition/all/accuracy"]
    assert totals["test"] == "fisher_exact"
    assert "totals only" in totals["note"]
    assert contrasts.keys() >= {"gsm8k/all/accuracy", "gsm8k/first_50/accuracy", "hellaswag/all/accuracy_norm"}


def test_sets_of_another_size_are_said_to_overlap(outputs, by_outcome):
    paths = [outputs / f"{name}/gsm8k_results.json" for name in ("eval_sft_gsm8k_baseline", "eval_grpo_baseline")]
    contrast = by_outcome(*paths)["gsm8k/all/accuracy"]
    assert (contrast["n_a"], contrast["n_b"]) == (200, 500)
    assert "200 items against 500: if one set holds the other, they are not independent" in contrast["note"]


def test_our_own_results_in_that_shape_hold_every_item(tmp_path, compared):
    """`evaluate --model` writes all items, so they pair."""
    for name, answers in (("one", (True, True, False)), ("two", (False, True, False))):
        rows = [
            {"question": f"{n} and {n}?", "true_answer": f"{2 * n}", "is_correct": c} for n, c in enumerate(answers)
        ]
        (tmp_path / name).mkdir()
        results = {"metrics": {"correct": sum(answers), "total": 3}, "examples": rows}
        (tmp_path / name / "sums_results.json").write_text(json.dumps(results))
    [contrast] = compared(tmp_path / "one", tmp_path / "two")
    assert (contrast["outcome"], contrast["test"]) == ("sums/all/accuracy", "mcnemar_exact")
    assert contrast["discordant"] == [1, 0]
