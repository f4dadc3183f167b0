"""Quartiles and reference levels along the training, from tables with known content."""

import numpy as np
import pandas as pd
import pytest
from synthetic import figure, quickstart_like

import flatdist
from flatdist.figures.training_curves import MEASURES, quartiles, reference_levels, series_columns, training_curves
from flatdist.theory import flattest_trace


@pytest.fixture
def history():
    """Five replicates at two depths; replicate r's train loss at step t is (r + 1) / t, its trace known twice."""
    rows = []
    for depth in (2, 3):
        for replicate in range(5):
            for step in (10, 100, 1000):
                row = {"depth": depth, "method": "label_noise_sgd", "replicate": replicate, "step": step}
                row |= dict.fromkeys(MEASURES, 1.0) | {"train_loss": (replicate + 1) / step, "train_loss_max": 2.0}
                row["hessian_trace"] = np.nan if step == 100 else 5.0
                rows.append(row)
    return pd.DataFrame(rows)


@pytest.fixture
def trials():
    base = {"d_out": 6, "d_in": 5, "hessian_trace": np.nan, "nuclear_norm": np.nan, "depth": np.nan}
    rows = [
        base | {"method": "label_noise_sgd", "depth": depth, "label_noise_std": noise, "learning_rate": rate}
        for depth, rate in ((2, 0.1), (3, 0.05))
        for noise in (0.1, 1.0)
    ]
    rows += [base | {"method": "min_nuclear_norm", "nuclear_norm": norm} for norm in (1.0, 2.0, 4.0)]
    rows += [base | {"method": "min_hessian_trace", "depth": 3, "hessian_trace": trace} for trace in (10.0, 30.0)]
    return pd.DataFrame(rows)


def draw(history, trials):
    """The figure, with the runs of the history as trials beside the solved ones."""
    named = history.assign(cell_id="depth " + history["depth"].astype(str))
    runs = named[["cell_id", "replicate", "depth", "method"]].drop_duplicates().assign(d_out=6, d_in=5)
    solved = trials[trials["method"].str.startswith("min_")].assign(cell_id="solved", replicate=0)
    return training_curves(pd.concat([runs, solved], ignore_index=True), named.drop(columns=["depth", "method"]))


def test_quartiles_at_each_step(history):
    curves = quartiles(history, ["depth", "method"])
    line = curves[(curves["depth"] == 3) & (curves["measure"] == "train_loss")].set_index("step")
    np.testing.assert_allclose(line["median"], [3 / 10, 3 / 100, 3 / 1000])
    np.testing.assert_allclose(line["low"], [2 / 10, 2 / 100, 2 / 1000])
    np.testing.assert_allclose(line["high"], [4 / 10, 4 / 100, 4 / 1000])
    assert (line["replicates"] == 5).all()
    trace = curves[(curves["depth"] == 2) & (curves["measure"] == "hessian_trace")]
    assert trace["step"].tolist() == [10, 1000], "steps without a trace are not drawn as gaps of zero"


def test_reference_levels(trials):
    levels = reference_levels(trials)
    level = levels.set_index(["depth", "label"])["level"]
    assert level[3, "minimum nuclear norm"] == 2.0
    assert level[3, "flattest interpolator"] == 20.0
    expected = 2 * 3 * (6 * 5) ** (1 / 3) * 2.0 ** (4 / 3)
    assert level[3, "Lemma 4 at the minimum nuclear norm"] == pytest.approx(expected, rel=1e-12)
    assert flattest_trace(2.0, 6, 5, 3) == pytest.approx(expected, rel=1e-12)
    assert (2, "flattest interpolator") not in level.index


def test_only_what_varies_within_a_depth_makes_a_series(trials):
    assert series_columns(trials[trials["method"] == "label_noise_sgd"]) == ["method", "label_noise_std"]


def test_the_figure_has_a_panel_for_each_measure_and_depth(history, trials):
    figure = draw(history, trials)
    assert len(figure.axes) == 2 * len(MEASURES)
    spikes = figure.axes[0].lines[1]
    np.testing.assert_allclose(spikes.get_ydata(), 2.0)
    levels = [line.get_ydata()[0] for line in figure.axes[-1].lines[1:]]
    assert 20.0 in levels, "depth 3's flattest trace stands in its panel"


def test_several_problems_are_refused_with_a_way_out(monkeypatch, capsys):
    trials = quickstart_like(ranks=(1, 2), methods=("label_noise_sgd",), replicates=1)
    monkeypatch.setattr(flatdist, "load_trials", lambda store, sweep, where=None: trials)
    assert figure("training-curves", "demo") == 2
    n = trials["n"].iloc[0]
    assert f"choose it with --where, such as --where 'rank == 1 and n == {n}'" in capsys.readouterr().err


def test_short_axes_have_plain_numbers(history, trials):
    short = history.assign(nuclear_norm=np.where(history["step"] > 10, 1.2, 1.9), train_loss_max=1e9)
    figure = draw(short, trials)
    norm = figure.axes[2 * list(MEASURES).index("nuclear_norm")]
    labels = [label.get_text() for label in norm.get_yticklabels()]
    assert "1.5" in labels
    assert not any("times" in label for label in labels)
