import dataclasses

import pytest

from benchmarks.tasks import task_of


@pytest.fixture
def make_task():
    """A function from a cell, replicates and step options to the task that engines are given."""

    def make(cell, replicates, *, batch_size=7, label_noise=True, sam_radius=None, storage=None, **options):
        given = {"batch_size": batch_size, "label_noise": label_noise, "sam_radius": sam_radius, **options}
        return dataclasses.replace(task_of(cell, replicates, storage=storage or cell.dtype), **given)

    return make
