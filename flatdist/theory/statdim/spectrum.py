"""Singular values of Gaussian matrices from the program's own draws, and averages over them with most noise removed."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from flatdist.sensing.draws import Stream

PURPOSE = "statistical_dimension"
WORDS = 2**21  # normals drawn per shape, where the two bounds below allow: about 0.2 s
FEWEST, MOST = 64, 8192  # matrices drawn per shape
_CHUNK_ENTRIES = 2**20


@lru_cache(maxsize=4)
def sampled_singular_values(rows: int, columns: int, version: int) -> np.ndarray:
    """Singular values of i.i.d. N(0, 1) matrices, the same draws for every rank with this normal part.

    Args:
        rows, columns: shape of the matrices, rows <= columns.
        version: version of the sampling, part of the stream's name.

    Returns:
        (count, rows) in decreasing order; read-only.
    """
    entries = rows * columns
    count = min(max(WORDS // entries, FEWEST), MOST)
    stream = Stream.named(f"statistical_dimension/{version}/{rows}x{columns}", 0, PURPOSE)
    squares = []
    step = max(_CHUNK_ENTRIES // entries, 1)
    for start in range(0, count, step):
        draws = stream.normals(np.arange(start, min(start + step, count)), entries)
        matrices = draws.reshape(-1, rows, columns)  # (chunk, rows, columns)
        squares.append(np.linalg.eigvalsh(matrices @ matrices.transpose(0, 2, 1)))
    values: np.ndarray = np.sqrt(np.maximum(np.concatenate(squares)[:, ::-1], 0.0))
    values.setflags(write=False)
    return values


def trace_moments(rows: int, columns: int) -> np.ndarray:
    """E tr W, E tr W^2, E tr W^3, E tr W^4 of the real Wishart matrix W = G G^T, exact, (4,)."""
    p, n = float(rows), float(columns)
    return (p * n) * np.array(
        [
            1.0,
            p + n + 1.0,
            p * p + n * n + 3.0 * (p * n + p + n) + 4.0,
            p**3 + n**3 + 6.0 * (p * p * n + p * n * n + p * p + n * n) + 17.0 * p * n + 21.0 * (p + n) + 20.0,
        ]
    )


def controlled_mean(values: np.ndarray, singular_values: np.ndarray, columns: int) -> tuple[float, float]:
    """Mean of ``values`` with the first four trace moments as control variates, and its standard error.

    The moments' expectations are known, so their share of the noise is regressed out; for the smooth spectral functions
    used here that leaves a few per cent of the standard deviation.

    Args:
        values: (count,), a function of each row of ``singular_values``.
        singular_values: (count, rows).
        columns: columns of the sampled matrices.
    """
    count, rows = singular_values.shape
    powers = np.stack([(singular_values ** (2 * power)).sum(axis=1) for power in (1, 2, 3, 4)], axis=1)
    controls = powers / trace_moments(rows, columns) - 1.0  # (count, 4), mean 0
    design = np.concatenate((np.ones((count, 1)), controls), axis=1)
    coefficients = np.linalg.lstsq(design, values, rcond=None)[0]
    residual = values - design @ coefficients
    return float(coefficients[0]), float(residual.std() / np.sqrt(count))
