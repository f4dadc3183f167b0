"""Minimum-nuclear-norm interpolation: min ||M||_* subject to <A_i, M> = b_i (Recht, Fazel, Parrilo 2010)."""

from flatdist.methods.base import SolverMethod

METHOD = SolverMethod(
    name="min_nuclear_norm",
    numerics_version=1,
    fields=(),
    summary="the interpolator of smallest nuclear norm (convex)",
    label="min nuclear norm",
    solver="flatdist.solvers.min_nuclear_norm:min_nuclear_norm",
    iterations=400,
)
