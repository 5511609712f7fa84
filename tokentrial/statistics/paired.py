"""Tests and intervals for paired differences: one number a seed, treatment minus control.

Seeds are the replicates. Both arms of a seed share weights, documents, drills and fold, so the analysis is of
the differences d_1..d_n. All values are in the unit of the outcome (accuracy in 0..1, nats, bits per byte).
Every function is pure; wrong or non-finite input raises ValueError.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special  # not scipy.stats: a third of its import time

Floats = npt.NDArray[np.float64]
Values = Sequence[float] | Floats
Interval = tuple[float, float]

MOST_CELLS = 4_000  # seeds x facts in an interval over both: its matrices have the square of that
EXACT_SEEDS = 20  # 2^20 sign patterns take 10 ms; each further seed doubles that
ROUND_OFF = 1e-9  # relative: (0.3 - 0.2) and (0.7 - 0.6) are one difference, not two


class PairedT(NamedTuple):
    """Student's one-sample t of the differences; None where it is undefined (n < 2 or sd = 0)."""

    n: int
    mean: float
    sd: float | None  # ddof 1; None for one seed
    p: float | None  # two-sided, of mean = 0
    ci95: Interval | None


class Tost(NamedTuple):
    """Two one-sided t tests of |mean| < margin at alpha each; None where they are undefined (n < 2 or sd = 0)."""

    p: float | None  # the larger of the two: below alpha exactly where the 1 - 2 alpha interval lies inside +-margin
    margin_at_80_power: float | None  # the smallest that this sd and n would show with 80 % power


class CrossedInterval(NamedTuple):
    """Of the mean difference over seeds and facts, both taken as samples; None where it was refused."""

    variance: float | None  # in the outcome's unit squared
    df: float | None  # Satterthwaite
    interval: Interval | None
    refusal: str | None  # why there is none


def finite_vector(values: Values, name: str) -> Floats:
    """`values` as a vector of shape (n,), n >= 1; ValueError naming the first that is not a finite number."""
    vector = np.asarray(values, dtype=np.float64)
    if vector.ndim != 1 or vector.size == 0:
        raise ValueError(f"{name}: found shape {vector.shape}, expected one number a seed, at least one")
    if not np.isfinite(vector).all():
        position = int(np.flatnonzero(~np.isfinite(vector))[0])
        raise ValueError(f"{name}: found {vector[position]} at position {position}, expected finite numbers")
    return vector


def paired_differences(treatment: Values, control: Values) -> Floats:
    """Treatment minus control by seed; what only round-off tells apart is 0, or it would look like seeds that agree."""
    a, b = finite_vector(treatment, "treatment"), finite_vector(control, "control")
    if len(a) != len(b):
        raise ValueError(f"seeds: found {len(a)} of treatment, {len(b)} of control, expected the same seeds")
    return np.where(np.isclose(a, b, rtol=1e-12, atol=0), 0.0, a - b)


def paired_t(differences: Values) -> PairedT:
    """Paired t test (Student 1908): t = mean / (s / sqrt(n)) with n - 1 degrees of freedom.

    p < 0.05 exactly when ci95 leaves out 0, so the interval and the verdict cannot disagree.
    """
    d = finite_vector(differences, "differences")
    n, mean = len(d), float(d.mean())
    if n < 2:
        return PairedT(n, mean, None, None, None)
    sd = float(d.std(ddof=1))
    if sd <= ROUND_OFF * np.abs(d).max():
        return PairedT(n, mean, 0.0, None, None)
    error = sd / np.sqrt(n)
    return PairedT(n, mean, sd, t_p(mean, error, n - 1), t_interval(mean, error, n - 1, 0.95))


def t_p(difference: float, error: float, df: float) -> float:
    """Two-sided p of a t test of 0."""
    return 2 * float(special.stdtr(df, -abs(difference) / error))


def t_interval(difference: float, error: float, df: float, level: float) -> Interval:
    half = float(error * special.stdtrit(df, (1 + level) / 2))
    return difference - half, difference + half


