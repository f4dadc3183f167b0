"""Minimum-nuclear-norm interpolation, min ||M||_* subject to <A_i, M> = b_i, certified by duality.

The dual problem is max b^T y subject to ||A^*(y)|| <= 1 in spectral norm, A^*(y) = sum_i y_i A_i: any such y proves
that no interpolator has a nuclear norm below b^T y. An instance goes through at most two stages:

1. low rank: the Gauss-Newton iteration finds an interpolator of small rank, and projections find the multipliers that
   prove it optimal (:mod:`flatdist.solvers.low_rank`). A few passes over the measurements, and all that is needed where
   nuclear-norm minimisation recovers a low-rank matrix.
2. interior point: always converges, in 10 to 20 iterations of one n x n system each
   (:mod:`flatdist.solvers.interior_point`); as soon as the rank shows, Newton's iteration on the matrices of that rank
   finishes.

Splitting by singular-value thresholding, the usual first-order method, takes hundreds of iterations, thousands near the
transition; ``benchmarks/convex.py`` has it for comparison.
"""

from __future__ import annotations

from typing import Any

import torch

from flatdist.solvers.constraints import Constraints, constraints_of, unfactorized
from flatdist.solvers.interior_point import Iterate, interior_point
from flatdist.solvers.low_rank import EXACT, LowRank, certify, degrees_of_freedom, interpolate, pursue, stationary_point
from flatdist.solvers.solution import Answer, ArrayLike, Instances

AIM = 1e-10  # relative gap at which the solver stops
_MANY = 512  # measurements from which stage 1 is first tried without the Gram matrix, by then its dearest part
_VISIBLE = 1e-2  # relative gap below which the interior point's singular values may show the rank,
_OBVIOUS = 1e-6  # and below which they must
_DISTINCT = 2.0  # least odds, for and against being 0, of every singular value in between
_RETRY = 0.05  # a rank that has failed is tried again once the gap has fallen by this factor


def min_nuclear_norm(measurements: ArrayLike, labels: ArrayLike, *, return_certificate: bool = False) -> Any:
    """The interpolator of smallest nuclear norm, min ||M||_* subject to <A_i, M> = b_i.

    Every instance is solved separately, in float64 on one thread, on the device of ``measurements``: its bits do not
    depend on its neighbours. If the measurements determine M (rank d_out * d_in) it is the only interpolator. Dependent
    measurements are replaced by an independent subset if their labels agree.

    Args:
        measurements: (..., n, d_out, d_in), torch or numpy, any leading batch axes.
        labels: (..., n).
        return_certificate: return a :class:`Solution` that includes the certificate; without it, an uncertified answer
            warns.

    Returns:
        (..., d_out, d_in) float64, or a :class:`Solution` whose certificate holds the relative violation of the
        constraints and the duality gap relative to ||M||_*.

    Raises:
        SolverError: the shapes do not fit, an entry is not finite, or no matrix satisfies the labels.

    Example:
        >>> from flatdist import Cell, min_nuclear_norm, sample_problem
        >>> problem = sample_problem(Cell(d_out=4, d_in=4, rank=1, n=14))
        >>> answer = min_nuclear_norm(problem.measurements, problem.labels)
        >>> bool((answer - problem.ground_truth).norm() < 1e-6)
        True
    """
    instances = Instances(measurements, labels, "min_nuclear_norm")
    return instances.solution(instances.solved(_solved)).returned("min_nuclear_norm", return_certificate)


def _solved(stack: torch.Tensor, labels: torch.Tensor, where: str) -> Answer[torch.Tensor]:
    if not bool(labels.any()):
        return Answer(stack.new_zeros(stack.shape[1:]), 0.0, 0.0, 0)
    if len(labels) >= _MANY:
        _, answer, _ = _low_rank(unfactorized(stack, labels))
        if answer is not None and answer.gap <= AIM:
            return answer
    return nuclear_norm_minimum(constraints_of(stack, labels, where))


