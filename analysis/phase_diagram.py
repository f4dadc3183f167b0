"""Heat maps of success for each method, with theory's predictions and the 50 % contour drawn over them."""

from flatdist.figures.phase_diagram import main

if __name__ == "__main__":
    raise SystemExit(main())
