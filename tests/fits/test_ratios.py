"""Ratios of thresholds, n50 as a function of a field, and first successes beside another method's."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from synthetic import figure as run
from synthetic import quickstart_like

import flatdist
from analysis import fit_thresholds
from flatdist.errors import FitError
from flatdist.figures import dependence, style
from flatdist.figures import ratios as ratios_figure
from flatdist.figures.dependence import in_panel
from flatdist.figures.ratios import panels_of
from flatdist.fits.first_success import first_successes, paired_first_success
from flatdist.fits.ratios import changes, ratio_of, ratios, shape_name, split, summarise
from flatdist.theory import prediction, statistical_dimension

SHAPE = ["d_out", "d_in", "rank"]
SHAPES = ((8, 8, 1), (10, 14, 1), (12, 12, 2))


def threshold(n50: float, spread: float = 0.05, censored: str = "none", **fields: object) -> dict[str, object]:
    row = {"n50": n50, "n50_low": n50 * math.exp(-spread), "n50_high": n50 * math.exp(spread), "censored": censored}
    return {"method": "a", "d_out": 8, "d_in": 8, "rank": 1, **row, **fields}


@pytest.fixture(scope="module")
def trials() -> pd.DataFrame:
    methods = ("label_noise_sgd", "min_nuclear_norm")
    parts = [
        quickstart_like((rank,), methods, 16, seed=seed, d_out=d_out, d_in=d_in, depth=depth)
        for seed, (d_out, d_in, rank) in enumerate(SHAPES)
        for depth in (2, 3)
    ]
    return pd.concat(parts).drop_duplicates(["cell_id", "replicate"]).reset_index(drop=True)


def test_over_a_prediction_the_interval_is_scaled() -> None:
    table = ratios(pd.DataFrame([threshold(30.0), threshold(20.0, d_out=12)]), "dof").iloc[0]
    assert table["reference"] == prediction("dof").value(8, 8, 1) == 15
    assert table[["ratio", "ratio_low", "ratio_high"]].tolist() == pytest.approx(
        [2.0, 2.0 * math.exp(-0.05), 2.0 * math.exp(0.05)]
    )


def test_over_a_method_the_errors_of_both_count() -> None:
    """Equal errors on log n add up to sqrt(2) of one of them, and each side is combined with the other's."""
    found = ratio_of(threshold(40.0), threshold(50.0))
    assert found["ratio"] == pytest.approx(0.8)
    assert math.log(found["ratio_high"] / found["ratio"]) == pytest.approx(0.05 * math.sqrt(2))
    lopsided = ratio_of({**threshold(40.0), "n50_high": 40.0}, {**threshold(50.0), "n50_low": 50.0})
    assert lopsided["ratio_high"] == pytest.approx(lopsided["ratio"])
    assert math.log(lopsided["ratio"] / lopsided["ratio_low"]) == pytest.approx(0.05 * math.sqrt(2))


def test_intervals_of_ratios_cover() -> None:
    generator = np.random.default_rng(0)
    covered = []
    for _ in range(120):
        fits = []
        for middle in (3.4, 3.5):
            log_n = np.repeat(np.linspace(3.0, 4.0, 9), 12)
            errors = np.where(log_n > middle + 0.1 * generator.logistic(size=len(log_n)), 1e-4, 1.0)
            rows = {"n": np.exp(log_n), "replicate": np.arange(len(log_n)), "relative_error": errors}
            fits.append(fit_thresholds(pd.DataFrame(rows), by=[], tolerance=1e-2).iloc[0].to_dict())
        found = ratio_of(*fits)
        covered.append(found["ratio_low"] <= math.exp(-0.1) <= found["ratio_high"])
    assert 0.9 <= np.mean(covered) <= 0.995


