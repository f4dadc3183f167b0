"""Losses, nuclear norm and flatness along the training: the paper's Figures 1 and 2."""

from flatdist.figures.training_curves import main

if __name__ == "__main__":
    raise SystemExit(main())
