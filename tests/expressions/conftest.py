"""A sweep of many kinds of cells, and a store that holds made-up rows of all of them."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from flatdist.cells.cell import Cell
from flatdist.store import Store
from flatdist.sweeps import Sweep, load_sweep, reading

TEXT = """
name: doors
replicates: 1
fixed: {d_out: 12, d_in: 10, steps: 100}
blocks:
  - fixed: {rank: 2, n: 55}
    axes: {init_scale: ["1/3", 0.1, 0.5], anneal_fraction: [0.3, "2/3"]}
  - fixed: {rank: 2, n: 55, schedule: constant}
  - fixed: {method: label_noise_sgd}
    axes: {rank: [1, 2], n: [20, "1.1*dof", 41, "2*dof", entries]}
  - fixed: {method: label_noise_sgd, rank: 1, nested: true}
    axes: {n: [9, 20, 41]}
  - fixed: {rank: 2, n: 50, method: minibatch_sgd}
    axes: {learning_rate: {logspace: [1e-3, 0.1, 5]}, batch_size: [1, 50, full, 1, 50]}
    zip: [[learning_rate, batch_size]]
  - fixed: {rank: 1, n: 30, method: sam, learning_rate: auto, batch_size: full}
    axes: {width: [16, [16, 24], [24, 24], 10, [12, 10]], sam_radius: [0.05, "1/7", 0.05, "1/7", 0.05]}
    zip: [[width, sam_radius]]
  - fixed: {rank: 3, n: "dof"}
    axes:
      method: [min_nuclear_norm, min_frobenius_norm, gradient_descent]
      ensemble: [gaussian, rademacher]
      depth: [2, 3]
  - fixed: {d_out: 10, rank: 1, method: min_hessian_trace}
    axes: {n: [19, 38, 57], depth: [2, 4], observation_noise_std: [0, 0.1, "1/3"]}
    zip: [[n, observation_noise_std]]
"""


@dataclass(frozen=True)
class Filled:
    """The sweep, its file, and the folder of its results."""

    sweep: Sweep
    path: Path
    store: str

    def ids(self, cells: object = None) -> set[str]:
        """The identities of some cells, by default of all."""
        return {cell.cell_id for cell in (self.sweep.cells if cells is None else cells)}  # type: ignore[attr-defined]


def row(cell: Cell, replicate: int = 0) -> dict[str, object]:
    """A made-up row of trials, whose error follows from the cell."""
    error = 1e-4 * (1 + int(cell.cell_id[:4], 16) % 1000)
    return {
        **cell.row(),
        "cell_id": cell.cell_id,
        "configuration_id": cell.configuration_id,
        "replicate": replicate,
        "status": "converged" if error < 0.05 else "budget_exhausted",
        "relative_error": error,
        "train_loss": error**2,
        "population_loss": error,
        "numerics_version": cell.numerics["method"],
        "sampling_version": cell.numerics["sampling"],
        "flatdist_version": "0.2.0",
    }


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    folder = tmp_path_factory.mktemp("doors")
    path = folder / "doors.yaml"
    path.write_text(TEXT, encoding="utf-8")
    sweep = load_sweep(path)
    store = Store(folder / "results")
    history = [
        {
            "cell_id": cell.cell_id,
            "replicate": 0,
            "step": step,
            "learning_rate": 0.7,
            "label_noise_std": 0.3 * (step > 0),
        }
        for cell in sweep.cells
        for step in (0, 100)
    ]
    store.write([row(cell) for cell in sweep.cells], history)
    store.sweeps.save(sweep.name, sweep.source, [cell.cell_id for cell in sweep.cells], sweep.replicates)
    store.compact()
    with pytest.MonkeyPatch.context() as patch:  # the same YAML is read a thousand times, which would take longest
        patch.setattr(reading, "parse_tree", functools.cache(reading.parse_tree))
        yield Filled(sweep, path, str(folder / "results"))
