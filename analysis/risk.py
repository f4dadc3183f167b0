"""Relative error against n where recovery is not exact: noisy labels, spectral tails.

python analysis/risk.py SWEEP [--store S] [--out DIR] [--where TEXT] [--tolerance E] [--reference …]
"""

from flatdist import figures, fits


def draw(script: figures.Script) -> None:
    """Median errors beside what theory predicts, and their ratios to a reference method's."""
    trials, reference = script.trials, script.options.reference
    script.show(fits.ratios_by_regime(trials, reference))
    script.lines += [*fits.quantile_test(trials), ""]
    script.save(figures.risk(trials), "risk")
    script.save(figures.risk_ratios(trials, reference=reference), "risk_ratios", reference=reference)
    script.save_table(fits.risk_table(trials), "risk")
    script.save_table(fits.error_ratios(trials, reference), "risk_ratios")
    script.save_table(fits.ratios_by_regime(trials, reference), "risk_ratios_by_regime")


if __name__ == "__main__":
    raise SystemExit(figures.run_script(draw, __doc__, reference="min_nuclear_norm"))
