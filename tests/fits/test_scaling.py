"""Scaling laws: parameters recovered, intervals that cover, censoring that matters, verdicts that tell laws apart."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic import figure, quickstart_like

import flatdist
from analysis import fit_scaling, fit_thresholds
from flatdist.errors import FitError
from flatdist.figures import collapse
from flatdist.figures import scaling as scaling_figure
from flatdist.fits import scaling
from flatdist.fits.power_law import EXPONENT, Points, fit_power_law, held_out_score, log_likelihood, profile_limits
from flatdist.fits.scaling import collapse_table, fit_width_law, master_curve, unresolved_lines, width_table
from flatdist.theory import prediction

SHAPES = [
    (8, 8, 1), (12, 12, 1), (12, 12, 2), (16, 16, 1), (16, 16, 3), (20, 20, 1), (20, 20, 2), (20, 20, 4),
    (24, 24, 3), (30, 30, 1), (30, 30, 3), (10, 30, 1), (10, 30, 2), (15, 24, 2),
]  # fmt: skip


def thresholds_on(
    law: str, ratio: float = 1.0, exponent: float = 1.0, seed: int = 0, error: float = 0.03
) -> pd.DataFrame:
    """Thresholds that follow a law up to 2 % of the shapes' own and a known sampling error."""
    generator = np.random.default_rng(seed)
    rows = []
    for d_out, d_in, rank in SHAPES:
        truth = ratio * prediction(law).value(d_out, d_in, rank) ** exponent
        n50 = truth * math.exp(0.02 * generator.standard_normal() + error * generator.standard_normal())
        limits = {"n50_low": n50 * math.exp(-1.96 * error), "n50_high": n50 * math.exp(1.96 * error)}
        shape = {"d_out": d_out, "d_in": d_in, "rank": rank}
        rows.append({"method": "m", "depth": 3, **shape, "n50": n50, **limits, "censored": "none"})
    return pd.DataFrame(rows)


@pytest.mark.parametrize("law", ["statdim", "rsum", "entries"])
def test_the_true_law_is_consistent_and_the_others_excluded(law: str) -> None:
    table = fit_scaling(thresholds_on(law, ratio=1.0)).set_index("law")
    assert table.loc[law, "verdict"] == "consistent"
    assert table.loc[law, "exponent_low"] < 1.0 < table.loc[law, "exponent_high"]
    assert table.loc[law, "ratio"] == pytest.approx(1.0, abs=0.03)
    alike = ["dof", "rsum"] if law == "rsum" else [law]  # these two are nearly proportional here
    assert table["aicc"].idxmin() in alike
    assert table["held_out"].idxmax() in alike
    others = table.drop(index=alike)
    assert (others["verdict"] == "excluded at 95 %").all()


def test_coefficient_and_exponent_are_recovered() -> None:
    fit = fit_scaling(thresholds_on("dof", ratio=2.5, exponent=0.8, error=0.01), laws=["dof"]).iloc[0]
    assert fit["exponent"] == pytest.approx(0.8, abs=0.03)
    assert fit["coefficient_low"] < 2.5 < fit["coefficient_high"]
    assert fit["verdict"] == "excluded at 95 %"
    assert fit["discrepancy"] == pytest.approx(0.02, rel=0.7)


@pytest.mark.parametrize(
    ("ratio", "error", "verdict"),
    [(1.0, 0.01, "equivalent"), (1.1, 0.01, "different"), (1.03, 0.1, "undecided")],
)
def test_equivalence_with_the_statistical_dimension(ratio: float, error: float, verdict: str) -> None:
    fit = fit_scaling(thresholds_on("statdim", ratio=ratio, error=error), laws=["statdim"]).iloc[0]
    assert fit["equivalence"] == verdict
    assert fit["ratio_low"] < fit["ratio"] < fit["ratio_high"]


def test_laws_without_a_constant_are_not_tested_for_equality() -> None:
    assert fit_scaling(thresholds_on("rsum"), laws=["rsum"]).iloc[0]["equivalence"] is None


def test_exponent_intervals_cover() -> None:
    covered = 0
    for seed in range(60):
        table = thresholds_on("statdim", seed=seed).sample(8, random_state=seed)
        points = scaling.points_of(table, "statdim")
        low, high = profile_limits(points, EXPONENT, 0.95)
        covered += low <= 1.0 <= high
    assert covered >= 52  # fewer has odds of 1:300 at 95 %


