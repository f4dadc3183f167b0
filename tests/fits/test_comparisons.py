"""Paired differences, n50 over tolerances, and first successes on nested problems."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.proportion import proportion_confint
from synthetic import figure, quickstart_like

import flatdist
from flatdist.errors import FitError
from flatdist.fits.first_success import first_successes, mean_first_success
from flatdist.fits.paired import mean_differences, newcombe_interval, paired_differences
from flatdist.fits.threshold import fit_over_tolerances
from flatdist.theory import statistical_dimension


@pytest.fixture(scope="module")
def trials() -> pd.DataFrame:
    return quickstart_like(ranks=(1, 2), methods=("label_noise_sgd", "min_nuclear_norm"), replicates=12)


def test_newcombe_interval_is_symmetric_and_narrower_where_pairs_agree() -> None:
    low, high = newcombe_interval((12, 9, 2, 21), 0.95)
    assert newcombe_interval((12, 2, 9, 21), 0.95) == pytest.approx((-high, -low))
    assert low < 7 / 44 < high
    apart = newcombe_interval((7, 14, 7, 16), 0.95)  # the same two proportions, pairs unrelated
    assert high - low < 0.85 * (apart[1] - apart[0])
    (low1, high1), (low2, high2) = (proportion_confint(count, 44, 0.05, method="wilson") for count in (21, 14))
    unpaired = (
        7 / 44 - math.hypot(21 / 44 - low1, high2 - 14 / 44),
        7 / 44 + math.hypot(high1 - 21 / 44, 14 / 44 - low2),
    )
    assert apart == pytest.approx(unpaired)


def test_newcombe_interval_covers() -> None:
    generator = np.random.default_rng(6)
    covered = 0
    for counts in generator.multinomial(16, (0.5, 0.25, 0.05, 0.2), size=400):
        low, high = newcombe_interval(tuple(int(count) for count in counts), 0.95)
        covered += low <= 0.2 <= high
    assert 365 <= covered <= 397


def test_differences_are_taken_on_the_same_problems(trials: pd.DataFrame) -> None:
    table = paired_differences(trials, "min_nuclear_norm", 1e-2)
    assert (table["pairs"] == 12).all()
    assert set(table["method"]) == {"label_noise_sgd"}
    succeeded = trials["relative_error"] < 1e-2
    rate = succeeded.groupby([trials["method"], trials["rank"], trials["n"]]).mean()
    for row in table.itertuples():
        expected = rate["label_noise_sgd", row.rank, row.n] - rate["min_nuclear_norm", row.rank, row.n]
        assert row.difference == pytest.approx(expected)
        assert row.difference_low <= row.difference <= row.difference_high
        assert row.both + row.only_method + row.only_reference + row.neither == 12
    total = mean_differences(table, ["method"]).iloc[0]
    assert total["pairs"] == len(trials) / 2
    assert total["p_value"] < 0.05  # the synthetic label-noise SGD needs 8 % more measurements
    assert total["difference"] < 0


def test_pairs_need_a_reference(trials: pd.DataFrame) -> None:
    with pytest.raises(FitError, match="'sam' has no trials here; allowed: label_noise_sgd, min_nuclear_norm"):
        paired_differences(trials, "sam")
    twice = pd.concat([trials, trials[trials["method"] == "label_noise_sgd"].assign(depth=4)])
    with pytest.raises(FitError, match="several configurations; select one of its depth"):
        paired_differences(twice, "label_noise_sgd")
    with pytest.raises(FitError, match="no pairs"):
        paired_differences(trials[trials["method"] == "min_nuclear_norm"], "min_nuclear_norm")


def test_n50_falls_as_the_tolerance_is_loosened(trials: pd.DataFrame) -> None:
    """Errors that shrink with n: each tolerance has its own threshold, known in closed form."""
    table = trials[trials["rank"] == 1].copy()
    table["relative_error"] = (table["n"] / 20.0) ** -4.0
    table = table[table["method"] == "min_nuclear_norm"]
    fits = fit_over_tolerances(table, ["method"], (1e-1, 1e-2, 1e-3)).set_index("tolerance")
    for value in (1e-1, 1e-2):
        exact = 20.0 * value**-0.25
        assert fits.loc[value, "n50_low"] * 0.99 <= exact <= fits.loc[value, "n50_high"] * 1.01
    assert fits["n50"].is_monotonic_increasing


def nested_trials(count: int = 40) -> pd.DataFrame:
    """N uniform on 20..28; measured at every n, of which some are left out."""
    generator = np.random.default_rng(1)
    rows = [
        {"replicate": replicate, "n": n, "relative_error": 1e-9 if n >= own else 0.4, "own": own}
        for replicate, own in enumerate(generator.integers(20, 29, size=count))
        for n in range(15, 34)
    ]
    return pd.DataFrame(rows).assign(method="min_nuclear_norm", nested=True, d_out=8, d_in=8, rank=1)


def test_first_success_is_each_replicates_own() -> None:
    trials = nested_trials()
    table = first_successes(trials, ["method"])
    own = trials.groupby("replicate")["own"].first()
    assert table["exact"].all()
    assert table["monotone"].all()
    assert (table["n_first"].to_numpy() == own.to_numpy()).all()
    mean = mean_first_success(trials, ["method", "d_out", "d_in", "rank"]).iloc[0]
    assert mean["mean"] == pytest.approx(own.mean())
    assert mean["standard_error"] == pytest.approx(own.std() / math.sqrt(40))
    assert mean["predicted"] == statistical_dimension(8, 8, 1) + 0.5
    assert mean["mean_low"] < mean["mean"] < mean["mean_high"]


def test_coarse_grids_and_unfinished_replicates_are_told() -> None:
    trials = nested_trials()
    coarse = mean_first_success(trials[trials["n"] % 3 == 0], ["method"]).iloc[0]
    exact = mean_first_success(trials, ["method"]).iloc[0]
    assert coarse["resolution"] == 3
    assert coarse["mean"] == pytest.approx(exact["mean"], abs=0.6)
    short = mean_first_success(trials[trials["n"] < 26], ["method"]).iloc[0]
    assert short["n_censored"] > 0
    assert math.isnan(short["mean"])
    with pytest.raises(FitError, match="nested: true"):
        first_successes(trials.assign(nested=False), ["method"])


def test_the_other_commands_draw(
    trials: pd.DataFrame, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two = pd.concat([trials, quickstart_like((1,), ("label_noise_sgd", "min_nuclear_norm"), d_out=8, replicates=12)])
    monkeypatch.setattr(flatdist, "load_trials", lambda store, sweep, where=None: two, raising=False)
    out = ["--out", str(tmp_path), "--format", "png", "--tolerance", "1e-2"]
    assert figure("paired", "demo", *out) == 0
    assert figure("tolerance", "demo", *out[:4]) == 0
    assert figure("phase_diagram", "demo", *out, "--view", "size") == 0
    assert figure("phase_diagram", "demo", *out, "--view", "normalised") == 0
    stems = {path.stem for path in tmp_path.iterdir()}
    assert stems == {"paired", "tolerance", "phase_diagram_size", "phase_diagram_normalised"}
    assert figure("paired", "demo", *out, "--reference", "nothing") == 2
    assert "allowed: label_noise_sgd, min_nuclear_norm" in capsys.readouterr().err
