"""How long the flattest interpolator takes, how often its starts disagree, and how often it agrees with nuclear norm.

    python benchmarks/flattest.py [--replicates 16] [--depth 3]

One line per number of measurements: CPU seconds a replicate (one core), certified replicates, replicates whose starts
end in different minima (traces more than 1e-6 apart) and the widest spread, exact recoveries (relative error below
1e-6) by the flattest interpolator and by nuclear norm, and on how many replicates the two are the same matrix.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

import flatdist
from flatdist.cells.problems import sample_arrays
from flatdist.machine.threads import set_threads
from flatdist.solvers.min_hessian_trace import min_hessian_trace
from flatdist.solvers.min_nuclear_norm import min_nuclear_norm
from flatdist.theory import statistical_dimension

FACTORS = (0.5, 0.7, 0.9, 1.0, 1.1, 1.25, 1.5)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=16)
    parser.add_argument("--depth", type=int, default=3)
    parser.add_argument("--d", type=int, default=12)
    parser.add_argument("--rank", type=int, default=1)
    options = parser.parse_args()
    set_threads(1)
    delta = statistical_dimension(options.d, options.d, options.rank)
    print(f"d = {options.d}, rank {options.rank}, depth {options.depth}, statistical dimension {delta}")
    print("  n  n/statdim  CPU s  certified  disagree  spread    flattest  nuclear  same")
    for factor in FACTORS:
        n = int(np.ceil(factor * delta))
        cell = flatdist.Cell(d_out=options.d, d_in=options.d, rank=options.rank, n=n, method="min_hessian_trace")
        problems = [sample_arrays(cell, replicate) for replicate in range(options.replicates)]
        measurements = np.array([problem.measurements for problem in problems])
        labels = np.array([problem.labels for problem in problems])
        truths = np.array([problem.ground_truth for problem in problems])
        min_hessian_trace(measurements[:1], labels[:1], options.depth, return_certificate=True)  # compiles
        began = time.process_time()
        layers, certificate = min_hessian_trace(measurements, labels, options.depth, return_certificate=True)
        seconds = (time.process_time() - began) / options.replicates
        flattest = np.asarray(flatdist.end_to_end(layers))
        nuclear = min_nuclear_norm(measurements, labels, return_certificate=True)[0].numpy()
        size = np.square(truths).sum((1, 2))
        errors, nuclear_errors, apart = (
            np.square(a - b).sum((1, 2)) / size for a, b in ((flattest, truths), (nuclear, truths), (flattest, nuclear))
        )
        spread = certificate.spread
        print(
            f"{n:3d}  {n / delta:9.2f}  {seconds:5.3f}  {certificate.converged.sum():9d}  {np.sum(spread > 1e-6):8d}  "
            f"{np.nanmax(spread):8.1e}  {np.sum(errors < 1e-6):8d}  {np.sum(nuclear_errors < 1e-6):7d}  "
            f"{np.sum(apart < 1e-6):4d}",
            flush=True,
        )


if __name__ == "__main__":
    main()
