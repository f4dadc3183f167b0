"""Multipliers that prove a low-rank interpolator optimal, by projections.

M = U S V^T has minimal nuclear norm if and only if some y has P_T A^*(y) = U V^T and spectral norm of A^*(y) at most 1,
T the tangent space at M (Recht, Fazel, Parrilo 2010). The y of least ||A^*(y)||_F that meets the first condition often
meets the second (Candes, Recht 2013); where it does not, projections onto the spectral ball and back repair it. They
are extrapolated, so they end after a few steps wherever the two sets meet in more than a boundary point.
"""

from __future__ import annotations

import torch

from flatdist.solvers.constraints import Constraints
from flatdist.solvers.low_rank import LowRank

_PROJECTIONS = 12
_RADIUS = 0.95  # of the ball that is projected onto: well inside 1, for a finite end
_STRETCH = 50.0  # largest extrapolation


def certify(constraints: Constraints, point: LowRank, multipliers: torch.Tensor | None = None) -> torch.Tensor | None:
    """Multipliers with P_T A^*(y) = U V^T and, if the projections get there, spectral norm of A^*(y) at most 1.

    Args:
        constraints: n >= dim T of them.
        point: an interpolator.
        multipliers: (n,), where to begin; 0 by default.

    Returns:
        (n,), or None where the measurements do not separate T.
    """
    restricted = point.constraint_matrix(constraints.stack)  # (n, dim T)
    weighted = constraints.solve_gram(restricted)  # (n, dim T)
    factor, failed = torch.linalg.cholesky_ex(restricted.T @ weighted)
    if int(failed):
        return None

    def corrected(start: torch.Tensor, aim: torch.Tensor) -> torch.Tensor:
        """The nearest y, in ||A^*(y)||_F, whose A^*(y) has these coordinates in T."""
        return start + weighted @ torch.cholesky_solve((aim - restricted.T @ start)[:, None], factor)[:, 0]

    aligned = torch.zeros(restricted.shape[1], dtype=restricted.dtype, device=restricted.device)
    aligned[: point.right.numel()] = point.right.T.reshape(-1)  # U V^T in the basis of T
    found = corrected(torch.zeros_like(constraints.labels) if multipliers is None else multipliers, aligned)
    for _ in range(_PROJECTIONS):
        slope = constraints.adjoint(found)
        outside = point.left_complement.T @ slope @ point.right_complement
        left, spectrum, right = torch.linalg.svd(outside, full_matrices=False)
        if not len(spectrum) or float(spectrum[0]) <= 1:
            break
        cut = (left * (spectrum.clamp(max=_RADIUS) - spectrum)) @ right
        inwards = point.left_complement @ cut @ point.right_complement.T
        step = constraints.solve_gram(constraints.rows @ inwards.reshape(-1))
        step = corrected(step, torch.zeros_like(aligned))
        reached = float(torch.linalg.vector_norm(constraints.adjoint(step)))
        stretch = (float(torch.linalg.vector_norm(cut)) / reached) ** 2 if reached else 0.0
        found = found + min(stretch, _STRETCH) * step
    return corrected(found, aligned)  # once more, against the rounding of the steps
