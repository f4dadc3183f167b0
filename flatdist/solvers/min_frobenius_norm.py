"""Minimum-Frobenius-norm interpolation in closed form, M = A^T (A A^T)^-1 b (the subject of Theorem 4)."""

from __future__ import annotations

from typing import Literal, overload

import torch

from flatdist.solvers.certificate import Certificate, warn_uncertified
from flatdist.solvers.constraints import Constraints, constraints_of
from flatdist.solvers.instances import ArrayLike, Instances, one_thread


@overload
def min_frobenius_norm(
    measurements: ArrayLike, labels: ArrayLike, *, return_certificate: Literal[False] = False
) -> torch.Tensor: ...
@overload
def min_frobenius_norm(
    measurements: ArrayLike, labels: ArrayLike, *, return_certificate: Literal[True]
) -> tuple[torch.Tensor, Certificate]: ...
def min_frobenius_norm(
    measurements: ArrayLike, labels: ArrayLike, *, return_certificate: bool = False
) -> torch.Tensor | tuple[torch.Tensor, Certificate]:
    """The interpolator of smallest Frobenius norm, the orthogonal projection of 0 onto {M : <A_i, M> = b_i}.

    For n >= d_out * d_in independent measurements it is the one interpolator, by least squares. Every instance is
    solved alone, in float64 on one thread, on the device of ``measurements``: its bits do not depend on its neighbours.

    Args:
        measurements: (..., n, d_out, d_in), torch or numpy, any leading batch axes.
        labels: (..., n).
        return_certificate: also return the proof; without it, answers that are not certified warn.

    Returns:
        (..., d_out, d_in) float64, and with ``return_certificate`` the :class:`Certificate`: relative constraint
        violation, and duality gap ||M - A^*(y)||_F^2 / ||M||_F^2 at the nearest multipliers y.

    Raises:
        SolverError: shapes that do not fit, entries that are not finite, or labels that no matrix satisfies.
    """
    instances = Instances(measurements, labels, "min_frobenius_norm")
    matrices, parts = [], []
    with one_thread():
        for index, (stack, its_labels) in enumerate(instances):
            matrix = stack.new_zeros(stack.shape[1:])
            violation = gap = 0.0
            if bool(its_labels.any()):
                constraints = constraints_of(stack, its_labels, instances.name(index))
                matrix = constraints.project(matrix)
                violation, gap = constraints.violation(matrix), _gap(constraints, matrix)
            matrices.append(matrix)
            parts.append((violation, gap, 1))
        certificate = instances.certificate(parts)
        solution = instances.gather(matrices)
    if return_certificate:
        return solution, certificate
    warn_uncertified("min_frobenius_norm", certificate)
    return solution


def _gap(constraints: Constraints, matrix: torch.Tensor) -> float:
    """Twice the gap of min ||M||^2 / 2 and max b^T y - ||A^*(y)||^2 / 2 for an interpolator M, over ||M||^2."""
    residual = matrix - constraints.adjoint(constraints.multipliers_of(matrix))
    return float(torch.sum(residual * residual) / torch.sum(matrix * matrix))
