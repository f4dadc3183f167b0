"""Relative error against the number of measurements where recovery is not exact: noisy labels, spectral tails."""

from flatdist.figures.risk import main

if __name__ == "__main__":
    raise SystemExit(main())
