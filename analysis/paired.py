"""Methods on the same problems: paired differences of success, with intervals.

python analysis/paired.py SWEEP [--store S] [--out DIR] [--where TEXT] [--tolerance E] [--reference …]
"""

from flatdist import figures, fits


def draw(script: figures.Script) -> None:
    """Pair every method with the reference, and draw the differences over n."""
    trials, ask = script.trials, script.options
    differences = fits.paired_differences(trials, ask.reference, ask.tolerance)
    script.show(fits.mean_differences(differences, fits.grouping(trials)))
    figure = figures.paired(trials, reference=ask.reference, tolerance=ask.tolerance)
    script.save(figure, "paired", reference=ask.reference)


if __name__ == "__main__":
    raise SystemExit(figures.run_script(draw, __doc__, reference="min_nuclear_norm"))
