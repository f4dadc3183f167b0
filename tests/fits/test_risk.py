"""Errors where recovery is not exact: medians, paired ratios, predictions, pictures and refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import stats
from synthetic import figure

import flatdist
from flatdist.cells.cell import Cell
from flatdist.errors import FitError
from flatdist.figures import risk, risk_ratios, risk_steps, steps_table
from flatdist.fits.risk import Setting, error_ratios, prediction_curves, quantile_test, ratios_by_regime, risk_table
from flatdist.theory.risk import MinimumNormLaw, interpolation_law, tangent_fit_error
from flatdist.threshold.median import median_interval

D_OUT, D_IN, NOISE = 5, 6, 0.1
VALUES = (8, 13, 20, 27, 30)


def make_trials(replicates: int = 20, noise: float = NOISE, **fields: object) -> pd.DataFrame:
    """Three methods: the Frobenius norm on its law, the nuclear norm a problem's share of it, SGD twice the latter."""
    generator = np.random.default_rng(5)
    rows = []
    for n in VALUES:
        missed = (
            stats.beta((30 - n) / 2, n / 2).rvs(replicates, random_state=generator) if n < 30 else np.zeros(replicates)
        )
        errors = missed + interpolation_law(D_OUT, D_IN, n, noise).rvs(replicates, random_state=generator)
        for method, factor, depth in (
            ("min_frobenius_norm", 1.0, 2),
            ("min_nuclear_norm", 0.1, 2),
            ("label_noise_sgd", 0.2, 2),
            ("label_noise_sgd", 0.05, 3),
        ):
            given = {"d_out": D_OUT, "d_in": D_IN, "rank": 1, "n": n, "observation_noise_std": noise}
            cell = Cell(**given, method=method, depth=depth, **fields)
            for replicate, error in enumerate(errors):
                rows.append(
                    {
                        "cell_id": cell.cell_id,
                        **cell.row(),
                        "replicate": replicate,
                        "status": "converged",
                        "relative_error": factor * error,
                        "population_loss": factor * error,
                        "train_loss": 0.25 * noise**2 if method == "label_noise_sgd" else 0.0,
                    }
                )
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def trials() -> pd.DataFrame:
    return make_trials()


def test_the_interval_of_a_median_covers() -> None:
    generator = np.random.default_rng(3)
    for count, confidence in ((20, 0.9586), (16, 0.9787), (6, 0.9688)):
        samples = generator.pareto(0.5, size=(4000, count))  # no mean, as near n = d d'
        limits = np.array([median_interval(sample)[1:3] for sample in samples])
        covered = np.mean((limits[:, 0] <= 3.0) & (limits[:, 1] >= 3.0))  # 2^(1 / 0.5) - 1
        assert covered == pytest.approx(confidence, abs=0.012)
    assert median_interval([1.0, 2.0, 3.0]) == (2.0, -np.inf, np.inf, 1.0)
    assert median_interval([1.0, np.inf, 3.0]).median == 3.0
    assert median_interval([np.inf, 1.0, np.nan, np.inf]).median == np.inf
    assert np.isnan(median_interval([np.nan]).median)


def test_the_table_has_medians_misfits_and_predictions(trials: pd.DataFrame) -> None:
    table = risk_table(trials)
    assert len(table) == 4 * len(VALUES)
    assert (table["replicates"] == 20).all()
    frobenius = table[table["method"] == "min_frobenius_norm"].set_index("n")
    for n in VALUES:
        mine = trials[(trials["method"] == "min_frobenius_norm") & (trials["n"] == n)]["relative_error"]
        assert frobenius.loc[n, "error"] == pytest.approx(mine.median())
        assert frobenius.loc[n, "error_low"] < mine.median() < frobenius.loc[n, "error_high"]
        assert frobenius.loc[n, "error_q25"] < mine.median() < frobenius.loc[n, "error_q75"]
        assert frobenius.loc[n, "predicted"] == pytest.approx(MinimumNormLaw(D_OUT, D_IN, n, NOISE).median())
        assert frobenius.loc[n, "floor"] == pytest.approx(interpolation_law(D_OUT, D_IN, n, NOISE).median())
        assert frobenius.loc[n, "rank_fit"] == tangent_fit_error(D_OUT, D_IN, 1, n, NOISE)
    nuclear = table[table["method"] == "min_nuclear_norm"].set_index("n")["predicted"]
    assert nuclear.loc[[8, 13, 20, 27]].between(0, 1).all()
    assert np.isnan(nuclear.loc[30])
    trained = table[table["method"] == "label_noise_sgd"]
    np.testing.assert_allclose(trained["misfit"], 0.25)
    assert trained["predicted"].isna().all()


