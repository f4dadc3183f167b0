"""What training finds against the exact flattest interpolator: first successes on the same nested streams.

python analysis/sgd_and_flatness.py [docs/results/training] [--out DIR]
"""

import pandas as pd

from flatdist.figures.command import folders
from flatdist.figures.effective_norm import ratios_figure
from flatdist.figures.style import save_figure
from flatdist.fits.first_success import at_rate_zero, depth_ratios, method_firsts

TOLERANCE, REFERENCE = 1e-2, "min_hessian_trace"
RATES = (0.05, 0.025, 0.0125, 0.00625)


def main() -> None:
    """Print the tables and write the figures."""
    folder, out = folders(__doc__, "docs/results/training")
    for name in ("sgd_against_flow", "which_flatness"):
        trials = pd.read_csv(folder / f"{name}.csv")
        tables = {}
        for (d, depth), rows in trials[trials["depth"].notna()].groupby(["d_out", "depth"]):
            plain = trials[trials["depth"].isna() & (trials["d_out"] == d)]
            firsts = method_firsts(pd.concat((rows, plain)), TOLERANCE)
            tables[f"{d} x {d}, depth {depth:g}"] = table = depth_ratios(firsts, REFERENCE, least=4)
            columns = ["norm", "streams", "censored", "mean", "mean_error", "ratio", "ratio_error", "ratio_statdim"]
            print(f"\n{name}, {d} x {d}, depth {depth:g}\n{table[columns].round(3).to_string(index=False)}")
            if name == "sgd_against_flow":
                rates = {f"label_noise_sgd {rate:g} {100 / rate**2:g}": rate for rate in RATES}
                print("at rate 0: {:.3f} ± {:.3f}".format(*at_rate_zero(firsts, rates, REFERENCE)))
        origin = {"command": "python analysis/sgd_and_flatness.py", "data": f"{name}.csv"}
        figure = ratios_figure(tables, REFERENCE)
        print("\n".join(f"wrote {path}" for path in save_figure(figure, out, name, origin)))


if __name__ == "__main__":
    main()
