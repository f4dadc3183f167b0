"""CPU seconds of every table of findings, for sweeps of about 10,000 and 100,000 rows.

``python -m benchmarks.analyses [--rows 10000 100000] [--out FILE]``

Made-up rows: six shapes of ranks 1 to 3, four methods, 12 values of n, logistic transitions at the statistical
dimension with 2 % of failures however large n is; the number of replicates gives the number of rows.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from flatdist.fits.collapse import fit_all
from flatdist.fits.paired import paired_differences
from flatdist.fits.success import success_rates
from flatdist.fits.threshold import fit_over_tolerances, fit_thresholds, grouping
from flatdist.theory import statistical_dimension

SHAPES = ((12, 12), (12, 24), (16, 16), (20, 20), (20, 30), (24, 24))
METHODS = ("label_noise_sgd", "min_nuclear_norm", "min_hessian_trace", "minibatch_sgd")
RANKS = (1, 2, 3)
VALUES = 12


def made_up(rows: int) -> pd.DataFrame:
    """Trials with about this many rows."""
    generator = np.random.default_rng(0)
    replicates = max(rows // (len(SHAPES) * len(RANKS) * len(METHODS) * VALUES), 2)
    parts = []
    for d_out, d_in in SHAPES:
        for rank in RANKS:
            delta = statistical_dimension(d_out, d_in, rank)
            n = np.unique(np.rint(delta * np.geomspace(0.5, 2.0, VALUES)).astype(int))
            for method in METHODS:
                size = (len(n), replicates)
                margin = np.log(n / delta)[:, None] / 0.1 - generator.logistic(size=size)
                succeeded = (margin > 0) & (generator.random(size) > 0.02)
                error = np.where(
                    succeeded, 10.0 ** -generator.uniform(2.1, 6.5, size), generator.uniform(0.1, 1.0, size)
                )
                parts.append(
                    pd.DataFrame(
                        {
                            "method": method, "d_out": d_out, "d_in": d_in, "rank": rank, "ensemble": "gaussian",
                            "ground_truth": "unit_frobenius", "spectral_tail": 0.0, "observation_noise_std": 0.0,
                            "nested": False, "depth": np.nan if method == "min_nuclear_norm" else 3.0,
                            "n": np.repeat(n, replicates), "replicate": np.tile(np.arange(replicates), len(n)),
                            "relative_error": error.ravel(), "status": "converged",
                        }
                    )
                )  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def measure(trials: pd.DataFrame) -> dict[str, float]:
    """CPU seconds of each table."""
    by = grouping(trials)
    tables: dict[str, Callable[[], object]] = {
        "success rates": lambda: success_rates(trials, by, 1e-2),
        "thresholds": lambda: fit_thresholds(trials, by, 1e-2),
        "tolerances": lambda: fit_over_tolerances(trials, by),
        "scaling": lambda: fit_all(trials, 1e-2),
        "paired": lambda: paired_differences(trials, "min_nuclear_norm", 1e-2),
    }
    seconds = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, table in tables.items():
            start = time.process_time()
            table()
            seconds[name] = time.process_time() - start
    return seconds


def main() -> None:
    """Print the table, and write it as CSV."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--out", type=Path, help="write the table here, as CSV")
    options = parser.parse_args()
    rows = []
    for count in options.rows:
        trials = made_up(count)
        rows.append({"rows": len(trials), **measure(trials)})
        print(
            "  ".join(
                f"{name} {value:.2f}" if name != "rows" else f"{value:,} rows:" for name, value in rows[-1].items()
            )
        )
    if options.out:
        pd.DataFrame(rows).to_csv(options.out, index=False, float_format="%.2f")


if __name__ == "__main__":
    main()
