"""The limit of label-noise SGD at small learning rates: a flow on the zero-loss manifold (Li, Wang, Arora 2021).

    dW/dtau = -P_T grad tr Hess L(W),      tau = sum over steps of eta^2 s^2 / (2 B)

with P_T the projection onto the tangent space {V : d<A_i, M(W)>[V] = 0 for all i}. Time is the flow time that every
history records, so the comparison with a run has no free parameter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.integrate import RK45, solve_ivp

from flatdist.errors import SolverError
from flatdist.factorization.flatness import trace_gradient
from flatdist.factorization.products import end_to_end, prediction_jacobian
from flatdist.types import Array

_FLAT = 1e-13  # eigenvalues of J J^T below this part of the largest are rounding error
_ON_MANIFOLD = 1e-12  # residual of the labels, relative, that a step may leave
_ZERO_LOSS = 1e-6  # residual of the labels, relative, at which a descent ends
_STEPS = 100_000


@dataclass(frozen=True)
class FlowPath:
    """The flow at the requested times."""

    times: Array  # flow time, (k,)
    traces: Array  # tr Hess L, (k,)
    matrices: Array  # the end-to-end matrices, (k, d_out, d_in)
    layers: list[Array]  # at the last time
    residual: float  # largest relative residual of the labels along the way


def flow(
    layers: Sequence[Array], measurements: Array, labels: Array, times: Sequence[float] | Array, tolerance: float = 1e-7
) -> FlowPath:
    """Follow the flow of label-noise SGD from layers with zero loss.

    Args:
        layers: W_1 ... W_L, at zero loss up to a few Gauss-Newton steps, which are taken first.
        measurements: (n, d_out, d_in).
        labels: (n,).
        times: flow times at which to report, increasing, at least 0.
        tolerance: error allowed in each step, relative to the norm of the layers.

    Raises:
        SolverError: the times do not increase, the layers are not near zero loss, or the flow cannot be followed.
    """
    problem = _Manifold(layers, measurements, labels)
    report = np.asarray(times, dtype=np.float64)
    if report.ndim != 1 or not len(report) or report[0] < 0.0 or np.any(np.diff(report) < 0.0):
        raise SolverError("flow: times must be a list of flow times that starts at 0 or later and does not decrease")
    x = problem.retract(problem.start)
    step, now, worst = 1e-4 / max(problem.trace(x), 1e-300), 0.0, 0.0
    traces, matrices = [], []
    slope = problem.velocity(x)
    for time in report:
        for _ in range(_STEPS):
            if now >= time:
                break
            length = min(step, time - now)
            trial, error = _step(problem, x, slope, length)
            relative = error / (tolerance * float(np.linalg.norm(x)))
            if relative <= 1.0:
                x = problem.retract(trial)
                slope = problem.velocity(x)
                now = time if length == time - now else now + length
                worst = max(worst, problem.residual(x))
            grown = length * min(4.0, max(0.1, 0.9 * max(relative, 1e-10) ** -0.2))
            step = grown if length == step or relative > 1.0 else max(step, grown)
        else:
            raise SolverError(f"flow: stuck at flow time {now:g} of {time:g}; loosen the tolerance {tolerance:g}")
        traces.append(problem.trace(x))
        matrices.append(problem.matrix(x))
    return FlowPath(report, np.array(traces), np.array(matrices), problem.layers(x), worst)


def descend_to_zero_loss(layers: Sequence[Array], measurements: Array, labels: Array) -> list[Array]:
    """Where gradient flow on the training loss (2) reaches zero loss: SGD's first phase as the learning rate vanishes.

    That phase takes about 1/eta steps, a flow time of order eta, so in the limit the flow of label-noise SGD starts
    where this ends, at a relative residual of 1e-6 of the labels, which are not all zero.

    Raises:
        SolverError: the shapes do not fit, or the flow does not reach zero loss.
    """
    problem = _Manifold(layers, measurements, labels)

    def slope(_: float, x: Array) -> Array:
        return np.asarray(problem.jacobian(x).T @ problem.misfit(x) * (-2.0 / len(problem.labels)))

    def reached(_: float, x: Array) -> float:
        return problem.residual(x) - _ZERO_LOSS

    reached.terminal = True  # type: ignore[attr-defined]
    path = solve_ivp(slope, (0.0, 1e6), problem.start, events=reached, rtol=1e-7, atol=1e-9)
    x = path.y[:, -1]
    if path.status != 1:
        raise SolverError(
            f"descend_to_zero_loss: the relative residual is {problem.residual(x):.1e} after flow time {path.t[-1]:g}, "
            f"above {_ZERO_LOSS:g}: {path.message}. Start from other layers"
        )
    return problem.layers(x)


class _Manifold:
    """The zero-loss manifold of one problem, layers as one vector."""

    def __init__(self, layers: Sequence[Array], measurements: Array, labels: Array) -> None:
        start = [np.asarray(layer, dtype=np.float64) for layer in layers]
        self.measurements, self.labels = (np.asarray(part, dtype=np.float64) for part in (measurements, labels))
        self.shapes = [layer.shape for layer in start]
        if self.measurements.shape != (len(self.labels), self.shapes[-1][0], self.shapes[0][1]):
            raise SolverError(
                f"flow: layers of shapes {self.shapes}, measurements of shape {self.measurements.shape} and "
                f"{len(self.labels)} labels do not fit; give W_1 ... W_L, (n, d_out, d_in) and (n,)"
            )
        self.start = np.concatenate([layer.ravel() for layer in start])

    def layers(self, x: Array) -> list[Array]:
        ends = np.cumsum([rows * columns for rows, columns in self.shapes])[:-1]
        return [part.reshape(shape) for part, shape in zip(np.split(x, ends), self.shapes, strict=True)]

    def matrix(self, x: Array) -> Array:
        return end_to_end(self.layers(x))

    def trace(self, x: Array) -> float:
        return trace_gradient(self.layers(x), self.measurements)[0]

    def misfit(self, x: Array) -> Array:
        """<A_i, M> - b_i, (n,)."""
        return np.asarray(np.einsum("iab,ab->i", self.measurements, self.matrix(x)) - self.labels)

    def residual(self, x: Array) -> float:
        return float(np.linalg.norm(self.misfit(x)) / (np.linalg.norm(self.labels) or 1.0))

    def jacobian(self, x: Array) -> Array:
        return prediction_jacobian(self.layers(x), self.measurements)

    def velocity(self, x: Array) -> Array:
        """-P_T grad tr Hess L."""
        _, gradients = trace_gradient(self.layers(x), self.measurements)
        gradient = np.concatenate([part.ravel() for part in gradients])
        jacobian = self.jacobian(x)
        return np.asarray(jacobian.T @ _solve_gram(jacobian, jacobian @ gradient) - gradient)

    def retract(self, x: Array) -> Array:
        """Gauss-Newton steps of least norm back to zero loss."""
        for _ in range(30):
            misfit = self.misfit(x)
            if np.linalg.norm(misfit) <= _ON_MANIFOLD * np.linalg.norm(self.labels):
                return x
            jacobian = self.jacobian(x)
            x = x - jacobian.T @ _solve_gram(jacobian, misfit)
        raise SolverError(
            f"flow: Gauss-Newton ended at a relative residual of {self.residual(x):.1e}, not at zero loss; start from "
            "layers that interpolate the labels"
        )


def _solve_gram(jacobian: Array, values: Array) -> Array:
    """(J J^T)^+ v: layers that have lost rank make rows of J dependent."""
    spectrum, vectors = np.linalg.eigh(jacobian @ jacobian.T)
    kept = spectrum > _FLAT * spectrum[-1]
    return np.asarray(vectors[:, kept] @ ((vectors[:, kept].T @ values) / spectrum[kept]))


def _step(problem: _Manifold, x: Array, slope: Array, length: float) -> tuple[Array, float]:
    """Dormand and Prince's fifth-order step and, from the same slopes, the error of a fourth-order one."""
    slopes, trial = [slope], x
    for stage in (*(RK45.A[count, :count] for count in range(1, 6)), RK45.B):
        trial = x + length * sum(weight * part for weight, part in zip(stage, slopes, strict=True))
        slopes.append(problem.velocity(trial))
    error = length * sum(weight * part for weight, part in zip(RK45.E, slopes, strict=True))
    return trial, float(np.linalg.norm(error))
