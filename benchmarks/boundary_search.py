"""Does a boundary search cover n50 when it stops by itself, and what does it save? Simulated success curves.

``python benchmarks/boundary_search.py [--datasets 1000] [--workers 2] [--setting NAME ...] [--out FILE]``

Every data set is a whole search: rounds of runs at the n that the search asks for, until it has finished or 400 runs
are spent. Success at n is drawn with probability F((log n - log n50) / scale), F logistic or normal; n50 is the
setting's, moved by up to half a measurement either way. The uniform grid has the same range, evenly spaced in log n,
and the number of values out of 12, 24, 48, 96 that reaches the search's median half-width with the fewest runs;
``work`` weighs each run with its n, as each step of a run costs where all measurements are used. Steps are the same
for every run of a group, so the ratio of replicate-steps is that of runs.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from scipy import special

from flatdist.threshold import Range, Runs, finished, interval, place, round_size

BUDGET = 400
GRIDS = (12, 24, 48, 96)
GRID_DATASETS = 41
MOST_REPLICATES = 4096


@dataclass(frozen=True)
class Setting:
    """One simulated truth.

    Attributes:
        name: what it stands for.
        low, high: range searched.
        n50: threshold.
        scale: of the success curve on log n, as a standard deviation times sqrt(3) / pi.
        link: ``logit`` or ``probit``.
        precision: half-width asked for.
    """

    name: str
    low: int
    high: int
    n50: float
    scale: float
    link: str = "logit"
    precision: float = 0.03

    def probability(self, n: np.ndarray, n50: float) -> np.ndarray:
        """Of success at n."""
        argument = (np.log(n) - math.log(n50)) / self.scale
        return special.expit(argument) if self.link == "logit" else special.ndtr(argument * math.sqrt(3.0) / math.pi)


SETTINGS = (
    Setting("12x12 rank 1", 22, 144, 44.6, 0.066),
    Setting("12x12 rank 1, probit", 22, 144, 44.6, 0.066, "probit"),
    Setting("20x20 rank 2", 71, 400, 141.6, 0.032),
    Setting("20x20 rank 2, probit", 71, 400, 141.6, 0.032, "probit"),
    Setting("30x30 rank 1, precision 0.02", 60, 900, 121.0, 0.03, precision=0.02),
    Setting("sharper than a measurement", 22, 144, 44.6, 0.004),
    Setting("about one measurement", 22, 144, 44.6, 0.012),
    Setting("sharp, large n, precision 0.01", 60, 900, 121.0, 0.006, precision=0.01),
    Setting("wide", 22, 144, 44.6, 0.15, precision=0.06),
    Setting("wide, probit", 22, 144, 44.6, 0.15, "probit", 0.06),
    Setting("n50 near the lower end", 22, 144, 24.0, 0.066),
    Setting("n50 near the upper end", 22, 144, 132.0, 0.066),
    Setting("small n", 4, 16, 7.0, 0.12, precision=0.06),
    Setting("small n, sharp", 4, 16, 7.0, 0.03, precision=0.06),
    Setting("n50 below the range", 22, 144, 15.0, 0.066),
    Setting("n50 above the range", 22, 144, 220.0, 0.066),
)


def search(setting: Setting, seed: int) -> dict[str, float | str]:
    """One search to its end."""
    generator = np.random.default_rng([seed, SETTINGS.index(setting)] if setting in SETTINGS else seed)
    n50 = setting.n50 + generator.random() - 0.5
    within = Range(setting.low, setting.high)
    runs = Runs(np.zeros(0), np.zeros(0))
    done, rounds = False, 0
    while not done and len(runs) < BUDGET:
        asked = place(runs, within, min(round_size(len(runs)), BUDGET - len(runs)), precision=setting.precision)
        success = generator.random(len(asked)) < setting.probability(asked, n50)
        runs = Runs(np.append(runs.n, asked), np.append(runs.success, success))
        done, rounds = finished(runs, within, setting.precision), rounds + 1
    found = interval(runs)
    return {
        "covered": found.low <= n50 <= found.high,
        "below": n50 < found.low,
        "above": n50 > found.high,
        "error": found.n50 / n50 - 1.0,
        "half_width": found.half_width,
        "censored": found.censored,
        "runs": len(runs),
        "work": float(runs.n.sum()),
        "rounds": rounds,
        "finished": done,
    }


def grid_half_width(setting: Setting, values: np.ndarray, replicates: int) -> float:
    """Median half-width of a uniform grid's interval."""
    widths = []
    for number in range(GRID_DATASETS):
        generator = np.random.default_rng([number, replicates])
        n50 = setting.n50 + generator.random() - 0.5
        won = generator.binomial(replicates, setting.probability(values, n50))
        counts = np.stack((won, replicates - won), axis=1).ravel()
        success = np.repeat(np.tile([True, False], len(values)), counts)
        widths.append(interval(Runs(np.repeat(np.repeat(values, 2), counts), success)).half_width)
    return float(np.median(widths))


