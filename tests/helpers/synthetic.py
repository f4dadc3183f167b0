"""Trials as the store would return them, with success curves that are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from flatdist.cells.cell import Cell
from flatdist.cli import main
from flatdist.theory import statistical_dimension

# n50 as a multiple of the statistical dimension, and the scale of log n: what the figures must show again.
METHODS: dict[str, tuple[float, float]] = {
    "label_noise_sgd": (1.03, 0.06),
    "minibatch_sgd": (2.2, 0.1),
    "min_nuclear_norm": (0.95, 0.04),
    "min_frobenius_norm": (20.0, 0.02),
}


def quickstart_like(
    ranks: Sequence[int] = (1, 2, 3),
    methods: Sequence[str] = tuple(METHODS),
    replicates: int = 8,
    seed: int = 0,
    **fields: Any,
) -> pd.DataFrame:
    """Trials of a sweep like the quickstart, each replicate with a threshold drawn from its method's curve."""
    generator = np.random.default_rng(seed)
    rows = []
    for rank in ranks:
        shape = {"d_out": fields.get("d_out", 12), "d_in": fields.get("d_in", 12), "rank": rank}
        delta = statistical_dimension(**shape)
        values = sorted(
            {
                min(round(factor * delta), shape["d_out"] * shape["d_in"])
                for factor in (0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.4, 1.7, 2.2, 3)
            }
        )
        for n in values:
            for method in methods:
                factor, scale = METHODS[method]
                middle = min(factor * delta, 0.99 * shape["d_out"] * shape["d_in"])
                cell = Cell(**{**fields, **shape, "n": n, "method": method})
                row = {"cell_id": cell.cell_id, **cell.row()}
                threshold = np.log(middle) + scale * generator.logistic(size=replicates)
                for replicate in range(replicates):
                    succeeded = np.log(n) >= threshold[replicate]
                    error = 1e-4 if succeeded else float(generator.uniform(0.1, 0.8))
                    rows.append({**row, "replicate": replicate, "status": "converged", "relative_error": error})
    return pd.DataFrame(rows)


def figure(name: str, *arguments: str) -> int:
    """Run ``flatdist figure NAME`` and return its exit status."""
    return main(["figure", name, *arguments])
