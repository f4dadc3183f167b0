"""The exact statistical dimension, an expectation of a minimum, by Monte Carlo.

    delta = E min over tau >= 0 of  || P_T(G) - tau U V^T ||_F^2 + sum_i max(sigma_i - tau, 0)^2

with sigma_i the singular values of the normal part. Three steps take nearly all the noise out of it:
``|| P_T(G) ||_F^2`` does not depend on tau and has mean r (d_out + d_in - r); what remains of the tangent part is one
normal variable z = <U V^T, G> / sqrt(r), integrated by Gauss-Hermite quadrature; and the mean over sigma is taken with
exactly known trace moments as control variates.
"""

from __future__ import annotations

import numpy as np

from flatdist.theory.statdim.shapes import Shape
from flatdist.theory.statdim.spectrum import controlled_mean, sampled_singular_values

_NODES = 24


def exact_form(shape: Shape, version: int) -> tuple[float, float]:
    """The exact statistical dimension and the standard error of its computation.

    Args:
        shape: the problem's shape.
        version: version of the sampling.
    """
    rows, columns = shape.normal
    if rows == 0:  # min over tau of r tau^2 - 2 tau sqrt(r) z is -max(z, 0)^2: the descent cone is a half-space
        return shape.degrees_of_freedom - 0.5, 0.0
    singular_values = sampled_singular_values(rows, columns, version)
    minima = expected_minimum(singular_values, shape.rank)
    mean, error = controlled_mean(minima, singular_values, columns)
    return shape.degrees_of_freedom + mean, error


def expected_minimum(singular_values: np.ndarray, rank: int) -> np.ndarray:
    """E_z min over tau >= 0 of r tau^2 - 2 tau sqrt(r) z + sum_i max(sigma_i - tau, 0)^2, for each row of sigma.

    The minimiser is max over k of (sqrt(r) z + sigma_1 + ... + sigma_k) / (r + k), or 0 where that is negative.

    Args:
        singular_values: (count, rows), decreasing along a row.
        rank: r.

    Returns:
        (count,)
    """
    count, rows = singular_values.shape
    sums = np.concatenate((np.zeros((count, 1)), np.cumsum(singular_values, axis=1)), axis=1)  # (count, rows + 1)
    weights_below = rank + np.arange(rows + 1)
    nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
    expectation = np.zeros(count)
    for node, weight in zip(nodes, weights / weights.sum(), strict=True):
        pull = np.sqrt(rank) * node
        tau = np.maximum(((pull + sums) / weights_below).max(axis=1), 0.0)  # (count,)
        beyond = np.maximum(singular_values - tau[:, None], 0.0)
        expectation += weight * (rank * tau**2 - 2.0 * pull * tau + (beyond**2).sum(axis=1))
    return expectation
