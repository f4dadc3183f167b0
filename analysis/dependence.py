"""n50 as a function of one field of the cells, with one line per value of the others.

python analysis/dependence.py SWEEP [--store S] [--out DIR] [--where TEXT] [--tolerance E] [--x …] [--field …]
"""

import flatdist
from flatdist import figures, fits


def draw(script: figures.Script) -> None:
    """Fit n50 at every value of the field, and draw it with the changes between neighbours."""
    trials, ask = script.trials, script.options
    field = ask.x or ask.field or "init_scale"
    by = figures.dependence_columns(trials, field)
    thresholds = flatdist.fit_thresholds(trials, by=by, tolerance=ask.tolerance, link=ask.link)
    script.show(fits.changes(thresholds, field, [name for name in by if name != field]))
    script.save(figures.dependence(trials, field, thresholds=thresholds), f"dependence_{field}", by=by)


if __name__ == "__main__":
    raise SystemExit(figures.run_script(draw, __doc__, x=str, field=str))
