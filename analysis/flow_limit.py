"""Label-noise SGD against the flow that it follows as the learning rate tends to 0 (Li, Wang, Arora 2021).

python analysis/flow_limit.py SWEEP [--store S] [--out DIR] [--where TEXT] [--tolerance E]
"""

from flatdist import figures, fits


def draw(script: figures.Script) -> None:
    """Compare runs with the flow, and extrapolate the difference to learning rate 0."""
    history = script.history(figures.FLOW_COLUMNS)
    table = fits.differences(fits.paths(script.trials, history))
    script.show(table.groupby("learning_rate", as_index=False)["relative"].mean())
    script.lines += [
        f"learning rate 0, degree {d}: {fits.to_zero(table, 'relative', d)} of the flow's fall" for d in (1, 2)
    ]
    script.save(figures.flow_limit(script.trials, history), "flow_limit")


if __name__ == "__main__":
    raise SystemExit(figures.run_script(draw, __doc__))
