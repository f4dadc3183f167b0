"""How far measurements are from an isometry on matrices of low rank (Definition 3).

    delta_r = max over X of rank <= r, ||X||_F = 1, of | (1/n) sum_i <A_i, X>^2 - 1 |

The maximum is not convex. Alternating maximisation from many starts gives a matrix, and with it a LOWER bound: if an
inequality holds with this bound in place of delta_r it holds; if it fails it is unresolved. The extreme eigenvalues of
the Gram matrix bound the maximum over all X, and so delta_r from ABOVE; below n = d_out d_in that bound is at least 1.

Of the ensembles only those of independent entries are isometries on matrices of low rank at n of the order of
r (d_out + d_in). ``rank_one`` and ``entries`` are not, for reasons given with their declarations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flatdist.errors import SolverError
from flatdist.types import Array

_ITERATIONS = 500
_STARTS = 16  # at random
_SETTLED = 1e-12  # relative change of the quadratic form at which an alternation has ended


@dataclass(frozen=True)
class IsometryBounds:
    """Lower and upper bounds of delta_r."""

    rank: int  # r
    lower: float  # the largest deviation found, reached at ``witness``
    upper: float  # the largest deviation over all matrices, of any rank
    witness: Array  # (d_out, d_in), rank <= r, Frobenius norm 1


def isometry_bounds(measurements: Array, rank: int) -> IsometryBounds:
    """Bounds of the restricted isometry constant delta_r from both sides (Definition 3).

    With X = U C and U fixed with orthonormal columns, the deviation is a quadratic form of C whose extreme eigenvectors
    are the best C; the next half step fixes the row space of C instead. Every half step raises the deviation.

    From each of the largest and the smallest value it starts at the best rank-r part of the Gram matrix's extreme
    eigenvector, and at random.

    Args:
        measurements: (n, d_out, d_in).
        rank: r, from 1 to min(d_out, d_in).

    Raises:
        SolverError: the measurements have the wrong shape, or the rank is impossible.
    """
    stack = np.asarray(measurements, dtype=np.float64)
    if stack.ndim != 3 or 0 in stack.shape:
        raise SolverError(
            f"isometry_bounds: measurements of shape {stack.shape}; give (n, d_out, d_in), none of them 0"
        )
    n, d_out, d_in = stack.shape
    if not 1 <= rank <= min(d_out, d_in):
        raise SolverError(
            f"isometry_bounds: rank is {rank}; matrices of shape ({d_out}, {d_in}) have rank 1 to {min(d_out, d_in)}"
        )
    generator = np.random.default_rng(0)
    flat = stack.reshape(n, -1)
    values, vectors = np.linalg.eigh(flat.T @ flat / n)
    # Rows of this root measure as much as all n measurements do, and there are at most d_out d_in of them.
    root = (np.sqrt(np.maximum(values, 0.0)) * vectors).T.reshape(-1, d_out, d_in)
    root = root[values > 1e-14 * values[-1]]
    found = []
    for largest, guide in ((True, vectors[:, -1]), (False, vectors[:, 0])):
        guess = np.linalg.svd(guide.reshape(d_out, d_in))[0][:, :rank]
        frames = [guess] + [np.linalg.qr(generator.standard_normal((d_out, rank)))[0] for _ in range(_STARTS)]
        found.append(_alternate(root, np.stack(frames), -1 if largest else 0))
    forms, matrices = (np.concatenate(parts) for parts in zip(*found, strict=True))
    best = int(np.argmax(abs(forms - 1.0)))
    upper = max(abs(float(values[-1]) - 1.0), abs(1.0 - float(values[0])))
    return IsometryBounds(rank, float(abs(forms[best] - 1.0)), upper, matrices[best])


def _alternate(root: Array, frames: Array, pick: int) -> tuple[Array, Array]:
    """The quadratic forms (1/n) sum <A_i, X>^2, (starts,), and the X at the ends of alternations from several frames.

    ``root`` is (measurements, d_out, d_in); ``frames`` (starts, d_out, rank) have orthonormal columns; ``pick`` is -1
    to raise the form, 0 to lower it.
    """
    forms = np.full(len(frames), np.nan)
    matrices = np.zeros((len(frames), *root.shape[1:]))
    left = np.arange(len(frames))  # starts whose alternation has not ended
    for step in range(_ITERATIONS):
        turned = root if step % 2 == 0 else root.transpose(0, 2, 1)
        seen = frames.transpose(0, 2, 1)[:, None] @ turned
        seen = seen.reshape(len(left), len(turned), -1)  # (starts, measurements, rank * d)
        values, vectors = np.linalg.eigh(seen.transpose(0, 2, 1) @ seen)
        factors = vectors[:, :, pick].reshape(len(left), frames.shape[2], turned.shape[2])
        found = frames @ factors
        matrices[left] = found if step % 2 == 0 else found.transpose(0, 2, 1)
        moving = ~(abs(values[:, pick] - forms[left]) <= _SETTLED * values[:, -1])
        forms[left] = values[:, pick]
        left, factors = left[moving], factors[moving]
        if not len(left):
            break
        frames = np.linalg.qr(factors.transpose(0, 2, 1))[0]
    return forms, matrices
