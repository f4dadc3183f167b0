"""Thresholds: recovered from simulated truth, equal to an independent fit, and honest where the data do not say."""

from __future__ import annotations

import math
import re

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import optimize, special, stats

from analysis import fit_thresholds
from benchmarks.threshold_coverage import Setting, settings, study, truth
from flatdist.errors import FitError
from flatdist.fits.threshold import estimate_threshold, threshold_remark
from flatdist.threshold import Runs, interval
from flatdist.threshold.curves import LINKS
from flatdist.threshold.interval import Fit, clustering

N50 = 45.0
VALUES = np.unique(np.geomspace(22, 90, 12).round().astype(int))


def simulate(
    replicates: int, scale: float, *, nested: bool = False, seed: int = 0, values: np.ndarray = VALUES
) -> pd.DataFrame:
    """Trials whose log thresholds are logistic around log N50."""
    generator = np.random.default_rng(seed)
    shape = (1 if nested else len(values), replicates)
    threshold = math.log(N50) + scale * generator.logistic(size=shape)
    success = np.log(values)[:, None] >= threshold
    return pd.DataFrame(
        {
            "method": "min_nuclear_norm",
            "rank": 1,
            "n": np.repeat(values, replicates),
            "replicate": np.tile(np.arange(replicates), len(values)),
            "nested": nested,
            "status": "converged",
            "relative_error": np.where(success, 1e-9, 0.3).ravel(),
        }
    )


def fit_one(trials: pd.DataFrame, **settings: object) -> pd.Series:
    return fit_thresholds(trials, **{"by": ["method", "rank"], "tolerance": 1e-2, **settings}).iloc[0]


@pytest.mark.parametrize("link", ["logit", "probit"])
def test_agrees_with_a_binomial_regression_of_statsmodels(link: str) -> None:
    trials = simulate(16, 0.15)
    fit = fit_one(trials, link=link)
    family = sm.families.Binomial(sm.families.links.Logit() if link == "logit" else sm.families.links.Probit())
    design = sm.add_constant(np.log(trials["n"]))
    reference = sm.GLM((trials["relative_error"] < 1e-2).astype(float), design, family=family).fit()
    intercept, slope = reference.params
    assert fit["n50"] == pytest.approx(math.exp(-intercept / slope), rel=1e-3)
    assert fit["scale"] == pytest.approx(1.0 / slope, rel=5e-3)


def test_the_interval_is_that_of_the_posterior_integrated_by_brute_force() -> None:
    """Over n50, width and a continuous lapse rate, on one dense grid, for one link."""
    trials = simulate(16, 0.15, seed=4)
    fit = fit_one(trials, link="logit")
    counts = trials.assign(won=trials["relative_error"] < 1e-2).groupby("n")["won"].agg(["sum", "count"])
    log_n, won, lost = np.log(counts.index.to_numpy(float)), counts["sum"], counts["count"] - counts["sum"]
    n50 = np.linspace(math.log(34), math.log(60), 240)[:, None, None]
    scale = np.geomspace(0.02, 0.6, 60)[None, :, None]
    lapses, weights = np.polynomial.legendre.leggauss(24)
    lapses, weights = 0.25 * (lapses + 1.0), 0.25 * weights
    prior = np.append(weights * 10.0 * (1.0 - lapses) ** 9 / (1.0 - 0.5**10), 1.0)  # half of the mass at no lapse
    lapses = np.append(lapses, 0.0)
    height = np.zeros((240, 60, 25))
    for at, k, m in zip(log_n, won, lost, strict=True):
        chance = (1.0 - lapses) * special.expit((at - n50) / scale + special.logit(0.5 / (1.0 - lapses)))
        height += k * np.log(chance) + m * np.log(np.maximum(1.0 - chance, 1e-300))
    mass = np.cumsum((np.exp(height - height.max()) * prior).sum(axis=(1, 2)))
    low, middle, high = np.exp(np.interp([0.025, 0.5, 0.975], mass / mass[-1], n50.ravel()))
    width = high - low
    assert fit["n50_low"] == pytest.approx(low, abs=0.04 * width)
    assert fit["n50_high"] == pytest.approx(high, abs=0.04 * width)
    assert fit["n50"] == pytest.approx(middle, abs=0.15 * width)


