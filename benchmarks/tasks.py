"""Engine tasks made from cells, for benchmarks and tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from flatdist.cells.cell import Cell
from flatdist.cells.problems import sample_stored, storage_dtype
from flatdist.engines.base import TrainingTask
from flatdist.factorization.products import initial_layers
from flatdist.sensing.draws import stream_key
from flatdist.sensing.draws.stream import BATCH, LABEL_NOISE
from flatdist.sensing.measurements import Dense, as_measurements
from flatdist.types import Array


def task_of(cell: Cell, replicates: Sequence[int], device: str = "cpu", storage: str | None = None) -> TrainingTask:
    """The task of a cell's replicates, as training hands it to an engine.

    Args:
        cell: a cell of a gradient method.
        replicates: their numbers.
        device: where the engine runs.
        storage: type of the measurements, of :func:`~flatdist.cells.problems.storage_dtype`; None for the fused one's.
    """
    problems = [sample_stored(cell, r, storage or storage_dtype(cell, "fused")) for r in replicates]

    def keys(purpose: str) -> Array:
        return np.array([stream_key(cell.training_stream(), r, purpose) for r in replicates], dtype=np.uint32)

    method: Any = cell.spec
    return TrainingTask(
        widths=cell.widths,
        measurements=[a.array if isinstance(a, Dense) else a for a in (p.measurements for p in problems)],
        labels=[p.labels.astype(cell.dtype) for p in problems],
        layers=[[w.astype(cell.dtype) for w in initial_layers(cell, r)] for r in replicates],
        batch_keys=keys(BATCH),
        noise_keys=keys(LABEL_NOISE),
        batch_size=method.batch_size(cell),
        label_noise=method.label_noise,
        sam_radius=cell.sam_radius if method.sharpness_aware else None,
        dtype=cell.dtype,
        device=device,
    )


def join(tasks: Sequence[TrainingTask]) -> TrainingTask:
    """Tasks of one shape as one."""
    lists = {
        name: [one for task in tasks for one in getattr(task, name)] for name in ("measurements", "labels", "layers")
    }
    keys = {name: np.concatenate([getattr(task, name) for task in tasks]) for name in ("batch_keys", "noise_keys")}
    return dataclasses.replace(tasks[0], **lists, **keys)


def widened(task: TrainingTask) -> TrainingTask:
    """The same numbers in float64 on the CPU, for the reference."""
    return dataclasses.replace(
        task,
        device="cpu",
        dtype="float64",
        measurements=[np.asarray(as_measurements(a).dense(), np.float64) for a in task.measurements],
        labels=[b.astype(np.float64) for b in task.labels],
        layers=[[w.astype(np.float64) for w in layers] for layers in task.layers],
    )
