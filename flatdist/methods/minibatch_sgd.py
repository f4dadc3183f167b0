"""Mini-batch SGD: label-noise SGD without the noise; the baseline that shows what the noise does.

Schedules anneal only the label noise, so they do not matter here.
"""

from flatdist.methods.base import TRAINING_FIELDS, GradientMethod

METHOD = GradientMethod(
    name="minibatch_sgd",
    numerics_version=1,
    fields=(*TRAINING_FIELDS, "batch_size"),
    summary="mini-batch SGD without label noise",
    label="mini-batch SGD",
    batch="drawn",
)