@pytest.mark.parametrize(("replicates", "level"), [(8, 0.95), (64, 0.95), (64, 0.5), (1000, 0.95)])
def test_the_width_has_the_limits_of_an_independent_profile(replicates: int, level: float) -> None:
    n = np.array([18, 20, 21, 23, 25, 26, 28, 29, 31, 33, 34, 36, 37, 39, 41, 42, 44, 46, 47, 49, 50, 52, 54, 55, 57])
    won = np.random.default_rng(3).binomial(replicates, special.expit(np.log(n / 35.0) / 0.054))
    observed = Runs(np.repeat(np.tile(n, 2), np.append(won, replicates - won)),
                    np.repeat([True, False], [won.sum(), (replicates - won).sum()]))  # fmt: skip
    fit = interval(observed, level=level, link="logit", details=True)
    assert fit.lapse == 0.0

    def height(center: float, scale: float) -> float:
        z = (np.log(n) - center) / scale
        return float(won @ special.log_expit(z) + (replicates - won) @ special.log_expit(-z))

    def profile(log_scale: float) -> float:
        found = optimize.minimize_scalar(lambda center: -height(center, math.exp(log_scale)), bounds=(3.2, 3.9),
                                         method="bounded", options={"xatol": 1e-8})  # fmt: skip
        return -float(found.fun)

    at = math.log(fit.scale)
    drop = profile(at) - 0.5 * stats.chi2.ppf(level, 1)
    for limit, other in ((fit.width_low, at - 2.0), (fit.width_high, at + 2.0)):
        log_scale = optimize.brentq(lambda value: profile(value) - drop, at, other)
        exact = 2.0 * fit.n50 * math.sinh(math.exp(log_scale) * math.log(9.0))
        assert limit - fit.width == pytest.approx(exact - fit.width, rel=0.01)
    averaged = interval(observed, level=level, details=True)  # over all links and lapses; the logistic is the true one
    assert averaged.width_low < fit.width < averaged.width_high
    if replicates == 1000:
        assert averaged.width_high / averaged.width_low < 1.1 * fit.width_high / fit.width_low


@pytest.mark.parametrize("nested", [False, True])
def test_recovers_threshold_and_width(nested: bool) -> None:
    fit = fit_one(simulate(200, 0.12, nested=nested, seed=3))
    assert fit["n50"] == pytest.approx(N50, rel=0.05)
    assert fit["scale"] == pytest.approx(0.12, rel=0.15)
    assert fit["n50_low"] < N50 < fit["n50_high"]
    true_width = 2 * N50 * math.sinh(0.12 * math.log(9))
    assert fit["transition"] == pytest.approx(true_width, rel=0.15)
    assert 0.7 * true_width < fit["transition_low"] < fit["transition"] < fit["transition_high"] < 1.4 * true_width


def covers(trials: pd.DataFrame, unit: str = "auto") -> bool:
    fit = estimate_threshold(trials.assign(success=trials["relative_error"] < 1e-2), unit)
    return bool(fit["n50_low"] <= N50 <= fit["n50_high"])


STUDIED = [
    Setting("logistic", 32), Setting("weibull", 8, lapse=0.05), Setting("gumbel", 32, lapse=0.1),
    Setting("normal", 8, 7.0), Setting("logistic", 8, problems="nested"),
    Setting("weibull", 32, lapse=0.02, problems="nested"), Setting("gumbel", 8, lapse=0.05, center=0.75),
    Setting("normal", 32, 1.0),
]  # fmt: skip


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    """A short version of benchmarks/threshold_coverage.py, 50 data sets of each of eight kinds.

    Of 400, 370 to 394 are covered with a chance of 99 % if the intervals cover 95 %, and of 1.5 % if they cover 89 %.
    """
    found = pd.concat([study(settings().index(setting), 1000, 50, 0) for setting in STUDIED])
    n50 = (found["n50_low"] <= 100.0) & (found["n50_high"] >= 100.0)
    width = np.repeat([truth(setting)[2] for setting in STUDIED], 50)
    told = (found["censored"] == "none") & np.isfinite(found["transition"])
    within = ((found["transition_low"] <= width) & (found["transition_high"] >= width))[told]
    assert 370 <= n50.sum() <= 394
    assert 0.925 * told.sum() <= within.sum() <= 0.985 * told.sum()
    assert told.sum() > 320


