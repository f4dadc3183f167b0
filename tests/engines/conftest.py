import numpy as np
import pytest

from flatdist.cells.problems import sample_arrays, sample_stored
from flatdist.engines.base import TrainingTask
from flatdist.factorization.products import initial_layers
from flatdist.sensing.draws import stream_key
from flatdist.sensing.draws.stream import BATCH, LABEL_NOISE
from flatdist.sensing.ensembles import ENSEMBLES


@pytest.fixture
def make_task():
    """A function from a cell, replicates and step options to the task that engines are given."""

    def make(cell, replicates, *, batch_size=7, label_noise=True, sam_radius=None, storage=None, threads=1):
        sample = sample_stored if ENSEMBLES[cell.ensemble].storage.structured else sample_arrays
        problems = [sample(cell, r, storage or cell.dtype) for r in replicates]

        def keys(purpose):
            return np.array([stream_key(cell.training_stream(), r, purpose) for r in replicates], dtype=np.uint32)

        return TrainingTask(
            widths=cell.widths,
            measurements=[p.measurements for p in problems],
            labels=[p.labels.astype(cell.dtype) for p in problems],
            layers=[[w.astype(cell.dtype) for w in initial_layers(cell, r)] for r in replicates],
            batch_keys=keys(BATCH),
            noise_keys=keys(LABEL_NOISE),
            batch_size=batch_size,
            label_noise=label_noise,
            sam_radius=sam_radius,
            dtype=cell.dtype,
            threads=threads,
        )

    return make