def test_a_divergence_is_an_infinite_error(trials: pd.DataFrame) -> None:
    broken = trials.copy()
    chosen = (broken["method"] == "min_nuclear_norm") & (broken["n"] == 20)
    broken.loc[chosen & (broken["replicate"] < 3), "status"] = "diverged"
    broken.loc[chosen & (broken["replicate"] == 3), "relative_error"] = np.nan
    group = risk_table(broken).query("method == 'min_nuclear_norm' and n == 20").iloc[0]
    assert group["diverged"] == 4
    errors = trials[chosen & (trials["replicate"] >= 4)]["relative_error"].to_numpy()
    assert group["error"] == pytest.approx(np.median([*errors, *[np.inf] * 4]))
    ratios = error_ratios(broken, "min_nuclear_norm").query("method == 'label_noise_sgd' and n == 20 and depth == 2")
    assert ratios.iloc[0]["ratio"] == pytest.approx(2.0)
    assert ratios.iloc[0]["ratio_low"] == pytest.approx(2.0)
    assert ratios.iloc[0]["worse"] == pytest.approx(16 / 20)
    broken.loc[chosen, "relative_error"] = np.inf
    table = risk_table(broken)
    assert np.isinf(table.query("method == 'min_nuclear_norm' and n == 20")["error"]).all()
    figure = risk(trials)
    drawn = [line.get_ydata() for line in figure.axes[0].lines]
    assert all(np.isfinite(np.asarray(y, dtype=float)).all() for y in drawn)


def test_ratios_are_paired(trials: pd.DataFrame) -> None:
    ratios = error_ratios(trials, "min_nuclear_norm")
    found = ratios.set_index(["method", "depth"])
    for name, depth, value in (("label_noise_sgd", 2, 2.0), ("label_noise_sgd", 3, 0.5)):
        mine = found.loc[(name, depth)]
        np.testing.assert_allclose(mine[["ratio", "ratio_low", "ratio_high"]], value)  # whatever the spread of problems
        assert (mine["pairs"] == 20).all()
        assert (mine["worse"] == (value > 1)).all()
    pooled = ratios_by_regime(trials, "min_nuclear_norm")
    counts = pooled[pooled["depth"] == 3].set_index("regime")["pairs"].to_dict()
    assert counts == {"below": 40, "above": 40, "peak": 20}
    assert list(pooled["regime"].unique()) == ["below", "above", "peak"]
    exact = trials.assign(relative_error=0.0)
    assert (error_ratios(exact, "min_nuclear_norm")["ratio"] == 1).all()


def test_errors_off_their_law_are_noticed(trials: pd.DataFrame) -> None:
    assert float(quantile_test(trials)[0].rsplit("=", 1)[1]) > 0.01
    scaled = trials.assign(relative_error=1.15 * trials["relative_error"])
    assert float(quantile_test(scaled)[0].rsplit("=", 1)[1]) < 0.01
    assert quantile_test(trials[trials["method"] == "label_noise_sgd"]) == []
    assert quantile_test(trials.assign(ensemble="rademacher")) == []
    assert quantile_test(trials.assign(nested=True)) == []
    tails = pd.concat([trials, trials.assign(spectral_tail=0.3)])  # the same measurements: the same errors once more
    assert quantile_test(tails) == quantile_test(trials)


