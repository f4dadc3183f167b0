"""Coverage of n50 by boundary searches that stop by themselves, and the runs they save, on simulated success curves.

``python benchmarks/boundary_search.py [--datasets 500] [--workers 2] [--seconds S] [--setting NAME ...] [--out FILE]``

Every data set is a whole search: rounds of runs at the n that the search asks for, until it has finished or 400 runs
are spent. Success at n is drawn from the curve of one of the links with lapses; n50 is the setting's, moved by up to
half a measurement either way. Chunks of all settings are simulated in turn until the time is up. The uniform grid has
the same range, evenly spaced in log n, and the number of values out of 12, 24, 48, 96 that reaches the search's median
half-width with the fewest runs; ``work`` weighs each run with its n, as each step of a run costs where all measurements
are used. Steps are the same for every run of a group, so the ratio of replicate-steps is that of runs.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from flatdist.threshold import Runs, finished, interval, place, round_size
from flatdist.threshold.curves import curve, rise

BUDGET = 400
CHUNK = 10
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
        scale: of the logistic curve on log n that rises from 10 to 90 % over the same width.
        link: of the curve.
        precision: half-width asked for.
        lapse: share of failures at large n.
    """

    name: str
    low: int
    high: int
    n50: float
    scale: float
    link: str = "logit"
    precision: float = 0.03
    lapse: float = 0.0

    def probability(self, n: np.ndarray, n50: float) -> np.ndarray:
        """Of success at n."""
        return curve(self.link, n, n50, self.scale * rise("logit") / rise(self.link), self.lapse)


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
    Setting("12x12 rank 1, lapses of 5 %", 22, 144, 44.6, 0.066, lapse=0.05),
    Setting("20x20 rank 2, lapses of 10 %", 71, 400, 141.6, 0.032, lapse=0.1),
    Setting("12x12 rank 1, Weibull", 22, 144, 44.6, 0.066, "cloglog"),
    Setting("12x12 rank 1, mirrored Weibull", 22, 144, 44.6, 0.066, "loglog"),
    Setting("n50 below the range", 22, 144, 15.0, 0.066),
    Setting("n50 above the range", 22, 144, 220.0, 0.066),
)


def searches(setting: Setting, seeds: range) -> list[dict[str, float | str]]:
    """One search to its end for each seed."""
    return [search(setting, seed) for seed in seeds]


def search(setting: Setting, seed: int) -> dict[str, float | str]:
    """One search to its end."""
    generator = np.random.default_rng([seed, SETTINGS.index(setting)] if setting in SETTINGS else seed)
    n50 = setting.n50 + generator.random() - 0.5
    within = np.arange(setting.low, setting.high + 1)
    runs = Runs(np.zeros(0), np.zeros(0))
    done, rounds = False, 0
    while not done and len(runs) < BUDGET:
        asked = place(runs, within, min(round_size(len(runs)), BUDGET - len(runs)))
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


def summary(setting: Setting, ended: list[dict[str, float | str]], grid: bool) -> dict[str, float | str]:
    """Coverage, bias and cost over many searches."""
    column = {name: np.array([one[name] for one in ended]) for name in ended[0]}
    bracketed = np.isin(column["censored"], ["none", "interval"])
    row: dict[str, float | str] = {
        **asdict(setting),
        "datasets": len(ended),
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
    """Print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0, help="number of the first data set")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=math.inf, help="of simulation, before the grids")
    parser.add_argument("--setting", action="append", choices=[one.name for one in SETTINGS], help="only these")
    parser.add_argument("--no-grid", action="store_true", help="without the comparison to uniform grids")
    parser.add_argument("--out", type=Path, help="write the table here, as CSV")
    options = parser.parse_args()
    chosen = [one for one in SETTINGS if not options.setting or one.name in options.setting]
    found: dict[str, list[dict[str, float | str]]] = {one.name: [] for one in chosen}
    end, last = time.monotonic() + options.seconds, options.seed + options.datasets
    # Matrices are tiny: threads of the linear algebra only wait for each other. New processes read this at their start.
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    with ProcessPoolExecutor(options.workers, multiprocessing.get_context("spawn")) as pool:
        for first in range(options.seed, last, CHUNK):
            if time.monotonic() > end:
                break
            seeds = range(first, min(first + CHUNK, last))
            for setting, ended in zip(chosen, pool.map(partial(searches, seeds=seeds), chosen), strict=True):
                found[setting.name] += ended
        rows = list(pool.map(partial(summary, grid=not options.no_grid), chosen, found.values()))
    table = pd.DataFrame(rows)
    if options.out:
        table.to_csv(options.out, index=False, float_format="%.4g")
    print(
        table.drop(columns=["low", "high", "n50", "scale", "link"]).to_string(index=False, float_format="{:.4g}".format)
    )


if __name__ == "__main__":
    main()