def test_a_censored_threshold_leaves_a_bound() -> None:
    right = ratio_of(
        {**threshold(math.nan), "n50_low": 60.0, "n50_high": math.inf, "censored": "right"}, threshold(50.0)
    )
    assert math.isnan(right["ratio"])
    assert right["ratio_low"] == pytest.approx(60.0 / (50.0 * math.exp(0.05)))
    assert right["ratio_high"] == math.inf
    left = ratio_of({**threshold(math.nan), "n50_low": 0.0, "n50_high": 20.0, "censored": "left"}, threshold(50.0))
    assert left["ratio_low"] == 0.0
    assert left["ratio_high"] == pytest.approx(20.0 / (50.0 * math.exp(-0.05)))
    nothing = ratio_of(
        threshold(40.0), {**threshold(math.nan), "n50_low": 0.0, "n50_high": math.inf, "censored": "left"}
    )
    assert (nothing["ratio_low"], nothing["ratio_high"]) == (0.0, math.inf)


def test_ratios_recover_what_was_simulated(trials: pd.DataFrame) -> None:
    thresholds = fit_thresholds(trials, by=["method", "depth", *SHAPE], tolerance=1e-2)
    table = ratios(thresholds, "min_nuclear_norm")
    assert set(table["method"]) == {"label_noise_sgd"}
    assert len(table) == 6
    assert table["ratio"].to_numpy() == pytest.approx(1.03 / 0.95, rel=0.1)
    summary = summarise(table, ["method", "depth"], margin=0.2)
    assert summary["shapes"].tolist() == [3, 3]
    worst = (table["ratio"] - 1).abs().groupby(table["depth"]).max()
    assert summary["worst_distance"].tolist() == worst.tolist()


def test_the_summary_counts_what_is_censored() -> None:
    rows = [threshold(1.2 * 26.4), threshold(1.01 * 44.1, d_out=12, d_in=12)]
    rows.append({**threshold(math.nan, d_out=9), "n50_low": 0.0, "censored": "left", "n50_high": 10.0})
    row = summarise(ratios(pd.DataFrame(rows)), ["method"]).iloc[0]
    assert (row["shapes"], row["censored"], row["contains_one"]) == (3, 1, 1)
    assert (row["equivalent"], row["different"]) == (1, 2)  # at a margin of 10 %; n50 below 10 is different too
    assert row["worst_shape"] == "8x8 rank 1"
    assert row["worst_distance"] == pytest.approx(1.2 * 26.4 / statistical_dimension(8, 8, 1) - 1)
    nothing = summarise(ratios(pd.DataFrame(rows[2:])), []).iloc[0]
    assert nothing["worst_shape"] == ""
    assert shape_name(rows[0]) == "8x8 rank 1"


@pytest.mark.parametrize(
    ("change", "over", "message"),
    [
        (lambda t: t, "statdm", "neither a prediction nor a method of these trials; allowed: statdim"),
        (lambda t: pd.concat([t, t]), "a", "several configurations"),
        (lambda t: t, "a", "no other method"),
        (lambda t: t.drop(columns="rank"), "statdim", "'rank'"),
    ],
)
def test_bad_input_has_one_clear_message(change: object, over: str, message: str) -> None:
    with pytest.raises(FitError, match=message):
        ratios(change(pd.DataFrame([threshold(30.0)])), over)  # type: ignore[operator]


def test_methods_without_a_depth_are_in_every_panel(trials: pd.DataFrame) -> None:
    table = ratios(fit_thresholds(trials, by=["method", "depth", *SHAPE], tolerance=1e-2))
    panels = panels_of(table)
    assert [depth for depth, _ in panels] == [2, 3]
    assert all(set(part["method"]) == {"label_noise_sgd", "min_nuclear_norm"} for _, part in panels)
    figure = ratios_figure(trials, table=table)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["depth 2", "depth 3"]
    drawn = sorted(y for line in figure.axes[0].lines for y in line.get_ydata() if line.get_marker() == "o")
    mine = table[(table["method"] == "label_noise_sgd") & (table["depth"] == 2)]
    assert drawn == pytest.approx(sorted(mine["ratio"]))


