"""The paper's statements that this sweep's trials bear on, each with its verdict."""

from __future__ import annotations

from typing import Any

from flatdist.errors import FitError
from flatdist.figures.origin import provenance
from flatdist.figures.style import save_figure
from flatdist.figures.theorem_checks.check import VERDICTS, Check
from flatdist.figures.theorems import run_checks
from flatdist.report.material import Material
from flatdist.report.pictures import inlined
from flatdist.report.section import Section


def build(material: Material) -> Section:
    """The section.

    Raises:
        FitError: no trial bears on any statement.
    """
    checks, missing = run_checks(material.trials)
    if not checks:
        raise FitError(
            "no trial of this sweep bears on a statement of the paper; the sweeps in sweeps/theorems measure them"
        )
    rows = [_row(material, check) for check in checks]
    counts = [{"verdict": verdict, "count": sum(row["verdict"] == verdict for row in rows)} for verdict in VERDICTS]
    content = {
        "rows": rows,
        "counts": counts,
        "verdicts": VERDICTS,
        "missing": [name.replace("_", " ") for name in missing],
    }
    return Section("verdicts", "Theorems", content, pictures=[path for row in rows for path in row.pop("paths")])


def _row(material: Material, check: Check) -> dict[str, Any]:
    request = material.request
    origin = provenance(
        request.title, material.trials, {"statement": check.statement}, store=request.store,
        command=["python", "-m", "analysis.theorems", request.sweep, "--store", request.store],
    )  # fmt: skip
    paths = save_figure(check.draw(), request.out, check.name, origin)
    words = f"{check.statement}: {check.verdict}. Predicted: {check.predicted}. Measured: {check.measured}."
    return {**check.row(), "picture": inlined(paths), "paths": paths, "alternative": words}
