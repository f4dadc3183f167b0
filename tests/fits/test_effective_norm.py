"""Ratios of first successes: known ratios come back, and the figure draws what the table holds."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from flatdist.errors import FitError
from flatdist.figures.effective_norm import depth_figure, ranks_figure, ratios_figure, scales_figure
from flatdist.fits.first_success import (
    at_rate_zero,
    beside_nuclear_norm,
    depth_ratios,
    local_against_global,
    method_firsts,
    minimum_norm_end,
)
from flatdist.theory import statistical_dimension


def streams(ratio, scatter, count, seed=0):
    generator = np.random.default_rng(seed)
    rows = []
    for replicate in range(count):
        shared = generator.standard_normal()
        base = 100.0 + 5.0 * shared
        first = ratio * 100.0 + scatter * (0.8 * shared + 0.6 * generator.standard_normal())
        for norm, value in (("nuclear norm", base), ("3", first)):
            rows.append({"d_out": 24, "d_in": 24, "rank": 1, "ensemble": "gaussian", "replicate": replicate,
                         "norm": norm, "first_success": value, "statdim": 99.5})  # fmt: skip
    return pd.DataFrame(rows)


def test_intervals_of_ratios_cover_the_truth():
    truth, variance = (90.0 - 0.5) / (100.0 - 0.5), (3.0 / 5.0) ** 2
    inside = np.zeros(2)
    for seed in range(200):
        row = depth_ratios(streams(0.9, 3.0, 40, seed)).set_index("norm").loc["3"]
        inside += [
            abs(row["ratio"] - truth) < 1.96 * row["ratio_error"],
            abs(row["variance_ratio"] - variance) < 1.96 * row["variance_ratio_error"],
        ]
    assert (inside / 200 > 0.89).all()  # 95 % nominal, with a standard error of 1.5 %
    assert (inside / 200 < 0.995).all()


def test_few_streams_have_no_row_and_a_missing_reference_is_named():
    assert depth_ratios(streams(0.9, 3.0, 5)).empty
    with pytest.raises(FitError, match="nuclear norm"):
        depth_ratios(streams(0.9, 3.0, 20).query("norm == '3'"))


def test_agreement_is_counted():
    solved = pd.DataFrame(
        {"d_out": 8, "d_in": 8, "rank": 1, "ensemble": "gaussian", "depth": 3, "nu_low": [0.9, 1.1, 1.001, 0.5],
         "nu_high": [0.9, 1.1, 1.001, 0.5],
         "relative_error": [1e-20, 1e-2, 1e-7, 1e-3], "certified": [True, True, True, False]}
    )  # fmt: skip
    row = local_against_global(solved).iloc[0]
    assert row[["problems", "both", "neither", "local_only", "solver_only", "uncertified"]].tolist() == [
        4,
        1,
        1,
        1,
        1,
        1,
    ]


def test_the_figure_draws_ratios_with_their_limits():
    table = depth_ratios(pd.concat([streams(0.9, 3.0, 20), streams(0.9, 3.0, 20).assign(d_out=48, d_in=48)]))
    ratio, statdim, variance, _ = depth_figure(table).axes
    assert ratio.get_legend_handles_labels()[1].count("depth 3") == 1
    assert len(variance.lines) > 1
    for axes in (ratio, statdim):
        limits = [line for line in axes.lines if list(line.get_xdata()) == [1.0, 1.04]]
        assert len(limits) == 5
        assert limits[1].get_ydata()[0] == pytest.approx(0.927, abs=1e-3)


def test_ranks_are_drawn_with_the_exact_curve_and_depths_saving():
    tables = [streams(0.9 + 0.04 * rank, 3.0, 20).assign(rank=rank) for rank in (1, 2)]
    ratios = depth_ratios(pd.concat([*tables, streams(0.5, 3.0, 20).assign(d_out=48, d_in=48)]))
    trained = pd.DataFrame({"rank": [1], "n50": [97.0], "n50_low": [95.0], "n50_high": [100.0]})
    diagram, gain = ranks_figure(ratios, trained).axes
    assert diagram.get_legend_handles_labels()[1][0] == "statistical dimension"
    assert diagram.lines[0].get_ydata()[0] == pytest.approx(statistical_dimension(24, 24, 1) / 24**2)
    saved = 1.0 - ratios[(ratios["norm"] == "3") & (ratios["d_out"] == 24)]["ratio"]
    np.testing.assert_allclose(np.array(gain.lines[0].get_ydata(), dtype=float), saved)


def test_the_minimum_norm_is_told_by_its_laws_and_others_are_not():
    generator, rows = np.random.default_rng(2), []
    for replicate in range(40):
        basis, _ = np.linalg.qr(generator.standard_normal((16, 16)))
        error = 1.0 - np.cumsum(basis[0] ** 2)  # of the first n measurements, for a ground truth along one axis
        for scale, shown in ((3.0, error), (0.1, np.where(np.arange(1, 17) > 8, 0.0, error))):
            common = {"d_out": 4, "d_in": 4, "method": "gradient_descent", "init_scale": scale, "status": "converged",
                      "replicate": replicate}  # fmt: skip
            rows += [common | {"nested": True, "n": n, "relative_error": shown[n - 1]} for n in range(1, 16)]
            rows += [common | {"nested": False, "n": 12, "relative_error": shown[11]}]
    scales, errors = minimum_norm_end(pd.DataFrame(rows), 0.05)
    low, high = (scales.set_index("init_scale").loc[scale] for scale in (0.1, 3.0))
    assert abs(high["from_law"]) < 3.0
    assert high["late"] > 0, "some streams need all 16, which are not among the rows"
    assert low["from_law"] < -10.0
    assert errors.set_index("init_scale").loc[3.0, "p"] > 1e-3
    assert errors.set_index("init_scale").loc[0.1, "p"] < 1e-6


def test_scales_are_drawn_between_the_marks():
    table = pd.DataFrame({"init_scale": [0.1, 1.0], "mean": [20.5, 60.5], "error": [1.0, 0.5]})
    (axes,) = scales_figure(table, {"low": 15.0, "high": 63.0}).axes
    np.testing.assert_allclose(np.array(axes.lines[0].get_ydata(), dtype=float), [20.0, 60.0])
    assert [text.get_text() for text in axes.texts] == ["low", "high"]


def test_streams_are_counted_beside_the_nuclear_norm():
    pairs = [(80, 90), (95, 80), (85, 95), (99, 99), (90, 90)]  # first successes of depth 3 and of the nuclear norm
    firsts = streams(1.0, 1.0, len(pairs))
    firsts.loc[firsts["norm"] == "3", "first_success"] = [mine for mine, _ in pairs]
    firsts.loc[firsts["norm"] == "nuclear norm", "first_success"] = [nuclear for _, nuclear in pairs]
    row = beside_nuclear_norm(firsts).iloc[0]
    assert row["n"] == 90
    assert row[["both", "nuclear_only", "norm_only", "neither"]].tolist() == [2, 1, 1, 1]
    assert row[["later", "equal", "earlier"]].tolist() == [1, 2, 2]


def trained(seed, rates, truth, count):
    """Nested trials around the first successes of streams, truth(rate) on average, and of the exact solver, 24."""
    generator, rows = np.random.default_rng(seed), []
    common = {
        "d_out": 4,
        "d_in": 4,
        "rank": 1,
        "ensemble": "gaussian",
        "nested": True,
        "depth": 3,
        "status": "converged",
    }
    methods = {("min_hessian_trace", np.nan): 24.0} | {("label_noise_sgd", rate): truth(rate) for rate in rates}
    for replicate, shared in enumerate(2.0 * generator.standard_normal(count)):
        for (method, rate), mean in methods.items():
            first = round(mean + shared + 0.5 * generator.standard_normal())
            own = common | {"method": method, "learning_rate": rate, "replicate": replicate}
            rows += [own | {"n": n, "relative_error": 1e-4 if n >= first else 0.5} for n in range(first - 2, first + 2)]
    return pd.DataFrame(rows)


def test_rates_are_extrapolated_to_zero():
    rates, inside = (0.05, 0.025, 0.0125), 0
    for seed in range(10):
        firsts = method_firsts(trained(seed, rates, lambda rate: 26.0 + 60.0 * rate, 12), 1e-2)
        assert set(firsts["norm"]) == {"min_hessian_trace", *(f"label_noise_sgd {rate:g}" for rate in rates)}
        ratio, error = at_rate_zero(firsts, {f"label_noise_sgd {rate:g}": rate for rate in rates}, "min_hessian_trace")
        inside += abs(ratio - 25.5 / 23.5) < 2.2 * error
    assert inside >= 8
    with pytest.raises(FitError, match="0 streams have a first success"):
        at_rate_zero(firsts, {"label_noise_sgd 0.3": 0.3}, "min_hessian_trace")


def test_a_figure_of_ratios_has_a_point_for_every_method_but_the_reference():
    firsts = method_firsts(trained(0, (0.05, 0.025), lambda rate: 26.0, 40), 1e-2)
    table = depth_ratios(firsts, "min_hessian_trace")
    assert table.set_index("norm")["ratio"]["label_noise_sgd 0.05"] == pytest.approx(25.5 / 23.5, rel=0.03)
    (axes,) = ratios_figure({"depth 3": table}, "min_hessian_trace").axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["label_noise_sgd 0.025", "label_noise_sgd 0.05"]
