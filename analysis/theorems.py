"""Every statement of the paper against its measurements: a table with verdicts, and a figure each."""

from flatdist.figures.theorems import main

if __name__ == "__main__":
    raise SystemExit(main())
