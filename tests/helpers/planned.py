"""A store that only plans ask, and rows for it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pandas as pd

from flatdist.cells.cell import Cell


class FakeStore:
    """What a plan asks of a store."""

    def __init__(
        self,
        done: dict[str, set[int]] | None = None,
        failed: dict[str, dict[int, int]] | None = None,
        rows: Iterable[dict[str, Any]] = (),
    ) -> None:
        self._done, self._failed, self._rows = done or {}, failed or {}, list(rows)

    def done(self, cell_ids: Collection[str] | None = None, *, thorough=False) -> dict[str, set[int]]:
        return {i: r for i, r in self._done.items() if cell_ids is None or i in cell_ids}

    def failed(self, cell_ids: Collection[str] | None = None) -> dict[str, dict[int, int]]:
        return {i: r for i, r in self._failed.items() if cell_ids is None or i in cell_ids}

    def trials(self, cell_ids: Any = None, where: Any = None, columns: Any = None) -> pd.DataFrame:
        return pd.DataFrame(self._rows, columns=columns).astype(object)


def row(cell: Cell, seconds: float, engine: str = "fused") -> dict[str, Any]:
    extra = {"steps_run": cell.steps, "status": "converged", "wall_seconds": seconds, "engine": engine, "device": "cpu"}
    return cell.row() | extra
