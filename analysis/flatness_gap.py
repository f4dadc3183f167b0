"""How far above the flattest trace annealed label-noise SGD ends, and where that tends at learning rate 0.

python analysis/flatness_gap.py SWEEP [--store S] [--out DIR] [--where TEXT] [--tolerance E]
"""

from flatdist import figures, fits


def draw(script: figures.Script) -> None:
    """Compare final traces with the flattest interpolators', and extrapolate to learning rate 0."""
    table = fits.gaps(script.trials)
    script.show(table.groupby(["depth", "learning_rate"], as_index=False)["gap"].median())
    script.save(figures.flatness_gap(script.trials), "flatness_gap")


if __name__ == "__main__":
    raise SystemExit(figures.run_script(draw, __doc__))
