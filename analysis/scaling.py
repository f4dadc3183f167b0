"""Which law does n50 follow: c r(d+d')^a, c dof^a, c statdim^a or c (d d')^a?"""

from flatdist.figures.scaling_figure import main

if __name__ == "__main__":
    raise SystemExit(main())