def sign_flip(differences: Values, rng: np.random.Generator | None = None, num_patterns: int = 100_000) -> float:
    """Two-sided p of the sign-flip test (Fisher 1935): p = #{|sum e*d| >= |sum d|} / 2^n over e in {-1, 1}^n.

    Exact up to 20 seeds, where the smallest p is 2^(1 - (n - zeros)); beyond, `num_patterns` random patterns and
    (hits + 1) / (num_patterns + 1) (Phipson & Smyth 2010), for which `rng` is required. All zero gives 1.
    """
    d = finite_vector(differences, "differences")
    observed = abs(d.sum()) - ROUND_OFF * np.abs(d).sum()  # ties count, however their sums round
    if len(d) <= EXACT_SEEDS:
        sums = d[:1]  # the first sign stays +: the other half mirrors this one
        for difference in d[1:]:
            sums = np.concatenate([sums + difference, sums - difference])
        return float(np.mean(np.abs(sums) >= observed))
    if rng is None:
        raise ValueError(f"sign_flip: {len(d)} seeds are too many to enumerate, expected {EXACT_SEEDS} or an rng")
    signs = rng.integers(0, 2, size=(num_patterns, len(d)), dtype=np.int8) * 2 - 1
    hits = int(np.count_nonzero(np.abs(signs @ d) >= observed))
    return (hits + 1) / (num_patterns + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p (Holm 1979), in the order given."""
    adjusted, worst = [0.0] * len(p_values), 0.0
    for rank, (p, i) in enumerate(sorted((p, i) for i, p in enumerate(p_values))):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p))
        adjusted[i] = worst
    return adjusted


def tost(differences: Values, margin: float, alpha: float = 0.05) -> Tost:
    """Equivalence within +-margin (Schuirmann 1987) by two one-sided paired t tests at `alpha`.

    `margin_at_80_power` = (t.95 + t.90) s / sqrt(n) at 5 %, reached when the true difference is 0.
    """
    if not 0 < margin < np.inf:
        raise ValueError(f"margin: found {margin}, expected a finite number above 0")
    t = paired_t(differences)
    if not t.sd:
        return Tost(None, None)
    error = t.sd / np.sqrt(t.n)
    in_reach = float(error * special.stdtrit(t.n - 1, [1 - alpha, 0.90]).sum())
    return Tost(float(special.stdtr(t.n - 1, -(margin - abs(t.mean)) / error)), in_reach)


def crossed_interval(matrix: Sequence[Sequence[float]] | Floats, level: float = 0.95) -> CrossedInterval:
    """Interval for the mean over new seeds *and* new facts: both crossed factors are random.

    `matrix`: seeds x unordered facts of paired differences; NaN where a seed did not have that fact (folds).
    The mean is that of the seeds' means, as in `paired_t`. On a complete n x F matrix the variance is

        V = s2_seed/n + s2_fact/F - s2_resid/(n F),

    with s2_seed the variance of the n row means, s2_fact of the F column means and s2_resid the residual mean
    square: each of the first two holds s2_resid/(n F) once, so it is taken off once (Searle, Casella &
    McCulloch 1992, ch. 4). Written for any pattern of facts, the same V is

        V = s2_seed/n + between * overlap,

    `between` the variance between facts (mean covariance of two seeds over the facts they share) and
    between * overlap the covariance of two seeds' means. A negative `between` counts as 0: V and df are then
    those of the seeds alone, so V is never negative. Satterthwaite's (1946) df is V^2 / tr((Q S)^2), Q the
    quadratic form that V is in the cells and S their estimated covariance; since the subtraction can push it
    below the df of V's least certain part, min(n, F) - 1, it stops there.
    Simulated coverage: 94-97 % for 6 to 10 seeds, complete or in folds (down to 92 % at 3).
    """
    cells = np.asarray(matrix, dtype=np.float64)
    if cells.ndim != 2 or cells.size == 0 or np.isinf(cells).any() or np.isnan(cells).all(axis=1).any():
        raise ValueError(f"matrix: found shape {cells.shape}, expected seeds x facts, finite, NaN where absent")
    cells = cells[:, ~np.isnan(cells).all(axis=0)]
    observed = ~np.isnan(cells)
    n, facts = cells.shape
    weights = observed / observed.sum(axis=1, keepdims=True)  # the mean of row s is weights[s] @ cells[s]
    mean = float((weights * np.where(observed, cells, 0)).sum() / n)
    if cells.size > MOST_CELLS:
        return CrossedInterval(None, None, None, f"{cells.size:,} results of facts are more than {MOST_CELLS:,}")
    both_observed = (observed[:, None] & observed).astype(np.float64)  # (seed, seed, fact): both seeds have this fact
    num_shared = both_observed.sum(axis=2)
    pair_df, same_seed, other_seed = np.maximum(num_shared - 1, 0), np.eye(n), 1 - np.eye(n)
    if n < 2 or facts < 2 or ((num_shared * other_seed).any() and not (pair_df * other_seed).any()):
        return CrossedInterval(None, None, None, "too few seeds or shared facts")

    # Estimates are quadratic forms y' A y in the n * F cells; y is 0, without weight, where a fact is absent.
    y = np.where(observed, cells - mean, 0).reshape(-1)
    row_means = (same_seed[..., None] * weights).reshape(n, -1)  # (seed, cell)
    seed_form = row_means.T @ (same_seed - 1 / n) @ row_means / (n - 1)
    products = np.einsum("stf,fg->sftg", both_observed, np.eye(facts))
    products -= np.einsum("stf,stg,st->sftg", both_observed, both_observed, 1 / np.maximum(num_shared, 1))

    def mean_covariance(pairs: Floats) -> Floats:  # of the seeds' cells over shared facts, pooled by degrees of freedom
        form: Floats = (products * pairs[:, None, :, None]).reshape(len(y), -1)
        return form / max(float((pair_df * pairs).sum()), 1)

    fact_form = mean_covariance(other_seed)
    s2_seed, between, within = (float(y @ form @ y) for form in (seed_form, fact_form, mean_covariance(same_seed)))
    overlap = float((weights @ weights.T * other_seed).sum() / other_seed.sum())
    variance, df = s2_seed / n + max(between, 0) * overlap, float(n - 1)
    if variance <= (ROUND_OFF * mean) ** 2:
        return CrossedInterval(None, None, None, "no spread between seeds or facts")
    if between > 0:
        seed = s2_seed - within * float((1 / observed.sum(axis=1)).mean()) + between * overlap
        covariance = np.kron(seed * same_seed, np.ones((facts, facts))) + (within - between) * np.eye(len(y))
        covariance += np.kron(np.ones((n, n)), between * np.eye(facts))
        product = (seed_form / n + overlap * fact_form) @ covariance
        df = max(variance**2 / float((product * product.T).sum()), min(n, facts) - 1.0)
    return CrossedInterval(variance, df, t_interval(mean, float(np.sqrt(variance)), df, level), None)
