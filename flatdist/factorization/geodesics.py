"""F(M) by Newton's iteration along geodesics of positive definite matrices.

In the notation of :mod:`flatdist.factorization.regularizer`, for M of rank r and layers of rank r: W_L ... W_{j+1} =
F G_j with F the column space of M and G_j an invertible r x r frame, so that X_j = F G_j G_j^T F^T moves along
F G_j exp(t S_j) G_j^T F^T. The trace is convex there, and its only stationary point is the minimum.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from flatdist.errors import SolverError
from flatdist.types import Array

RANK = 1e-10  # singular values below this part of the largest count as zero
_NEWTON = 300
_STATIONARY = 1e-11  # gradient along geodesics relative to the trace
_FLAT = 1e-7  # curvature along geodesics relative to the trace, below which the minimum is at infinity
_VANISHED = 1e-12  # part of the starting trace below which the infimum is 0


def minimise_along_geodesics(matrix: Array, stack: Array, depth: int) -> tuple[float, list[Array] | None]:
    """The least trace of L layers at M (d_out, d_in), not zero, and the layers; None if it is only approached."""
    problem = _Geodesics(matrix, stack, depth)
    value, frames = _minimised(problem)
    return value, None if frames is None else problem.layers(frames)


def stationary_frame(matrix: Array, stack: Array) -> Array:
    """The X, (r, r) in the column space of M and of trace r, that minimises (1/n) sum_i tr(A_i (M^T X^+ M) A_i^T X).

    This is a middle term of the trace with X_{j-1} = X_j = X, where all but a few layers of an infinitely deep
    minimiser are.
    """
    _, frames = _minimised(_Middle(matrix, stack, 2))
    if frames is None:
        raise SolverError("the least trace of a middle layer is not attained at this matrix; give more measurements")
    x = frames[0] @ frames[0].T
    return np.asarray(x * (len(x) / np.trace(x)))


def _minimised(problem: _Geodesics) -> tuple[float, list[Array] | None]:
    """The infimum by a damped Newton iteration, and the frames that attain it."""
    frames = problem.start()
    first = value = problem.value(frames)
    attained = False
    for _ in range(_NEWTON):
        gradient, hessian = problem.expand(frames)
        curvature = np.linalg.eigvalsh(hessian)
        if np.linalg.norm(gradient) <= _STATIONARY * value:
            attained = bool(curvature[0] > _FLAT * value)
            break
        if value <= _VANISHED * first:
            value = 0.0
            break
        damped = hessian + 1e-12 * curvature[-1] * np.eye(len(hessian))
        step = np.linalg.solve(damped, -gradient)
        step *= min(1.0, 3.0 / max(float(np.abs(step).max()), 1e-300))
        moved, length = problem.move(frames, step), 1.0
        lower = problem.value(moved)
        while not lower <= value + 1e-4 * length * float(gradient @ step) and length > 1e-6:
            length *= 0.5
            moved = problem.move(frames, length * step)
            lower = problem.value(moved)
        if not lower < value:  # rounding error is all that is left
            attained = bool(curvature[0] > _FLAT * value and np.linalg.norm(gradient) <= 1e-6 * value)
            break
        frames, value = moved, lower
    return value, frames if attained else None


class _Geodesics:
    """The trace as a function of frames G_1 ... G_{L-1}, and its expansion along G_j exp(S_j / 2)."""

    def __init__(self, matrix: Array, stack: Array, depth: int) -> None:
        self.depth = depth
        self.u, spectrum, self.vh = thin_svd(matrix)
        self.core = np.diag(spectrum)  # M = u core vh
        self.rank = len(spectrum)
        n = len(stack)
        tall, wide = self.u.T @ stack, stack @ self.vh.T
        self.s_out = np.tensordot(tall, tall, ((0, 2), (0, 2))) / n  # (r, r), all of the input space
        self.s_in = np.tensordot(wide, wide, ((0, 1), (0, 1))) / n
        inner = (tall @ self.vh.T).reshape(n, -1)
        self.gram = inner.T @ inner / n  # (r r, r r)
        a, b = np.triu_indices(self.rank)
        self.basis = np.zeros((len(a), self.rank, self.rank))  # of orthonormal symmetric matrices
        for first, second in ((a, b), (b, a)):
            self.basis[range(len(a)), first, second] = np.where(a == b, 1.0, np.sqrt(0.5))

    def start(self) -> list[Array]:
        """The frames of Lemma 4's minimiser: W_L ... W_{j+1} = u G_j."""
        root = np.sqrt(np.diag(self.core))
        middle = (root @ root / self.rank) ** (1.0 / self.depth)
        last = middle ** (-(self.depth - 2) / 2.0) * np.diag(root)
        return [last * middle ** (self.depth - 2 - j) for j in range(self.depth - 1)]

    def blocks(self, frames: list[Array]) -> list[Array]:
        """(1/n) sum_i B_i (x) B_i for B_i = G_j^T A_i M^T G_{j-1}^{-T}, as K[a, b, c, e] = mean B[a, b] B[c, e]."""
        blocks, shape = [], (self.rank,) * 4
        for before, left in pairwise(frames):
            right = np.linalg.solve(before, self.core).T  # (r, r): core^T G_{j-1}^{-T}
            block = self.gram
            for _ in range(2):  # the last pair of indices, then the first
                block = (left.T @ block.reshape(-1, self.rank, self.rank) @ right).reshape(self.gram.shape).T
            blocks.append(block.reshape(shape))
        return blocks

    def ends(self, frames: list[Array]) -> tuple[Array, Array]:
        """The first and the last term's matrices: G_1^T S_out G_1 and (G_{L-1}^{-1} core) S_in (...)^T."""
        into = np.linalg.solve(frames[-1], self.core)
        return frames[0].T @ self.s_out @ frames[0], into @ self.s_in @ into.T

    def value(self, frames: list[Array]) -> float:
        """The trace, 2 sum of the terms; infinite where a frame has become singular."""
        try:
            first, last = self.ends(frames)
            total = np.trace(first) + np.trace(last)
            total += sum(np.einsum("abab->", block) for block in self.blocks(frames))
        except np.linalg.LinAlgError:
            return float(np.inf)
        return 2.0 * float(total) if np.isfinite(total) else float(np.inf)

    def expand(self, frames: list[Array]) -> tuple[Array, Array]:
        """Gradient and Hessian of the trace in S_1 ... S_{L-1}, coordinates of the orthonormal symmetric basis.

        A term (1/n) sum tr(B exp(-S') B^T exp(S)) is to second order tr + <C, S> - <C', S'> + <C, S^2>/2 + <C', S'^2>/2
        - (1/n) sum tr(B S' B^T S), with C = mean B B^T and C' = mean B^T B.
        """
        count, size = self.depth - 1, len(self.basis)
        first, last = self.ends(frames)
        slopes, weights = np.zeros((2, count, *first.shape))
        slopes[0] += first
        weights[0] += first
        slopes[-1] -= last
        weights[-1] += last
        hessian = np.zeros((count, size, count, size))
        for j, block in enumerate(self.blocks(frames)):  # couples S_j (as S') and S_{j+1} (as S)
            outer, inner = np.einsum("abcb->ac", block), np.einsum("abae->be", block)
            slopes[j + 1] += outer
            weights[j + 1] += outer
            slopes[j] -= inner
            weights[j] += inner
            cross = -np.einsum("abce,pac,qbe->pq", block, self.basis, self.basis, optimize=True)
            hessian[j + 1, :, j, :] += cross
            hessian[j, :, j + 1, :] += cross.T
        for j, weight in enumerate(weights):
            turned = self.basis @ weight  # (size, r, r)
            half = turned.reshape(size, -1) @ self.basis.reshape(size, -1).T
            hessian[j, :, j, :] += 0.5 * (half + half.T)
        gradient = np.concatenate([np.einsum("pab,ab->p", self.basis, slope) for slope in slopes])
        return 2.0 * gradient, 2.0 * hessian.reshape(count * size, count * size)

    def move(self, frames: list[Array], step: Array) -> list[Array]:
        """G_j exp(S_j / 2) for each frame."""
        moved = []
        for frame, part in zip(frames, step.reshape(self.depth - 1, -1), strict=True):
            values, vectors = np.linalg.eigh(np.einsum("p,pab->ab", part, self.basis))
            moved.append(frame @ (vectors * np.exp(0.5 * values)) @ vectors.T)
        return moved

    def layers(self, frames: list[Array]) -> list[Array]:
        """W_L = u G_{L-1}, W_j = G_j^{-1} G_{j-1}, W_1 = G_1^{-1} core vh."""
        layers = [np.linalg.solve(frames[0], self.core @ self.vh)]
        layers += [np.linalg.solve(after, before) for before, after in pairwise(frames)]
        return [*layers, self.u @ frames[-1]]