def some_points(seed: int, share_censored: float) -> Points:
    """A law of exponent 0.9 with scatter, points that share shapes, and points known by a bound or an interval."""
    generator = np.random.default_rng(seed)
    shape = np.sort(generator.integers(0, 7, 11))
    _, shape = np.unique(shape, return_inverse=True)
    x, error = np.linspace(2.0, 5.0, shape.max() + 1)[shape], generator.uniform(0.01, 0.05, 11)
    y = 0.3 + 0.9 * x + 0.05 * generator.standard_normal(11)[shape] + error * generator.standard_normal(11)
    bounds = [(-0.05, 0.05), (-0.05, math.inf), (-math.inf, 0.05)]
    low, high = (y + [bounds[place % 3][end] for place in range(11)] for end in (0, 1))
    known = generator.random(11) >= share_censored
    known[:2] = True
    return Points(x, np.where(known, y, np.nan), error, low, high, shape)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("share_censored", [0.0, 0.4])
def test_a_general_optimiser_finds_no_likelier_law_and_the_same_limits(seed: int, share_censored: float) -> None:
    from scipy import optimize

    points = some_points(seed, share_censored)

    def least_cost(start: list[float], held: float | None = None) -> float:
        def cost(values: np.ndarray) -> float:
            slope, rest = (held, values) if held is not None else (values[0], values[1:])
            level, spread = rest
            # Scatter beyond the errors, or errors smaller than stated, as the intervals take them.
            if held is not None and spread < 0.0:
                return -log_likelihood(points, level - 3.5 * slope, slope, 1e-4, math.exp(max(spread, math.log(0.02))))
            return -log_likelihood(points, level - 3.5 * slope, slope, min(max(abs(spread), 1e-4), 2.0))

        settings = {"xatol": 1e-6, "fatol": 1e-8, "maxiter": 4000, "maxfev": 4000}
        return float(optimize.minimize(cost, start, method="Nelder-Mead", options=settings).fun)

    fit = fit_power_law(points)
    level, slope, spread = fit.parameters
    assert log_likelihood(points, level, slope, math.exp(spread)) == pytest.approx(fit.log_likelihood, abs=1e-6)
    other = min(least_cost([start, 3.4, scatter]) for start in (0.8, 1.0) for scatter in (0.02, 0.1))
    assert fit.log_likelihood - 0.05 < -other < fit.log_likelihood + 1e-4
    # The profile is as far below its maximum at both limits: a half log of 1 + F / (shapes - 2) for each shape.
    heights = []
    for held in profile_limits(points, EXPONENT, 0.95):
        starts = [[level + 3.5 * slope, scatter] for scatter in (-0.3, 0.05, 0.15)]
        heights.append(-min(least_cost(start, held) for start in starts))
    assert heights[0] == pytest.approx(heights[1], abs=2e-3)


def test_held_out_shapes_are_predicted_from_fits_to_the_others() -> None:
    points = some_points(1, 0.4)
    score = 0.0
    for shape in range(points.shapes):
        law = fit_power_law(points.select(points.shape != shape), 1.0)
        level, slope, spread = law.parameters
        score += log_likelihood(points.select(points.shape == shape), level, slope, math.exp(spread))
    assert held_out_score(points, 1.0) == pytest.approx(score, abs=1e-3)


def test_likelihood_of_points_that_share_a_shape_is_the_multivariate_normal() -> None:
    from scipy import stats

    points = Points(
        np.zeros(3),
        np.array([0.1, 0.3, -0.2]),
        np.array([0.1, 0.2, 0.15]),
        np.zeros(3),
        np.zeros(3),
        np.array([0, 0, 1]),
    )
    covariance = np.diag(points.error**2) + 0.25 * np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]])
    expected = stats.multivariate_normal(np.full(3, 0.05), covariance).logpdf(points.y)
    assert log_likelihood(points, 0.05, 1.0, 0.5) == pytest.approx(expected)


def test_censored_points_contribute_the_probability_of_their_bounds() -> None:
    from scipy import stats

    nan, error, shape = np.full(3, np.nan), np.ones(3), np.arange(3)
    low, high = np.array([0.5, -np.inf, 0.2]), np.array([np.inf, -0.3, 0.4])
    points = Points(np.zeros(3), nan, error, low, high, shape)
    law = stats.norm(0.1, 0.7)
    expected = law.logsf(0.5) + law.logcdf(-0.3) + math.log(law.cdf(0.4) - law.cdf(0.2))
    assert log_likelihood(points, 0.1, 1.0, 0.7) == pytest.approx(expected)


