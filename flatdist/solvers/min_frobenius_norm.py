"""Minimum-Frobenius-norm interpolation in closed form, M = A^T (A A^T)^-1 b (the subject of Theorem 4)."""

from __future__ import annotations

from typing import Any

import torch

from flatdist.solvers.constraints import Constraints, constraints_of
from flatdist.solvers.solution import Answer, ArrayLike, Instances


def min_frobenius_norm(measurements: ArrayLike, labels: ArrayLike, *, return_certificate: bool = False) -> Any:
    """The interpolator of smallest Frobenius norm, the orthogonal projection of 0 onto {M : <A_i, M> = b_i}.

    With n >= d_out * d_in independent measurements it is the only interpolator, found by least squares. Every instance
    is solved separately, in float64 on one thread, on the device of ``measurements``: its bits do not depend on its
    neighbours.

    Args:
        measurements: (..., n, d_out, d_in), torch or numpy, any leading batch axes.
        labels: (..., n).
        return_certificate: return a :class:`Solution` that includes the certificate; without it, an uncertified answer
            warns.

    Returns:
        (..., d_out, d_in) float64, or a :class:`Solution` whose certificate holds the relative violation of the
        constraints and the duality gap ||M - A^*(y)||_F^2 / ||M||_F^2 at the nearest multipliers y.

    Raises:
        SolverError: the shapes do not fit, an entry is not finite, or no matrix satisfies the labels.

    Example:
        >>> import torch
        >>> from flatdist import min_frobenius_norm
        >>> min_frobenius_norm(torch.eye(2).double()[None], torch.tensor([2.0]).double()).tolist()  # tr M = 2
        [[1.0, 0.0], [0.0, 1.0]]
    """
    instances = Instances(measurements, labels, "min_frobenius_norm")
    return instances.solution(instances.solved(_solved)).returned("min_frobenius_norm", return_certificate)


def _solved(stack: torch.Tensor, labels: torch.Tensor, where: str) -> Answer[torch.Tensor]:
    zero = stack.new_zeros(stack.shape[1:])
    if not bool(labels.any()):
        return Answer(zero, 0.0, 0.0, 1)
    constraints = constraints_of(stack, labels, where)
    return judged(constraints, constraints.project(zero))


def judged(constraints: Constraints, matrix: torch.Tensor) -> Answer[torch.Tensor]:
    """An interpolator M and twice the gap of min ||M||^2 / 2 and max b^T y - ||A^*(y)||^2 / 2, over ||M||^2."""
    residual = matrix - constraints.adjoint(constraints.multipliers_of(matrix))
    gap = float(torch.sum(residual * residual) / torch.sum(matrix * matrix))
    return Answer(matrix, constraints.violation(matrix), gap, 1)