def with_field(values: dict[float, float], field: str = "init_scale") -> pd.DataFrame:
    """Trials whose n50 depends on a field as told."""
    parts = []
    for value, factor in values.items():
        part = quickstart_like((1,), ("label_noise_sgd",), 16, **{field: value})
        parts.append(part.assign(relative_error=np.where(part["n"] >= factor * 44.1, 1e-4, 0.5)))
    return pd.concat(parts, ignore_index=True)


def test_changes_compare_neighbours() -> None:
    by = ["method", "init_scale", *SHAPE]
    table = fit_thresholds(with_field({0.1: 0.6, 0.5: 1.0, 1.0: 1.0}), by=by)
    found = changes(table, "init_scale", ["method", *SHAPE])
    assert found[["low_value", "high_value"]].to_numpy().tolist() == [[0.1, 0.5], [0.5, 1.0]]
    assert found["ratio"].iloc[0] > 1.3
    assert found["n50_equal"].tolist() == [False, True]
    assert changes(table.iloc[:1], "init_scale", ["method"]).empty


def test_dependence_draws_n50_against_the_field() -> None:
    trials = pd.concat([with_field({0.1: 0.6, 0.5: 1.0, 1.0: 1.0}), quickstart_like((1,), ("min_nuclear_norm",))])
    panels, series = split(trials, "init_scale")
    assert (panels, series) == (["rank"], ["method"])
    figure = dependence(trials, "init_scale")
    drawn = next(line for line in figure.axes[0].lines if line.get_marker() == "o" and len(line.get_xdata()) == 3)
    assert drawn.get_xdata().tolist() == [0.1, 0.5, 1.0]
    assert drawn.get_ydata()[0] < 0.75 * drawn.get_ydata()[1]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["0.1", "0.5", "1"]


