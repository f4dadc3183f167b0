"""Thresholds over a prediction or over another method's, shape by shape: how far is n50 from where it should be?"""

from flatdist.figures.ratios import main

if __name__ == "__main__":
    raise SystemExit(main())