def test_the_logistic_curve_alone_would_not_cover_asymmetric_ones() -> None:
    generator = np.random.default_rng(5)
    n = np.repeat(VALUES, 32)
    chance = 1.0 - 0.5 ** ((n / N50) ** 6.0)
    alone = [interval(Runs(n, generator.random(len(n)) < chance), link="logit") for _ in range(40)]
    assert sum(found.low <= N50 <= found.high for found in alone) < 32


def test_treating_nested_trials_as_independent_would_not_cover() -> None:
    tables = [simulate(8, 0.25, nested=True, seed=seed) for seed in range(300, 340)]
    assert sum(covers(table, "trial") for table in tables) < 34
    assert sum(covers(table) for table in tables) >= 34
    assert fit_one(tables[0])["unit"] == "replicate"


def test_separated_data_give_an_interval_not_a_number() -> None:
    fit = fit_one(simulate(8, 1e-5))
    last_failure, first_success = VALUES[VALUES < N50].max(), VALUES[VALUES >= N50].min()
    assert fit["censored"] == "interval"
    assert fit["n50"] == pytest.approx(math.sqrt(last_failure * first_success))
    assert fit["n50_low"] == pytest.approx(last_failure, rel=2e-3)
    assert fit["n50_high"] == pytest.approx(first_success, rel=2e-3)
    assert math.isnan(fit["transition"])
    assert fit["transition_low"] == 0.0


def test_one_replicate_does_not_bound_what_many_would() -> None:
    """With one trial at each n a separated pattern leaves room beyond the gap."""
    fit = fit_one(simulate(1, 1e-5))
    assert fit["n50_low"] < VALUES[VALUES < N50].max() * 0.98
    assert fit["n50_high"] > VALUES[VALUES >= N50].min() * 1.02


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("link", ["logit", "probit"])
def test_transitions_outside_the_grid_are_censored(nested: bool, link: str) -> None:
    trials = simulate(16, 0.01, nested=nested)
    below, above = trials[trials["n"] < 40], trials[trials["n"] > 55]
    right, left = fit_one(below, link=link), fit_one(above, link=link)
    assert (right["censored"], left["censored"]) == ("right", "left")
    assert math.isnan(right["n50"])
    assert math.isnan(left["n50"])
    assert (right["n50_low"], right["n50_high"]) == (pytest.approx(below["n"].max(), rel=5e-3), math.inf)
    assert (left["n50_low"], left["n50_high"]) == (0.0, pytest.approx(above["n"].min(), rel=5e-3))


def test_rising_but_unfinished_transitions_are_not_extrapolated() -> None:
    trials = simulate(32, 0.12, seed=5)
    fit = fit_one(trials[trials["n"] < 39])
    assert (trials[trials["n"] < 39]["relative_error"] < 1e-2).any()
    assert fit["censored"] == "right"
    assert math.isnan(fit["n50"])
    assert 33 < fit["n50_low"] < N50
    assert fit["n50_high"] == math.inf


@pytest.mark.parametrize(
    ("success", "kind"),
    [([1] * 8, "left"), ([0] * 8, "right"), ([1, 0] * 4, "unresolved")],
    ids=["all", "none", "half"],
)
def test_one_value_of_n(success: list[int], kind: str) -> None:
    trials = simulate(8, 0.1, values=np.array([40])).assign(relative_error=1.0 - np.array(success))
    fit = fit_one(trials)
    assert fit["censored"] == kind
    assert math.isnan(fit["n50"])
    assert fit["n50_low"] == (40 if kind == "right" else 0)
    assert "one value of n" in fit["reason"]


def curve_of(counts: dict[int, int], replicates: int = 8) -> pd.Series:
    """From {n: successes}."""
    rows = [
        {"n": n, "replicate": index, "relative_error": 1e-9 if index < won else 0.5, "g": 0}
        for n, won in counts.items()
        for index in range(replicates)
    ]
    return fit_thresholds(pd.DataFrame(rows), by="g", tolerance=1e-2).iloc[0]


GRID = (22, 25, 28, 32, 36, 41, 47, 53, 60, 68, 77, 88)


