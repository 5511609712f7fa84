"""Paired tests agree with their formulas, with scipy and statsmodels, and with the figures in print."""

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ttost_paired

from tokentrial.statistics.paired import crossed_interval, holm, paired_t, sign_flip, tost

BASELINE = np.array([0.74, 0.35, 0.13, 0.04, 0.26])  # never asked, seeds 1-5: FACTS section 3
APPEND = np.array([0.96, 0.87, 1.00, 0.87, 0.96])

differences = st.lists(st.floats(-1, 1, allow_subnormal=False), min_size=2, max_size=9)


def brute_force_sign_flip(d):
    flipped = [abs(sum(e * x for e, x in zip(signs, d, strict=True))) for signs in product((-1, 1), repeat=len(d))]
    return np.mean(np.array(flipped) >= abs(sum(d)) - 1e-9 * sum(map(abs, d)))


def test_a_table_too_large_for_an_interval_over_facts_is_refused_and_not_tried():
    refused = crossed_interval(np.zeros((6, 5000)))
    assert refused.interval is None
    assert "30,000" in refused.refusal


def crossed(seed, n, facts, sd_seed=0.3, sd_fact=0.3, sd_residual=0.3):
    rng = np.random.default_rng(seed)
    seeds, columns = sd_seed * rng.standard_normal((n, 1)), sd_fact * rng.standard_normal(facts)
    return 0.2 + seeds + columns + sd_residual * rng.standard_normal((n, facts))


def in_folds(matrix):
    """Seed k keeps only the facts of fold k mod 3, as the never-asked facts of a trial do."""
    n, facts = matrix.shape
    return np.where(np.arange(n)[:, None] % 3 == np.arange(facts) % 3, matrix, np.nan)


# paired t


def test_paired_t_is_scipys():
    ours, theirs = paired_t(APPEND - BASELINE), stats.ttest_rel(APPEND, BASELINE)
    assert ours.p == pytest.approx(theirs.pvalue)
    assert ours.ci95 == pytest.approx(tuple(theirs.confidence_interval(0.95)))
    assert ours.sd == pytest.approx(np.std(APPEND - BASELINE, ddof=1))


@pytest.mark.parametrize("d", [[0.4], [0.1] * 6, [0.0] * 6, [0.3 - 0.2, 0.7 - 0.6, 0.9 - 0.8]])
def test_of_one_seed_or_without_spread_t_and_equivalence_are_undefined(d):
    t = paired_t(d)
    assert (t.n, t.p, t.ci95) == (len(d), None, None)
    assert t.sd == (None if len(d) == 1 else 0)
    assert t.mean == pytest.approx(d[0])
    assert tost(d, 0.1) == (None, None)


@pytest.mark.parametrize(
    ("d", "found"),
    [([0.1, np.nan], "nan at position 1"), ([np.inf, 0.1], "inf at position 0"), ([], r"shape \(0,\)")],
)
def test_input_that_is_not_finite_is_refused_by_name(d, found):
    for test in (paired_t, sign_flip, lambda d: tost(d, 0.1)):
        with pytest.raises(ValueError, match=f"differences: found {found}"):
            test(d)


# sign flip


@given(differences)
def test_sign_flip_is_the_formula(d):
    assert sign_flip(d) == pytest.approx(brute_force_sign_flip(d))


@pytest.mark.parametrize(("n", "zeros"), [(6, 0), (6, 2), (8, 1), (20, 0)])
def test_the_smallest_sign_flip_p(n, zeros):
    d = np.r_[np.linspace(0.1, 0.4, n - zeros), np.zeros(zeros)]
    assert sign_flip(d) == 2.0 ** (1 - (n - zeros))


def test_beyond_20_seeds_signs_are_drawn():
    d = np.r_[np.ones(14), -np.ones(8)]  # sum 6 of 22: |22 - 2k| >= 6 has an exact binomial chance
    exact = 2 * stats.binom.cdf(8, 22, 0.5)
    assert sign_flip(d, np.random.default_rng(0)) == pytest.approx(exact, abs=0.005)
    assert sign_flip(np.ones(40), np.random.default_rng(0), num_patterns=999) == 1 / 1000  # never 0
    assert sign_flip(np.zeros(30), np.random.default_rng(0)) == 1
    with pytest.raises(ValueError, match="22 seeds"):
        sign_flip(d)


