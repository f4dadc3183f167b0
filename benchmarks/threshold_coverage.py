"""Coverage of the 95 % intervals of n50 and of the transition's width, for several shapes of the curve.

``python benchmarks/threshold_coverage.py [--datasets 400] [--workers 2] [--seconds S] [--out FILE]``

Each data set has 12 values of n, evenly spaced in log n over a factor of four and shifted at random by up to half a
step. Thresholds are drawn from one of five laws on log n: logistic, normal, Weibull, its mirror (Gumbel), and a mixture
of narrow and wide logistic ones. A lapse is a failure whatever n is. Independent problems draw a threshold at every n,
nested ones keep theirs; ``late`` nested ones also fail now and then after they succeeded. ``shared`` problems have a
chance of success of their own at each n (intraclass correlation 0.05), which no independent runs have: a bad model.
``width`` is that from 10 to 90 %, in steps of the grid.
"""

from __future__ import annotations

import argparse
import itertools
import math
import multiprocessing
import os
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import optimize, special

from flatdist.fits.threshold import estimate_threshold

N50 = 100.0
VALUES = 12
FACTOR = 4.0
STEP = math.log(FACTOR) / (VALUES - 1)
SHAPES = ("logistic", "normal", "weibull", "gumbel", "mixture")
CHUNK = 25
_CORRELATION = 0.05


@dataclass(frozen=True)
class Setting:
    """One kind of data set.

    Attributes:
        shape: law of the thresholds.
        replicates: per value of n.
        width: from 10 to 90 %, in steps of the grid.
        lapse: share of failures at large n.
        problems: ``independent``, ``nested``, ``late`` or ``shared``.
        center: position of n50 in the grid, 0.5 is its middle.
    """

    shape: str
    replicates: int
    width: float = 3.5
    lapse: float = 0.0
    problems: str = "independent"
    center: float = 0.5


def settings() -> list[Setting]:
    """All settings of the study."""
    lapses = (0.0, 0.02, 0.05, 0.1)

    def all_of() -> Iterator[Setting]:
        for shape, replicates in itertools.product(SHAPES, (32, 8)):
            for lapse, problems in itertools.product(lapses, ("independent", "nested")):
                yield Setting(shape, replicates, lapse=lapse, problems=problems)
            for width, lapse in itertools.product((1.0, 7.0), (0.0, 0.05)):
                yield Setting(shape, replicates, width, lapse)
            for lapse in (0.0, 0.05):
                yield Setting(shape, replicates, lapse=lapse, center=0.75)
        for replicates, problems in itertools.product((32, 8), ("independent", "nested")):
            yield Setting("logistic", replicates, 0.2, problems=problems)
        for shape, replicates in itertools.product(("logistic", "weibull"), (32, 8)):
            yield Setting(shape, replicates, lapse=0.05, problems="late")
            yield Setting(shape, replicates, problems="shared")

    return list(all_of())


def cdf(shape: str, z: float) -> float:
    """P(threshold <= z) of the standard law."""
    if shape == "mixture":
        return 0.5 * float(special.expit(z) + special.expit(z / 5.0))
    laws = {
        "logistic": special.expit,
        "normal": special.ndtr,
        "weibull": lambda x: -np.expm1(-np.exp(x)),
        "gumbel": lambda x: np.exp(-np.exp(-x)),
    }
    return float(laws[shape](z))


def quantile(shape: str, probability: float) -> float:
    """Inverse of :func:`cdf`."""
    return float(optimize.brentq(lambda z: cdf(shape, z) - probability, -60.0, 60.0))


