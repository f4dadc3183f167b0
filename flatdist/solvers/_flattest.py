"""One start of the flattest interpolator: augmented Lagrangian, then a stabilised Newton iteration at the rank found.

The augmented Lagrangian is smooth in the layers and finds the minimum and its rank r. Its last digits come slowly,
because the constraints lose rank together with the layers: at a solution of rank r the Jacobian has rank
r (d_out + d_in - r) at most, often below n, so multipliers are not unique. The second phase therefore works on layers
of hidden width r and solves

    [ Hessian   J^T      ] [ dW      ]     [ grad Lagrangian ]
    [ J        -sigma I  ] [ dlambda ]  = -[ c               ],      sigma = the residual itself,

which converges fast without unique multipliers (stabilised sequential quadratic programming, Wright 1998).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from flatdist.solvers import _flatness_kernel as kernel
from flatdist.types import Array

_MEMORY = 20  # pairs that L-BFGS remembers
_INNER = 3000  # L-BFGS iterations for one set of multipliers
_OUTER = 60  # sets of multipliers
_POLISH_FROM, _POLISH_EVERY = 5, 4  # first attempt at the Newton phase, and how often again
_NEWTON = 25
_LARGEST_NEWTON = 5000  # unknowns beyond which a dense Newton step costs more than it saves


@dataclass(frozen=True)
class ScaledProblem:
    """A problem in units in which traces, layers and violations are of order one.

    Attributes:
        s_out, s_in, fourth: second and fourth moments of the measurements, mean squared entry 1.
        basis: orthonormal rows spanning the measurements, (m, d_out d_in).
        target: what the rows must measure, (m,).
    """

    depth: int
    s_out: Array
    s_in: Array
    fourth: Array
    basis: Array
    target: Array

    @property
    def width(self) -> int:
        """Hidden width that suffices."""
        return int(min(len(self.s_out), len(self.s_in)))

    def arguments(self, k: int) -> tuple[object, ...]:
        """What the compiled functions take after x."""
        return self.depth, k, self.s_out, self.s_in, self.fourth, self.basis, self.target


@dataclass(frozen=True)
class Descent:
    """Where one start ended.

    Attributes:
        layers: hidden widths all equal to k.
        trace: Lemma 2's sum, scaled.
        violation: ||c||, relative to ||target||.
        stationarity: ||grad f + J^T lambda|| / ||grad f||.
        evaluations: of the Lagrangian.
    """

    layers: list[Array]
    trace: float
    violation: float
    stationarity: float
    evaluations: int


@dataclass
class _State:
    """An iterate: layers as one vector, their hidden width, and multipliers."""

    x: Array
    k: int
    multipliers: Array
    trace: float = np.inf
    violation: Array = field(default_factory=lambda: np.full(1, np.inf))
    stationarity: float = np.inf


def descend(problem: ScaledProblem, start: Array, tolerance: float, firmness: float = 1.5) -> Descent:
    """Minimise the trace over interpolators from the balanced factorization of one matrix.

    Args:
        problem: the scaled problem.
        start: (d_out, d_in), any matrix of full rank; its balanced factorization is the start.
        tolerance: of the relative violation and stationarity.
    """
    k = problem.width
    arguments = problem.arguments(k)
    scale = 2.0 * problem.depth * (len(problem.s_out) * len(problem.s_in)) ** (1.0 / problem.depth)
    rho, largest_rho = firmness * scale, max(60.0, firmness) * scale
    floor = 0.1 * tolerance * scale
    state = _State(flatten(balanced_layers(start, problem.depth)), k, np.zeros_like(problem.target))
    best = state
    evaluations, previous, inner = 0, np.inf, scale / 30.0
    for outer in range(_OUTER):
        x, trace, violation, norm, count = kernel.minimise(
            state.x, *arguments, state.multipliers, rho, max(inner, floor), _INNER, _MEMORY
        )
        evaluations += count
        state = _State(x, k, state.multipliers + rho * violation, trace, violation)
        residual = float(np.linalg.norm(violation))
        polish = outer >= _POLISH_FROM and (outer - _POLISH_FROM) % _POLISH_EVERY == 0
        if polish:
            polished, count = _polish(problem, state, tolerance)
            evaluations += count
            if polished is not None:
                best = polished
                confirmed, count = _confirm(problem, polished, rho, tolerance)
                evaluations += count
                if confirmed is None:
                    break
                state = confirmed
        if norm <= 1.01 * max(inner, floor):
            if residual > 0.8 * previous:  # two minima take turns: only a firmer penalty makes one of them
                rho *= 3.0
            elif residual > 0.3 * previous:
                rho = max(rho, min(3.0 * rho, largest_rho))
        previous, inner = residual, min(inner, 1e-3 * rho * residual)
    else:
        best = _measured(problem, state)
    return Descent(
        unflatten(best.x, problem, best.k),
        best.trace,
        float(np.linalg.norm(best.violation) / np.linalg.norm(problem.target)),
        best.stationarity,
        evaluations,
    )


def _measured(problem: ScaledProblem, state: _State) -> _State:
    """The same iterate with its trace, violation and stationarity measured."""
    arguments = problem.arguments(state.k)
    slope, pull, violation = np.empty_like(state.x), np.empty_like(state.x), np.empty_like(problem.target)
    kernel.lagrangian(state.x, slope, violation, *arguments, np.zeros_like(problem.target), 0.0)
    trace, _ = kernel.lagrangian(state.x, pull, violation, *arguments, state.multipliers, 0.0)
    stationarity = float(np.linalg.norm(pull) / np.linalg.norm(slope))
    return _State(state.x, state.k, state.multipliers, trace, violation, stationarity)


def _polish(problem: ScaledProblem, state: _State, tolerance: float) -> tuple[_State | None, int]:
    """The Newton phase; None where it does not converge to a point beside the one given."""
    layers = unflatten(state.x, problem, state.k)
    matrix = _product(layers)
    spectrum = np.linalg.svd(matrix, compute_uv=False)
    rank = int(np.sum(spectrum > 1e-6 * spectrum[0]))
    reduced = _truncate(layers, rank)
    current = _State(flatten(reduced), rank, state.multipliers)
    if current.x.size + problem.target.size > _LARGEST_NEWTON:
        return None, 0
    evaluations, last = 0, np.inf
    size, m = current.x.size, problem.target.size
    for _ in range(_NEWTON):
        trace, gradient, violation, hessian, jacobian = kernel.derivatives(
            current.x, *problem.arguments(rank), current.multipliers
        )
        evaluations += 2 * size + 1
        pull = jacobian.T @ current.multipliers
        slope = float(np.linalg.norm(gradient - pull))
        stationarity = float(np.linalg.norm(gradient)) / slope
        residual = max(stationarity, float(np.linalg.norm(violation) / np.linalg.norm(problem.target)))
        if not np.isfinite(residual) or residual > 10.0 * last:
            return None, evaluations
        current.trace, current.violation, current.stationarity = trace, violation, stationarity
        if residual < 1e-3 * tolerance or (residual < 0.1 * tolerance and residual > 0.5 * last):
            break
        last = min(last, residual)
        bound = float(np.abs(np.diag(hessian)).max())
        system = np.zeros((size + m, size + m))
        system[:size, :size] = hessian
        # Turning the hidden bases changes nothing, so the Hessian is singular along those directions: any small
        # multiple of the identity fixes them, and the right-hand side has no part there.
        system[np.arange(size), np.arange(size)] += 1e-9 * bound + 1e-3 * bound * min(residual, 1e-2)
        system[:size, size:], system[size:, :size] = jacobian.T, jacobian
        system[np.arange(size, size + m), np.arange(size, size + m)] = -min(residual, 1e-2) / bound
        try:
            step = np.linalg.solve(system, -np.concatenate((gradient, violation)))
        except np.linalg.LinAlgError:
            return None, evaluations
        current = _State(current.x + step[:size], rank, current.multipliers + step[size:], trace, violation)
    else:
        return None, evaluations
    moved = np.linalg.norm(_product(unflatten(current.x, problem, rank)) - matrix)
    near = moved <= 0.1 * np.linalg.norm(matrix) and abs(current.trace - state.trace) <= 0.02 * state.trace
    return (current if near else None), evaluations


def _confirm(problem: ScaledProblem, polished: _State, rho: float, tolerance: float) -> tuple[_State | None, int]:
    """None where the augmented Lagrangian has a local minimum here, else the lower point that it leads to.

    A point of low rank is stationary whether or not a higher rank would lower the trace: only letting go shows it.
    """
    layers = unflatten(polished.x, problem, polished.k)
    generator = np.random.default_rng(0)
    width = problem.width
    shapes = [(width, layers[0].shape[1]), *[(width, width)] * (problem.depth - 2), (len(layers[-1]), width)]
    scale = np.linalg.norm(polished.x) / np.sqrt(polished.x.size)
    loosened = [1e-3 * scale * generator.standard_normal(shape) for shape in shapes]
    for wide, narrow in zip(loosened, layers, strict=True):
        wide[: narrow.shape[0], : narrow.shape[1]] += narrow
    for wide in loosened[1:-1]:
        idle = np.arange(polished.k, width)
        wide[idle, idle] += np.linalg.norm(layers[1], 2)  # lets a further direction through, as a used one would be
    x, trace, violation, _, count = kernel.minimise(
        flatten(loosened), *problem.arguments(width), polished.multipliers, rho, 1e-5 * polished.trace, _INNER, _MEMORY
    )
    phi = trace + polished.multipliers @ violation + 0.5 * rho * violation @ violation
    if phi >= polished.trace * (1.0 - max(1e-9, 10.0 * tolerance)):
        return None, count
    return _State(x, width, polished.multipliers + rho * violation, trace, violation), count


def _truncate(layers: list[Array], rank: int) -> list[Array]:
    """Layers of hidden width ``rank``, each hidden space cut to the leading directions that the input reaches."""
    right, cut, previous = layers[0], [], None
    for j, layer in enumerate(layers):
        entering = layer if previous is None else layer @ previous
        if j == len(layers) - 1:
            cut.append(entering)
            break
        right = layer if j == 0 else layer @ right
        frame = np.linalg.svd(right, full_matrices=False)[0][:, :rank]  # (k, rank)
        cut.append(frame.T @ entering)
        previous = frame
    return cut


def balanced_layers(matrix: Array, depth: int) -> list[Array]:
    """Lemma 4's minimiser at hidden width min(d_out, d_in): the factorization whose L terms of (10) are equal."""
    d_out, d_in = matrix.shape
    left, spectrum, right = np.linalg.svd(matrix, full_matrices=False)
    nuclear = spectrum.sum()
    # With outer layers a Lambda^{1/2} V^T and e U Lambda^{1/2} and L - 2 middle layers sqrt(x) I, the terms of (10) are
    # d_in e^2 x^{L-2} nuc, e^2 a^2 x^{L-3} nuc^2 (each middle layer) and d_out a^2 x^{L-2} nuc; e a x^{(L-2)/2} = 1.
    x = (nuclear / np.sqrt(d_out * d_in)) ** (2.0 / depth)
    e = (d_out / d_in) ** 0.25 * x ** (-(depth - 2) / 4.0)
    a = (d_in / d_out) ** 0.25 * x ** (-(depth - 2) / 4.0)
    root = np.sqrt(spectrum)
    return [a * root[:, None] * right, *[np.sqrt(x) * np.eye(len(root))] * (depth - 2), e * left * root]


def flatten(layers: list[Array]) -> Array:
    """Layers as one vector, W_1 first."""
    return np.concatenate([layer.ravel() for layer in layers])


def unflatten(x: Array, problem: ScaledProblem, k: int) -> list[Array]:
    """The layers in a vector, hidden widths k."""
    d_out, d_in = len(problem.s_out), len(problem.s_in)
    first, last = k * d_in, x.size - d_out * k
    middle = x[first:last].reshape(problem.depth - 2, k, k)
    return [x[:first].reshape(k, d_in), *middle, x[last:].reshape(d_out, k)]


def _product(layers: list[Array]) -> Array:
    product = layers[0]
    for layer in layers[1:]:
        product = layer @ product
    return product
