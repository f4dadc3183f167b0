"""Success probability against n with the fitted curve, n50 and the predictions.

python analysis/sample_complexity.py SWEEP [--store S] [--out DIR] [--where TEXT] [--tolerance E]
"""

import flatdist
from flatdist import figures, fits


def draw(script: figures.Script) -> None:
    """Fit n50 of every method and problem, and draw success with it."""
    trials, ask = script.trials, script.options
    by = fits.grouping(trials)
    thresholds = flatdist.fit_thresholds(trials, by=by, tolerance=ask.tolerance, link=ask.link)
    figure = figures.sample_complexity(trials, tolerance=ask.tolerance, thresholds=thresholds)
    script.show(thresholds[[*by, "n50", "n50_low", "n50_high", "censored", "n_replicates"]])
    script.save(figure, "sample_complexity", by=by)


if __name__ == "__main__":
    raise SystemExit(figures.run_script(draw, __doc__))
