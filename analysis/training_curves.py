"""Losses, nuclear norm and flatness along the training of one problem: the paper's Figures 1 and 2.

python analysis/training_curves.py SWEEP [--store S] [--out DIR] [--where TEXT] [--tolerance E]
"""

from flatdist import figures


def draw(script: figures.Script) -> None:
    """Draw the history of every method that trains; --where chooses one problem of several."""
    history = script.history(figures.CURVE_COLUMNS)
    script.save(figures.training_curves(script.trials, history), "training_curves")


if __name__ == "__main__":
    raise SystemExit(figures.run_script(draw, __doc__))