# Holm


def test_holm_is_statsmodels():
    rng = np.random.default_rng(0)
    for size in (1, 2, 3, 6):
        for p_values in (rng.random(size), 0.1 * rng.random(size), np.round(0.05 * rng.random(size), 2)):  # ties, 0
            assert holm(p_values.tolist()) == pytest.approx(multipletests(p_values, method="holm")[1])
    assert holm([]) == []


# equivalence


@pytest.mark.parametrize("margin", [0.02, 0.05, 0.10, 0.5])
def test_tost_is_statsmodels(margin):
    rng = np.random.default_rng(3)
    a, b = rng.normal(0.5, 0.05, 8), rng.normal(0.5, 0.05, 8)
    assert tost(a - b, margin).p == pytest.approx(ttost_paired(a, b, -margin, margin)[0])


def test_the_margin_within_reach_of_six_seeds_is_1_43_s():
    d = np.array([-1.0, 1, -1, 1, -1, 1])
    s = d.std(ddof=1)
    assert tost(d, 1.0).margin_at_80_power / s == pytest.approx(1.43, abs=0.005)
    at_1 = (stats.t.ppf(0.99, 5) + stats.t.ppf(0.90, 5)) * s / np.sqrt(6)
    assert tost(d, 1.0, 0.01).margin_at_80_power == pytest.approx(at_1)


@pytest.mark.parametrize("margin", [0, -0.1, np.nan, np.inf])
def test_a_margin_is_positive(margin):
    with pytest.raises(ValueError, match="margin"):
        tost([0.1, 0.2], margin)


# facts like these


@pytest.mark.parametrize(("n", "facts"), [(6, 12), (10, 36)])
def test_a_complete_matrix_gives_the_printed_variance_and_satterthwaite_df(n, facts):
    matrix = crossed(0, n, facts)
    rows, columns = matrix.mean(axis=1, keepdims=True), matrix.mean(axis=0)
    s2_seed, s2_fact = rows.var(ddof=1), columns.var(ddof=1)
    s2_resid = ((matrix - rows - columns + matrix.mean()) ** 2).sum() / ((n - 1) * (facts - 1))
    terms = np.array([s2_seed / n, s2_fact / facts, -s2_resid / (n * facts)])
    df = terms.sum() ** 2 / (terms**2 / [n - 1, facts - 1, (n - 1) * (facts - 1)]).sum()
    result = crossed_interval(matrix)
    assert result.variance == pytest.approx(terms.sum())
    assert result.df == pytest.approx(df)
    half = stats.t.ppf(0.975, df) * np.sqrt(terms.sum())
    assert result.interval == pytest.approx((matrix.mean() - half, matrix.mean() + half))


@pytest.mark.parametrize("s2_fact_in_residuals", [0.5, 1.01])
def test_chance_agreement_of_seeds_and_facts_makes_no_absurd_interval(s2_fact_in_residuals):
    noise = crossed(2, 6, 12)
    rows, columns = noise.mean(axis=1, keepdims=True) - noise.mean(), noise.mean(axis=0) - noise.mean()
    residuals = noise - rows - columns - noise.mean()
    s2_resid = (residuals**2).sum() / (5 * 11)
    # Row means that hardly vary, column means half as much, or just more, than noise alone makes them: the
    # printed V falls below 0, or just above it with a df of nearly 0.
    columns *= np.sqrt(s2_fact_in_residuals * s2_resid / 6 / columns.var(ddof=1))
    result = crossed_interval(residuals + columns + 0.01 * rows)
    assert result.variance > 0
    assert result.df == pytest.approx(5)


def test_folds_weigh_the_variance_between_facts_by_the_pairs_that_share_them():
    folds = in_folds(crossed(5, 6, 36))
    covariances = [np.cov(*(row[~np.isnan(row)] for row in folds[[k, k + 3]]))[0, 1] for k in range(3)]
    expected = np.nanmean(folds, axis=1).var(ddof=1) / 6 + np.mean(covariances) / 12 * (3 / 15)
    result = crossed_interval(folds)
    assert result.variance == pytest.approx(expected)


