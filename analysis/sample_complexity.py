"""Success probability against the number of measurements, with n50 and theory's predictions."""

from flatdist.figures.sample_complexity import main

if __name__ == "__main__":
    raise SystemExit(main())
