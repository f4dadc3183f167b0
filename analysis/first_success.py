"""On nested problems every replicate has its own N, the first n at which it succeeds: is E[N] = delta + 1/2?

python analysis/first_success.py SWEEP [--store S] [--out DIR] [--where TEXT] [--tolerance E] [--reference …]
"""

from flatdist import figures, fits


def draw(script: figures.Script) -> None:
    """Average N of every method and shape, compare it with the prediction, and draw both."""
    trials, ask = script.trials, script.options
    series = fits.series_columns(trials)
    means = fits.mean_first_success(trials, [*series, "d_out", "d_in", "rank"], ask.tolerance)
    script.show(means)
    script.lines += [*fits.agreement_lines(means, series), ""]
    figure = figures.first_success(trials, reference=ask.reference, tolerance=ask.tolerance)
    script.save(figure, "first_success", reference=ask.reference)
    script.save_table(means, "first_success")


if __name__ == "__main__":
    raise SystemExit(figures.run_script(draw, __doc__, reference="min_nuclear_norm"))
