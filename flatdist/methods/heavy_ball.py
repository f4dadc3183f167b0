"""Heavy-ball label-noise SGD: label-noise SGD with Polyak's momentum (Polyak 1964).

    v <- momentum v + g,   W <- W - eta v,   v = 0 at the start,   g the gradient of label-noise SGD

A constant gradient moves the weights by eta / (1 - momentum) a step, so ``auto`` takes (1 - momentum) times the step
size of label-noise SGD, which is stable in mean square wherever that is, and flow time counts eta / (1 - momentum).
"""

from flatdist.methods.base import TRAINING_FIELDS, GradientMethod, UpdateRule


def step(weight, gradient, state, learning_rate, constants):  # type: ignore[no-untyped-def]
    """One step of one entry."""
    (velocity,), (momentum,) = state, constants
    velocity = momentum * velocity + gradient
    return weight - learning_rate * velocity, (velocity,)


METHOD = GradientMethod(
    name="heavy_ball",
    numerics_version=1,
    fields=(*TRAINING_FIELDS, "label_noise_std", "batch_size", "schedule", "anneal_fraction", "momentum"),
    summary="label-noise SGD with momentum",
    label="heavy-ball label-noise SGD",
    label_noise=True,
    update=UpdateRule(
        step,
        state=("velocity",),
        constants=lambda cell: (cell.momentum,),
        gain=lambda cell: 1.0 / (1.0 - cell.momentum),
    ),
)
