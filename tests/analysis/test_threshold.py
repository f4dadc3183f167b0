"""Thresholds: recovered from simulated truth, equal to an independent fit, and honest where the data do not say."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats

from analysis import fit_thresholds
from flatdist.errors import FitError
from flatdist.fits.clustered import clustered_profile
from flatdist.fits.threshold import FitSettings, estimate_threshold
from flatdist.threshold.likelihood import likelihood_drop

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

    def deviance_at(n50: float) -> float:
        """Of the regression through 1/2 at n50: no intercept on log(n / n50)."""
        held = sm.GLM((trials["relative_error"] < 1e-2).astype(float), np.log(trials["n"] / n50), family=family).fit()
        return 2.0 * (reference.llf - held.llf)

    informative = float((4.0 * reference.mu * (1.0 - reference.mu)).sum())
    assert informative > 20
    expected = informative * math.log1p(stats.f.ppf(0.95, 1, informative - 2) / (informative - 2))
    assert 3.841 < expected < 4.3
    assert deviance_at(fit["n50_low"]) == pytest.approx(expected, abs=0.03)
    assert deviance_at(fit["n50_high"]) == pytest.approx(expected, abs=0.03)


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
    fit = estimate_threshold(trials.assign(success=trials["relative_error"] < 1e-2), FitSettings(unit=unit))
    return bool(fit["n50_low"] <= N50 <= fit["n50_high"])


@pytest.mark.parametrize(("nested", "replicates"), [(False, 8), (False, 32), (True, 8), (True, 32)])
def test_intervals_cover_the_truth(nested: bool, replicates: int) -> None:
    """A short version of benchmarks/threshold_coverage.py: fewer than 51 of 60 has odds of 1:3000 at 95 %."""
    assert sum(covers(simulate(replicates, 0.08, nested=nested, seed=seed)) for seed in range(100, 160)) >= 51


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
    assert fit["n50"] > 1.02 * fit["n50_converged"]
    assert fit["n50_converged"] == pytest.approx(N50, rel=0.06)
    everything_lost = fit_one(trials.assign(relative_error=np.nan))
    assert everything_lost["censored"] == "right"
    assert math.isnan(everything_lost["n50_converged"])


def test_clustered_likelihood_covers_where_success_is_not_monotone() -> None:
    """Each replicate has its own threshold and noise around it; the plain fit takes its trials as independent."""
    generator = np.random.default_rng(8)
    log_n = np.tile(np.log(VALUES), 12)
    unit = np.repeat(np.arange(12), len(VALUES))
    covered, widths = 0, []
    for _ in range(30):
        own = math.log(N50) + 0.15 * generator.standard_normal(12)
        success = log_n >= own[unit] + 0.04 * generator.logistic(size=len(log_n))
        fitted = clustered_profile(log_n, success, unit, likelihood_drop(0.95, 12))
        covered += fitted.low <= math.log(N50) <= fitted.high
        widths.append(fitted.high - fitted.low)
    assert covered >= 25
    assert 0.12 < np.median(widths) < 0.3


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
        (lambda frame: frame, {"link": "cloglog"}, "allowed: logit, probit"),
        (lambda frame: frame, {"unit": "row"}, "allowed: auto, trial, replicate"),
        (lambda frame: frame, {"level": 95}, "between 0 and 1"),
    ],
)
def test_bad_input_has_one_clear_message(change: object, settings: dict[str, object], message: str) -> None:
    with pytest.raises(FitError, match=message):
        fit_one(change(simulate(4, 0.1)), **settings)
