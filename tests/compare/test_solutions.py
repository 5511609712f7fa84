"""GSM8K's four published systems, paired by question."""

import json
from itertools import combinations

import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar

CORRECT = {"6b_finetuning": 286, "6b_verification": 515, "175b_finetuning": 458, "175b_verification": 742}


@pytest.fixture(scope="module")
def path(shared_data):
    return shared_data / "gsm8k" / "example_model_solutions.jsonl"


def test_six_paired_contrasts_as_statsmodels_makes_them(path, compared):
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    contrasts = {(c["a"], c["b"]): c for c in compared(path)}
    assert list(contrasts) == list(combinations(CORRECT, 2))
    for (a, b), contrast in contrasts.items():
        table = [[0, 0], [0, 0]]
        for row in rows:
            table[not row[a]["is_correct"]][not row[b]["is_correct"]] += 1
        assert contrast["p"] == pytest.approx(mcnemar(table, exact=True).pvalue)
        assert contrast["discordant"] == [table[0][1], table[1][0]]
        assert (contrast["value_a"], contrast["value_b"]) == pytest.approx((CORRECT[a] / 1319, CORRECT[b] / 1319))
        # near the plain interval of a paired mean, which so many items allow
        d = [row[a]["is_correct"] - row[b]["is_correct"] for row in rows]
        assert contrast["difference"] == pytest.approx(sum(d) / 1319)
        assert contrast["interval"] == pytest.approx(list(stats.ttest_1samp(d, 0).confidence_interval(0.95)), abs=0.002)
        assert contrast["finding"] == "these two models differ; one seed each"
        assert (contrast["unit"], contrast["n_a"]) == ("items", 1319)


def test_a_system_that_one_line_lacks_is_named(path, tmp_path, refused):
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[:3]]
    del rows[2]["6b_verification"]
    broken = tmp_path / "solutions.jsonl"
    broken.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert f"{broken}, line 3: no '6b_verification'" in refused(broken)
