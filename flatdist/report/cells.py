"""The table of cells: what varies, how many replicates are done and how they ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from flatdist.errors import FitError
from flatdist.figures.style import method_label
from flatdist.fits.grouping import as_value, null_name
from flatdist.report.material import Material, wanted_replicates
from flatdist.report.points import Point, points_of
from flatdist.report.section import Section
from flatdist.report.words import ABSENT, duration, number

MOST_ROWS = 5000
OUTCOMES: Mapping[str, str] = {
    "done": "done",
    "successes": "successes",
    "share": "success",
    "error": "median relative error",
    "diverged": "diverged",
    "exhausted": "not converged",
    "failed": "failed",
    "seconds": "time",
}
"""Columns of the table beside the fields that vary, and their heads."""


def build(material: Material) -> Section:
    """The section.

    Raises:
        FitError: the sweep has no cells.
    """
    if material.cells.empty:
        raise FitError("the sweep has no cells yet: a search asks for its first ones when it is run")
    fields = [name for name in material.varying if name != "method"]
    heads = [*(["method"] if "method" in material.varying else []), *fields]
    outcomes = _outcomes(material)
    point_of = {cell: point.index for point in _points(material) for cell in point.cells}
    failed = dict(material.failures.groupby("cell_id")["replicate"].nunique())
    rows = []
    for index, record in enumerate(material.cells.head(MOST_ROWS).to_dict("records")):
        cell = {str(name): value for name, value in record.items()}
        mine = outcomes.get(index, {})
        missing = len(wanted_replicates(material.sweep, cell["cell_id"])) - int(mine.get("done", 0))
        mine["failed"] = min(int(failed.get(cell["cell_id"], 0)), max(missing, 0))
        entries = [_field(name, cell) for name in heads] + [_entry(name, mine) for name in OUTCOMES]
        trouble = missing > 0 or mine.get("diverged", 0) > 0
        about = {"id": cell["cell_id"], "point": point_of.get(index), "method": cell["method"], "trouble": trouble}
        rows.append({**about, "entries": entries})
    content = {
        "heads": [*heads, *OUTCOMES.values()],
        "rows": rows,
        "methods": {name: method_label(name) for name in material.cells["method"].unique()},
        "command": f"flatdist export {material.request.sweep} --store {material.request.store} --csv",
    }
    left = len(material.cells) - len(rows)
    message = f"The first {MOST_ROWS:,} cells; {left:,} more are in the store." if left else ""
    return Section("cells", "Cells", content, message=message)


def _points(material: Material) -> list[Point]:
    return points_of(material) if len(material.judged) else []


def _outcomes(material: Material) -> dict[int, dict[str, float]]:
    """For each cell with trials, the columns of :data:`OUTCOMES` but the failed."""
    rows = material.cell_of_trials()
    found: dict[int, dict[str, float]] = {
        int(str(row)): {"done": len(group), "seconds": float(group["wall_seconds"].sum())}
        for row, group in material.trials.groupby(rows)
    }
    if material.judged.empty:
        return found
    for row, group in material.labelled.groupby(rows.loc[material.labelled.index]):
        finite = group.loc[~group["diverged"], "relative_error"]
        found[int(str(row))] |= {
            "successes": int(group["success"].sum()),
            "share": float(group["success"].mean()),
            "error": float(finite.median()) if len(finite) else float("nan"),
            "diverged": int(group["diverged"].sum()),
            "exhausted": int(group["unconverged"].sum()),
        }
    return found


def _field(name: str, cell: Mapping[str, Any]) -> dict[str, Any]:
    """One field of a cell: as text, and as what it is sorted by."""
    value = as_value(cell[name])
    if name == "method":
        return {"text": method_label(value), "sort": method_label(value)}
    if value is None:
        word = null_name(name, cell["method"])
        return {"text": word or ABSENT, "sort": word or ""}
    if isinstance(value, tuple):
        return {"text": " ".join(map(str, value)), "sort": " ".join(map(str, value))}
    if isinstance(value, (bool, str)) or not isinstance(value, (int, float)):
        return {"text": str(value), "sort": str(value)}
    return {"text": number(value, 6), "sort": float(value)}


def _entry(name: str, outcomes: Mapping[str, float]) -> dict[str, Any]:
    """One outcome of a cell: as text, and as what it is sorted by."""
    value = outcomes.get(name)
    if value is None or pd.isna(value):
        counts = name in ("done", "failed")
        return {"text": "0" if counts else ABSENT, "sort": 0 if counts else ""}
    if name == "seconds":
        return {"text": duration(value), "sort": round(value, 4)}
    if name == "share":
        return {"text": f"{100 * value:.0f} %", "sort": round(value, 4)}
    return {"text": number(value), "sort": float(f"{value:.6g}")}
