"""What a gradient method's cell says of its steps: batches, label noise, pauses and storage."""

from __future__ import annotations

import numpy as np

from flatdist.cells.cell import Cell
from flatdist.factorization.evaluation import evaluation_steps
from flatdist.methods.base import GradientMethod
from flatdist.sensing.ensembles import ENSEMBLES
from flatdist.trials.learning_rate import estimate_steps
from flatdist.types import Array

SEGMENT_STEPS = 1000  # at most, between two pauses


def gradient_method(cell: Cell) -> GradientMethod:
    """The cell's method, which must be a gradient method."""
    method = cell.spec
    assert isinstance(method, GradientMethod), f"{cell.method} takes no gradient steps"
    return method


def batch_size(cell: Cell) -> int | None:
    """Indices drawn at each step; None where every index is used once."""
    batch = gradient_method(cell).batch
    return {"drawn": cell.batch_size, "full": None, "one": 1}[batch]


def drawn_per_step(cell: Cell) -> int:
    """Number of measurements behind one step's gradient."""
    batch = batch_size(cell)
    return cell.n if batch is None else batch


def noise_schedule(cell: Cell) -> Array:
    """Factors on the label noise at each step, (steps,) float64.

    With ``cosine_tail`` they fall from 1 to 0 as (1 + cos(pi x)) / 2 over the last ``anneal_fraction`` of the steps.
    """
    factors = np.ones(cell.steps)
    if cell.schedule == "cosine_tail":
        first = cell.steps - round(cell.anneal_fraction * cell.steps)
        position = (np.arange(first, cell.steps) + 1 - first) / max(1, cell.steps - first)
        factors[first:] = 0.5 * (1.0 + np.cos(np.pi * position))
    return factors


def segment_ends(cell: Cell) -> list[int]:
    """Steps at which training pauses; they depend on the cell alone."""
    ends = {*evaluation_steps(cell.steps, cell.evaluations).tolist(), *range(0, cell.steps, SEGMENT_STEPS)}
    if cell.learning_rate is None:
        ends.update(estimate_steps(cell.steps))
    return sorted(ends - {0})


def storage_dtype(cell: Cell, engine: str) -> str:
    """How an engine stores the measurements: the fused engine reads signs as int8, a quarter of float32's bytes."""
    return ENSEMBLES[cell.ensemble].storage.narrowest(cell.dtype) if engine == "fused" else cell.dtype
