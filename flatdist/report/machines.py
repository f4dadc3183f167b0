"""What ran where: versions, revision, machine and time of every trial, equal ones counted."""

from __future__ import annotations

from typing import Any

from flatdist.errors import FitError
from flatdist.fits.grouping import group_rows
from flatdist.report.material import Material
from flatdist.report.section import Section
from flatdist.report.words import ABSENT, duration, moment

COLUMNS = (
    "flatdist_version", "git_sha", "git_dirty", "torch_version", "engine", "device", "host", "cpu_features",
)  # fmt: skip


def build(material: Material) -> Section:
    """The section.

    Raises:
        FitError: nothing has run.
    """
    trials = material.trials
    if trials.empty:
        raise FitError("nothing has run yet")
    rows = []
    for key, group in group_rows(trials, COLUMNS):
        cells: dict[str, Any] = {name: ABSENT if value is None else str(value) for name, value in key.items()}
        revision = cells.pop("git_sha")
        dirty = cells.pop("git_dirty") == "True"
        cells["revision"] = revision[:12] + (" with uncommitted changes" if dirty else "")
        cells["methods"] = ", ".join(sorted(set(group["method"])))
        cells["trials"] = f"{len(group):,}"
        cells["first"], cells["last"] = moment(group["finished_at"].min()), moment(group["finished_at"].max())
        cells["wall"] = duration(float(group["wall_seconds"].sum()))
        rows.append(cells)
    total = {
        "wall": duration(float(trials["wall_seconds"].sum())),
        "first": moment(trials["finished_at"].min()),
        "last": moment(trials["finished_at"].max()),
        "numerics": sorted(
            f"{method} {int(version)}"
            for method, version in trials[["method", "numerics_version"]].dropna().drop_duplicates().to_numpy()
        ),
    }
    dirty_rows = bool(trials["git_dirty"].fillna(False).astype(bool).any())
    message = (
        "Some results come from a checkout with uncommitted changes: its revision alone does not remake them."
        if dirty_rows
        else ""
    )
    return Section("machines", "What ran where", {"rows": rows, "total": total}, message=message)
