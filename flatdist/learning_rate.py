"""``learning_rate: auto``: a fraction of an estimate of the largest stable step size.

The measurements are taken as isotropic (mean-0, variance-1 entries), so that the Hessian of the training loss at
interpolation is governed by H : Z -> sum_j X_j Z Y_j on d_out x d_in matrices, with X_j = P P^T, P = W_L ... W_{j+1},
and Y_j = Q^T Q, Q = W_{j-1} ... W_1, as in Lemma 2. Its largest eigenvalue h, found by power iteration, and its trace
t = R(W) (equation 10) give

    curvature  lambda = 2 h (1 + sqrt(d_out d_in / n))^2     (the largest eigenvalue of the measurements' Gram matrix)
    noise      tau    = 2 t / B                              (a drawn batch adds its own curvature, on average)

and the step size  min(STABILITY * 2 / (lambda + tau),  NORMAL_NOISE * ...)  is re-estimated from the current weights at
fixed steps; nothing here is drawn, so a run's step sizes depend on its weights alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flatdist.factorization import partial_products
from flatdist.types import Array

REESTIMATE_STEPS = 1000  # steps between two estimates
STABILITY = 0.2  # fraction of the estimated stability limit
POWER_ITERATIONS = 12


def stable_learning_rate(layers: Sequence[Array], n: int, batch: int) -> Array:
    """Step sizes for several replicates at their current weights.

    Args:
        layers: W_1 ... W_L, each (replicates, d_{j+1}, d_j).
        n: number of measurements.
        batch: number of measurements behind one step's gradient.

    Returns:
        (replicates,) step sizes; NaN where the weights are not finite.
    """
    layers = [layer.astype(np.float64) for layer in layers]
    lefts, rights = partial_products(layers)
    d_out, d_in = layers[-1].shape[-2], layers[0].shape[-1]
    identity_out, identity_in = np.eye(d_out), np.eye(d_in)
    outer = [identity_out if left is None else left @ left.mT for left in lefts]  # X_j
    inner = [identity_in if right is None else right.mT @ right for right in rights]  # Y_j
    pairs = list(zip(outer, inner, strict=True))
    trace = sum(np.trace(x, axis1=-2, axis2=-1) * np.trace(y, axis1=-2, axis2=-1) for x, y in pairs)
    vector = np.ones((len(layers[0]), d_out, d_in))
    top = np.zeros(len(vector))
    for _ in range(POWER_ITERATIONS):
        vector = vector / np.maximum(np.sqrt(np.sum(vector**2, axis=(-2, -1), keepdims=True)), 1e-300)
        image = sum(x @ vector @ y for x, y in pairs)
        top = np.sqrt(np.sum(image**2, axis=(-2, -1)))
        vector = image
    curvature = 2.0 * top * (1.0 + np.sqrt(d_out * d_in / n)) ** 2
    noise = 2.0 * trace / batch
    rate: Array = STABILITY * 2.0 / (curvature + noise)
    return rate
