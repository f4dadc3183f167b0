"""Success over (n, rank), (n, size) or normalised axes for each method, with predictions and n50.

python analysis/phase_diagram.py SWEEP [--store S] [--out DIR] [--where TEXT] [--tolerance E] [--view …]
"""

import flatdist
from flatdist import figures


def draw(script: figures.Script) -> None:
    """Fit n50 of every method, shape and rank, and draw success with it."""
    trials, ask = script.trials, script.options
    by = figures.diagram_columns(trials, ask.view)
    thresholds = flatdist.fit_thresholds(trials, by=by, tolerance=ask.tolerance, link=ask.link)
    figure = figures.phase_diagram(trials, tolerance=ask.tolerance, view=ask.view, thresholds=thresholds)
    script.show(thresholds[[*by, "n50", "n50_low", "n50_high", "censored", "n_replicates"]])
    script.save(figure, "phase_diagram" if ask.view == "auto" else f"phase_diagram_{ask.view}", by=by, view=ask.view)


if __name__ == "__main__":
    raise SystemExit(figures.run_script(draw, __doc__, view="auto"))
