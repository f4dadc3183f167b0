"""The flattest interpolator: min tr Hess L(W) subject to L(W) = 0 (equation 3 of Gatmiry et al. 2023).

Depth 2 is convex (Theorem 5) and is solved as such. From depth 3 on, several starts run an augmented Lagrangian and a
Newton phase each (``flatdist.solvers._flattest``) and the lowest certified trace wins; how far the others ended above
it is part of the certificate.

Hidden widths beyond min(d_out, d_in) change nothing. Where W_{j+1} does not read a direction that W_j ... W_1 reaches,
cutting that direction out of W_j leaves M as it is and can only lower every term of Lemma 2's sum; cutting from both
sides leaves layers of the rank of M. So the problem is solved at hidden width min(d_out, d_in) and the answer is padded
with zeros to the widths asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, pairwise
from typing import Literal, overload

import numpy as np
import numpy.typing as npt
import threadpoolctl
import torch

from flatdist.errors import SolverError
from flatdist.factorization.flatness import MomentTrace
from flatdist.factorization.widths import all_widths
from flatdist.solvers._flattest import Descent, ScaledProblem, descend
from flatdist.solvers.certificate import TOLERANCE, Certificate, warn_uncertified
from flatdist.solvers.constraints import Constraints, constraints_of
from flatdist.solvers.instances import ArrayLike, Instances, one_thread
from flatdist.solvers.min_nuclear_norm import min_nuclear_norm
from flatdist.types import Array

# The first penalty of start 0, 1, 2, 0, ...: a soft one leaves the start almost at once and descends from near zero, a
# firm one stays near its interpolator, so that they find different minima where there are several.
_FIRMNESS = (60.0, 1.5, 10.0)
_AIM = 0.1 * TOLERANCE  # what the search itself asks for, so that rounding does not decide


@dataclass(frozen=True)
class FlatnessCertificate(Certificate):
    """What is known of a flattest interpolator; ``gap`` is the Lagrangian's gradient relative to the trace's,
    and at depth 2 the duality gap of the convex problem.

    First-order stationarity proves a local minimum at best: from depth 3 on the problem is not convex, and the spread
    over starts is the evidence that the minimum is global.

    Attributes:
        traces: (..., starts) where each start ended, in the trace's own units; NaN where it was not certified. At depth
            2, which is convex, the one value.
    """

    traces: npt.NDArray[np.float64] = None  # type: ignore[assignment]

    @property
    def spread(self) -> npt.NDArray[np.float64]:
        """Highest over lowest certified trace, minus 1, (...,); NaN where no start was certified."""
        low = np.where(np.isnan(self.traces), np.inf, self.traces).min(-1)
        high = np.where(np.isnan(self.traces), -np.inf, self.traces).max(-1)
        known = np.isfinite(low) & np.isfinite(high)
        ratio = np.divide(high, low, out=np.ones_like(low), where=known & (low > 0.0))
        return np.where(known, ratio - 1.0, np.nan)

    def __str__(self) -> str:
        spread = self.spread
        known = spread[~np.isnan(spread)]
        return f"{super().__str__()}, spread over starts at most {known.max() if known.size else np.nan:.1e}"


@overload
def min_hessian_trace(
    measurements: ArrayLike,
    labels: ArrayLike,
    depth: int = ...,
    width: int | Sequence[int] | None = ...,
    *,
    starts: int = ...,
    return_certificate: Literal[False] = ...,
) -> list[torch.Tensor]: ...


@overload
def min_hessian_trace(
    measurements: ArrayLike,
    labels: ArrayLike,
    depth: int = ...,
    width: int | Sequence[int] | None = ...,
    *,
    starts: int = ...,
    return_certificate: Literal[True],
) -> tuple[list[torch.Tensor], FlatnessCertificate]: ...


def min_hessian_trace(
    measurements: ArrayLike,
    labels: ArrayLike,
    depth: int = 3,
    width: int | Sequence[int] | None = None,
    *,
    starts: int = 3,
    return_certificate: bool = False,
) -> list[torch.Tensor] | tuple[list[torch.Tensor], FlatnessCertificate]:
    """Layers of the flattest interpolator, argmin { tr Hess L(W) : <A_i, W_L ... W_1> = b_i for all i } (equation 3).

    Args:
        measurements: (..., n, d_out, d_in), torch or numpy; computed in float64.
        labels: (..., n), with the same leading axes.
        depth: number of layers L, at least 2.
        width: one hidden width, or depth - 1 of them, each at least min(d_out, d_in); default max(d_out, d_in). It
            changes the shape of the answer, not the trace.
        starts: how many descents are compared at depth 3 and more.
        return_certificate: also return the certificate; without it an uncertified answer warns.

    Returns:
        W_1 ... W_L, each (..., d_j, d_{j-1}) float64, and the certificate if asked for.

    Raises:
        SolverError: no matrix satisfies the constraints; widths or a depth that cannot be; misshapen or non-finite
            input.
    """
    instances = Instances(measurements, labels, "min_hessian_trace")
    d_out, d_in = instances.matrix_shape
    widths = all_widths(depth, width, d_out, d_in, "min_hessian_trace")
    if starts < 1:
        raise SolverError(f"min_hessian_trace: starts is {starts}; at least 1 descent must run")
    answers: list[list[Array]] = []
    parts: list[tuple[float, float, int]] = []
    traces: list[list[float]] = []
    with one_thread(), threadpoolctl.threadpool_limits(1, user_api="blas"):
        for index, (stack, flat) in enumerate(instances):
            if not bool(flat.any()):  # M = 0 interpolates, with a trace of 0
                answers.append([np.zeros((big, small)) for small, big in pairwise(widths)])
                parts.append((0.0, 0.0, 0))
                traces.append([0.0] * (1 if depth == 2 else starts))
                continue
            constraints = constraints_of(stack, flat, instances.name(index))
            if depth == 2:
                layers, part, ends = _solve_convex(constraints)
            else:
                layers, part, ends = _solve(constraints, depth, starts)
            answers.append(_padded(layers, widths))
            parts.append(part)
            traces.append(ends)
    stacked = []
    for j, (small, big) in enumerate(pairwise(widths)):
        layer = np.array([answer[j] for answer in answers], dtype=np.float64)
        stacked.append(torch.from_numpy(layer.reshape(*instances.batch, big, small)))
    plain = instances.certificate(parts)
    table = np.array(traces, dtype=np.float64).reshape(*instances.batch, -1 if traces else 0)
    certificate = FlatnessCertificate(plain.violation, plain.gap, plain.iterations, plain.tolerance, table)
    if return_certificate:
        return stacked, certificate
    warn_uncertified("min_hessian_trace", certificate)
    return stacked


def _solve_convex(constraints: Constraints) -> tuple[list[Array], tuple[float, float, int], list[float]]:
    """Depth 2 by Theorem 5: M minimises 4 || S_out^{1/2} M S_in^{1/2} ||_*, a nuclear norm in other coordinates.

    With N = S_out^{1/2} M S_in^{1/2} = U Lambda V^T the layers are W_2 = S_out^{-1/2} U Lambda^{1/2} and
    W_1 = Lambda^{1/2} V^T S_in^{-1/2}. Where S_out or S_in is singular no measurement sees the directions left out.
    """
    d_out, d_in = constraints.shape
    stack = constraints.all_rows.numpy().reshape(-1, d_out, d_in)
    moments = MomentTrace(stack, 2, evaluations=1)
    left, right = _inverse_root(moments.s_out), _inverse_root(moments.s_in)
    weighted, proof = min_nuclear_norm(left @ stack @ right, constraints.all_labels.numpy(), return_certificate=True)
    u, spectrum, v = np.linalg.svd(weighted.numpy(), full_matrices=False)
    root = np.sqrt(spectrum)
    layers = [root[:, None] * (v @ right), left @ (u * root)]
    violation = constraints.violation(torch.from_numpy(layers[1] @ layers[0]))
    part = (violation, float(proof.gap), int(proof.iterations))
    certified = max(violation, float(proof.gap)) <= TOLERANCE
    return layers, part, [4.0 * float(spectrum.sum()) if certified else np.nan]


def _inverse_root(symmetric: Array) -> Array:
    """The pseudo-inverse of the square root of a positive semidefinite matrix."""
    values, vectors = np.linalg.eigh(symmetric)
    kept = values > 1e-12 * values[-1]
    return np.asarray((vectors[:, kept] / np.sqrt(values[kept])) @ vectors[:, kept].T)


def _solve(
    constraints: Constraints, depth: int, starts: int
) -> tuple[list[Array], tuple[float, float, int], list[float]]:
    """Layers, (violation, stationarity, evaluations), and the trace at the end of each start, for one instance."""
    d_out, d_in = constraints.shape
    measurements = constraints.all_rows.numpy().reshape(-1, d_out, d_in)
    moments = MomentTrace(measurements, depth, evaluations=10**9)
    size = np.sqrt(np.trace(moments.s_out) / (d_out * d_in))  # root mean square entry of the measurements
    smallest = constraints.project(constraints.rows.new_zeros(d_out, d_in)).numpy()  # the min-Frobenius interpolator
    scale = float(np.linalg.norm(smallest))
    basis = np.eye(d_out * d_in) if constraints.determined else constraints.whitened[0].numpy()
    problem = ScaledProblem(
        depth,
        moments.s_out / size**2,
        moments.s_in / size**2,
        np.zeros((1, 1)) if moments.fourth is None else np.ascontiguousarray(moments.fourth / size**2),
        np.ascontiguousarray(basis),
        basis @ smallest.ravel() / scale,
    )
    matrices = _starting_matrices(problem, smallest / scale, starts)
    ends = [
        descend(problem, matrix, _AIM, firmness) for matrix, firmness in zip(matrices, cycle(_FIRMNESS), strict=False)
    ]
    best = min(ends, key=_rank_of)
    unit = size**2 * scale ** (2.0 - 2.0 / depth)
    layers = [scale ** (1.0 / depth) * layer for layer in best.layers]
    matrix = layers[0]
    for layer in layers[1:]:
        matrix = layer @ matrix
    violation = constraints.violation(torch.from_numpy(matrix))
    evaluations = sum(end.evaluations for end in ends)
    return (
        layers,
        (violation, best.stationarity, evaluations),
        [unit * end.trace if _certified(end) else np.nan for end in ends],
    )


def _certified(end: Descent) -> bool:
    return end.violation <= TOLERANCE and end.stationarity <= TOLERANCE


def _rank_of(end: Descent) -> tuple[bool, float]:
    """Certified descents first, the lowest trace before all; uncertified ones by how far they are from certified."""
    return (False, end.trace) if _certified(end) else (True, max(end.violation, end.stationarity))


def _starting_matrices(problem: ScaledProblem, smallest: Array, starts: int) -> list[Array]:
    """The interpolator of smallest Frobenius norm, then random interpolators about as far from it as it is from 0."""
    matrices = [smallest]
    for start in range(1, starts):
        noise = np.random.default_rng(start).standard_normal(smallest.size) / np.sqrt(smallest.size)
        free = noise - problem.basis.T @ (problem.basis @ noise)
        matrices.append(smallest + free.reshape(smallest.shape))
    return [_full_rank(matrix) for matrix in matrices]


def _full_rank(matrix: Array) -> Array:
    """The matrix with singular values of at least a thousandth of the largest: a start must not lack a direction."""
    left, spectrum, right = np.linalg.svd(matrix, full_matrices=False)
    return np.asarray((left * np.maximum(spectrum, 1e-3 * spectrum[0])) @ right)


def _padded(layers: list[Array], widths: Sequence[int]) -> list[Array]:
    """The layers in the upper left corners of zero matrices with the widths asked for."""
    padded = []
    for layer, small, big in zip(layers, widths[:-1], widths[1:], strict=True):
        wide = np.zeros((big, small))
        wide[: layer.shape[0], : layer.shape[1]] = layer
        padded.append(wide)
    return padded
