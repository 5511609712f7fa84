"""The reference experiment's result files: totals, and the first items where there are any."""

import json
from itertools import combinations

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


@pytest.mark.parametrize(
    ("task", "num_items", "items_outcome", "totals_task"),
    [
        ("gsm8k", 50, "gsm8k/first_50/accuracy", "gsm8k"),
        ("arithmetic", 81, "mul_table/all/accuracy", "addition"),
    ],
)
def test_files_compare_in_one_call_as_scipy_does(outputs, compared, task, num_items, items_outcome, totals_task):
    """Each pair: Fisher on the totals, exact McNemar on the first 50 of GSM8K and the 81 of the table."""
    paths = sorted(outputs.glob(f"*/{task}_results.json"))[:4]
    contrasts = {(c["outcome"], c["a"], c["b"]): c for c in compared(*paths)}
    for pair in combinations(paths, 2):
        files, names = [json.loads(path.read_text()) for path in pair], [path.parent.name for path in pair]
        a, b = ([e["is_correct"] for e in file["examples"][:num_items]] for file in files)
        discordant = [sum(x > y for x, y in zip(a, b, strict=True)), sum(x < y for x, y in zip(a, b, strict=True))]
        contrast = contrasts[(items_outcome, *names)]
        exact = stats.binomtest(discordant[0], sum(discordant), 0.5).pvalue if any(discordant) else 1.0
        assert (contrast["test"], contrast["n_items"], contrast["n_seeds"]) == ("mcnemar_exact", num_items, 1)
        assert contrast["discordant"] == discordant
        assert contrast["p"] == pytest.approx(exact)
        assert contrast["difference"] == pytest.approx((sum(a) - sum(b)) / num_items)
        totals = [f["metrics"].get("category_accuracies", {"gsm8k": f["metrics"]})[totals_task] for f in files]
        fisher = stats.fisher_exact([[t["correct"], t["total"] - t["correct"]] for t in totals])
        contrast = contrasts[(f"{totals_task}/all/accuracy", *names)]
        assert contrast["test"] == "fisher_exact"
        assert contrast["p"] == pytest.approx(fisher.pvalue)
        assert "totals only" in contrast["note"]


def test_after_sft_the_table_differs_one_seed_each(outputs, by_outcome):
    """55/81 against 30/81, paired item by item in the files; clusters by fact are named."""
    contrasts = by_outcome(outputs / "eval_sft_gsm8k_baseline", outputs / "eval_sft_gsm8k_mul_tokens")
    table = contrasts["mul_table/all/accuracy"]
    assert (table["value_a"], table["value_b"]) == pytest.approx((55 / 81, 30 / 81))
    assert table["verdict"] == "these two models differ; one seed each"
    assert "the 81 items ask 45 facts" in table["note"]
    assert table["p"] < 1e-4 < table["p_by_fact"] < 0.001
    assert contrasts.keys() >= {"gsm8k/all/accuracy", "gsm8k/first_50/accuracy", "hellaswag/all/accuracy_norm"}


def test_sets_of_another_size_are_said_to_overlap(outputs, by_outcome):
    paths = [outputs / f"{name}/gsm8k_results.json" for name in ("eval_sft_gsm8k_baseline", "eval_grpo_baseline")]
    contrast = by_outcome(*paths)["gsm8k/all/accuracy"]
    assert (contrast["n_a"], contrast["n_b"], contrast["n_items"]) == (200, 500, 200)
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
