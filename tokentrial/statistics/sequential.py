"""Seeds that may be added: group-sequential boundaries for the t test, exact at few seeds.

The seeds of a declared plan are looked at after n_1 < ... < n_K of them. Look k may spend alpha(n_k / n_K) - what was
spent before; its boundary is the |t| that so much of the chance lies beyond, of trials that no look before has stopped
(Lan & DeMets 1983, Biometrika 70:659). The usual boundaries are of normal z; at six seeds t has heavier tails.

Exactly, for t: under no effect the direction u_k = sum / sqrt(n_k * sum of squares) of the first n_k differences is a
Markov chain that knows no scale. With the squares' share B ~ Beta(n_k/2, m/2) of the old among n_k + m differences and
v the direction of the m new ones,

    sqrt(n_k + m) u_{k+1} = sqrt(n_k B) u_k + sqrt(m (1 - B)) v,    t = u sqrt(n - 1) / sqrt(1 - u^2),

where t of u_k and of v follow Student's t with n_k - 1 and m - 1 degrees of freedom.
"""

from collections.abc import Callable, Sequence
from functools import cache
from math import e, exp, log, sqrt
from typing import NamedTuple

import numpy as np
from scipy import special
from scipy.optimize import brentq

from tokentrial.statistics.paired import Floats, paired_t, sign_flip
from tokentrial.statistics.power import mde, seeds_needed

_SPENDING = {
    # two-sided: 2 - 2 Phi(z_{alpha/2} / sqrt(share))
    "obrien_fleming": lambda share, alpha: 2 * special.ndtr(special.ndtri(alpha / 2) / sqrt(share)),
    "pocock": lambda share, alpha: alpha * log(1 + (e - 1) * share),
}
_FAR = log(1e6)  # of |t|
_POINTS = 100  # of each integral; 240 move no boundary by 1e-3


class Look(NamedTuple):
    """Where a declared plan of seeds stands."""

    number: int  # of this look, from 1
    of: int  # looks of the plan
    seeds: int  # that count at it
    alpha: float  # two-sided level of one test at it
    may_go_on: bool  # whether the next look is taken where this one does not decide
    wanted: int  # seeds that the plan needs now
    why: str = ""  # of blinded looks: how the number came about

    @property
    def boundary(self) -> float:
        """The |t| that decides."""
        return float(-special.stdtrit(self.seeds - 1, self.alpha / 2))


