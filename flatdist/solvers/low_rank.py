"""Newton's iterations on the matrices of one rank, and multipliers that prove their ends optimal.

Near M = U S V^T the matrices of rank r form a manifold with tangent space T = {U a^T + b V^T}.

Where dim T < n, fitting A to b within T and truncating to rank r again is the Gauss-Newton iteration for the
constraints, which converges quadratically to an interpolator of that rank (:func:`interpolate`). It has minimal nuclear
norm if and only if some y has P_T A^*(y) = U V^T and spectral norm of A^*(y) at most 1 (Recht, Fazel, Parrilo 2010;
:func:`certify`).

Where dim T >= n, below the transition, the constraints alone do not fix M, but stationarity does
(:func:`stationary_point`). With xi = U K V^T + U E V_c^T + U_c F V^T in T, multipliers y and Z_c = U_c^T A^*(y) V_c,
the Lagrangian ||M||_* - y^T (A(M) - b) has the second derivative

    sum_{i<j} (K_ij - K_ji)^2 / (s_i + s_j) + sum_i (|F_i|^2 + |E_i|^2 - 2 F_i^T Z_c E_i) / s_i,

F_i the i-th column of F and E_i the i-th row of E, and Newton's step solves the optimality conditions linearised.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from flatdist.solvers.constraints import Constraints

EXACT = 1e-12  # relative misfit at which a matrix counts as an interpolator
_SLOW = 0.5  # a step that leaves more of the error than this is not converging quadratically: the rank is too small
_ROOM = 1.3  # ranks are tried while _ROOM * dim T <= n; nuclear-norm recovery needs more measurements than that
_PROJECTIONS = 12
_RADIUS = 0.95  # of the ball that is projected onto: well inside 1, for a finite end
_STRETCH = 50.0  # largest extrapolation

State = TypeVar("State")


@dataclass(frozen=True)
class LowRank:
    """M = U diag(s) V^T by its factors."""

    left: torch.Tensor  # U (d_out, r), orthonormal columns
    spectrum: torch.Tensor  # s (r,), descending
    right: torch.Tensor  # V (d_in, r)
    left_complement: torch.Tensor  # U_c, the other left singular vectors (d_out, d_out - r)
    right_complement: torch.Tensor  # V_c, (d_in, d_in - r)

    @classmethod
    def truncated(cls, matrix: torch.Tensor, rank: int) -> LowRank:
        """The nearest matrix of that rank."""
        left, spectrum, right = torch.linalg.svd(matrix)
        return cls(left[:, :rank], spectrum[:rank], right[:rank].T, left[:, rank:], right[rank:].T)

    @property
    def matrix(self) -> torch.Tensor:
        """(d_out, d_in)."""
        return (self.left * self.spectrum) @ self.right.T

    def seen(self, stack: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What A sees of T: U^T A_i, (n, r, d_in), and U_c^T A_i V, (n, d_out - r, r)."""
        return self.left.T @ stack, self.left_complement.T @ (stack @ self.right)

    def tangent(self, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """U R + U_c F V^T in T, (d_out, d_in), for R (r, d_in) and the entries of F (d_out - r, r)."""
        columns = columns.reshape(-1, len(self.spectrum))
        return self.left @ rows + self.left_complement @ columns @ self.right.T


def degrees_of_freedom(rank: int, shape: tuple[int, int]) -> int:
    """dim T = r (d_out + d_in - r)."""
    return rank * (sum(shape) - rank)


def _iterated(
    state: State, error: float, step: Callable[[State], tuple[State, float] | None], most: int, slow_start: float
) -> tuple[State, float, int]:
    """The best state, its error and the steps taken, until a step fails or leaves too much of the error."""
    for taken in range(1, most + 1):
        after = step(state)
        if after is None or not after[1] < error:
            return state, error, taken
        slow = after[1] > (_SLOW if taken > 1 else slow_start) * error
        state, error = after
        if error <= EXACT or slow:
            return state, error, taken
    return state, error, most


def _flat(*blocks: torch.Tensor) -> torch.Tensor:
    """What A sees of T as one matrix, (n, dim T)."""
    return torch.cat([block.reshape(len(block), -1) for block in blocks], dim=1)


def _misfit(constraints: Constraints, point: LowRank) -> float:
    scale = float(torch.linalg.vector_norm(constraints.labels))
    return float(torch.linalg.vector_norm(constraints.misfit(point.matrix))) / scale


def interpolate(constraints: Constraints, start: LowRank) -> tuple[LowRank, float, int]:
    """The Gauss-Newton iteration at fixed rank, dim T < n: the last matrix, its relative misfit, the steps taken."""

    def step(point: LowRank) -> tuple[LowRank, float] | None:
        restricted = _flat(*point.seen(constraints.stack))
        factor, failed = torch.linalg.cholesky_ex(restricted.T @ restricted)
        if int(failed):
            return None
        fit = torch.cholesky_solve((restricted.T @ constraints.labels)[:, None], factor)[:, 0]
        left = constraints.labels - restricted @ fit
        fit = fit + torch.cholesky_solve((restricted.T @ left)[:, None], factor)[:, 0]  # the rounding of the first
        rows, columns = torch.tensor_split(fit, [point.right.numel()])
        after = LowRank.truncated(point.tangent(rows.reshape(-1, len(point.right)), columns), len(point.spectrum))
        return after, _misfit(constraints, after)

    return _iterated(start, _misfit(constraints, start), step, 12, 0.7)  # the first step, from afar, is judged mildly


def pursue(constraints: Constraints) -> tuple[LowRank | None, int]:
    """An interpolator of the smallest rank at which the Gauss-Newton iteration finds one, or None; the steps taken.

    Well above the transition this is the nuclear norm's minimiser; a certificate decides. Ranks are tried in turn, each
    started from the previous one's misfit, beginning with the interpolator of least Frobenius norm.
    """
    matrix = constraints.project(constraints.rows.new_zeros(constraints.shape))
    steps = 0
    for rank in range(1, min(constraints.shape) + 1):
        if _ROOM * degrees_of_freedom(rank, constraints.shape) > len(constraints.labels):
            break
        point, misfit, used = interpolate(constraints, LowRank.truncated(matrix, rank))
        steps += used
        if misfit <= EXACT:
            return point, steps
        matrix = constraints.project(point.matrix)
    return None, steps


def certify(constraints: Constraints, point: LowRank, multipliers: torch.Tensor | None = None) -> torch.Tensor | None:
    """Multipliers with P_T A^*(y) = U V^T and, if the projections get there, spectral norm of A^*(y) at most 1.

    The y of least ||A^*(y)||_F that meets the first condition often meets the second (Candes, Recht 2013); otherwise
    projections onto the spectral ball and back repair it. They are extrapolated, so they end after a few steps wherever
    the two sets meet in more than a boundary point. None where the measurements do not separate T.
    """
    restricted = _flat(*point.seen(constraints.stack))
    weighted = constraints.solve_gram(restricted)  # (n, dim T)
    factor, failed = torch.linalg.cholesky_ex(restricted.T @ weighted)
    if int(failed):
        return None

    def corrected(start: torch.Tensor, aim: torch.Tensor) -> torch.Tensor:
        """The nearest y, in ||A^*(y)||_F, whose A^*(y) has these coordinates in T."""
        return start + weighted @ torch.cholesky_solve((aim - restricted.T @ start)[:, None], factor)[:, 0]

    aligned = restricted.new_zeros(restricted.shape[1])
    aligned[: point.right.numel()] = point.right.T.reshape(-1)  # U V^T in the basis of T
    found = corrected(torch.zeros_like(constraints.labels) if multipliers is None else multipliers, aligned)
    for _ in range(_PROJECTIONS):
        slope = constraints.adjoint(found)
        outside = point.left_complement.T @ slope @ point.right_complement
        left, spectrum, right = torch.linalg.svd(outside, full_matrices=False)
        if not len(spectrum) or float(spectrum[0]) <= 1:
            break
        cut = (left * (spectrum.clamp(max=_RADIUS) - spectrum)) @ right
        inwards = point.left_complement @ cut @ point.right_complement.T
        step = constraints.solve_gram(constraints.rows @ inwards.reshape(-1))
        step = corrected(step, torch.zeros_like(aligned))
        reached = float(torch.linalg.vector_norm(constraints.adjoint(step)))
        stretch = (float(torch.linalg.vector_norm(cut)) / reached) ** 2 if reached else 0.0
        found = found + min(stretch, _STRETCH) * step
    return corrected(found, aligned)  # once more, against the rounding of the steps


def stationary_point(
    constraints: Constraints, start: LowRank, multipliers: torch.Tensor
) -> tuple[LowRank, torch.Tensor, int]:
    """Newton's iteration for A(M) = b, P_T A^*(y) = U V^T at fixed rank, dim T >= n, from near the minimiser.

    Returns the last pair and the steps taken. Whether it is the minimiser is for a certificate to say.
    """
    rank = len(start.spectrum)

    def step(pair: tuple[LowRank, torch.Tensor]) -> tuple[tuple[LowRank, torch.Tensor], float] | None:
        point, multipliers = pair
        rows, columns = point.seen(constraints.stack)
        restricted = _flat(rows @ point.right, rows @ point.right_complement, columns)  # in coordinates K, E, F
        n, dimension = restricted.shape
        system = restricted.new_zeros((dimension + n, dimension + n))
        system[:dimension, :dimension] = _curvature(point, constraints.adjoint(multipliers))
        system[dimension:, :dimension] = restricted
        system[:dimension, dimension:] = restricted.T
        aligned = restricted.new_zeros(dimension)
        aligned[: rank * rank] = torch.eye(rank, dtype=aligned.dtype, device=aligned.device).reshape(-1)
        solution, failed = torch.linalg.solve_ex(system, torch.cat((-aligned, constraints.misfit(point.matrix))))
        if int(failed) or not bool(torch.isfinite(solution).all()):
            return None
        multipliers = -solution[dimension:]
        core, e, f = torch.tensor_split(solution[:dimension], [rank * rank, rank * len(point.right)])
        along = core.reshape(rank, rank) @ point.right.T + e.reshape(rank, -1) @ point.right_complement.T
        point = LowRank.truncated(point.matrix + point.tangent(along, f), rank)
        misaligned = _misalignment(point, constraints.adjoint(multipliers))
        return (point, multipliers), max(_misfit(constraints, point), misaligned)

    pair, _, taken = _iterated((start, multipliers), math.inf, step, 8, math.inf)
    return *pair, taken


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
