"""The page's tables: cells, thresholds, laws, outcomes, failures, theorems, machines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

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
from flatdist.fits.grouping import as_value, group_rows, null_name, predicted
from flatdist.fits.success import wilson_interval
from flatdist.fits.theorem_checks import VERDICTS, run_checks
from flatdist.methods import takes_steps
from flatdist.report.material import Material
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
_MACHINES: Mapping[str, str] = {
    "host": "host", "device": "device", "engine": "engine", "flatdist_version": "flatdist", "git_sha": "revision",
    "git_dirty": "", "torch_version": "torch", "cpu_features": "CPU features",
}  # fmt: skip


class Column(NamedTuple):
    """A column of the table of cells.

    Attributes:
        name: by which the page's script knows it.
        title: its head.
        kind: ``field`` of the cell, ``said`` (an outcome that tooltips show), or ``more`` (hidden until asked for).
        entries: one for each cell: ``text``, and a ``value`` where rounding loses something.
    """

    name: str
    title: str
    kind: str
    entries: list[dict[str, Any]]


def text_table(heads: Iterable[Any], rows: Iterable[Sequence[Any]], caption: str) -> dict[str, Any]:
    """A table of text for the template: heads, rows, and which columns are numbers."""
    heads, texts = list(map(str, heads)), [list(map(str, row)) for row in rows]
    numeric = [all(row[i][:1] in "0123456789<>-∞" for row in texts) for i in range(len(heads))]
    return {"caption": caption, "heads": heads, "rows": texts, "numeric": numeric}


def threshold_rows(material: Material) -> dict[str, Any] | None:
    """n50 of every configuration; None without a transition."""
    if not material.over_n:
        return None
    fits = material.thresholds
    table = threshold_table(fits, [*material.series, *material.panels])
    if "method" in table:
        table["method"] = fits["method"].map(method_label).to_numpy()
    table["other link"] = [number(value) for value in fits["n50_other_link"]]
    order = sorted(range(len(table)), key=lambda i: method_rank(str(fits["method"].iloc[i])) if "method" in fits else 0)
    caption = "n50, the number of measurements at which half of the replicates succeed"
    return text_table(table, table.iloc[order].itertuples(index=False), caption)


def law_rows(material: Material) -> dict[str, Any] | None:
    """Each law fitted to n50; None where none could be."""
    if not material.over_n or material.fits is None:
        return None
    laws = material.fits.laws
    table = law_table(laws, material.fits.series)
    table["law"] = laws["law"].map(PREDICTION_NAMES).to_numpy()
    if "method" in table:
        table["method"] = laws["method"].map(method_label).to_numpy()
    return text_table(
        table, table.itertuples(index=False), "Each law fitted to n50: a multiple of it, and a power of it"
    )


def cell_table(material: Material) -> dict[str, Any]:
    """The sweep's cells: every field that varies, outcomes, and medians of the trials' columns."""
    cells = material.cells.head(MOST_CELLS)
    ids, records = cells["cell_id"].tolist(), cells.to_dict("records")
    found = _outcomes(material, cells.index)
    failed = material.failures.groupby("cell_id")["replicate"].nunique()
    done = found["done"].fillna(0).astype(int)
    wanted = pd.Series([len(material.wanted(cell_id)) for cell_id in ids], cells.index, dtype=int)
    found["failed"] = cells["cell_id"].map(failed).fillna(0).clip(upper=(wanted - done).clip(lower=0))
    more = {"unconverged": "not converged", "diverged": "diverged", "failed": "failed"}
    more |= {name: title for name, title in MEDIANS.items() if name in found}
    columns = [Column(name, name, "field", [_field(name, cell) for cell in records]) for name in material.varying]
    if "n" in material.varying:
        columns.append(_numbers("n/statdim", f"n / {DELTA}", "said", cells["n"] / predicted("statdim", cells)))
    columns += [
        _numbers("success", "success", "said", found["success"]),
        Column(
            "interval",
            "95 % interval",
            "said",
            [{"text": ABSENT if pd.isna(text) else text} for text in found["interval"]],
        ),
        _numbers("relative_error", "relative error", "said", found["error"]),
        *(_numbers(name, title, "more", found[name]) for name, title in more.items()),
        Column("done", "done", "more", [{"text": f"{a}/{b}"} for a, b in zip(done, wanted, strict=True)]),
        Column("cell", "cell", "id", [{"text": cell_id[:8], "title": cell_id} for cell_id in ids]),
    ]
    trouble = (done < wanted) | (found["diverged"] > 0) | (found["unconverged"] > 0)
    entries = zip(*(column.entries for column in columns), strict=True)
    command = f"flatdist export {material.settings.named} --store {material.settings.store} --csv"
    return {
        "columns": columns,
        "rows": [{"entries": row, "trouble": bool(bad)} for row, bad in zip(entries, trouble, strict=True)],
        "ids": ids,
        "left": len(material.cells) - len(ids),
        "command": command,
    }


def _outcomes(material: Material, cells: pd.Index) -> pd.DataFrame:
    """What is known of these cells: replicates that are done, medians of those, and how often they succeed."""
    trials = material.trials[[name for name in MEDIANS if name in material.trials]].apply(
        pd.to_numeric, errors="coerce"
    )
    groups = trials.groupby(material.cell_rows)
    found = pd.DataFrame({"done": groups.size(), **{n: groups[n].median() for n in trials if trials[n].notna().any()}})
    if len(material.judged):
        rows = material.labelled[["cell_row", "success", "diverged", "unconverged"]]
        error = pd.to_numeric(material.labelled["relative_error"]).where(~rows["diverged"])
        judged = rows.assign(error=error, count=1).groupby("cell_row")
        table = judged[["success", "diverged", "unconverged", "count"]].sum().astype(int)
        limits = [wilson_interval(*pair) for pair in zip(table["success"], table["count"], strict=True)]
        table["interval"] = [f"{100 * low:.0f} to {percent(high)}" for low, high in limits]
        found = found.join(table.assign(success=table["success"] / table["count"], error=judged["error"].median()))
    names = dict.fromkeys([*found, "success", "diverged", "unconverged", "interval", "error"])
    return found.reindex(index=cells, columns=list(names))


def _field(name: str, cell: Mapping[Any, Any]) -> dict[str, Any]:
    value = as_value(cell[name])
    if name == "method":
        return {"text": method_label(value)}
    if value is None:
        return {"text": null_name(name, cell["method"]) or ABSENT}
    if isinstance(value, tuple):
        return {"text": number(value[0], 6) if len(set(value)) == 1 else " ".join(map(str, value))}
    return _number(value, 6) if isinstance(value, int | float) and not isinstance(value, bool) else {"text": str(value)}


def _numbers(name: str, title: str, kind: str, values: pd.Series) -> Column:
    return Column(name, title, kind, [_number(value) for value in values])


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
        "ended": text_table(heads, rows, "How trials ended") if rows else None,
        "diverged": _diverged(material),
        "failures": failures,
        "recovered": len(material.failures) - sum(row["attempts"] for row in failures),
    }


def _diverged(material: Material) -> dict[str, Any] | None:
    """Configurations of which replicates diverged, the most first."""
    if material.judged.empty or not material.labelled["diverged"].any():
        return None
    found = []
    for key, group in group_rows(material.labelled, [*material.series, *material.panels, "n"]):
        lost = group[group["diverged"]]
        if len(lost):
            spans = [_range(lost[name]) for name in ("steps_run", "learning_rate_final")]
            words = divergence_words(lost.iloc[0].to_dict())
            found.append((len(lost) / len(group), [name_of(key), f"{len(lost)} of {len(group)}", *spans, words]))
    rows = [row for _, row in sorted(found, key=lambda pair: -pair[0])[:MOST_ROWS]]
    heads = ["configuration", "diverged", "after steps", "step size", "explanation"]
    caption = "Configurations with diverged replicates; a diverged replicate is a result, never a success"
    return text_table(heads, rows, caption)


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
    lost = [key not in material.done for key in zip(failures["cell_id"], failures["replicate"], strict=True)]
    rows = []
    missing = failures[pd.Series(lost, index=failures.index, dtype=bool)]
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
    counts = {verdict: sum(row["verdict"] == verdict for row in rows) for verdict in VERDICTS}
    words = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count) + "."
    words += f" No trials test {', '.join(missing)}." if missing else ""
    heads = {name: name for name in ("statement", "verdict", "predicted", "measured", "instances")}
    heads["worst"] = "nearest to failing"
    caption = "Statements of the paper and their verdicts"
    return {"words": words, "table": text_table(heads.values(), [[row[n] for n in heads] for row in rows], caption)}


def machines(material: Material) -> dict[str, Any] | None:
    """Where trials ran: versions, revision, machine and time, with the number of trials for each."""
    trials = material.trials
    if trials.empty:
        return None
    rows = []
    for key, group in group_rows(trials, list(_MACHINES)):
        cells = {name: ABSENT if value is None else str(value) for name, value in key.items()}
        dirty = cells.pop("git_dirty") == "True"
        cells["git_sha"] = cells["git_sha"][:12] + (" with uncommitted changes" if dirty else "")
        methods = ", ".join(sorted(map(method_label, set(group["method"]))))
        span = [moment(group["finished_at"].min()), moment(group["finished_at"].max())]
        rows.append([*cells.values(), methods, f"{len(group):,}", duration(float(group["wall_seconds"].sum())), *span])
    heads = [*filter(None, _MACHINES.values()), "methods", "trials", "time", "first", "last"]
    versions = trials[["method", "numerics_version"]].dropna().drop_duplicates().to_numpy()
    numerics = ", ".join(sorted(f"{method_label(method)} {int(version)}" for method, version in versions))
    words = f"{duration(float(trials['wall_seconds'].sum()))} of computing. Numerics versions: {numerics}."
    if trials["git_dirty"].fillna(False).astype(bool).any():
        words += " Some results come from a checkout with uncommitted changes: its revision cannot reproduce them."
    return {"words": words, "table": text_table(heads, rows, "Trials by where they ran")}
