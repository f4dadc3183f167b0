"""Relative error against the number of steps: what early stopping gains when labels are noisy.

python analysis/risk_steps.py SWEEP [--store S] [--out DIR] [--where TEXT] [--tolerance E]
"""

from flatdist import figures


def draw(script: figures.Script) -> None:
    """Median errors and misfits over the steps."""
    table, _, _ = figures.steps_table(script.trials)
    script.save(figures.risk_steps(script.trials), "risk_steps")
    script.save_table(table, "risk_steps")


if __name__ == "__main__":
    raise SystemExit(figures.run_script(draw, __doc__))
