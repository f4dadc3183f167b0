"""n50 against each law, with verdicts, and the collapse of the transitions.

python analysis/scaling.py SWEEP [--store S] [--out DIR] [--where TEXT] [--tolerance E]
"""

from flatdist import figures, fits


def draw(script: figures.Script) -> None:
    """Fit n50, the laws it may follow, and the transitions' widths; draw both."""
    fitted = fits.fit_all(script.trials, script.options.tolerance, script.options.link)
    laws = ["law", "ratio", "ratio_low", "ratio_high", "exponent", "exponent_low", "exponent_high", "verdict"]
    script.show(fitted.laws[[*fitted.series, *laws]])
    script.save(figures.scaling(script.trials, fits=fitted), "scaling", by=fitted.by)
    script.save(figures.collapse(script.trials, fits=fitted), "collapse", by=fitted.by)


if __name__ == "__main__":
    raise SystemExit(figures.run_script(draw, __doc__))
