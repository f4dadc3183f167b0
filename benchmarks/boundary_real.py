"""What a boundary search saves on real trials: the same interval of n50 from a search and from uniform grids.

``python benchmarks/boundary_real.py [--d-out 10] [--d-in 12] [--rank 1] [--precision 0.05] [--steps 15000]
[--store DIR] [--out FILE]``

Each method's n50 is searched between half its statistical dimension and as many measurements as entries, until the
half-width of its 95 % interval is the precision. Then uniform grids of 12 and 23 values over the same range, both ends
included, get more and more replicates of every value, until the half-width is the one that the search reached for the
first time, which flatters them. The table counts both sides' replicates, replicate-steps (of methods that take steps)
and summed seconds, and their ratio to the cheaper grid. A store that is given keeps the trials for the next call.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import tempfile
from pathlib import Path

import pandas as pd

from flatdist import load_trials
from flatdist.cli import main as flatdist
from flatdist.threshold import Runs, interval
from flatdist.threshold.recovery import default_tolerance

METHODS = ("min_nuclear_norm", "label_noise_sgd")
GRIDS = {12: 2, 23: 1}  # number of values -> every which of the finer grid's
FEWEST, MOST = 4, 512  # replicates of each value of a grid


def run(text: str, name: str, store: str) -> pd.DataFrame:
    """Run a sweep and load its rows."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.yaml"
        path.write_text(text)
        words = ["sweep", str(path), "--store", store, "--executor", "inline", "--no-probe", "--display", "none"]
        with contextlib.redirect_stdout(io.StringIO()):
            status = flatdist([*words, "--yes"])
    if status:
        raise SystemExit(f"the sweep {name} ended with status {status}")
    return load_trials(store, name)


def half_width(rows: pd.DataFrame, tolerance: float) -> float:
    """Half-width of n50's 95 % interval on log n."""
    success = (rows["relative_error"] < tolerance) & (rows["status"] != "diverged")
    return interval(Runs(rows["n"].to_numpy(dtype=float), success.to_numpy(dtype=bool))).half_width


def needed(grid: pd.DataFrame, target: float, tolerance: float) -> int | None:
    """The fewest replicates of every n with which a grid's interval is as narrow as the target; None if all are few."""
    for replicates in range(FEWEST, int(grid["replicate"].max()) + 2):
        if half_width(grid[grid["replicate"] < replicates], tolerance) <= target:
            return replicates
    return None


def costs(rows: pd.DataFrame) -> dict[str, float]:
    """Replicates, replicate-steps and seconds of some rows."""
    return {"runs": len(rows), "steps": float(rows["steps_run"].sum()), "seconds": float(rows["wall_seconds"].sum())}


def compare(method: str, options: argparse.Namespace, store: str) -> list[dict[str, object]]:
    """One method: the search, and what each grid needs."""
    tolerance = default_tolerance(method)
    shape = f"d_out: {options.d_out}, d_in: {options.d_in}, rank: {options.rank}, method: {method}"
    fixed = f"fixed: {{{shape}, steps: {options.steps}}}\n"
    ends = f"from: 0.5*statdim, to: entries, budget: 1000, precision: {options.precision}"
    name = f"{method}-{options.d_out}x{options.d_in}-{options.rank}-{options.precision}"
    found = run(fixed + f"axes: {{n: {{boundary: {{{ends}}}}}}}", f"search-{name}", store)
    target = half_width(found, tolerance)
    lines: list[dict[str, object]] = [
        {"method": method, "way": "boundary search", "half_width": target, "values": found["n"].nunique(), "each": None}
        | costs(found)
    ]
    replicates = FEWEST
    left = dict(GRIDS)
    while left and replicates <= MOST:
        axis = f"axes: {{n: {{linspace: [0.5*statdim, entries, {max(GRIDS)}]}}}}"
        grid = run(f"replicates: {replicates}\n{fixed}{axis}", f"grid-{name}", store)
        grid = grid[grid["replicate"] < replicates]  # others are the search's
        values = sorted(grid["n"].unique())
        for count, every in list(left.items()):
            part = grid[grid["n"].isin(values[::every])]
            each = needed(part, target, tolerance)
            if each is not None:
                used = part[part["replicate"] < each]
                width = half_width(used, tolerance)
                way = {"method": method, "way": f"grid of {count}", "half_width": width, "values": count, "each": each}
                lines.append(way | costs(used))
                del left[count]
        replicates = math.ceil(1.3 * replicates)
    search, grids = lines[0], lines[1:]
    cheapest = min((float(str(line["runs"])) for line in grids), default=math.nan)
    search["share_of_cheapest_grid"] = float(str(search["runs"])) / cheapest
    return lines


def main() -> None:
    """Compare, and print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("d-out", 10), ("d-in", 12), ("rank", 1), ("steps", 15_000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--precision", type=float, default=0.05)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--store", help="folder that keeps the trials; by default a temporary one")
    parser.add_argument("--out", type=Path, help="write the table as CSV")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lines = [line for method in options.methods for line in compare(method, options, options.store or folder)]
    table = pd.DataFrame(lines)
    print(table.round(3).to_string(index=False))
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        table.round(5).to_csv(options.out, index=False)


if __name__ == "__main__":
    main()
