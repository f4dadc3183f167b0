"""n50 as a function of the tolerance that defines success.

python analysis/tolerance.py SWEEP [--store S] [--out DIR] [--where TEXT] [--tolerance E]
"""

from flatdist import figures, fits


def draw(script: figures.Script) -> None:
    """Fit n50 at eight tolerances, and draw it against them."""
    by = fits.grouping(script.trials)
    thresholds = fits.fit_over_tolerances(script.trials, by, link=script.options.link)
    script.show(thresholds[[*by, "tolerance", "n50", "n50_low", "n50_high", "censored"]])
    script.save(figures.tolerance(script.trials, thresholds=thresholds), "tolerance", by=by)


if __name__ == "__main__":
    raise SystemExit(figures.run_script(draw, __doc__))
