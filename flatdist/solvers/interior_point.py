"""A primal-dual interior-point method for min ||M||_* subject to A(M) = b.

In semidefinite form (Recht, Fazel, Parrilo 2010), with P, Q symmetric,

    minimise (tr P + tr Q) / 2  subject to  X = [[P, M], [M^T, Q]] >= 0,  A(M) = b,
    maximise b^T y              subject to  S = [[I, -Z], [-Z^T, I]] / 2 >= 0,  Z = A^*(y),

solved by Mehrotra's predictor-corrector method with Nesterov-Todd scaling. Every iterate is primal and dual feasible,
so the gap tr(XS) is a bound at every step; the number of iterations hardly depends on the distance from the transition.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch

from flatdist.solvers.constraints import BLOCK, Constraints

_ITERATIONS = 60
_DAMPING = 0.98  # fraction of the step to the boundary
_STALLED = 1e-3  # primal and dual steps below this are rounding error


@dataclass(frozen=True)
class Iterate:
    """A feasible pair."""

    matrix: torch.Tensor  # M (d_out, d_in)
    multipliers: torch.Tensor  # y (n,) of the constraints as given, spectral norm of A^*(y) below 1 up to rounding
    gap: float  # (tr P + tr Q) / 2 - b^T y over the former, which is at least ||M||_*


def interior_point(constraints: Constraints) -> Iterator[Iterate]:
    """The iterates for 1 <= n < D constraints, labels not all zero, until the caller stops or rounding does."""
    assert constraints.cholesky is not None
    rows, labels = constraints.whitened  # (n, D) orthonormal, (n,)
    d_out, d_in = constraints.shape
    order = d_out + d_in
    least = (labels @ rows).reshape(d_out, d_in)
    scale = float(torch.linalg.matrix_norm(least, 2))
    labels = labels / scale
    identity = torch.eye(order, dtype=rows.dtype, device=rows.device)
    primal = 1.5 * identity  # X
    primal[:d_out, d_out:] = least / scale
    primal[d_out:, :d_out] = least.T / scale
    dual = 0.5 * identity  # S
    multipliers = torch.zeros_like(labels)
    for _ in range(_ITERATIONS):
        primal_factor, primal_failed = torch.linalg.cholesky_ex(primal)
        dual_factor, dual_failed = torch.linalg.cholesky_ex(dual)
        if int(primal_failed) or int(dual_failed):  # rounding has made an iterate indefinite
            return
        _, spectrum, right = torch.linalg.svd(dual_factor.T @ primal_factor)
        basis = primal_factor @ right.T * spectrum.rsqrt()  # G with G^T S G = G^-1 X G^-T = diag(spectrum)
        factor = _newton_factor(rows, basis @ basis.T, constraints.shape)
        if factor is None:
            return
        short = labels - rows @ primal[:d_out, d_out:].reshape(-1)
        newton = partial(_direction, rows.reshape(-1, d_out, d_in), short, factor, basis)
        mean = float(spectrum @ spectrum) / order
        _, primal_step, dual_step = newton(-torch.diag(spectrum))
        reach_primal, reach_dual = (min(1.0, _reach(step, spectrum)) for step in (primal_step, dual_step))
        ahead = (torch.diag(spectrum) + reach_primal * primal_step) * (torch.diag(spectrum) + reach_dual * dual_step)
        centring = min(1.0, max(0.0, float(ahead.sum()) / order / mean) ** 3)
        product = primal_step @ dual_step
        target = torch.diag(centring * mean - spectrum * spectrum) - 0.5 * (product + product.T)
        towards, primal_step, dual_step = newton(2 * target / (spectrum[:, None] + spectrum[None, :]))
        reach_primal, reach_dual = (min(1.0, _DAMPING * _reach(step, spectrum)) for step in (primal_step, dual_step))
        if max(reach_primal, reach_dual) < _STALLED:
            return
        primal = primal + reach_primal * (basis @ primal_step @ basis.T)
        primal = 0.5 * (primal + primal.T)
        multipliers = multipliers + reach_dual * towards
        half = -0.5 * (multipliers @ rows).reshape(d_out, d_in)
        dual = 0.5 * identity
        dual[:d_out, d_out:], dual[d_out:, :d_out] = half, half.T
        original = torch.linalg.solve_triangular(constraints.cholesky.T, multipliers[:, None], upper=True)[:, 0]
        objective = 0.5 * float(primal.trace())
        gap = 1 - float(labels @ multipliers) / objective
        yield Iterate(scale * primal[:d_out, d_out:], original, gap)


def _direction(
    stack: torch.Tensor, short: torch.Tensor, factor: torch.Tensor, basis: torch.Tensor, target: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Newton's dy, and the scaled steps G^-1 dX G^-T and G^T dS G, whose sum is ``target``."""
    (_, d_out, d_in), rows = stack.shape, stack.reshape(len(stack), -1)
    wanted = (basis[:d_out] @ target @ basis[d_out:].T).reshape(-1)  # (D,)
    towards = torch.cholesky_solve((short - rows @ wanted)[:, None], factor)[:, 0]
    change = (towards @ rows).reshape(d_out, d_in)  # dZ
    crossed = basis[:d_out].T @ change @ basis[d_out:]
    dual_step = -0.5 * (crossed + crossed.T)
    return towards, target - dual_step, dual_step


def _newton_factor(rows: torch.Tensor, scaling: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor | None:
    """Cholesky factor of y -> A((W S(y) W)_12), W11 Z W22 + W12 Z^T W12 halved with Z = A^*(y); (n, n)."""
    d_out, d_in = shape
    first, cross, second = scaling[:d_out, :d_out], scaling[:d_out, d_out:], scaling[d_out:, d_out:]
    n = len(rows)
    matrix = rows.new_zeros((n, n))  # on and below the diagonal: all that a Cholesky factorization reads
    for start in range(0, n, BLOCK):
        stop = min(start + BLOCK, n)
        stack = rows[start:stop].reshape(-1, d_out, d_in)
        image = first @ stack @ second + cross @ stack.transpose(1, 2) @ cross  # (block, d_out, d_in)
        matrix[start:stop, :stop] = 0.5 * (image.reshape(stop - start, -1) @ rows[:stop].T)
    level = float(matrix.diagonal().mean())
    for ridge in (0.0, 1e-15, 1e-13, 1e-11):  # near the end the multipliers are determined only up to a subspace
        if ridge:
            matrix.diagonal().add_(ridge * level)
        factor: torch.Tensor
        factor, failed = torch.linalg.cholesky_ex(matrix)
        if not int(failed):
            return factor
    return None


def _reach(step: torch.Tensor, spectrum: torch.Tensor) -> float:
    """The largest t for which diag(spectrum) + t * step is positive semidefinite."""
    root = spectrum.rsqrt()
    lowest = float(torch.linalg.eigvalsh(step * root[:, None] * root[None, :])[0])
    return float("inf") if lowest >= 0 else -1 / lowest
