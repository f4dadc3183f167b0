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
import torch

from flatdist.errors import SolverError
from flatdist.types import Array

_ITERATIONS = 500
_SETTLED = 1e-12  # relative change of the quadratic form at which an alternation has ended


@dataclass(frozen=True)
class IsometryBounds:
    """Lower and upper bounds of delta_r.

    Attributes:
        rank: r.
        lower: the largest deviation found, reached at ``witness``.
        upper: the largest deviation over all matrices, of any rank.
        witness: (d_out, d_in), rank <= r, Frobenius norm 1.
    """

    rank: int
    lower: float
    upper: float
    witness: torch.Tensor


def isometry_bounds(
    measurements: torch.Tensor | Array, rank: int, starts: int = 16, generator: np.random.Generator | None = None
) -> IsometryBounds:
    """Bounds of the restricted isometry constant delta_r from both sides (Definition 3).

    With X = U C and U fixed with orthonormal columns, the deviation is a quadratic form of C whose extreme eigenvectors
    are the best C; the next half step fixes the row space of C instead. Every half step raises the deviation.

    Args:
        measurements: (n, d_out, d_in).
        rank: r, from 1 to min(d_out, d_in).
        starts: random starts for each of the largest and the smallest value, in addition to the best rank-r parts of
            the Gram matrix's extreme eigenvectors.
        generator: for the random starts; by default a fixed one.

    Raises:
        SolverError: the measurements have the wrong shape, or the rank is impossible.
    """
    stack = torch.as_tensor(measurements).to(torch.float64).numpy()
    if stack.ndim != 3 or 0 in stack.shape:
        raise SolverError(
            f"isometry_bounds: measurements of shape {stack.shape}; give (n, d_out, d_in), none of them 0"
        )
    n, d_out, d_in = stack.shape
    if not 1 <= rank <= min(d_out, d_in):
        raise SolverError(
            f"isometry_bounds: rank is {rank}; matrices of shape ({d_out}, {d_in}) have rank 1 to {min(d_out, d_in)}"
        )
    generator = np.random.default_rng(0) if generator is None else generator
    flat = stack.reshape(n, -1)
    values, vectors = np.linalg.eigh(flat.T @ flat / n)
    # Rows of this root measure as much as all n measurements do, and there are at most d_out d_in of them.
    root = (np.sqrt(np.maximum(values, 0.0)) * vectors).T.reshape(-1, d_out, d_in)
    root = root[values > 1e-14 * values[-1]]
    best, witness = -1.0, np.zeros((d_out, d_in))
    for largest, guide in ((True, vectors[:, -1]), (False, vectors[:, 0])):
        guess = np.linalg.svd(guide.reshape(d_out, d_in))[0][:, :rank]
        frames = [guess] + [np.linalg.qr(generator.standard_normal((d_out, rank)))[0] for _ in range(starts)]
        for frame in frames:
            form, matrix = _alternate(root, frame, largest)
            if abs(form - 1.0) > best:
                best, witness = abs(form - 1.0), matrix
    upper = max(abs(float(values[-1]) - 1.0), abs(1.0 - float(values[0])))
    return IsometryBounds(rank, float(best), upper, torch.from_numpy(witness))


def _alternate(root: Array, frame: Array, largest: bool) -> tuple[float, Array]:
    """The quadratic form (1/n) sum <A_i, X>^2 and X at the end of an alternation from one column space."""
    form = np.nan
    matrix = np.zeros(root.shape[1:])
    for step in range(_ITERATIONS):
        turned = root if step % 2 == 0 else root.transpose(0, 2, 1)
        shape = (frame.shape[1], turned.shape[2])
        seen = (frame.T @ turned).reshape(len(turned), -1)  # (measurements, rank * d)
        values, vectors = np.linalg.eigh(seen.T @ seen)
        pick = -1 if largest else 0
        factor = vectors[:, pick].reshape(shape)
        matrix = frame @ factor if step % 2 == 0 else (frame @ factor).T
        settled = abs(values[pick] - form) <= _SETTLED * values[-1]
        form = float(values[pick])
        if settled:
            break
        frame = np.linalg.qr(factor.T)[0]
    return form, matrix
