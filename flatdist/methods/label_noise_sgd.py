"""Label-noise SGD: every step adds fresh Gaussian noise to the labels it draws (Section 1 of Gatmiry et al. 2023).

    W_j <- W_j - eta * grad_j (1/B) sum_{i in batch} (<A_i, M> - b_i + s xi_i)^2,   xi_i ~ N(0, 1)

Near zero loss this noise moves the layers along the interpolators towards smaller tr Hess L.
"""

from flatdist.methods.base import TRAINING_FIELDS, GradientMethod

METHOD = GradientMethod(
    name="label_noise_sgd",
    numerics_version=1,
    fields=(*TRAINING_FIELDS, "label_noise_std", "batch_size", "schedule", "anneal_fraction"),
    summary="mini-batch SGD with fresh Gaussian noise on the labels at every step",
    label="label-noise SGD",
    batch="drawn",
    label_noise=True,
)
