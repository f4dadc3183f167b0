"""The page's tables: cells, thresholds, laws, outcomes, failures, theorems, machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from flatdist.cells.columns import STATUSES
from flatdist.figures.panels import DELTA
from flatdist.figures.style import method_label, method_rank
from flatdist.figures.words import (
    ABSENT,
    PREDICTION_NAMES,
    counted,
    duration,
    law_table,
    moment,
    name_of,
    number,
    percent,
    threshold_table,
)
from flatdist.fits.grouping import as_value, group_rows, null_name
from flatdist.fits.shapes import predicted
from flatdist.fits.success import wilson_interval
from flatdist.fits.theorem_checks import VERDICTS, run_checks
from flatdist.methods import takes_steps
from flatdist.report.material import Material, wanted_replicates
from flatdist.theory import flattest_trace

MOST_CELLS, MOST_ROWS = 5000, 40
MEDIANS: Mapping[str, str] = {
    "train_loss": "train loss",
    "population_loss": "test loss",
    "nuclear_norm": "nuclear norm",
    "hessian_trace": "trace of the Hessian",
    "effective_rank": "effective rank",
    "learning_rate_final": "step size",
    "wall_seconds": "seconds each",
}
"""Columns of the trials whose medians the table of cells has beside what it always shows."""
_MACHINES = (
    "host", "device", "engine", "flatdist_version", "git_sha", "git_dirty", "torch_version", "cpu_features",
)  # fmt: skip


@dataclass(frozen=True)
class Column:
    """A column of the table of cells.

    Attributes:
        name: by which the page's script knows it.
        title: its head.
        kind: ``field`` of the cell, ``said`` (an outcome that tooltips show), or ``more`` (hidden until asked for).
    """

    name: str
    title: str
    kind: str


def text_table(table: pd.DataFrame, caption: str) -> dict[str, Any]:
    """A table of text for the template: heads, rows, and which columns are numbers."""
    rows = [list(map(str, row)) for row in table.itertuples(index=False)]
    numeric = [all(row[i][:1] in "0123456789<>-∞" for row in rows) for i in range(table.shape[1])]
    return {"caption": caption, "heads": list(map(str, table)), "rows": rows, "numeric": numeric}


def threshold_rows(material: Material) -> dict[str, Any]:
    """n50 of every configuration."""
    by = [*material.series, *material.panels]
    fits = material.thresholds
    table = threshold_table(fits, by)
    if "method" in table:
        table["method"] = fits["method"].map(method_label).to_numpy()
    table["other link"] = [number(value) for value in fits["n50_other_link"]]
    order = sorted(range(len(table)), key=lambda i: method_rank(str(fits["method"].iloc[i])) if "method" in fits else 0)
    return text_table(table.iloc[order], "n50, the number of measurements at which half of the replicates succeed")


def law_rows(material: Material) -> dict[str, Any] | None:
    """Each law fitted to n50; None where none could be."""
    if material.fits is None:
        return None
    table = law_table(material.fits.laws, material.fits.series)
    table["law"] = material.fits.laws["law"].map(PREDICTION_NAMES).to_numpy()
    if "method" in table:
        table["method"] = material.fits.laws["method"].map(method_label).to_numpy()
    return text_table(table, "Each law fitted to n50: a multiple of it, and a power of it")


def cell_table(material: Material) -> dict[str, Any]:
    """The sweep's cells: every field that varies, outcomes, and medians of the trials' columns."""
    fields = material.varying
    trials = material.trials
    medians = [
        name for name in MEDIANS if name in trials and pd.to_numeric(trials[name], errors="coerce").notna().any()
    ]
    columns = [
        *(Column(name, name, "field") for name in fields),
        *([Column("n/statdim", f"n / {DELTA}", "said")] if "n" in fields else []),
        Column("success", "success", "said"),
        Column("interval", "95 % interval", "said"),
        Column("relative_error", "relative error", "said"),
        Column("unconverged", "not converged", "more"),
        Column("diverged", "diverged", "more"),
        Column("failed", "failed", "more"),
        *(Column(name, MEDIANS[name], "more") for name in medians),
        Column("done", "done", "more"),
        Column("cell", "cell", "id"),
    ]
    outcomes = _outcomes(material, medians)
    failed = dict(material.failures.groupby("cell_id")["replicate"].nunique())
    cells = material.cells.head(MOST_CELLS)
    statdim = predicted("statdim", cells)
    rows = []
    for index, cell in enumerate(cells.to_dict("records")):
        mine = outcomes.get(index, {})
        wanted, done = len(wanted_replicates(material.sweep, cell["cell_id"])), int(mine.get("done", 0))
        mine["failed"] = min(int(failed.get(cell["cell_id"], 0)), max(wanted - done, 0))
        entries: list[dict[str, Any]] = [_field(name, cell) for name in fields]
        if "n" in fields:
            entries.append(_number(cell["n"] / statdim[index]))
        entries += [_number(mine.get("success")), {"text": mine.get("interval", ABSENT)}, _number(mine.get("error"))]
        entries += [
            _number(mine.get(name, 0 if name == "failed" else None))
            for name in ("unconverged", "diverged", "failed", *medians)
        ]
        entries += [{"text": f"{done}/{wanted}"}, {"text": cell["cell_id"][:8], "title": cell["cell_id"]}]
        trouble = done < wanted or mine.get("diverged", 0) > 0 or mine.get("unconverged", 0) > 0
        rows.append({"entries": entries, "trouble": trouble})
    left = len(material.cells) - len(rows)
    command = f"flatdist export {material.settings.named} --store {material.settings.store} --csv"
    return {"columns": columns, "rows": rows, "ids": cells["cell_id"].tolist(), "left": left, "command": command}


def _outcomes(material: Material, medians: Sequence[str]) -> dict[int, dict[str, Any]]:
    """For each cell with trials, what its row shows."""
    trials = material.trials[list(medians)].apply(pd.to_numeric, errors="coerce").groupby(material.cell_rows)
    table = pd.DataFrame({"done": trials.size(), **{name: trials[name].median() for name in medians}})
    found: dict[int, dict[str, Any]] = {
        int(str(row)): {str(name): value for name, value in values.items()}
        for row, values in table.to_dict("index").items()
    }
    if material.judged.empty:
        return found
    rows = material.labelled[["cell_row", "success", "diverged", "unconverged"]]
    error = pd.to_numeric(material.labelled["relative_error"]).where(~rows["diverged"])
    judged = rows.assign(error=error).groupby("cell_row")
    sums = judged[["success", "diverged", "unconverged"]].sum().astype(int).assign(count=judged.size())
    for row, values in sums.assign(error=judged["error"].median()).to_dict("index").items():
        low, high = wilson_interval(int(values["success"]), int(values["count"]))
        shown = {"success": values["success"] / values["count"], "interval": f"{100 * low:.0f} to {percent(high)}"}
        found[int(str(row))] |= {name: values[name] for name in ("error", "diverged", "unconverged")} | shown
    return found


def _field(name: str, cell: Mapping[Any, Any]) -> dict[str, Any]:
    value = as_value(cell[name])
    if name == "method":
        return {"text": method_label(value)}
    if value is None:
        return {"text": null_name(name, cell["method"]) or ABSENT}
    if isinstance(value, tuple):
        one = value[0] if len(set(value)) == 1 else None
        return {"text": number(one, 6) if one is not None else " ".join(map(str, value))}
    return (
        _number(value, 6) if isinstance(value, (int, float)) and not isinstance(value, bool) else {"text": str(value)}
    )


def _number(value: Any, digits: int = 3) -> dict[str, Any]:
    """A number as text, with its value if rounding loses something."""
    text = number(value, digits)
    exact = None if value is None or pd.isna(value) else f"{float(value):.6g}"
    return {"text": text} if exact in (None, text) else {"text": text, "value": exact}


def outcomes(material: Material) -> dict[str, Any]:
    """How trials ended, by method; diverged configurations with an explanation; failures with their tracebacks."""
    rows = []
    for method in sorted(material.trials["method"].unique(), key=method_rank) if len(material.trials) else []:
        counts = material.trials.loc[material.trials["method"] == method, "status"].value_counts()
        rows.append([method_label(method), *(f"{int(counts.get(name, 0)):,}" for name in STATUSES)])
    heads = ["method", *(name.replace("_", " ") for name in STATUSES)]
    failures = _failures(material)
    return {
        "ended": text_table(pd.DataFrame(rows, columns=heads), "How trials ended") if rows else None,
        "diverged": _diverged(material),
        "failures": failures,
        "recovered": len(material.failures) - sum(row["attempts"] for row in failures),
    }


def _diverged(material: Material) -> dict[str, Any] | None:
    """Configurations of which replicates diverged, the most first."""
    if material.judged.empty or not material.labelled["diverged"].any():
        return None
    rows = []
    for key, group in group_rows(material.labelled, [*material.series, *material.panels, "n"]):
        lost = group[group["diverged"]]
        if len(lost):
            shown = [
                name_of(key),
                f"{len(lost)} of {len(group)}",
                _range(lost["steps_run"]),
                _range(lost["learning_rate_final"]),
            ]
            rows.append((-len(lost) / len(group), [*shown, divergence_words(lost.iloc[0].to_dict())]))
    heads = ["configuration", "diverged", "after steps", "step size", "explanation"]
    table = pd.DataFrame([row for _, row in sorted(rows, key=lambda row: row[0])[:MOST_ROWS]], columns=heads)
    return text_table(
        table, "Configurations with diverged replicates; a diverged replicate is a result, never a success"
    )


def _range(values: pd.Series) -> str:
    numbers = pd.to_numeric(values).dropna()
    if numbers.empty:
        return ABSENT
    low, high = float(numbers.min()), float(numbers.max())
    return number(low) if low == high else f"{number(low)} to {number(high)}"


def divergence_words(row: Mapping[Any, Any]) -> str:
    """The limit to compare a step size with, and what to change.

    Mini-batches of B measurements add curvature noise 2 R / B to a Hessian of trace R (flatdist.trials.learning_rate),
    so steps beyond B / R are unstable even where R is smallest: at the flattest interpolator, by Lemma 4.
    """
    if not takes_steps(str(row["method"])):
        return "The solver returned no finite answer; `flatdist show` has its certificate."
    rate, batch, norm = (row.get(name) for name in ("learning_rate_final", "batch_size", "nuclear_norm_truth"))
    advice = "use learning_rate: auto, or a smaller one"
    if pd.isna(rate) or pd.isna(norm) or pd.isna(row["depth"]):
        return f"The loss was no longer finite: {advice}."
    if pd.isna(batch) or row["method"] in ("gradient_descent", "sam"):
        return f"The step was too long for the sharpest direction on the way: {advice}."
    trace = flattest_trace(float(norm), int(row["d_out"]), int(row["d_in"]), int(row["depth"]))
    limit = float(batch) / trace
    if float(rate) > limit:
        return (
            f"The step size {number(rate)} is beyond B / R = {number(limit)}, where mini-batch noise alone is unstable "
            f"even at the flattest solution (Lemma 4's trace R = {number(trace)}): {advice}."
        )
    return (
        f"The step size {number(rate)} is {number(float(rate) / limit)} of B / R = {number(limit)}, the limit at the "
        f"flattest solution; the weights were sharper than that on the way: {advice}, or a smaller init_scale."
    )


def _failures(material: Material) -> list[dict[str, Any]]:
    failures = material.failures
    done = set(zip(material.trials["cell_id"], material.trials["replicate"], strict=True))
    lost = [key not in done for key in zip(failures["cell_id"], failures["replicate"], strict=True)]
    missing = failures[pd.Series(lost, index=failures.index, dtype=bool)]
    rows = []
    for (kind, message), group in missing.groupby(["error_type", "message"], sort=False, dropna=False):
        last = group.iloc[-1]
        replicates = group[["cell_id", "replicate"]].drop_duplicates()
        cells = counted(replicates["cell_id"].nunique(), "cell")
        rows.append(
            {
                "summary": f"{counted(len(replicates), 'replicate')} of {cells}: {kind}: {message}",
                "replicates": len(replicates),
                "attempts": len(group),
                "where": f"cell {last['cell_id']}, replicate {last['replicate']}, {last['host']}, {moment(last['at'])}",
                "traceback": str(last["traceback"]).rstrip(),
            }
        )
    return sorted(rows, key=lambda row: -row["replicates"])


def theorems(material: Material) -> dict[str, Any] | None:
    """The statements that the trials test, with their verdicts; None where there are none."""
    checks, missing = run_checks(material.trials) if len(material.trials) else ([], [])
    if not checks:
        return None
    rows = [check.row() for check in checks]
    table = pd.DataFrame(
        [
            [row[name] for name in ("statement", "verdict", "predicted", "measured", "instances", "worst")]
            for row in rows
        ],
        columns=["statement", "verdict", "predicted", "measured", "instances", "nearest to failing"],
    )
    counts = [f"{sum(row['verdict'] == verdict for row in rows)} {verdict}" for verdict in VERDICTS]
    words = ", ".join(count for count in counts if not count.startswith("0 ")) + "."
    words += f" No trials test {', '.join(missing)}." if missing else ""
    return {"words": words, "table": text_table(table, "Statements of the paper and their verdicts")}


def machines(material: Material) -> dict[str, Any] | None:
    """Where trials ran: versions, revision, machine and time, with the number of trials for each."""
    trials = material.trials
    if trials.empty:
        return None
    rows = []
    for key, group in group_rows(trials, _MACHINES):
        cells = {name: ABSENT if value is None else str(value) for name, value in key.items()}
        dirty = cells.pop("git_dirty") == "True"
        cells["git_sha"] = cells["git_sha"][:12] + (" with uncommitted changes" if dirty else "")
        methods = ", ".join(sorted(map(method_label, set(group["method"]))))
        span = [moment(group["finished_at"].min()), moment(group["finished_at"].max())]
        rows.append([*cells.values(), methods, f"{len(group):,}", duration(float(group["wall_seconds"].sum())), *span])
    heads = [
        "host",
        "device",
        "engine",
        "flatdist",
        "revision",
        "torch",
        "CPU features",
        "methods",
        "trials",
        "time",
        "first",
        "last",
    ]
    versions = trials[["method", "numerics_version"]].dropna().drop_duplicates().to_numpy()
    numerics = ", ".join(sorted(f"{method_label(method)} {int(version)}" for method, version in versions))
    words = f"{duration(float(trials['wall_seconds'].sum()))} of computing. Numerics versions: {numerics}."
    if bool(trials["git_dirty"].fillna(False).astype(bool).any()):
        words += " Some results come from a checkout with uncommitted changes: its revision cannot reproduce them."
    return {"words": words, "table": text_table(pd.DataFrame(rows, columns=heads), "Trials by where they ran")}