class _Middle(_Geodesics):
    """One middle term between equal neighbours, as a function of the one frame; its scale, which is free, is held."""

    def value(self, frames: list[Array]) -> float:
        try:
            return 2.0 * float(np.einsum("abab->", self.blocks(frames * 2)[0]))
        except np.linalg.LinAlgError:
            return float(np.inf)

    def expand(self, frames: list[Array]) -> tuple[Array, Array]:
        block = self.blocks(frames * 2)[0]
        outer, inner = np.einsum("abcb->ac", block), np.einsum("abae->be", block)
        cross = np.einsum("abce,pac,qbe->pq", block, self.basis, self.basis, optimize=True)
        scale, flat = np.einsum("paa->p", self.basis), self.basis.reshape(len(self.basis), -1)
        half = (self.basis @ (outer + inner)).reshape(flat.shape) @ flat.T
        hessian = 0.5 * (half + half.T) - cross - cross.T + np.trace(outer) * np.outer(scale, scale)
        return 2.0 * np.einsum("pab,ab->p", self.basis, outer - inner), 2.0 * hessian


def thin_svd(matrix: Array) -> tuple[Array, Array, Array]:
    """The singular value decomposition cut to the numerical rank."""
    u, spectrum, vh = np.linalg.svd(matrix, full_matrices=False)
    rank = int(np.sum(spectrum > RANK * spectrum[0]))
    return u[:, :rank], spectrum[:rank], vh[:rank]