def current_look(
    differences: Sequence[float],
    most: int,
    looks: Sequence[int] | str | None,
    spending: str,
    alpha: float,
    margin: float | None,
) -> Look:
    """The look that counts, given the primary differences of the first seeds that are whole, of `most` declared ones.

    Without looks all seeds are looked at once. With them the trial stops at the first that decides; seeds beyond it
    never count, whoever ran them. `blinded` re-estimates the number of seeds from |difference| alone after half of
    them (Kieser & Friede 2003, Stat. Med. 22:3571): the spread about 0, which no sign enters, so that the one test at
    the end keeps its level; `margin` is to be found with 80 % power.
    """
    n = len(differences)
    if looks is None:
        return Look(1, 1, most, alpha, False, most)
    if isinstance(looks, str):
        half = -(-most // 2)
        if n < half:
            return Look(1, 1, half, alpha, True, half, "the number of seeds is still open")
        spread = float(np.sqrt(np.mean(np.square(differences[:half]))))
        assert margin is not None  # held when the trial is read
        needed = seeds_needed(margin, spread, alpha, most=most) if spread else half
        final = min(most, max(half, needed or most))
        words = f"{final} seeds: the first {half} differences spread by {spread:.3g} about 0"
        return Look(1, 1, final, alpha, False, final, words)
    reached = [level(b, k) for b, k in zip(boundaries(tuple(looks), spending, alpha), looks, strict=True)]
    for number, (seeds, of_look) in enumerate(zip(looks, reached, strict=True), 1):
        last = number == len(looks)
        if n < seeds:
            break
        t = paired_t(differences[:seeds])
        p = sign_flip(differences[:seeds], np.random.default_rng(0)) if t.sd == 0 else t.p
        if last or (p is not None and p < of_look):
            return Look(number, len(looks), seeds, of_look, not last, seeds)
    # the look before this one has not decided: it counts until this one is whole
    before = max(0, number - 2)
    return Look(before + 1, len(looks), looks[before], reached[before], True, seeds)


@cache
def boundaries(looks: tuple[int, ...], spending: str, alpha: float) -> tuple[float, ...]:
    """The |t| that each look must reach, for looks after so many seeds, ascending, the first at 2 or more.

    Right to about 1e-3 (tests hold them against 4 million simulated trials).
    """
    if list(looks) != sorted(set(looks)) or looks[0] < 2:
        raise ValueError(f"looks: found {list(looks)}, expected ascending numbers of seeds, 2 or more")
    spent, bounds = 0.0, list[float]()
    going_on = _Trials(0, np.zeros(1), np.ones(1))
    for n in looks:
        may_spend = _SPENDING[spending](n / looks[-1], alpha) - spent
        spent += may_spend
        below = _chance_below(going_on, n)
        bounds.append(_boundary(below, n, may_spend))
        u = bounds[-1] / sqrt(n - 1 + bounds[-1] ** 2)
        if n < looks[-1]:
            edges = u * np.sin(np.linspace(-np.pi / 2, np.pi / 2, 2 * _POINTS + 1))  # denser at the ends
            going_on = _Trials(n, (edges[1:] + edges[:-1]) / 2, np.diff(below(edges)))
    return tuple(bounds)


def _boundary(below: Callable[[Floats], Floats], n: int, may_spend: float) -> float:
    """The |t| that trials which have gone on reach after n seeds with this chance."""

    def excess(log_t: float) -> float:
        t = exp(log_t)
        return 2 * float(below(np.array([-t / sqrt(n - 1 + t * t)]))[0]) - may_spend

    # at 2 or 3 seeds of many t is huge; past _FAR it stops nothing: a chance under 1e-6 is left there
    return exp(_FAR if excess(_FAR) > 0 else float(brentq(excess, -10.0, _FAR, xtol=1e-9)))


def level(boundary: float, n: int) -> float:
    """The two-sided p of one t test at this boundary: what a look's p is held against."""
    return float(2 * special.stdtr(n - 1, -boundary))


class Expected(NamedTuple):
    """What a declared plan of seeds comes to under a true difference."""

    power: float
    mean_seeds: float


def expected(most: int, looks: Sequence[int] | str, spending: str, alpha: float, effect: float, sd: float) -> Expected:
    """Power and mean number of seeds where the true difference is `effect`, the smallest that matters, and paired
    differences have this `sd`: by 20,000 seeded trials, so that the power's standard error is 0.004 at most."""
    in_sds = min(effect / sd, 1e3)  # beyond, the spread is lost to round-off, and the power is 1 anyway
    differences = np.random.default_rng(0).normal(in_sds, 1.0, (20_000, most))
    n = np.arange(1, most + 1)
    sums, squares = differences.cumsum(axis=1), (differences**2).cumsum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):  # one seed has no t
        t = np.abs(sums) / np.sqrt(n * (squares - sums**2 / n) / (n - 1))
    if isinstance(looks, str):
        half = -(-most // 2)
        # so many seeds find the effect at this spread of |difference| and below; all of them wherever it is wider
        widest = [in_sds / (mde(1.0, size, alpha) or 0) for size in range(half, most)]
        seeds = half + np.searchsorted(widest, np.sqrt(squares[:, half - 1] / half))
        is_found = t[np.arange(len(t)), seeds - 1] > -special.stdtrit(seeds - 1, alpha / 2)
    else:
        crossed = t[:, np.array(looks) - 1] > boundaries(tuple(looks), spending, alpha)
        is_found = crossed.any(axis=1)
        seeds = np.where(is_found, np.array(looks)[crossed.argmax(axis=1)], most)
    return Expected(float(is_found.mean()), float(seeds.mean()))


class _Trials(NamedTuple):
    """Trials that have gone on after n seeds: their directions u_n, and the chance of each."""

    n: int
    directions: Floats
    chances: Floats


def _chance_below(trials: _Trials, n: int) -> Callable[[Floats], Floats]:
    """Of trials that have gone on, as a function of u, the chance to do so and to lie below u after n seeds."""
    if trials.n == 0:
        return lambda u: _direction_below(u, n)
    more, middles = n - trials.n, (np.arange(_POINTS) + 0.5) / _POINTS
    shares = special.betaincinv(trials.n / 2, more / 2, middles)  # quantiles of B, all as likely
    of_old = np.sqrt(trials.n * shares) * trials.directions[:, None]  # (directions, shares)
    scale = np.sqrt(more * (1 - shares))

    def below(u: Floats) -> Floats:
        # one u at a time: (directions, shares) lies in memory once
        by_direction = [_direction_below((sqrt(n) * x - of_old) / scale, more).mean(axis=1) for x in u]
        return np.array([trials.chances @ chance for chance in by_direction])

    return below


def _direction_below(u: Floats, n: int) -> Floats:
    """Chance of a direction below u, of n differences without effect."""
    if n == 1:  # the one difference is + or -
        return np.where(u < -1, 0.0, np.where(u < 1, 0.5, 1.0))
    inside = np.clip(u, -1 + 1e-15, 1 - 1e-15)
    chance: Floats = special.stdtr(n - 1, inside * np.sqrt((n - 1) / (1 - inside**2)))
    return np.where(u <= -1, 0.0, np.where(u >= 1, 1.0, chance))
