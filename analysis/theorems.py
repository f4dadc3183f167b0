"""Every statement of the paper against its measurements: a table with verdicts, and one figure each.

python analysis/theorems.py SWEEP [--store S] [--out DIR] [--where TEXT] [--tolerance E]
"""

from flatdist import figures, fits


def draw(script: figures.Script) -> int:
    """Check every statement; exit status 1 where one is violated."""
    checks, missing = fits.run_checks(script.trials)
    for check in checks:
        script.lines.append(
            f"{check.statement}: {check.verdict}; predicted {check.predicted}; measured {check.measured}"
        )
        script.save(figures.theorem(check, script.trials), check.name, statement=check.statement)
    script.lines += [f"{name}: no trial bears on it" for name in missing]
    script.save_table(fits.verdict_table(checks), "theorems")
    return int(any(check.verdict == "violated" for check in checks))


if __name__ == "__main__":
    raise SystemExit(figures.run_script(draw, __doc__))
