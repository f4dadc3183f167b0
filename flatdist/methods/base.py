"""What every method declares about itself: its name, its numerics version, and the fields that change its results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ARCHITECTURE_FIELDS = ("depth", "width")
TRAINING_FIELDS = (*ARCHITECTURE_FIELDS, "init_scale", "learning_rate", "steps", "evaluations", "dtype")


@dataclass(frozen=True)
class Method:
    """A method's declaration; plain data, so that identity and planning load no numerics.

    Attributes:
        name: the value of a cell's ``method``.
        numerics_version: raised when the numbers that the method produces change; part of every cell's identity.
        fields: cell fields beyond the problem's that change the method's results.
        summary: one line for documentation and figures.
        label: how figures name it.
    """

    name: str
    numerics_version: int
    fields: tuple[str, ...]
    summary: str
    label: str


@dataclass(frozen=True)
class GradientMethod(Method):
    """A method that trains the layers step by step, on any engine.

    Attributes:
        batch: what one step sees: ``drawn`` (``batch_size`` indices with replacement, or every index once where the
            cell says ``full``), ``full`` (every index once) or ``one`` (a single drawn index).
        label_noise: fresh noise is added to the labels at every step.
        sharpness_aware: the gradient is taken ``sam_radius`` further along the normalised gradient.
    """

    batch: Literal["drawn", "full", "one"] = "drawn"
    label_noise: bool = False
    sharpness_aware: bool = False


@dataclass(frozen=True)
class StudyMethod(Method):
    """A method that examines a problem, its ground truth included, instead of estimating the ground truth.

    Attributes:
        study: ``module:function``, imported when first run; it takes the cell, the replicate's number and its problem,
            and returns the measured columns of the ``trials`` row and the history's rows.
    """

    study: str = ""


@dataclass(frozen=True)
class SolverMethod(Method):
    """A method that computes its answer and a certificate of it.

    Attributes:
        solver: ``module:function``, imported when first run.
        has_layers: the answer is a list of layers rather than a matrix.
        default_tolerance: relative error below which an analysis calls a replicate a success.
    """

    solver: str = ""
    has_layers: bool = False
