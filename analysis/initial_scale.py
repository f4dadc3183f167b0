"""Gradient descent from symmetric starts of every scale, against the exact laws at the ends.

python analysis/initial_scale.py [docs/results/training] [--out DIR]
"""

import argparse
from pathlib import Path

import pandas as pd
from scipy.stats import kstest

from flatdist.figures.effective_norm import scales_figure
from flatdist.figures.style import save_figure
from flatdist.fits.first_success import first_successes
from flatdist.theory import minimum_norm_first_success, minimum_norm_law, prediction

TOLERANCE = 1e-2


def main() -> None:
    """Print first successes over the scale and tests of the law at the upper end, and write the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("docs/results/training"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    trials = pd.read_csv(options.folder / "init_ends.csv")
    nested, shape = trials["nested"], tuple(int(trials[name].iloc[0]) for name in ("d_out", "d_in", "rank"))
    law = minimum_norm_first_success(*shape[:2], TOLERANCE)
    firsts = first_successes(trials[nested], ["init_scale"], TOLERANCE).groupby("init_scale")["n_first"]
    table = firsts.agg(streams="count", mean="mean", error="sem").reset_index()
    table["from_law"] = (table["mean"] - law.mean()) / (law.std() / table["streams"] ** 0.5)
    print(f"law of the first success: mean {law.mean():.2f}\n{table.round(2).to_string(index=False)}")
    for (method, n, scale), rows in trials[~nested].groupby(["method", "n", "init_scale"], dropna=False):
        p = kstest(rows["relative_error"], minimum_norm_law(*shape[:2], int(n)).cdf).pvalue
        print(f"{method} {scale}, n = {n}: {len(rows)} errors against their Beta law, Kolmogorov-Smirnov p = {p:.3f}")
    marks = {prediction(name).label: prediction(name).value(*shape) for name in ("dof", "statdim")}
    figure = scales_figure(table, marks | {"minimum Frobenius norm (exact law)": law.mean() - 0.5})
    origin = {"command": "python analysis/initial_scale.py", "data": "init_ends.csv"}
    print(
        "\n".join(f"wrote {path}" for path in save_figure(figure, options.out or options.folder, "init_ends", origin))
    )


if __name__ == "__main__":
    main()