@pytest.mark.parametrize(
    ("share", "reason"),
    [
        ((0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0), "falls below one half again at n = 60"),
        ((0, 0, 0, 0.2, 0.8, 1, 1, 1, 0.9, 0.6, 0.4, 0.3), "falls below one half again"),
        ((0, 0, 0, 0, 0.1, 0.4, 0.45, 0.45, 0.45, 0.45, 0.45, 0.45), "levels off at 0.4., below one half"),
        ((1, 1, 1, 1, 0.9, 0.6, 0.4, 0.1, 0, 0, 0, 0), "falls below one half again"),
        ((0, 1) * 6, "falls below one half again"),
        ((0.5,) * 12, "do not show that success rises"),
    ],
)
def test_curves_without_a_crossing_are_unresolved_and_say_why(share: tuple[float, ...], reason: str) -> None:
    fit = curve_of({n: round(32 * rate) for n, rate in zip(GRID, share, strict=True)}, 32)
    assert fit["censored"] == "unresolved"
    assert re.search(reason, fit["reason"])
    assert math.isnan(fit["n50"])
    assert (fit["n50_low"], fit["n50_high"]) == (0.0, math.inf)
    assert re.search(reason, threshold_remark(fit))


def test_a_plateau_above_one_half_is_a_lapse_and_n50_where_the_curve_crosses() -> None:
    share = (0, 0, 0, 0, 0.1, 0.6, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7)
    fit = curve_of({n: round(32 * rate) for n, rate in zip(GRID, share, strict=True)}, 32)
    assert fit["lapse"] == pytest.approx(0.31, abs=0.03)
    assert fit["lapse_evidence"] > 0.99
    assert 36 <= fit["n50_low"] < fit["n50"] < fit["n50_high"] < 43


def test_one_failure_far_above_the_threshold_does_not_widen_the_transition() -> None:
    clean = curve_of({60: 0, 80: 0, 100: 4, 120: 8, 160: 8, 800: 8})
    lapsed = curve_of({60: 0, 80: 0, 100: 4, 120: 8, 160: 8, 800: 7})
    assert lapsed["transition"] < 2.0 * clean["transition"]
    assert lapsed["n50"] == pytest.approx(clean["n50"], rel=0.01)
    assert lapsed["lapse_evidence"] > 0.95 > 0.5 > clean["lapse_evidence"]


def test_a_curve_that_no_model_describes_has_a_small_p_and_a_wider_interval() -> None:
    jagged = curve_of(dict(zip(GRID, (0, 6, 0, 11, 6, 24, 14, 31, 25, 32, 32, 32), strict=True)), 32)
    smooth = curve_of(dict(zip(GRID, (0, 1, 2, 8, 12, 15, 22, 28, 31, 32, 32, 32), strict=True)), 32)
    assert jagged["fit_p"] < 0.02 < 0.2 < smooth["fit_p"]
    assert jagged["n50_high"] / jagged["n50_low"] > smooth["n50_high"] / smooth["n50_low"]
    assert "poor fit" in threshold_remark(jagged)
    assert "poor fit" not in threshold_remark(smooth)


def test_goodness_of_fit_rejects_true_models_rarely() -> None:
    """p-values of the true model are spread evenly."""
    generator = np.random.default_rng(11)
    n = np.repeat(VALUES, 16)
    chance = special.expit(np.log(n / N50) / 0.12)
    values = [interval(Runs(n, generator.random(len(n)) < chance), details=True).fit_p for _ in range(40)]
    assert sum(value < 0.1 for value in values) <= 11
    assert 0.35 < np.median(values) < 0.75


def test_success_that_falls_with_n_is_unresolved() -> None:
    trials = simulate(16, 0.05)
    fit = fit_one(trials.assign(relative_error=trials["relative_error"].to_numpy()[::-1]))
    assert fit["censored"] == "unresolved"
    assert math.isnan(fit["n50"])


def test_diverged_and_unconverged_replicates_enter_explicitly() -> None:
    trials = simulate(16, 0.05)
    trials.loc[(trials["replicate"] < 4) & (trials["n"] > 50), "relative_error"] = np.nan
    trials.loc[(trials["replicate"] == 5) & (trials["n"] == 22), "status"] = "budget_exhausted"
    fit = fit_one(trials)
    assert fit["n_diverged"] == 4 * (VALUES > 50).sum()
    assert fit["n_unconverged"] == 1
    assert fit["lapse"] == pytest.approx(0.25, abs=0.1)
    assert fit["n50_converged"] == pytest.approx(N50, rel=0.06)
    everything_lost = fit_one(trials.assign(relative_error=np.nan))
    assert everything_lost["censored"] == "right"
    assert math.isnan(everything_lost["n50_converged"])


