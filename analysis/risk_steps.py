"""Relative error against the number of steps: what stopping early is worth where labels are noisy."""

from flatdist.figures.risk_steps import main

if __name__ == "__main__":
    raise SystemExit(main())