def test_leaving_censored_points_out_would_bias_the_exponent() -> None:
    """The largest thresholds lie beyond the grid: only their lower bounds are known."""
    table = thresholds_on("statdim", ratio=1.0, exponent=1.3, error=0.02)
    large = table["n50"] > 800
    assert 2 <= large.sum() <= 6
    table.loc[large, ["n50", "n50_high", "censored"]] = [np.nan, np.inf, "right"]
    table.loc[large, "n50_low"] = 3000.0
    fit = fit_scaling(table, laws=["statdim"]).iloc[0]
    without = fit_scaling(table[~large], laws=["statdim"]).iloc[0]
    assert fit["n_censored"] == large.sum()
    assert fit["exponent"] > without["exponent"] + 0.05


def test_one_shape_says_nothing_about_exponents() -> None:
    table = fit_scaling(thresholds_on("statdim").iloc[:1])
    assert (table["verdict"] == "undecided: one size").all()
    assert table["exponent"].isna().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop(columns="d_in"), "'d_in'"),
        (lambda table: table.assign(censored="right", n50=math.nan), "no threshold is bracketed"),
    ],
)
def test_bad_input_has_one_clear_message(change: object, message: str) -> None:
    with pytest.raises(FitError, match=message):
        fit_scaling(change(thresholds_on("statdim")))
    with pytest.raises(FitError, match="allowed: rsum, dof, statdim, entries"):
        fit_scaling(thresholds_on("statdim"), laws=["magic"])


@pytest.fixture(scope="module")
def trials() -> pd.DataFrame:
    sizes = [(8, 8), (12, 12), (10, 24), (24, 24)]
    parts = [quickstart_like((1, 2), ("min_nuclear_norm",), 16, d_out=a, d_in=b, seed=a + b) for a, b in sizes]
    return pd.concat(parts, ignore_index=True)


def test_thresholds_carry_what_laws_need(trials: pd.DataFrame) -> None:
    """In groups by method and rank of one shape, the shape comes along by itself."""
    one = trials[(trials["d_out"] == 12)]
    table = fit_thresholds(one, by=["method", "rank"], tolerance=1e-2)
    assert (table["d_out"] == 12).all()
    assert set(fit_scaling(table)["law"]) == set(scaling.LAWS)


def test_transitions_collapse_and_their_width_grows(trials: pd.DataFrame) -> None:
    by = ["method", "d_out", "d_in", "rank"]
    thresholds = fit_thresholds(trials, by=by, tolerance=1e-2)
    collapsed = collapse_table(trials, thresholds, by, 1e-2)
    residual = collapsed["rate"] - master_curve(collapsed["z"].to_numpy())
    assert len(collapsed) > 60
    assert residual.abs().max() < 0.35
    assert residual.std() < 0.1
    law = fit_width_law(thresholds, ["method"]).iloc[0]
    assert law["exponent_low"] < law["exponent"] < law["exponent_high"]
    assert 0.2 < law["exponent"] < 1.2


