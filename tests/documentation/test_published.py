"""Rows of the published tables, to every printed digit: from the stored numbers behind them, or computed again."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

import flatdist
from flatdist.fits import risk_table

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results"
INLINE = {"executor": "inline", "display": "none", "probe": False}


def row_of(page: str, start: str) -> list[str]:
    """The cells of the one table row of a page that begins so."""
    (row,) = [line for line in (RESULTS / page).read_text().splitlines() if line.startswith(f"| {start}")]
    return [cell.strip() for cell in row.strip("|").split("|")]


def stored(pattern: str) -> pd.DataFrame:
    (path,) = RESULTS.glob(pattern)
    return pd.read_csv(path)


def distance(table: pd.DataFrame) -> str:
    """How far ratios are from 1, as the headline says it."""
    off = (table["ratio"] - 1).abs()
    worst = table.loc[off.idxmax()]
    shape = f"{worst['d_out']:.0f} x {worst['d_in']:.0f}, rank {worst['rank']:.0f}"
    return f"median distance {off.median():.1%}, worst {off.max():.1%} ({shape})".replace("%", " %")


def test_the_headline_follows_from_its_stored_thresholds() -> None:
    nuclear = stored("statistical_dimension/ratios_statdim-where-ensemble-gaussian-*.csv")
    measured = row_of("statistical_dimension.md", "nuclear norm's n50 over δ")[2]
    assert measured == distance(nuclear[nuclear["method"] == "min_nuclear_norm"])
    ratios = stored("statistical_dimension/ratios_min_nuclear_norm-where-ensemble-gaussian-*.csv")
    trained = ratios[ratios["method"] == "label_noise_sgd"]
    depth = {number: distance(trained[trained["depth"] == number]) for number in (2, 3, 4)}
    short = {number: text.split(" (")[0].replace("median distance ", "") for number, text in depth.items()}
    short = {number: text.replace("worst ", "") for number, text in short.items()}
    measured = row_of("statistical_dimension.md", "label-noise SGD's n50 over the nuclear norm's")[2]
    equivalent = ((trained["ratio_low"] >= 0.9) & (trained["ratio_high"] <= 1.1)).sum()
    assert measured == (
        f"equivalent in {equivalent} of {len(trained)} cases; "
        f"depth 3: {depth[3]}; depth 2: {short[2]}; depth 4: {short[4]}"
    )


def test_a_row_of_the_ensembles_follows_from_its_stored_thresholds() -> None:
    table = stored("ensembles.csv").query("rank == 1 and ensemble == 'gaussian'").set_index(["method", "tolerance"])

    def cell(method: str, tolerance: float) -> str:
        row = table.loc[(method, tolerance)]
        n50, low, high, delta = row["n50"], row["n50_low"], row["n50_high"], row["statdim"]
        return f"{n50 / delta:.2f} [{low / delta:.2f}, {high / delta:.2f}]"

    columns = [("min_nuclear_norm", 1e-6), ("min_hessian_trace", 1e-6), ("min_nuclear_norm", 1e-2),
               ("min_hessian_trace", 1e-2), ("label_noise_sgd", 1e-2)]  # fmt: skip
    assert row_of("ensembles.md", "1 | `gaussian`")[2:] == [cell(*column) for column in columns]


def test_risks_of_noisy_labels_come_out_again() -> None:
    """Computed again: the interpolator of least Frobenius norm at 12 x 12, 20 problems for each of three n."""
    chosen = "method == 'min_frobenius_norm' and d_out == 12 and observation_noise_std == 0.1 and n in [27, 71, 144]"
    table = stored("noise_risk.csv").query(chosen)
    assert len(table) == 3
    sweep = flatdist.load_sweep(ROOT / "sweeps" / "noise.yaml")
    cells = [cell for cell in sweep.cells if (cell.method, cell.d_out) == ("min_frobenius_norm", 12)]
    cells = [cell for cell in cells if cell.observation_noise_std == 0.1 and cell.n in set(table["n"])]
    trials = pd.concat(flatdist.run_cell(cell, range(sweep.replicates))[0] for cell in cells)
    again = risk_table(trials).set_index("n")
    for row in table.to_dict("records"):
        for name in ("error", "error_low", "error_high", "error_q25", "error_q75"):
            assert f"{again.loc[row['n'], name]:.6g}" == f"{row[name]:.6g}", (row["n"], name)
