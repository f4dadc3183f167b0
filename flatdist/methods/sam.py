"""1-SAM: sharpness-aware minimisation with a batch of one (Foret et al. 2021; Wen, Ma, Li 2023).

W <- W - eta * grad L_i(W + rho * grad L_i(W) / ||grad L_i(W)||),   i drawn afresh at every step
"""

from flatdist.methods.base import TRAINING_FIELDS, GradientMethod

METHOD = GradientMethod(
    name="sam",
    numerics_version=1,
    fields=(*TRAINING_FIELDS, "sam_radius"),
    summary="sharpness-aware minimisation, batch of one, perturbation along the normalised gradient",
    label="1-SAM",
    batch="one",
    sharpness_aware=True,
)
