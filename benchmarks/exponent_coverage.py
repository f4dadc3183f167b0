"""Coverage of the 95 % intervals of a law's exponent and coefficient, for thresholds simulated around a known law.

``python benchmarks/exponent_coverage.py [--datasets 400]``

Each data set has one threshold for each of 6 or 14 shapes, with a sampling error of 3 %, a scatter of the shapes of 0
or 5 %, and the largest two thresholds right-censored in half of the settings.
"""

from __future__ import annotations

import argparse
import itertools

import numpy as np

from flatdist.fits.power_law import COEFFICIENT, EXPONENT, Points, profile_limits

ERROR = 0.03
LOW, HIGH = np.log(25.0), np.log(700.0)  # statistical dimensions of shapes from 8 x 8 to 60 x 60


def simulate(shapes: int, scatter: float, censored: bool, generator: np.random.Generator) -> Points:
    """log y = 0.1 + 0.95 log x + scatter + error."""
    x = np.sort(generator.uniform(LOW, HIGH, size=shapes))
    truth = 0.1 + 0.95 * x + scatter * generator.standard_normal(shapes)
    y = truth + ERROR * generator.standard_normal(shapes)
    low, high = y - 1.96 * ERROR, y + 1.96 * ERROR
    if censored:
        beyond = np.argsort(x)[-2:]
        low[beyond], high[beyond], y[beyond] = truth[beyond] - 0.2, np.inf, np.nan
    return Points(x, y, np.full(shapes, ERROR), low, high, np.arange(shapes))


def main() -> None:
    """Print one line per setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", type=int, default=400)
    options = parser.parse_args()
    for shapes, scatter, censored in itertools.product((6, 14), (0.0, 0.05), (False, True)):
        generator = np.random.default_rng([shapes, int(100 * scatter), censored])
        covered = np.zeros(2)
        for _ in range(options.datasets):
            points = simulate(shapes, scatter, censored, generator)
            for index, (parameter, truth) in enumerate(((EXPONENT, 0.95), (COEFFICIENT, 0.1))):
                low, high = profile_limits(points, parameter, 0.95)
                covered[index] += low <= truth <= high
        exponent, coefficient = covered / options.datasets
        print(f"{shapes=} {scatter=} {censored=} {exponent=:.3f} {coefficient=:.3f}", flush=True)


if __name__ == "__main__":
    main()
