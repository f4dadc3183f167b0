"""Full-batch gradient descent: with a small init_scale, the classical implicit-regularisation baseline."""

from flatdist.methods.base import TRAINING_FIELDS, GradientMethod

METHOD = GradientMethod(
    name="gradient_descent",
    numerics_version=1,
    fields=TRAINING_FIELDS,
    summary="gradient descent on the full training loss",
    label="gradient descent",
    batch="full",
)