def test_depths_are_panels_that_share_methods_without_one(trials: pd.DataFrame) -> None:
    assert split(trials, "init_scale") == (["d_out", "d_in", "rank", "depth"], ["method"])
    part = in_panel(trials, {"d_out": 8, "depth": 3})
    assert set(part["method"]) == {"label_noise_sgd", "min_nuclear_norm"}
    assert set(part["depth"].dropna()) == {3}


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("init_scal", "did you mean 'init_scale'"),
        ("method", "'method' is not one"),
        ("init_scale", "only 0.5 in 'init_scale'"),
        ("sam_radius", "no value in 'sam_radius'"),
    ],
)
def test_fields_without_several_numbers_are_refused(
    field: str, message: str, trials: pd.DataFrame, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = trials.assign(sam_radius=trials["sam_radius"].astype(float))
    monkeypatch.setattr(flatdist, "load_trials", lambda store, sweep, where=None: table, raising=False)
    assert run("dependence", "demo", "--x", field) == 2
    assert message in capsys.readouterr().err


def nested(method: str, offset: int, count: int = 30, shape: tuple[int, int, int] = (8, 8, 1)) -> pd.DataFrame:
    """Replicates whose own thresholds are known: the same for every method but for the offset."""
    own = np.random.default_rng(3).integers(20, 29, size=count) + offset
    rows = [
        {"replicate": replicate, "n": n, "relative_error": 1e-9 if n >= own[replicate] else 0.4}
        for replicate in range(count)
        for n in range(14, 36)
    ]
    fields = dict(zip(("d_out", "d_in", "rank"), shape, strict=True))
    return pd.DataFrame(rows).assign(method=method, nested=True, **fields)


def test_pairs_of_first_successes_cancel_what_replicates_share() -> None:
    trials = pd.concat([nested("min_nuclear_norm", 0), nested("min_hessian_trace", -2)], ignore_index=True)
    found = paired_first_success(trials, ["method", *SHAPE], "min_nuclear_norm").iloc[0]
    assert found["method"] == "min_hessian_trace"
    assert (found["difference"], found["standard_error"], found["equal"]) == (-2.0, 0.0, 0.0)
    assert (found["pairs"], found["n_unpaired"]) == (30, 0)
    short = trials[(trials["n"] < 24) | (trials["method"] == "min_nuclear_norm")]
    part = paired_first_success(short, ["method"], "min_nuclear_norm").iloc[0]
    unknown = first_successes(short, ["method"], 1e-6).groupby("method")["n_first"].apply(lambda n: n.isna().sum())
    assert part["n_unpaired"] == unknown["min_hessian_trace"] > 0
    with pytest.raises(FitError, match="allowed: min_hessian_trace, min_nuclear_norm"):
        paired_first_success(trials, ["method"], "sam")
    with pytest.raises(FitError, match="no other method"):
        paired_first_success(nested("sam", 0), ["method"], "sam")


def commands(trials: pd.DataFrame) -> dict[str, tuple[str, pd.DataFrame, list[str], str]]:
    streams = [nested("min_nuclear_norm", 0), nested("min_hessian_trace", -2)]
    larger = [nested("min_nuclear_norm", 5, shape=(8, 10, 1)), nested("min_hessian_trace", 1, shape=(8, 10, 1))]
    return {
        "ratios_statdim": ("ratios", trials, [], "equivalent at 10 %"),
        "ratios_min_nuclear_norm": ("ratios", trials, ["--over", "min_nuclear_norm"], "median_ratio"),
        "dependence_init_scale": (
            "dependence", with_field({0.1: 0.6, 0.5: 1.0}), ["--x", "init_scale"], "n50 at the higher value",
        ),
        "first_success": ("first-success", pd.concat(streams + larger, ignore_index=True), [], "in 0 of 2 shapes"),
    }  # fmt: skip


@pytest.mark.parametrize(
    "name", ["ratios_statdim", "ratios_min_nuclear_norm", "dependence_init_scale", "first_success"]
)
def test_commands_write_pictures_with_their_origin(
    name: str, trials: pd.DataFrame, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, table, options, printed = commands(trials)[name]
    monkeypatch.setattr(flatdist, "load_trials", lambda store, sweep, where=None: table, raising=False)
    assert run(command, "demo", "--out", str(tmp_path), "--format", "png", *options) == 0
    assert printed in capsys.readouterr().out
    with Image.open(tmp_path / f"{name}.png") as picture:
        assert json.loads(picture.info["Description"])["sweep"] == "demo"
        assert picture.size[0] == pytest.approx(style.COLUMN_WIDTH * style.RESOLUTION, abs=2)


@pytest.mark.parametrize("case", ["all fail", "all succeed", "diverged", "one shape"])
def test_odd_data_still_make_a_figure(case: str, trials: pd.DataFrame, monkeypatch, tmp_path: Path) -> None:
    table = {
        "all fail": lambda: trials.assign(relative_error=1.0),
        "all succeed": lambda: trials.assign(relative_error=0.0),
        "diverged": lambda: trials.assign(relative_error=np.nan, status="diverged"),
        "one shape": lambda: trials[trials["d_out"] == 8],
    }[case]()
    monkeypatch.setattr(flatdist, "load_trials", lambda store, sweep, where=None: table, raising=False)
    for options in ([], ["--over", "min_nuclear_norm"]):
        assert run("ratios", "demo", "--out", str(tmp_path), "--format", "svg", *options) == 0
    assert run("dependence", "demo", "--out", str(tmp_path), "--x", "d_in") == (2 if case == "one shape" else 0)


@pytest.mark.parametrize("margin", ["0", "2", "nan"])
def test_margins_are_relative_distances(margin: str, trials: pd.DataFrame, monkeypatch, capsys) -> None:
    monkeypatch.setattr(flatdist, "load_trials", lambda store, sweep, where=None: trials, raising=False)
    assert run("ratios", "demo", "--margin", margin) == 2
    assert "is not a relative distance" in capsys.readouterr().err
