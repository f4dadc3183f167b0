"""Newton's finish where the minimiser of the nuclear norm is not the only interpolator of its rank.

Below the transition min ||M||_* subject to A(M) = b has a solution of some rank r with dim T >= n, so the constraints
alone do not fix it; stationarity on the manifold of rank r does. With M = U S V^T, xi = U K V^T + U E V_c^T + U_c F V^T
in T, y the multipliers and Z_c = U_c^T A^*(y) V_c, the Lagrangian ||M||_* - y^T (A(M) - b) has the second derivative

    sum_{i<j} (K_ij - K_ji)^2 / (s_i + s_j) + sum_i (|F_i|^2 + |E_i|^2 - 2 F_i^T Z_c E_i) / s_i,

F_i the i-th column of F and E_i the i-th row of E, and Newton's step solves the optimality conditions linearised.
"""

from __future__ import annotations

import math

import torch

from flatdist.solvers.constraints import Constraints
from flatdist.solvers.low_rank import EXACT, LowRank

_STEPS = 8
_SLOW = 0.5  # a step that leaves more of the error than this, after the first, is not converging quadratically


def stationary_point(
    constraints: Constraints, start: LowRank, multipliers: torch.Tensor
) -> tuple[LowRank, torch.Tensor, int]:
    """Newton's iteration for A(M) = b, P_T A^*(y) = U V^T over matrices of one rank.

    Args:
        constraints: n <= dim T of them.
        start: near the minimiser.
        multipliers: (n,), near the dual one.

    Returns:
        The last pair, and the steps taken. Whether it is the minimiser is for a certificate to say.
    """
    point, best = start, (start, multipliers)
    scale = float(torch.linalg.vector_norm(constraints.labels))
    error = float("inf")
    for step in range(1, _STEPS + 1):
        restricted = _constraint_matrix(point, constraints.stack)  # (n, dim T)
        curvature = _curvature(point, constraints.adjoint(multipliers))
        n, dimension = restricted.shape
        system = restricted.new_zeros((dimension + n, dimension + n))
        system[:dimension, :dimension] = curvature
        system[dimension:, :dimension] = restricted
        system[:dimension, dimension:] = restricted.T
        aligned = restricted.new_zeros(dimension)
        rank = len(point.spectrum)
        aligned[: rank * rank] = torch.eye(rank, dtype=aligned.dtype, device=aligned.device).reshape(-1)
        solution, failed = torch.linalg.solve_ex(system, torch.cat((-aligned, constraints.misfit(point.matrix))))
        if int(failed) or not bool(torch.isfinite(solution).all()):
            break
        multipliers = -solution[dimension:]
        point = LowRank.truncated(point.matrix + _tangent(point, solution[:dimension]), rank)
        primal = float(torch.linalg.vector_norm(constraints.misfit(point.matrix))) / scale
        left = max(primal, _misalignment(point, constraints.adjoint(multipliers)))
        if not left < error:
            break
        slow = left > _SLOW * error and step > 1
        best, error = (point, multipliers), left
        if error <= EXACT or slow:
            break
    return *best, step


def _constraint_matrix(point: LowRank, stack: torch.Tensor) -> torch.Tensor:
    """A restricted to T in the coordinates K, E, F; (n, dim T)."""
    n = len(stack)
    along_rows = point.left.T @ stack  # (n, r, d_in)
    return torch.cat(
        (
            (along_rows @ point.right).reshape(n, -1),
            (along_rows @ point.right_complement).reshape(n, -1),
            (point.left_complement.T @ (stack @ point.right)).reshape(n, -1),
        ),
        dim=1,
    )


def _tangent(point: LowRank, coordinates: torch.Tensor) -> torch.Tensor:
    """The element of T with coordinates (K, E, F), (d_out, d_in)."""
    rank, others = len(point.spectrum), point.right_complement.shape[1]
    core, rows, columns = torch.split(
        coordinates, [rank * rank, rank * others, len(coordinates) - rank * (rank + others)]
    )
    along_rows = core.reshape(rank, rank) @ point.right.T + rows.reshape(rank, others) @ point.right_complement.T
    return point.left @ along_rows + point.left_complement @ columns.reshape(-1, rank) @ point.right.T


def _curvature(point: LowRank, slope: torch.Tensor) -> torch.Tensor:
    """Second derivative of the Lagrangian in the coordinates K, E, F; (dim T, dim T)."""
    spectrum = point.spectrum
    rank, rows, columns = len(spectrum), point.left_complement.shape[1], point.right_complement.shape[1]
    core, along = rank * rank, rank * columns
    dimension = core + along + rank * rows
    curvature = spectrum.new_zeros((dimension, dimension))
    antisymmetric = (1 / (spectrum[:, None] + spectrum[None, :])).fill_diagonal_(0.0).reshape(-1)
    index = torch.arange(core, device=spectrum.device)
    curvature[index, index] = antisymmetric
    curvature[index, index.reshape(rank, rank).T.reshape(-1)] -= antisymmetric
    inverse = 1 / spectrum
    diagonal = torch.arange(core, dimension, device=spectrum.device)
    curvature[diagonal, diagonal] = torch.cat((inverse.repeat_interleave(columns), inverse.repeat(rows)))
    outside = point.left_complement.T @ slope @ point.right_complement  # Z_c (rows, columns)
    coupling = torch.einsum("ab,i,ij->ibaj", outside, -inverse, torch.eye(rank).to(inverse))  # E_ib against F_aj
    coupling = coupling.reshape(along, rows * rank)
    curvature[core : core + along, core + along :] = coupling
    curvature[core + along :, core : core + along] = coupling.T
    return curvature


def _misalignment(point: LowRank, slope: torch.Tensor) -> float:
    """||P_T A^*(y) - U V^T||_F / ||U V^T||_F."""
    rest = slope - point.left @ point.right.T
    outside = point.left_complement @ (point.left_complement.T @ rest @ point.right_complement)
    within = rest - outside @ point.right_complement.T
    return float(torch.linalg.vector_norm(within)) / math.sqrt(len(point.spectrum))
