"""A low-rank interpolator to rounding error, by the Gauss-Newton iteration.

Near M = U S V^T the matrices of rank r form a manifold with tangent space T = {U a^T + b V^T}. Where dim T < n, fitting
A to b within T and truncating to rank r again is the Gauss-Newton iteration for <A_i, M> = b_i, which converges
quadratically to an interpolator of that rank. :mod:`flatdist.solvers.dual_certificate` decides whether its nuclear norm
is minimal.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from flatdist.solvers.constraints import Constraints

EXACT = 1e-12  # relative misfit at which a matrix counts as an interpolator
_STEPS = 12
_SLOW = 0.5  # a step that leaves more of the misfit than this says that the rank is too small;
_SLOW_START = 0.7  # the first step, from afar, is judged mildly
_ROOM = 1.3  # ranks are tried while _ROOM * dim T <= n; nuclear-norm recovery needs more measurements than that


@dataclass(frozen=True)
class LowRank:
    """M = U diag(s) V^T by its factors.

    Attributes:
        left: U (d_out, r), orthonormal columns.
        spectrum: s (r,), descending.
        right: V (d_in, r), orthonormal columns.
        left_complement: U_c, the other left singular vectors (d_out, d_out - r).
        right_complement: V_c, the other right singular vectors (d_in, d_in - r).
    """

    left: torch.Tensor
    spectrum: torch.Tensor
    right: torch.Tensor
    left_complement: torch.Tensor
    right_complement: torch.Tensor

    @classmethod
    def truncated(cls, matrix: torch.Tensor, rank: int) -> LowRank:
        """The nearest matrix of that rank."""
        left, spectrum, right = torch.linalg.svd(matrix)
        return cls(left[:, :rank], spectrum[:rank], right[:rank].T, left[:, rank:], right[rank:].T)

    @property
    def matrix(self) -> torch.Tensor:
        """(d_out, d_in)."""
        return (self.left * self.spectrum) @ self.right.T

    def constraint_matrix(self, stack: torch.Tensor) -> torch.Tensor:
        """A restricted to T: its inner products with a basis U e_i e_j^T, then U_c e_i e_j^T V^T; (n, dim T)."""
        n = len(stack)
        along_rows = (self.left.T @ stack).reshape(n, -1)  # (n, r * d_in)
        along_columns = (self.left_complement.T @ (stack @ self.right)).reshape(n, -1)  # (n, (d_out - r) * r)
        return torch.cat((along_rows, along_columns), dim=1)

    def tangent(self, coordinates: torch.Tensor) -> torch.Tensor:
        """The element of T with these coordinates (dim T,), as a (d_out, d_in) matrix."""
        rank, d_in = len(self.spectrum), len(self.right)
        along_rows = self.left @ coordinates[: rank * d_in].reshape(rank, d_in)
        return along_rows + self.left_complement @ coordinates[rank * d_in :].reshape(-1, rank) @ self.right.T


def degrees_of_freedom(rank: int, shape: tuple[int, int]) -> int:
    """dim T = r (d_out + d_in - r)."""
    return rank * (sum(shape) - rank)


def interpolate(constraints: Constraints, start: LowRank) -> tuple[LowRank, float, int]:
    """The Gauss-Newton iteration at fixed rank.

    Args:
        constraints: n > dim T of them.
        start: where to begin.

    Returns:
        The last matrix, its relative misfit, and the steps taken.
    """
    scale = float(torch.linalg.vector_norm(constraints.labels))
    point = start
    misfit = float(torch.linalg.vector_norm(constraints.misfit(start.matrix))) / scale
    for step in range(1, _STEPS + 1):
        restricted = point.constraint_matrix(constraints.stack)  # (n, dim T)
        factor, failed = torch.linalg.cholesky_ex(restricted.T @ restricted)
        if int(failed):
            return point, misfit, step
        coordinates = _least_squares(restricted, factor, constraints.labels)
        after = LowRank.truncated(point.tangent(coordinates), len(point.spectrum))
        left = float(torch.linalg.vector_norm(constraints.misfit(after.matrix))) / scale
        if not left < misfit:
            return point, misfit, step
        slow = left > (_SLOW if step > 1 else _SLOW_START) * misfit
        point, misfit = after, left
        if misfit <= EXACT or slow:
            return point, misfit, step
    return point, misfit, _STEPS


def pursue(constraints: Constraints) -> tuple[LowRank | None, int]:
    """An interpolator of the smallest rank at which the Gauss-Newton iteration finds one.

    Well above the transition this is the nuclear norm's minimiser; a certificate decides. Ranks are tried in turn, each
    started from the previous one's misfit, beginning with the interpolator of least Frobenius norm.

    Returns:
        The interpolator or None, and the steps taken.
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


def _least_squares(matrix: torch.Tensor, factor: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """argmin ||X z - t|| from the normal equations' Cholesky factor, refined once."""
    solution = torch.cholesky_solve((matrix.T @ target)[:, None], factor)[:, 0]
    return solution + torch.cholesky_solve((matrix.T @ (target - matrix @ solution))[:, None], factor)[:, 0]
