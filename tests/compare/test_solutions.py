"""GSM8K's four published systems, paired by question."""

import json
from itertools import combinations

import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar

RIGHT = {"6b_finetuning": 286, "6b_verification": 515, "175b_finetuning": 458, "175b_verification": 742}


@pytest.fixture(scope="module")
def path(shared_data):
    return shared_data / "gsm8k" / "example_model_solutions.jsonl"


def test_six_paired_contrasts_as_statsmodels_makes_them(path, compared):
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    made = {(line["a"], line["b"]): line for line in compared(path)}
    assert list(made) == list(combinations(RIGHT, 2))
    for (a, b), line in made.items():
        table = [[0, 0], [0, 0]]
        for row in rows:
            table[not row[a]["is_correct"]][not row[b]["is_correct"]] += 1
        assert line["p"] == pytest.approx(mcnemar(table, exact=True).pvalue)
        assert line["discordant"] == [table[0][1], table[1][0]]
        assert (line["value_a"], line["value_b"]) == pytest.approx((RIGHT[a] / 1319, RIGHT[b] / 1319))
        assert line["difference"] == pytest.approx((RIGHT[a] - RIGHT[b]) / 1319)
        assert line["ci95"][0] < line["difference"] < line["ci95"][1]
        # near the plain interval of a paired mean, which so many items allow
        d = [row[a]["is_correct"] - row[b]["is_correct"] for row in rows]
        plain = stats.ttest_1samp(d, 0).confidence_interval(0.95)
        assert line["ci95"] == pytest.approx(list(plain), abs=0.002)
        assert line["verdict"] == "these two models differ; one seed each"
        assert (line["n_seeds"], line["n_items"]) == (1, 1319)


def test_the_closest_two_survive_holm_over_the_six(path, compared):
    """p = 0.00315 is the largest of six, so Holm leaves it."""
    p_values = [(line["p"], line["p_holm"]) for line in compared(path)]
    assert max(p_values) == pytest.approx((0.00315, 0.00315), abs=5e-6)
    assert min(p_values)[1] == pytest.approx(6 * min(p_values)[0])


def test_a_system_that_one_line_lacks_is_named(path, tmp_path, tokentrial):
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[:3]]
    del lines[2]["6b_verification"]
    broken = tmp_path / "solutions.jsonl"
    broken.write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, _, err = tokentrial("compare", broken)
    assert code == 1
    assert f"{broken}: line 3: no '6b_verification'" in err
