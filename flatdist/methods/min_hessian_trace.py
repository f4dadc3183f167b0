"""The flattest interpolator itself: min tr Hess L(W) subject to L(W) = 0 (equation 3 of Gatmiry et al. 2023)."""

from flatdist.methods.base import ARCHITECTURE_FIELDS, SolverMethod

METHOD = SolverMethod(
    name="min_hessian_trace",
    numerics_version=2,
    fields=ARCHITECTURE_FIELDS,
    summary="the interpolator of smallest Hessian trace (Lemma 2's sum, minimised exactly)",
    label="flattest",
    solver="flatdist.solvers.min_hessian_trace:min_hessian_trace",
    has_layers=True,
    iterations=2000,
)