def test_curves_say_what_applies() -> None:
    tail = make_trials(2, spectral_tail=0.3)
    curves = prediction_curves(tail, ["rank"])
    assert set(curves["curve"]) == {"nuclear_norm", "minimum_norm", "floor", "tangent_fit", "truncation"}
    np.testing.assert_allclose(curves[curves["curve"] == "truncation"]["error"], 0.09)
    exact = make_trials(2, noise=1e-9).assign(observation_noise_std=0.0)
    assert not {"floor", "tangent_fit", "truncation"} & set(prediction_curves(exact, ["rank"])["curve"])
    assert prediction_curves(tail.assign(ensemble="rademacher"), ["rank"]).empty
    assert Setting.of(pd.concat([tail, exact])) is None, "several noises"
    spectra = Setting(12, 10, 2, 0.0, 0.3, "gaussian_factors").spectra()
    np.testing.assert_allclose(np.sum(spectra**2, axis=1), 1.0)
    np.testing.assert_allclose(np.sum(spectra[:, 2:] ** 2, axis=1), 0.09)


def test_figures_show_every_series_and_prediction(trials: pd.DataFrame) -> None:
    figure = risk(trials)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "label-noise SGD, depth 3" in labels
    assert "least error of any interpolator" in labels
    axes = figure.axes[0]
    assert axes.get_xscale() == axes.get_yscale() == "log"
    assert len(axes.lines) == 4 + 4  # no tail
    assert "20 problems" in figure.legends[0].get_title().get_text()
    ratios = risk_ratios(trials, reference="min_nuclear_norm")
    assert len(ratios.axes[0].lines) == 1 + 3


def test_the_command_writes_pictures_and_tables(
    trials: pd.DataFrame, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(flatdist, "load_trials", lambda store, sweep, where=None: trials, raising=False)
    assert figure("risk", "demo", "--store", "s", "--out", str(tmp_path), "--format", "png") == 0
    printed = capsys.readouterr().out
    tables = {"risk.csv", "risk_ratios.csv", "risk_ratios_by_regime.csv"}
    assert {path.name for path in tmp_path.iterdir()} == {"risk.png", "risk_ratios.png"} | tables
    assert "min_frobenius_norm: 100 errors against their exact law" in printed
    with Image.open(tmp_path / "risk.png") as picture:
        assert json.loads(picture.info["Description"])["settings"] == {"level": 0.95, "reference": "min_nuclear_norm"}
    assert len(pd.read_csv(tmp_path / "risk.csv")) == 20


def test_steps_are_an_axis(
    trials: pd.DataFrame, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sgd = trials["method"] == "label_noise_sgd"
    longer = trials[sgd].assign(steps=80000, relative_error=3 * trials["relative_error"])
    both = pd.concat([trials, longer], ignore_index=True)
    table, series, panels = steps_table(both)
    assert series == ["method", "depth"]
    assert panels == ["rank", "n"]
    trained = table[table["steps"].notna()].set_index(["depth", "n", "steps"])["error"].unstack()
    np.testing.assert_allclose(trained[80000] / trained[40000], 3.0)
    assert len(risk_steps(both[both["n"] == 13]).axes) == 2
    monkeypatch.setattr(flatdist, "load_trials", lambda store, sweep, where=None: both[both["n"] < 20], raising=False)
    assert figure("risk-steps", "demo", "--out", str(tmp_path), "--format", "png") == 0
    assert {path.suffix for path in tmp_path.iterdir()} == {".png", ".csv"}
    assert "misfit" in capsys.readouterr().out
    with pytest.raises(FitError, match="no two numbers of steps"):
        steps_table(trials)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.iloc[:0], "has no trials in store"),
        (lambda t: t.assign(relative_error=np.nan), "all 400 trials diverged or have no error"),
        (lambda t: t.assign(status="diverged"), "all 400 trials diverged or have no error"),
        (lambda t: t.drop(columns="d_out"), "needed columns 'd_out'"),
        (lambda t: t[t["method"] != "min_nuclear_norm"], "reference method 'min_nuclear_norm' has no trials here"),
        (lambda t: t[t["method"] == "min_nuclear_norm"], "so there are no pairs"),
    ],
)
def test_bad_input_is_one_message(
    change, message: str, trials: pd.DataFrame, monkeypatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(flatdist, "load_trials", lambda store, sweep, where=None: change(trials), raising=False)
    assert figure("risk", "demo", "--store", "s", "--out", str(tmp_path)) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not list(tmp_path.iterdir())
