"""n50 as a function of the tolerance that defines success: near misses count for much at 1e-2, and not at 1e-6."""

from flatdist.figures.tolerance import main

if __name__ == "__main__":
    raise SystemExit(main())
