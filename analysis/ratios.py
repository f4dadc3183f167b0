"""n50 over a prediction or over another method's n50, shape by shape.

python analysis/ratios.py SWEEP [--store S] [--out DIR] [--where TEXT] [--tolerance E] [--over …] [--margin …]
"""

import flatdist
from flatdist import figures, fits


def draw(script: figures.Script) -> None:
    """Fit n50 of every shape, divide, and draw the ratios."""
    trials, ask = script.trials, script.options
    series = fits.series_of(trials)
    by = list(dict.fromkeys([*series, "d_out", "d_in", "rank"]))
    thresholds = flatdist.fit_thresholds(trials, by=by, tolerance=ask.tolerance, link=ask.link)
    table = fits.ratios(thresholds, ask.over)
    script.show(fits.summarise(table, series, ask.margin))
    script.save(figures.ratios(trials, over=ask.over, margin=ask.margin, table=table), f"ratios_{ask.over}", by=by)
    script.save_table(table, f"ratios_{ask.over}")


if __name__ == "__main__":
    raise SystemExit(figures.run_script(draw, __doc__, over="statdim", margin=0.1))
