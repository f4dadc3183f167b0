"""Sharpness-aware minimisation with a batch of one, or of all (Foret et al. 2021; Wen, Ma, Li 2023).

W <- W - eta * grad L_B(W + rho * grad L_B(W) / ||grad L_B(W)||)

B is one measurement, drawn afresh at every step, or all of them with ``batch_size: full``. Near zero loss 1-SAM lowers
the trace of the Hessian, full-batch SAM its largest eigenvalue.
"""

from flatdist.methods.base import TRAINING_FIELDS, GradientMethod

METHOD = GradientMethod(
    name="sam",
    numerics_version=1,
    fields=(*TRAINING_FIELDS, "sam_radius"),
    summary="sharpness-aware minimisation, batch of one, or of all with batch_size: full",
    label="SAM",
    batch="one",
    sharpness_aware=True,
)
