"""Minimum-Frobenius-norm interpolation, the answer of ordinary least squares (Theorem 4's subject)."""

from flatdist.methods.base import SolverMethod

METHOD = SolverMethod(
    name="min_frobenius_norm",
    numerics_version=1,
    fields=(),
    summary="the interpolator of smallest Frobenius norm (closed form)",
    label="min Frobenius norm",
    solver="flatdist.solvers.min_frobenius_norm:min_frobenius_norm",
)