def test_replicates_that_fail_after_a_success_are_the_unit() -> None:
    """Each replicate has its own threshold and noise around it; intervals of independent trials are far too narrow."""
    generator = np.random.default_rng(8)
    n, unit = np.tile(VALUES, 12), np.repeat(np.arange(12), len(VALUES))
    covered, alone = 0, 0
    for _ in range(24):
        own = math.log(N50) + 0.3 * generator.standard_normal(12)
        success = np.log(n) >= own[unit] + 0.04 * generator.logistic(size=len(n))
        found, independent = interval(Runs(n, success, unit)), interval(Runs(n, success))
        covered += found.low <= N50 <= found.high
        alone += independent.low <= N50 <= independent.high
    assert covered >= 20
    assert alone < covered


@pytest.mark.parametrize("count", [3, 12])
def test_few_such_replicates_have_the_quantile_of_students_law(count: int) -> None:
    generator = np.random.default_rng(9)
    n, unit = np.tile(VALUES, count), np.repeat(np.arange(count), len(VALUES))
    own = math.log(N50) + 0.5 * generator.standard_normal(count)
    runs = Runs(n, np.log(n) >= own[unit] + 0.1 * generator.logistic(size=len(n)), unit)
    assert runs.bounds() is None
    fit = Fit(runs.observations(), LINKS, 0.95)
    wide, middle = (clustering(runs, fit, level) for level in (0.95, 0.6))
    quantiles = [stats.t.ppf(p, count - 1) / stats.norm.ppf(p) for p in (0.975, 0.8)]
    assert math.sqrt(wide / middle) == pytest.approx(quantiles[0] / quantiles[1])


def test_nested_replicates_that_fail_after_succeeding_use_it() -> None:
    trials = simulate(12, 0.2, nested=True, seed=2)
    flipped = (trials["n"] == VALUES[-1]) & (trials["replicate"] == 0)
    fit = fit_one(trials.assign(relative_error=np.where(flipped, 0.5, trials["relative_error"])))
    assert fit["censored"] == "none"
    assert fit["n50_low"] < N50 < fit["n50_high"]


def test_groups_keep_their_keys_nulls_and_order() -> None:
    trials = pd.concat(
        [simulate(8, 0.1).assign(depth=depth, rank=rank) for depth in (None, 3.0, 2.0) for rank in (2, 1)]
    )
    table = fit_thresholds(trials, by=["depth", "rank"], tolerance=1e-2)
    assert table["rank"].tolist() == [1, 2] * 3
    assert table["depth"].isna().tolist() == [False] * 4 + [True] * 2
    assert table["depth"].iloc[:4].tolist() == [2, 2, 3, 3]
    assert (table["n_replicates"] == 96).all()


def test_pooling_configurations_warns_of_it() -> None:
    trials = pd.concat([simulate(8, 0.1).assign(init_scale=value) for value in (0.5, 1.0)])
    with pytest.warns(UserWarning, match="differ in init_scale"):
        fit_thresholds(trials, by=["method"], tolerance=1e-2)


def test_default_tolerance_is_common_to_the_methods() -> None:
    solvers = simulate(8, 0.1)
    assert fit_thresholds(solvers, by="method")["tolerance"].tolist() == [1e-6]
    both = pd.concat([solvers, solvers.assign(method="label_noise_sgd")])
    assert fit_thresholds(both, by="method")["tolerance"].tolist() == [1e-2, 1e-2]


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (lambda frame: frame, {"by": ["methd"]}, "'methd' .did you mean 'method'.*not in the table"),
        (lambda frame: frame.iloc[:0], {}, "no trials"),
        (lambda frame: frame.drop(columns="relative_error"), {}, "'relative_error'"),
        (lambda frame: frame.assign(n=0), {}, "no positive number of measurements"),
        (lambda frame: frame, {"tolerance": -1.0}, "tolerance=-1.0"),
        (lambda frame: frame, {"tolerance": float("nan")}, "tolerance=nan"),
        (lambda frame: frame, {"link": "cauchit"}, "allowed: auto, logit, probit, cloglog, loglog"),
        (lambda frame: frame, {"unit": "row"}, "allowed: auto, trial, replicate"),
        (lambda frame: frame, {"level": 95}, "between 0 and 1"),
    ],
)
def test_bad_input_has_one_clear_message(change: object, settings: dict[str, object], message: str) -> None:
    with pytest.raises(FitError, match=message):
        fit_one(change(simulate(4, 0.1)), **settings)
