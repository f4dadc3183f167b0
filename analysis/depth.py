"""What depth does to the transition: the tables and the figures of docs/results/depth.md from its committed CSVs.

python analysis/depth.py [docs/results/depth] [--out DIR]
"""

import pandas as pd

from flatdist.figures.command import folders
from flatdist.figures.effective_norm import depth_figure, ranks_figure
from flatdist.figures.style import save_figure
from flatdist.fits.first_success import beside_nuclear_norm, depth_ratios, local_against_global


def main() -> None:
    """Print the tables and write the figures."""
    folder, out = folders(__doc__, "docs/results/depth")
    firsts = pd.read_csv(folder / "effective_norm.csv")
    ratios = depth_ratios(firsts)
    ratios.to_csv(out / "depth_ratios.csv", index=False, float_format="%.5g")
    print(ratios.round(3).to_string())
    print(beside_nuclear_norm(firsts).to_string())
    print(local_against_global(pd.read_csv(folder / "effective_norm_solver.csv")).to_string())
    trained = pd.read_csv(folder / "trained_ranks.csv")
    for name, figure in {"depth": depth_figure(ratios), "ranks": ranks_figure(ratios, trained)}.items():
        origin = {"command": "python analysis/depth.py", "data": "effective_norm.csv"}
        print("\n".join(f"wrote {path}" for path in save_figure(figure, out, name, origin)))


if __name__ == "__main__":
    main()