def nuclear_norm_minimum(constraints: Constraints) -> Answer[torch.Tensor]:
    """The answer for constraints that are factorized already."""
    if constraints.determined:
        matrix = constraints.project(constraints.rows.new_zeros(constraints.shape))
        left, _, right = torch.linalg.svd(matrix, full_matrices=False)
        return judged(constraints, matrix, constraints.multipliers_of(left @ right), 1)
    found, best, steps = _low_rank(constraints)
    if best is not None and best.gap <= AIM:
        return best
    tried_rank, tried_gap = 0, 1.0
    for iterate in interior_point(constraints):
        steps += 1
        answers = [best]
        if best is None or iterate.gap < _OBVIOUS:  # its own claim holds only up to rounding: certify it
            answers.append(judged(constraints, constraints.project(iterate.matrix), iterate.multipliers, steps))
        if iterate.gap < _VISIBLE and found is not None:
            answers.append(_proved(constraints, found, iterate.multipliers, steps))
        rank = _visible_rank(constraints, iterate)
        if rank and (rank != tried_rank or iterate.gap < _RETRY * tried_gap):
            tried_rank, tried_gap = rank, iterate.gap
            answers.append(_finished(constraints, iterate, rank, steps))
        best = min((answer for answer in answers if answer is not None), key=lambda answer: answer.gap)
        if best.gap <= AIM:
            break
    assert best is not None
    return best


def judged(
    constraints: Constraints, matrix: torch.Tensor, multipliers: torch.Tensor, steps: int
) -> Answer[torch.Tensor]:
    """A matrix with its certificate: the multipliers are scaled until A^*(y) has spectral norm at most 1."""
    bound = float(constraints.labels @ multipliers)
    bound /= max(1.0, float(torch.linalg.matrix_norm(constraints.adjoint(multipliers), 2)))
    norm = float(torch.linalg.matrix_norm(matrix, "nuc"))
    return Answer(matrix, constraints.violation(matrix), abs(norm - bound) / norm, steps)


def _low_rank(constraints: Constraints) -> tuple[LowRank | None, Answer[torch.Tensor] | None, int]:
    """Stage 1: an interpolator of small rank, the answer that it makes, and the steps taken."""
    found, steps = pursue(constraints)
    return found, None if found is None else _proved(constraints, found, None, steps), steps


def _proved(
    constraints: Constraints, point: LowRank, multipliers: torch.Tensor | None, steps: int
) -> Answer[torch.Tensor] | None:
    proof = certify(constraints, point, multipliers)
    return None if proof is None else judged(constraints, point.matrix, proof, steps)


def _visible_rank(constraints: Constraints, iterate: Iterate) -> int:
    """The rank that an interior-point iterate shows, 0 while it shows none.

    By complementarity either sigma_i(M) or 1 - sigma_i(A^*(y)) tends to 0, for every i.
    """
    if iterate.gap > _VISIBLE:
        return 0
    spectrum = torch.linalg.svdvals(iterate.matrix)
    slack = 1 - torch.linalg.svdvals(constraints.adjoint(iterate.multipliers))
    odds = spectrum / (slack * spectrum[0])
    if iterate.gap > _OBVIOUS and bool(((odds < _DISTINCT) & (odds > 1 / _DISTINCT)).any()):
        return 0
    return int(torch.sum(odds > 1))


def _finished(constraints: Constraints, iterate: Iterate, rank: int, steps: int) -> Answer[torch.Tensor] | None:
    """Newton's finish from an interior-point iterate, at this rank."""
    start = LowRank.truncated(iterate.matrix, rank)
    if degrees_of_freedom(rank, constraints.shape) >= len(constraints.labels):
        point, multipliers, used = stationary_point(constraints, start, iterate.multipliers)
        return judged(constraints, point.matrix, multipliers, steps + used)
    point, misfit, used = interpolate(constraints, start)
    return _proved(constraints, point, iterate.multipliers, steps + used) if misfit <= EXACT else None