@pytest.mark.parametrize(
    "absent",
    [
        set(),
        {(0, 1), (0, 2), (1, 5), (2, 0), (3, 3), (3, 4), (4, 1)},
        {(0, 3), (0, 4), (0, 5), (1, 0), (1, 1), (1, 5)},  # seeds 0 and 1 share one fact
    ],
)
def test_the_df_is_satterthwaites_by_another_road(absent):
    """2 V^2 / var(V), with the variance 2 tr((QS)^2) of a form in normal cells: Q by polarization of V itself."""
    matrix = crossed(3, 5, 6)
    for place in absent:
        matrix[place] = np.nan
    seen = ~np.isnan(matrix)
    cells, pairs, n = np.argwhere(seen), [*permutations(range(5), 2)], 5
    weights = seen / seen.sum(axis=1, keepdims=True)
    overlap = np.mean([weights[s] @ weights[t] for s, t in pairs])

    def products(of, s, t):
        both = seen[s] & seen[t]
        return ((of[s, both] - of[s, both].mean()) * (of[t, both] - of[t, both].mean())).sum()

    def parts(of):
        freedom = sum((seen[s] & seen[t]).sum() - 1 for s, t in pairs)
        return np.nanmean(of, axis=1).var(ddof=1), sum(products(of, s, t) for s, t in pairs) / freedom

    def variance(of):
        of_seeds, between = parts(of)
        return of_seeds / n + between * overlap

    def at(*places):
        of = np.where(seen, 0.0, np.nan)
        for s, fact in places:
            of[s, fact] += 1
        return variance(of)

    alone = [at(cell) for cell in cells]
    form = [[(at(p, q) - alone[i] - alone[j]) / 2 for j, q in enumerate(cells)] for i, p in enumerate(cells)]
    of_seeds, between = parts(matrix)
    within = sum(products(matrix, s, s) for s in range(n)) / (seen.sum() - n)
    of_seed = of_seeds - within * (1 / seen.sum(axis=1)).mean() + between * overlap
    same, alike = (cells[:, None, k] == cells[None, :, k] for k in (0, 1))
    product = np.array(form) @ (of_seed * same + between * alike + (within - between) * (same & alike))
    df = variance(matrix) ** 2 / np.trace(product @ product)
    assert between > 0
    assert df > 4  # else the least certain part sets it
    assert crossed_interval(matrix).df == pytest.approx(df)


def test_the_order_of_seeds_and_facts_and_facts_of_no_seed_do_not_matter():
    folds, rng = in_folds(crossed(6, 8, 36)), np.random.default_rng(0)
    shuffled = np.c_[folds[rng.permutation(8)][:, rng.permutation(36)], np.full(8, np.nan)]
    once, again = crossed_interval(folds), crossed_interval(shuffled)
    assert (again.variance, again.df) == pytest.approx((once.variance, once.df))


@pytest.mark.parametrize(
    ("matrix", "reason"),
    [
        ([[0.1, 0.2]], "too few seeds or shared facts"),
        ([[0.1]], "too few"),
        ([[0.1], [0.2]], "too few"),
        ([[0.1, 0.2, np.nan], [np.nan, 0.3, 0.4]], "too few"),  # one shared fact shows no covariance
        ([[0.1, 0.1], [0.1, 0.1]], "no spread"),
    ],
)
def test_no_interval_over_facts(matrix, reason):
    result = crossed_interval(matrix)
    assert result.interval is None
    assert result.refusal.startswith(reason)


@pytest.mark.parametrize(
    "matrix", [[], [[], []], [0.1, 0.2], [[np.nan, np.nan], [0.1, 0.2]], [[np.inf, 0.1], [0.1, 0.2]]]
)
def test_a_matrix_that_is_none_is_an_error(matrix):
    with pytest.raises(ValueError, match="matrix"):
        crossed_interval(matrix)


@pytest.mark.parametrize("sds", [(0.3, 0.3, 0.3), (0.0, 0.3, 0.3), (0.0, 0.0, 0.3)])
def test_of_facts_in_folds_the_interval_holds_the_true_mean(sds):
    """94-97 %, widened by three standard errors of 500 trials. Complete matrices: benchmarks/simulations.py."""
    intervals = np.array([crossed_interval(in_folds(crossed(seed, 8, 18, *sds))).interval for seed in range(500)])
    assert 0.91 <= np.mean((intervals[:, 0] < 0.2) & (intervals[:, 1] > 0.2)) <= 0.99
