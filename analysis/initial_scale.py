"""Gradient descent from symmetric starts of every scale, against the exact laws at the ends.

python analysis/initial_scale.py [docs/results/training] [--out DIR]
"""

import pandas as pd

from flatdist.figures.command import folders
from flatdist.figures.effective_norm import scales_figure
from flatdist.figures.style import save_figure
from flatdist.fits.first_success import minimum_norm_end
from flatdist.theory import minimum_norm_first_success, prediction

TOLERANCE = 1e-2


def main() -> None:
    """Print first successes over the scale and tests of the law at the upper end, and write the figure."""
    folder, out = folders(__doc__, "docs/results/training")
    trials = pd.read_csv(folder / "init_ends.csv")
    d_out, d_in, rank = (int(trials[name].iloc[0]) for name in ("d_out", "d_in", "rank"))
    scales, errors = minimum_norm_end(trials, TOLERANCE)
    print(f"{scales.round(2).to_string(index=False)}\n{errors.round(3).to_string(index=False)}")
    marks = {prediction(name).label: prediction(name).value(d_out, d_in, rank) for name in ("dof", "statdim")}
    marks["minimum Frobenius norm (exact law)"] = minimum_norm_first_success(d_out, d_in, TOLERANCE).mean() - 0.5
    origin = {"command": "python analysis/initial_scale.py", "data": "init_ends.csv"}
    for path in save_figure(scales_figure(scales, marks), out, "init_ends", origin):
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
