"""The linear constraints <A_i, M> = b_i of one instance, with the factorization that every solver shares.

In vector form A vec(M) = b, A of shape (n, D), D = d_out * d_in. Three cases are told apart once, here: independent
measurements, dependent ones (an independent subset stands for all, when the labels agree), and measurements that
determine M (rank D).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import scipy.linalg
import torch

from flatdist.errors import SolverError

INDEPENDENT = 1e-7  # a measurement nearer than this to the span of others, relative to its norm, is dependent on them
CONSISTENT = 1e-6  # labels are infeasible when the interpolator of independent ones misses them by more, relatively
ROUNDING = 1e-13  # singular values of the measurements below it, relative to the largest, are rounding
_PLAIN = 1e-4  # distance of a measurement from the span of the earlier ones, relative to its norm, that Cholesky keeps
BLOCK = 256  # rows of a block of an (n, n) matrix: only the blocks on and below the diagonal are multiplied out


@dataclass(frozen=True)
class Constraints:
    """Independent constraints."""

    rows: torch.Tensor  # (n, D), of full rank; more than D of them only where they determine M
    labels: torch.Tensor  # (n,)
    shape: tuple[int, int]  # (d_out, d_in) of M
    cholesky: torch.Tensor | None = None  # L (n, n) with A A^T = L L^T, unless M is determined
    qr: tuple[torch.Tensor, torch.Tensor] | None = None  # Q (n, D) and R (D, D) with A = Q R if M is determined
    given: Constraints | None = None  # all constraints, if these are an independent subset that stands for them

    @property
    def every(self) -> Constraints:
        """All constraints, the dependent ones included."""
        return self.given or self

    @property
    def determined(self) -> bool:
        """Whether only one matrix can satisfy the constraints."""
        return self.qr is not None

    @cached_property
    def stack(self) -> torch.Tensor:
        """The rows as matrices, (n, d_out, d_in)."""
        return self.rows.reshape(-1, *self.shape)

    @cached_property
    def whitened(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Equivalent constraints with orthonormal rows, L^-1 A (n, D) and L^-1 b (n,)."""
        assert self.cholesky is not None
        rows = torch.linalg.solve_triangular(self.cholesky, self.rows, upper=False)
        labels = torch.linalg.solve_triangular(self.cholesky, self.labels[:, None], upper=False)
        return rows, labels[:, 0]

    def adjoint(self, multipliers: torch.Tensor) -> torch.Tensor:
        """A^*(y) = sum_i y_i A_i, (d_out, d_in)."""
        return (multipliers @ self.rows).reshape(self.shape)

    def misfit(self, matrix: torch.Tensor) -> torch.Tensor:
        """b - A(M), (n,)."""
        return self.labels - self.rows @ matrix.reshape(-1)

    def miss(self, matrix: torch.Tensor) -> float:
        """||A(M) - b|| / ||b||."""
        norm = float(torch.linalg.vector_norm(self.labels)) or 1.0
        return float(torch.linalg.vector_norm(self.misfit(matrix))) / norm

    def solve_gram(self, values: torch.Tensor) -> torch.Tensor:
        """(A A^T)^-1 v for v of shape (n,) or (n, k)."""
        assert self.cholesky is not None
        return torch.cholesky_solve(values.reshape(len(values), -1), self.cholesky).reshape(values.shape)

    def project(self, matrix: torch.Tensor) -> torch.Tensor:
        """The nearest matrix that satisfies the constraints, M + A^+ (b - A M)."""
        for _ in range(2):  # the second pass removes the rounding of the first
            miss = self.misfit(matrix)
            if self.qr is None:
                matrix = matrix + self.adjoint(self.solve_gram(miss))
            else:
                orthonormal, triangle = self.qr
                step = torch.linalg.solve_triangular(triangle, (orthonormal.T @ miss)[:, None], upper=True)
                matrix = matrix + step.reshape(self.shape)
        return matrix

    def multipliers_of(self, matrix: torch.Tensor) -> torch.Tensor:
        """The y (n,) for which A^*(y) is nearest to ``matrix``."""
        vector = matrix.reshape(-1, 1)
        if self.qr is None:
            return self.solve_gram(self.rows @ vector)[:, 0]
        orthonormal, triangle = self.qr
        multipliers: torch.Tensor = orthonormal @ torch.linalg.solve_triangular(triangle.T, vector, upper=False)
        return multipliers[:, 0]

    @cached_property
    def _triangle(self) -> torch.Tensor | None:
        """Lower triangular T with A = T Q, where Q has orthonormal rows; None without the Gram matrix.

        The Cholesky factor is T, with an error that grows with the square of the condition number; if its diagonal
        shows such an error, the measurements themselves are orthogonalised.
        """
        if self.cholesky is None:
            return None
        size = self.cholesky.diagonal() / torch.linalg.vector_norm(self.rows, dim=1)
        if float(size.min()) > _PLAIN:
            return self.cholesky
        triangle: torch.Tensor = torch.linalg.qr(self.rows.T, mode="r")[1].T
        return triangle

    def violation(self, matrix: torch.Tensor) -> float:
        """The distance to the nearest interpolator over the norm of the smallest one.

        This is ||A(M) - b|| / ||b|| in orthonormal coordinates of the measurements, so that nearly dependent ones,
        whose labels carry little information, count as much as others; or the raw ratio over all measurements if that
        is larger. Measurements that were left out as dependent count too, unless they are dependent to rounding.
        """
        every = self.every
        raw = every.miss(matrix)
        pair = torch.stack((every.misfit(matrix), every.labels), dim=1)
        if len(every.rows) > len(self.rows):
            left, sizes, _ = torch.linalg.svd(every.rows, full_matrices=False)
            told = sizes > ROUNDING * sizes[0]
            seen = (left.T @ pair)[told] / sizes[told, None]
        elif self.qr is not None:
            orthonormal, triangle = self.qr
            seen = torch.linalg.solve_triangular(triangle, orthonormal.T @ pair, upper=True)
        elif self._triangle is not None:
            seen = torch.linalg.solve_triangular(self._triangle, pair, upper=False)
        else:
            return raw
        distance, norm = (float(size) for size in torch.linalg.vector_norm(seen, dim=0))
        return max(raw, distance / (norm or 1.0))


