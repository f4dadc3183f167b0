"""``learning_rate: auto``: a fraction of an estimate of the largest stable step size, and little noise.

Measurements have independent mean-0, variance-1 entries, so near interpolation the Hessian of the training loss has the
nonzero eigenvalues of 2 H over random directions, H : Z -> sum_j X_j Z Y_j on d_out x d_in matrices, with X_j = P P^T,
P = W_L ... W_{j+1}, and Y_j = Q^T Q, Q = W_{j-1} ... W_1, as in Lemma 2. With its trace R = R(W) (equation 10) and a
bound h = sum_j ||X_j|| ||Y_j|| of its largest eigenvalue:

    curvature    lambda = 2 (sqrt(h) + sqrt(R / n))^2       the largest eigenvalue with n measurements (Gordon's bound)
    batch noise  tau    = 2 R / B                           what a batch of B of them adds: 2/(lambda + tau) is stable
    label noise  eta s^2 / B in each of min(n, d_out d_in) directions normal to the interpolators, next to ||W||^2

    eta = min( STABILITY * 2 / (lambda + tau),  NORMAL_NOISE / L * ||W||^2 B / (s^2 min(n, d_out d_in)) )

A step of SAM with radius rho shifts a residual by rho ||grad f_i||, so it counts as label noise of variance rho^2 R.
Layers that start small are flatter than any interpolator and would invite steps that are too long once they grow:
h and R are at least those of the flattest rank-one interpolator of the labels' size (Lemma 4).

Tiny initial layers (``init_scale`` below 1e-3) would make the second bound vanish, so that nothing would train. Their
step size is at least that of the smallest interpolator of the labels' size, until they have grown to its energy.

Nothing is random and the estimate is made at fixed steps, so a run's step sizes depend only on its weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from flatdist.cells.cell import Cell
from flatdist.factorization.flatness import flatness_terms
from flatdist.types import Array

FIRST_ESTIMATES = (0, 125, 250, 500, 1000, 2000)  # steps; the weights change fastest at the start
REESTIMATE_STEPS = 4000  # steps between two estimates from then on
STABILITY = 0.6  # fraction of the estimated stability limit
SMALL_START = 0.05  # a larger init_scale is left within the shortest useful runs
NORMAL_NOISE = 0.12  # of the layers' energy, times the number of layers


def estimate_steps(steps: int) -> list[int]:
    """Steps before which an automatic step size is estimated, in a run of so many steps."""
    return sorted({step for step in (*FIRST_ESTIMATES, *range(0, steps, REESTIMATE_STEPS)) if step < steps})


def stable_learning_rate(
    layers: Sequence[Any],
    *,
    n: int | Array,
    batch: int | Array,
    label_scale: Array,
    noise_std: Array,
    sam_radius: float = 0.0,
    spread: float = 1.0,
) -> Array:
    """Step sizes for several replicates at their current weights.

    Args:
        layers: W_1 ... W_L, each (replicates, d_{j+1}, d_j), numpy arrays or torch tensors on any device.
        n: number of measurements, of all or (replicates,).
        batch: number of measurements behind one step's gradient, of all or (replicates,).
        label_scale: (replicates,) root mean square of the labels, which estimates ||M*||_F.
        noise_std: (replicates,) label noise s, in units of the labels.
        sam_radius: length of SAM's perturbation, 0 without it.
        spread: of the ensemble's measurements, 1 for independent entries.

    Returns:
        (replicates,) step sizes; NaN where the weights are not finite.
    """
    d_out, d_in, depth = layers[-1].shape[-2], layers[0].shape[-1], len(layers)
    with np.errstate(all="ignore"):  # diverged replicates stay among the others
        if isinstance(layers[0], np.ndarray):
            top, trace, energy = flatness_bounds([layer.astype(np.float64) for layer in layers])
        else:
            from flatdist.trials import on_device

            top, trace, energy = on_device.flatness_bounds(layers)
        # At the flattest rank-one interpolator all terms of R are equal (Lemma 4).
        term = (d_out * d_in) ** (1.0 / depth) * label_scale ** (2.0 * (depth - 1) / depth)
        top = np.maximum(top, term * (1.0 / d_out + 1.0 / d_in + depth - 2))
        trace = np.maximum(trace, term * depth)
        curvature = 2.0 * (np.sqrt(top) + np.sqrt(spread * trace / n)) ** 2
        stable = STABILITY * 2.0 / (curvature + 2.0 * spread * trace / batch)
        directions = np.minimum(n, d_out * d_in)
        variance = np.square(noise_std) + squared(sam_radius) * trace
        quiet = NORMAL_NOISE / depth * energy * batch / (variance * directions)
        rates: Array = np.minimum(stable, np.where(variance == 0.0, np.inf, quiet))  # layers of zeros: 0/0
        return rates


def squared(number: float) -> float:
    """A square that is infinite where it overflows; Python's own bits, which earlier rows have."""
    return number**2 if abs(number) < 1e150 else number * number


def smallest_interpolator(layers: Sequence[Array], label_scale: Array) -> list[Array]:
    """For each replicate, the layers of least energy shaped like ``layers`` whose product has the labels' size."""
    smallest = [np.zeros(layer.shape) for layer in layers]
    for layer in smallest:
        layer[:, 0, 0] = label_scale ** (1.0 / len(layers))
    return smallest


def steps_to_leave(cell: Cell) -> float:
    """About how many steps a gradient method needs to grow from a small initialization.

    Next to zero the largest singular direction of M* grows alone: each layer's part w of it by dw/dt = 2 w^(L-1) in
    units of ||M*||_F = 1, from w = init_scale, which takes 1 / (2 (L-2) w^(L-2)) of time, or log(1/w) / 2 at L = 2.
    Nothing ever leaves layers whose products underflow.
    """
    smallest = float(np.finfo(cell.dtype).smallest_subnormal)
    if not cell.spec.takes_steps or cell.depth < 2 or cell.init_scale > SMALL_START:
        return 0.0
    if cell.init_scale ** (cell.depth - 1) < smallest:
        return np.inf
    beyond = cell.depth - 2
    time = (cell.init_scale**-beyond - 1.0) / (2.0 * beyond) if beyond else -np.log(cell.init_scale) / 2.0
    rate = cell.learning_rate
    if rate is None:
        layers = smallest_interpolator([np.zeros((1, out, into)) for into, out in pairwise(cell.widths)], np.ones(1))
        noise = cell.label_noise_std if cell.training.label_noise else 0.0
        batch = cell.training.drawn(cell)
        (rate,) = stable_learning_rate(
            layers, n=cell.n, batch=batch, label_scale=np.ones(1), noise_std=np.full(1, noise)
        )
    return float(time / rate)


def flatness_bounds(layers: Sequence[Array]) -> tuple[Array, Array, Array]:
    """Bounds of the curvature at some weights, for the step-size estimate.

    Args:
        layers: W_1 ... W_L, each (replicates, d_{j+1}, d_j) float64.

    Returns:
        The bound of H's largest eigenvalue, its trace R(W) (equation 10), and ||W||^2 over all layers, (replicates,).
    """
    tops, traces = flatness_terms(layers, partial(np.trace, axis1=-2, axis2=-1), _squared_norm)
    energy = sum((_squared_norm(layer) for layer in layers), start=np.zeros(len(layers[0])))
    return np.stack(tops).sum(axis=0), np.stack(traces).sum(axis=0), energy


def _squared_norm(matrices: Array) -> Array:
    flat = matrices.reshape(len(matrices), -1)
    squared: Array = np.vecdot(flat, flat)  # one dot product a matrix: its bits do not depend on the others
    return squared