def draw(shape: str, size: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    """Standard thresholds."""
    if shape == "logistic":
        return generator.logistic(size=size)
    if shape == "normal":
        return generator.normal(size=size)
    if shape == "mixture":
        return generator.logistic(size=size) * np.where(generator.random(size) < 0.5, 1.0, 5.0)
    gumbel = generator.gumbel(size=size)
    return gumbel if shape == "gumbel" else -gumbel


def truth(setting: Setting) -> tuple[float, float, float]:
    """Center and scale of the law on log n, and the 10-90 % width in measurements; n50 is :data:`N50`."""
    low, high = quantile(setting.shape, 0.1), quantile(setting.shape, 0.9)
    scale = setting.width * STEP / (high - low)
    lapse = setting.lapse
    center = math.log(N50) - scale * quantile(setting.shape, 0.5 / (1.0 - lapse))
    return center, scale, math.exp(center + scale * high) - math.exp(center + scale * low)


def simulate(setting: Setting, generator: np.random.Generator) -> pd.DataFrame:
    """One data set of labelled trials."""
    center, scale, _ = truth(setting)
    shift = (generator.random() - 0.5) * STEP
    log_n = math.log(N50) + shift + (np.arange(VALUES) - setting.center * (VALUES - 1)) * STEP
    n = np.rint(np.exp(log_n) * 10.0) / 10.0
    size = (VALUES, setting.replicates)
    if setting.problems == "shared":
        chance = np.array([cdf(setting.shape, (value - center) / scale) for value in np.log(n)])
        chance = np.clip(chance * (1.0 - setting.lapse), 1e-9, 1.0 - 1e-9)
        spread = 1.0 / _CORRELATION - 1.0
        success = generator.random(size) < generator.beta(spread * chance, spread * (1.0 - chance))[:, None]
    else:
        once = setting.problems in ("nested", "late")
        drawn = (1, setting.replicates) if once else size
        threshold = center + scale * draw(setting.shape, drawn, generator)
        success = np.log(n)[:, None] >= threshold
        lapsed = generator.random(drawn if setting.problems == "nested" else size) < setting.lapse
        success = success & ~lapsed
    return pd.DataFrame(
        {
            "n": np.repeat(n, setting.replicates),
            "replicate": np.tile(np.arange(setting.replicates), VALUES),
            "success": success.ravel(),
            "nested": setting.problems in ("nested", "late"),
        }
    )


def study(number: int, first: int, count: int, seed: int) -> pd.DataFrame:
    """Fits of some data sets of one setting."""
    setting = settings()[number]
    rows = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for dataset in range(first, first + count):
            generator = np.random.default_rng([seed, number, dataset])
            rows.append(estimate_threshold(simulate(setting, generator)))
    return pd.DataFrame(rows)


def summary(setting: Setting, fits: pd.DataFrame) -> dict[str, object]:
    """Coverage and bias over the data sets of one setting."""
    width = truth(setting)[2]
    bracketed = fits["censored"].isin(["none", "interval"])
    told = (fits["censored"] == "none") & np.isfinite(fits["transition"])
    covered = (fits["n50_low"] <= N50) & (fits["n50_high"] >= N50)
    row: dict[str, object] = {
        **asdict(setting),
        "datasets": len(fits),
        "coverage": covered.mean(),
        "below": (fits["n50_high"] < N50).mean(),
        "above": (fits["n50_low"] > N50).mean(),
        "median_bias": fits["n50"].median() / N50 - 1.0,
        "half_width": (0.5 * np.log(fits["n50_high"] / fits["n50_low"])).median(),
        "interval": (fits["censored"] == "interval").mean(),
        "censored": (~bracketed).mean(),
        "width_coverage": math.nan,
    }
    if told.any():
        within = (fits["transition_low"] <= width) & (fits["transition_high"] >= width)
        row["width_coverage"] = within[told].mean()
    if "fit_p" in fits:
        row["poor_fit"] = (fits["fit_p"] < 0.02).mean()
    return row


def run(datasets: int, workers: int, seed: int, seconds: float) -> pd.DataFrame:
    """The whole table: chunks of all settings in turn, until all are done or the time is up."""
    chosen = settings()
    fits: dict[int, list[pd.DataFrame]] = defaultdict(list)
    end = time.monotonic() + seconds
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        for first in range(0, datasets, CHUNK):
            count = min(CHUNK, datasets - first)
            tasks = {pool.submit(study, number, first, count, seed): number for number in range(len(chosen))}
            for task in as_completed(tasks):
                fits[tasks[task]].append(task.result())
                if time.monotonic() > end:
                    pool.shutdown(wait=False, cancel_futures=True)
                    break
            if time.monotonic() > end:
                break
    return pd.DataFrame([summary(chosen[number], pd.concat(fits[number])) for number in sorted(fits)])


def main() -> None:
    """Print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", type=int, default=400)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop after this long, with the results so far")
    parser.add_argument("--out", type=Path, help="write the table here, as CSV")
    options = parser.parse_args()
    table = run(options.datasets, options.workers, options.seed, options.seconds)
    if options.out:
        table.to_csv(options.out, index=False, float_format="%.5g")
    print(table.to_string(index=False, float_format="{:.4g}".format))


if __name__ == "__main__":
    main()
