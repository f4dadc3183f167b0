"""Material for reports: sweeps with trials whose outcome is chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from flatdist.cells.cell import Cell
from flatdist.cells.columns import FAILURES, HISTORY
from flatdist.methods import METHODS
from flatdist.methods.base import GradientMethod
from flatdist.report.material import MEASURES, Material, Settings
from flatdist.store.schema import rows_to_frame
from flatdist.sweeps import parse_sweep

HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'> & \"quotes\" {{ 7 * 7 }}"
Outcome = Callable[[Cell, int], Mapping[str, Any] | None]


def recovers_from(n: int) -> Outcome:
    """Every replicate succeeds from n measurements on."""
    return lambda cell, replicate: {"relative_error": 1e-9 if cell.n >= n else 0.5}


def lost(cell: Cell, replicate: int) -> Mapping[str, Any]:
    """Every replicate diverges."""
    return {"status": "diverged", "relative_error": None, "steps_run": 7, "learning_rate_final": 5.0}


def make_material(
    text: str, outcome: Outcome | None = None, failures: list[Mapping[str, Any]] | None = None
) -> Material:
    """A sweep's material with chosen outcomes, recovery from 8 measurements by default; None leaves a replicate out."""
    sweep, outcome = parse_sweep(text), outcome or recovers_from(8)
    trials, history = [], []
    for cell in sweep.cells:
        for replicate in range(sweep.replicates):
            found = outcome(cell, replicate)
            if found is None:
                continue
            key = {"cell_id": cell.cell_id, "replicate": replicate}
            row = {
                **key, "configuration_id": cell.configuration_id, **cell.row(), "status": "converged",
                "nuclear_norm": 1.0, "nuclear_norm_truth": 1.0, "wall_seconds": 0.25, "engine": "fused", "host": "here",
                "git_sha": "0123456789abcdef", "git_dirty": False, "numerics_version": 1,
                "finished_at": pd.Timestamp("2026-01-02 03:04:05", tz="UTC"), **found,
            }  # fmt: skip
            trials.append(row)
            if isinstance(METHODS[cell.method], GradientMethod):
                values = dict.fromkeys(MEASURES, None if found.get("status") == "diverged" else 0.5)
                history += [{**key, "step": step, **values} for step in (0, 10, 100)]
    columns = ["cell_id", "replicate", "step", *MEASURES]
    names = [column.name for column in FAILURES]
    assert set(columns) <= {column.name for column in HISTORY}
    return Material(
        sweep,
        Settings(f"{sweep.name}.yaml", "results"),
        rows_to_frame("trials", trials),
        rows_to_frame("history", history)[columns],
        pd.DataFrame(failures or [], columns=names),
    )


def failure(cell: Cell, replicate: int, attempt: int = 1, message: str = "boom") -> dict[str, Any]:
    """One recorded failure."""
    return {
        "cell_id": cell.cell_id, "replicate": replicate, "attempt": attempt, "error_type": "RuntimeError",
        "message": message, "traceback": f"Traceback\n{message} <b>", "host": "here",
        "at": pd.Timestamp("2026-01-02 03:04:05", tz="UTC"),
    }  # fmt: skip