class Unfactorized(Constraints):
    """Constraints whose Gram matrix is treated as diagonal, as it nearly is for many independent measurements.

    Nothing is checked: whoever solves with these must certify the answer. "Nearest" is approximate here.
    """

    @cached_property
    def _sizes(self) -> torch.Tensor:
        squares = torch.linalg.vector_norm(self.rows, dim=1) ** 2  # ||A_i||_F^2
        return torch.where(squares > 0, squares, 1.0)

    def solve_gram(self, values: torch.Tensor) -> torch.Tensor:
        """(A A^T)^-1 v, approximately."""
        return (values.reshape(len(values), -1) / self._sizes[:, None]).reshape(values.shape)

    def project(self, matrix: torch.Tensor) -> torch.Tensor:
        """One step towards the constraints."""
        return matrix + self.adjoint(self.solve_gram(self.misfit(matrix)))


def unfactorized(measurements: torch.Tensor, labels: torch.Tensor) -> Unfactorized:
    """One instance's constraints, measurements (n, d_out, d_in) and labels (n,), without any factorization."""
    n, d_out, d_in = measurements.shape
    return Unfactorized(measurements.reshape(n, -1), labels, (d_out, d_in))


def constraints_of(measurements: torch.Tensor, labels: torch.Tensor, where: str) -> Constraints:
    """One instance's constraints, measurements (n, d_out, d_in) and labels (n,) not all zero, checked and factorized.

    Raises:
        SolverError: no matrix satisfies the constraints; the message starts with ``where``.
    """
    given = unfactorized(measurements, labels)
    n, entries = given.rows.shape
    constraints = _factorized(given)
    if constraints is not None and n <= entries:
        return constraints  # as many unknowns as independent constraints, or more: every label vector is feasible
    rank = entries
    if constraints is None:
        kept = _independent_subset(given.rows)
        rank = len(kept)
        constraints = _factorized(given, kept) if rank else None
    miss = 1.0 if constraints is None else given.miss(constraints.project(given.rows.new_zeros(given.shape)))
    if constraints is None or miss > CONSISTENT:
        raise SolverError(
            f"{where}: no {given.shape} matrix satisfies the {n} constraints <A_i, M> = b_i: the measurements have "
            f"rank {rank}, and the best fit to as many of them misses the labels by {miss:.1e} of their norm "
            f"({CONSISTENT:g} is allowed). Remove the observation noise or the dependent measurements"
        )
    return constraints


def _gram(rows: torch.Tensor) -> torch.Tensor:
    """A A^T, (n, n), at little more than half the cost of a general product if there are many rows."""
    n = len(rows)
    if n <= 2 * BLOCK:
        return rows @ rows.T
    product = rows.new_empty((n, n))
    for start in range(0, n, BLOCK):
        stop = min(start + BLOCK, n)
        block = rows[start:stop] @ rows[:stop].T  # (block, stop)
        product[start:stop, :stop] = block
        product[:stop, start:stop] = block.T
    return product


def _factorized(given: Constraints, kept: torch.Tensor | None = None) -> Constraints | None:
    """The constraints with their factor; None where they are not independent. ``kept`` names a subset that is."""
    subset = kept is not None
    rows, labels = (given.rows[kept], given.labels[kept]) if subset else (given.rows, given.labels)
    cholesky = qr = None
    if len(rows) >= rows.shape[1]:
        qr = torch.linalg.qr(rows)
        size = qr[1].diagonal().abs()
        independent = bool((size > INDEPENDENT * size.max()).all())
    else:
        product = _gram(rows)
        cholesky, failed = torch.linalg.cholesky_ex(product)
        if int(failed):
            return None
        # L_ii is the distance of measurement i from the span of the earlier ones.
        independent = bool((cholesky.diagonal() > INDEPENDENT * product.diagonal().sqrt()).all())
    if not (independent or subset):
        return None
    return Constraints(rows, labels, given.shape, cholesky, qr, given if subset else None)


def _independent_subset(rows: torch.Tensor) -> torch.Tensor:
    """Indices of a largest well-conditioned independent set of rows, ascending; rare, so on the CPU."""
    size = torch.linalg.vector_norm(rows, dim=1)
    unit = (rows / torch.where(size > 0, size, 1.0)[:, None]).cpu().numpy()
    triangle, order = scipy.linalg.qr(unit.T, mode="r", pivoting=True)
    diagonal = abs(triangle.diagonal())
    kept = sorted(order[: len(diagonal)][diagonal > INDEPENDENT])
    return torch.as_tensor(kept, dtype=torch.int64, device=rows.device)