def test_command_writes_both_pictures(
    trials: pd.DataFrame, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(flatdist, "load_trials", lambda store, sweep, where=None: trials, raising=False)
    assert figure("scaling", "demo", "--out", str(tmp_path), "--format", "png", "--tolerance", "1e-2") == 0
    assert {path.stem for path in tmp_path.iterdir()} == {"scaling", "collapse"}
    printed = capsys.readouterr().out
    assert "statdim" in printed
    assert "excluded at 95 %" in printed


def test_one_size_is_nothing_to_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    trials = quickstart_like(ranks=(1, 2), methods=("label_noise_sgd",))
    thresholds = fit_thresholds(trials, by=["method", "d_out", "d_in", "rank"])
    laws = fit_scaling(thresholds).set_index("law")
    assert laws.loc["entries", "verdict"] == "undecided: one size"
    assert laws.loc["statdim", "verdict"] == "undecided"
    drawn = scaling_figure(trials)
    assert [axes.get_title() for axes in drawn.axes if axes.get_title()] == [
        *["label-noise SGD:\nundecided"] * 3, "label-noise SGD:\nundecided: one size"
    ]  # fmt: skip
    low, high = drawn.axes[3].get_xlim()
    assert low < 144 < high < 300
    monkeypatch.setattr(flatdist, "load_trials", lambda store, sweep, where=None: trials[trials["rank"] == 1])
    assert figure("scaling", "demo", "--out", str(tmp_path), "--format", "png") == 0
    printed = capsys.readouterr().out
    assert printed.count("undecided: one size") == 4
    assert "nan" not in printed
    assert "inf" not in printed


def width_trials(step: float, seed: int, replicates: int = 16) -> pd.DataFrame:
    """Transitions as wide as 1.5 sqrt(d d'), measured at n in steps of this relative size."""
    generator = np.random.default_rng(seed)
    rows = []
    for size in (8, 12, 16, 24, 32, 48):
        n50 = 0.4 * size**2
        thresholds = math.log(n50) + 1.5 * size / n50 / (2 * math.log(9)) * generator.logistic(size=(60, replicates))
        values = np.unique(np.round(n50 * np.exp(np.arange(-8, 9) * step)).astype(int))
        shape = {"d_out": size, "d_in": size, "rank": 1, "method": "min_nuclear_norm"}
        rows += [
            {**shape, "n": int(n), "replicate": number, "relative_error": 0.5 if math.log(n) < threshold else 1e-9}
            for n, draws in zip(values, thresholds, strict=False)
            for number, threshold in enumerate(draws)
        ]
    return pd.DataFrame(rows)


def test_widths_below_the_grids_distance_are_bounds() -> None:
    by = ["method", "d_out", "d_in", "rank"]
    covered, laws = 0, 0
    for seed in range(4):
        trials = width_trials(0.15, seed)
        thresholds = fit_thresholds(trials, by=by, tolerance=1e-2)
        table = width_table(thresholds)
        below = table["width_censored"] == "left"
        assert (table.loc[~below, "width"] >= table.loc[~below, "n_spacing"]).all()
        assert (table.loc[below, "width_high"] >= table.loc[below, "n_spacing"]).all()
        assert (1.5 * table.loc[below, "d_out"] < table.loc[below, "width_high"]).mean() > 0.6, "the truth is below"
        assert table.loc[below, "width"].isna().all()
        collapsed = collapse_table(trials, thresholds, by, 1e-2)
        assert not set(collapsed["d_out"]) & set(table.loc[below, "d_out"])
        law = fit_width_law(thresholds, ["method"])
        if below.any():
            (line,) = unresolved_lines(thresholds)
            assert line.startswith(f"{below.sum()} of 6 transitions are narrower")
        else:
            assert unresolved_lines(thresholds) == []
        if len(law):
            row = law.iloc[0]
            assert row["n_unresolved"] == below.sum()
            laws, covered = laws + 1, covered + (row["exponent_low"] < 0.5 < row["exponent_high"])
    assert laws >= 3
    assert covered >= laws - 1


def test_hidden_widths_are_not_taken_for_the_transitions() -> None:
    trials = width_trials(0.05, 0).assign(method="label_noise_sgd")
    both = pd.concat([trials.assign(width=[(size, size)] * len(trials)) for size in (50, 60)], ignore_index=True)
    by = ["method", "width", "d_out", "d_in", "rank"]
    thresholds = fit_thresholds(both, by=by, tolerance=1e-2)
    laws = fit_width_law(thresholds, ["method", "width"])
    assert laws["width"].tolist() == [(50, 50), (60, 60)]
    assert laws["exponent"].nunique() == 1
    collapsed = collapse_table(both, thresholds, by, 1e-2)
    assert collapsed.groupby("width").size().tolist() == [len(collapsed) / 2] * 2


def test_bounds_are_drawn_as_such() -> None:
    thresholds = fit_thresholds(width_trials(0.15, 1), by=["method", "d_out", "d_in", "rank"], tolerance=1e-2)
    assert set(width_table(thresholds)["width_censored"]) == {"none", "left"}
    drawn = collapse(width_trials(0.15, 1), tolerance=1e-2)
    arrows = [line for line in drawn.axes[1].lines if line.get_marker() == "$\\downarrow$"]
    assert sum(len(line.get_xdata()) for line in arrows) == (width_table(thresholds)["width_censored"] == "left").sum()
    assert "narrower than the measured n resolve: bound" in [t.get_text() for t in drawn.legends[0].get_texts()]


def test_equal_points_are_fitted_once() -> None:
    table = thresholds_on("statdim").head(5)
    first, before = fit_scaling(table, laws=["statdim"]), scaling._fit_law.cache_info()
    pd.testing.assert_frame_equal(fit_scaling(table.copy(), laws=["statdim"]), first)
    assert scaling._fit_law.cache_info().misses == before.misses
    moved = scaling.points_of(table.assign(n50=1.01 * table["n50"]), "statdim")
    assert moved != scaling.points_of(table, "statdim") == scaling.points_of(table.copy(), "statdim")
