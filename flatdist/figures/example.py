"""Made-up trials, on which every figure can be tried without a store."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd

from flatdist.theory import statistical_dimension


def example_trials(sizes: tuple[int, ...] = (8,), ranks: tuple[int, ...] = (1,), replicates: int = 6) -> pd.DataFrame:
    """Trials of two methods on the same problems, each with a transition near the statistical dimension.

    Args:
        sizes: d of d x d matrices.
        ranks: of the ground truths.
        replicates: of each cell.

    Returns:
        The columns of a trials table that figures need; nothing in them was measured.

    Example:
        >>> trials = example_trials()
        >>> trials.groupby("method")["relative_error"].median().round(3).to_dict()
        {'label_noise_sgd': 0.001, 'min_nuclear_norm': 0.001}
    """
    random = np.random.Generator(np.random.Philox(1))
    rows = []
    for size, rank, replicate in itertools.product(sizes, ranks, range(replicates)):
        dimension = statistical_dimension(size, size, rank)
        luck = random.standard_normal()
        for method, factor in itertools.product(("label_noise_sgd", "min_nuclear_norm"), (0.6, 0.8, 1.0, 1.2, 1.5)):
            needed = dimension * (0.95 + 0.08 * luck + (0.03 * random.standard_normal() if method[0] == "l" else 0.0))
            n = math.ceil(factor * dimension)
            error = 0.5 if n < needed else 1e-3
            row = {"method": method, "d_out": size, "d_in": size, "rank": rank, "n": n, "replicate": replicate}
            rows.append({**row, "relative_error": error * math.exp(0.2 * random.standard_normal())})
    trials = pd.DataFrame(rows)
    cells = trials.groupby(["method", "d_out", "rank", "n"]).ngroup()
    return trials.assign(cell_id=cells.map("{:020x}".format), status="converged", nested=False, ensemble="gaussian")
