"""How far above the flattest trace annealed label-noise SGD ends, and where that tends at learning rate 0."""

from flatdist.figures.flatness_gap import main

if __name__ == "__main__":
    raise SystemExit(main())