def cheapest_grid(setting: Setting, half_width: float) -> dict[str, float]:
    """The uniform grid that reaches a half-width with the fewest runs."""
    best = {"grid_values": math.nan, "grid_runs": math.inf, "grid_work": math.inf}
    for count in GRIDS:
        values = np.unique(np.rint(np.geomspace(setting.low, setting.high, count)))
        low, high = 0, 1  # replicates: too few, enough
        most = min(MOST_REPLICATES, best["grid_runs"] / len(values))
        while high <= most and grid_half_width(setting, values, high) > half_width:
            low, high = high, 2 * high
        if high > most:
            continue
        while high - low > max(1, high // 32):
            middle = (low + high) // 2
            low, high = (low, middle) if grid_half_width(setting, values, middle) <= half_width else (middle, high)
        if high * len(values) < best["grid_runs"]:
            best = {"grid_values": len(values), "grid_runs": high * len(values), "grid_work": high * values.sum()}
    return best


def summary(setting: Setting, searches: list[dict[str, float | str]], grid: bool) -> dict[str, float | str]:
    """Coverage, bias and cost over many searches."""
    column = {name: np.array([one[name] for one in searches]) for name in searches[0]}
    bracketed = np.isin(column["censored"], ["none", "interval"])
    row: dict[str, float | str] = {
        **asdict(setting),
        "datasets": len(searches),
        "coverage": column["covered"].mean(),
        "interval_above": column["below"].mean(),
        "interval_below": column["above"].mean(),
        "median_bias": float(np.median(column["error"][bracketed])) if bracketed.any() else math.nan,
        "bracketed": bracketed.mean(),
        "half_width": float(np.median(column["half_width"])),
        "finished": column["finished"].mean(),
        "runs": float(np.median(column["runs"])),
        "runs_mean": column["runs"].mean(),
        "work": column["work"].mean(),
        "rounds": float(np.median(column["rounds"])),
    }
    if grid and math.isfinite(row["half_width"]):
        cheapest = cheapest_grid(setting, row["half_width"])
        row |= cheapest
        row["runs_ratio"] = row["runs_mean"] / cheapest["grid_runs"]
        row["work_ratio"] = row["work"] / cheapest["grid_work"]
    return row


def main() -> None:
    """Print one line per setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="number of the first data set")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--setting", action="append", choices=[one.name for one in SETTINGS], help="only these")
    parser.add_argument("--no-grid", action="store_true", help="without the comparison to uniform grids")
    parser.add_argument("--out", type=Path, help="write the table here, as JSON")
    options = parser.parse_args()
    rows = []
    # Matrices are tiny: threads of the linear algebra only wait for each other. New processes read this at their start.
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    with ProcessPoolExecutor(options.workers, multiprocessing.get_context("spawn")) as pool:
        for setting in SETTINGS:
            if options.setting and setting.name not in options.setting:
                continue
            seeds = range(options.seed, options.seed + options.datasets)
            searches = list(pool.map(partial(search, setting), seeds, chunksize=10))
            rows.append(pool.submit(summary, setting, searches, not options.no_grid).result())
            skipped = ("low", "high", "n50", "scale", "link", "name")
            figures = {name: value for name, value in rows[-1].items() if name not in skipped}
            print(f"{setting.name}:", *(f"{name}={value:.4g}" for name, value in figures.items()), flush=True)
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
