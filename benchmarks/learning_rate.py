"""Acceptance of ``learning_rate: auto``: how many runs diverge, and how many recover, over a design of shapes.

    python -m benchmarks.learning_rate [--quick] [--json FILE] [--threads 2] [--seed 0] [--ensemble NAME] [--cells N]

The design is stratified: every depth 2..5 in every band of sizes gets the same number of cells; within a stratum
init_scale covers 0.3..1.0 evenly, ensembles alternate, and rows, columns and ranks 1..5 are drawn (every other cell is
square) until 1.5 times the statistical dimension is below d_out * d_in. Every cell has n = 1.5 times the statistical
dimension, 60,000 steps, the defaults elsewhere, and two replicates that are trained together. Single entries recover
later: with ``--ensemble entries`` n is 2.25 times the statistical dimension, or all entries, and those replicates count
that nuclear-norm minimisation recovers from two thirds of theirs.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

from flatdist.cells.cell import Cell
from flatdist.sensing.ensembles import ENSEMBLES
from flatdist.theory import statistical_dimension
from flatdist.trials.run import run_replicates
from flatdist.trials.settings import RunSettings

DEPTHS = (2, 3, 4, 5)
BANDS = ((8, 16), (17, 30), (31, 44), (45, 60))
QUICK_BANDS = ((8, 12), (13, 18))
CELLS, QUICK_CELLS = 10, 5  # in a stratum
REPLICATES = 2  # of a cell
STEPS = 60_000
TOLERANCE = 1e-2
COLUMNS = ("d_out", "d_in", "rank", "n", "depth", "init_scale", "ensemble", "replicate", "status", "relative_error")
COLUMNS += ("train_loss", "learning_rate_final", "flow_time", "wall_seconds")
MOST_DIVERGED, FEWEST_RECOVERED = 0.01, 0.95


def design(bands: Sequence[tuple[int, int]], cells: int, seed: int, **fields: Any) -> list[tuple[str, Cell]]:
    """The cells and the size band of each; ``fields`` override what is not drawn."""
    generator = np.random.default_rng(seed)
    chosen = []
    order = generator.permutation(cells)  # round by round over the strata: what an interrupted run did is balanced
    for k, (smallest, largest), depth in itertools.product(order, bands, DEPTHS):
        scale = 0.3 + 0.7 * (k + float(generator.random())) / cells
        d_out, d_in, rank, n = _shape(generator, smallest, largest, square=k % 2 == 0)
        given = {"d_out": d_out, "d_in": d_in, "rank": rank, "n": n, "depth": depth, "steps": STEPS}
        given |= {"init_scale": round(scale, 3), "ensemble": ("gaussian", "rademacher")[(k // 2) % 2]}
        chosen.append((f"{smallest}-{largest}", Cell(**given | {"evaluations": 2} | fields)))
    return chosen


def _shape(generator: np.random.Generator, smallest: int, largest: int, square: bool) -> tuple[int, int, int, int]:
    while True:
        d_out, d_in = (int(d) for d in generator.integers(smallest, largest + 1, 2))
        d_in = d_out if square else d_in
        rank = int(generator.integers(1, 6))
        n = math.ceil(1.5 * statistical_dimension(d_out, d_in, rank)) if rank <= min(d_out, d_in) else d_out * d_in
        if n < d_out * d_in:
            return d_out, d_in, rank, n


def with_more_entries(cells: Sequence[tuple[str, Cell]]) -> list[tuple[str, Cell]]:
    """The cells of single entries with 1.5 times the n where there are so many, nested."""
    more = [(band, cell, min(int(1.5 * cell.n), cell.d_out * cell.d_in)) for band, cell in cells]
    return [(band, dataclasses.replace(cell, n=n, nested=True)) for band, cell, n in more]


def count_recoverable(cells: Sequence[tuple[str, Cell]], rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, in the cells' order, of replicates that nuclear norm recovers from two thirds of the measurements."""
    fewer = [dataclasses.replace(cell, n=int(cell.n / 1.5), method="min_nuclear_norm") for _, cell in cells]
    errors = {
        (place, outcome.trial["replicate"]): outcome.trial["relative_error"]
        for place, cell in enumerate(fewer)
        for outcome in run_replicates(cell, range(REPLICATES))
    }
    return [row for k, row in enumerate(rows) if errors[k // REPLICATES, row["replicate"]] < TOLERANCE]


def measure(cells: Sequence[tuple[str, Cell]], threads: int, replicates: int = REPLICATES) -> list[dict[str, Any]]:
    """One row per replicate; tells its progress on the standard error."""
    rows: list[dict[str, Any]] = []
    for done, (band, cell) in enumerate(cells, 1):
        trials = [outcome.trial for outcome in run_replicates(cell, range(replicates), RunSettings(threads=threads))]
        rows += [{"band": band} | {name: trial.get(name) for name in COLUMNS} for trial in trials]
        diverged, success = sum(row["status"] == "diverged" for row in rows), sum(map(recovered, rows))
        print(f"{done} of {len(cells)} cells: {diverged} diverged, {success} of {len(rows)} recovered", file=sys.stderr)
    return rows


def recovered(row: dict[str, Any]) -> bool:
    """Whether a replicate ended within the tolerance of the ground truth."""
    return row["relative_error"] is not None and row["relative_error"] < TOLERANCE


def rate(hits: Sequence[bool]) -> dict[str, float]:
    """Rate and its exact 95 % (Clopper-Pearson) interval."""
    interval = binomtest(sum(hits), len(hits)).proportion_ci(0.95)
    count, of = sum(hits), len(hits)
    return {"count": count, "of": of, "rate": count / of, "low": interval.low, "high": interval.high}


def table(rows: list[dict[str, Any]]) -> str:
    """Per depth and size band: diverged, recovered, and the median and 90 % quantile of the relative error."""
    lines = ["depth   sizes  runs  diverged  recovered    median       q90     step"]
    for depth in sorted({row["depth"] for row in rows}):
        for band in dict.fromkeys(row["band"] for row in rows):
            group = [row for row in rows if row["depth"] == depth and row["band"] == band]
            errors = [math.inf if row["relative_error"] is None else row["relative_error"] for row in group]
            diverged = sum(row["status"] == "diverged" for row in group)
            steps = [row["learning_rate_final"] for row in group if row["status"] != "diverged"] or [math.nan]
            lines.append(
                f"{depth:>5} {band:>7} {len(group):>5} {diverged:>9} {np.mean([*map(recovered, group)]):>10.1%} "
                f"{np.median(errors):>9.1e} {np.quantile(errors, 0.9, method='higher'):>9.1e} {np.median(steps):>8.4f}"
            )
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes and fewer cells: about a minute")
    parser.add_argument("--json", type=Path, default=Path("learning_rate.json"), help="where to write the rows")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--ensemble", choices=tuple(ENSEMBLES), help="of every cell; default: the two of independent entries"
    )
    parser.add_argument("--cells", type=int, help="of each depth in each band of sizes")
    options = parser.parse_args()
    started = time.perf_counter()
    bands, cells = (QUICK_BANDS, QUICK_CELLS) if options.quick else (BANDS, CELLS)
    fields = {"ensemble": options.ensemble} if options.ensemble else {}
    chosen = design(bands, options.cells or cells, options.seed, **fields)
    chosen = with_more_entries(chosen) if options.ensemble == "entries" else chosen
    rows = measure(chosen, options.threads)
    diverged = rate([row["status"] == "diverged" for row in rows])
    counted = count_recoverable(chosen, rows) if options.ensemble == "entries" else rows
    success = rate([recovered(row) for row in counted])
    print(table(rows))
    for name, value, target in (
        ("diverged", diverged, f"below {MOST_DIVERGED:.0%}"),
        (f"relative error below {TOLERANCE:g}", success, f"at least {FEWEST_RECOVERED:.0%}"),
    ):
        interval = f"95 % interval {value['low']:.2%} to {value['high']:.2%}"
        print(f"{name}: {value['count']} of {value['of']}, {value['rate']:.2%} ({interval}); wanted: {target}")
    for row in counted:
        if not recovered(row):
            print("not recovered:", json.dumps(row))
    seconds = time.perf_counter() - started
    print(f"{seconds:.0f} s on {options.threads} threads")
    content = {"diverged": diverged, "recovered": success, "seconds": seconds, "seed": options.seed, "rows": rows}
    options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
