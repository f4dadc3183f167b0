"""Do the 95 % intervals of n50 cover the truth? Success curves simulated around a known n50.

``python benchmarks/threshold_coverage.py [--datasets 1000]``

Each data set has 12 values of n, evenly spaced in log n over a factor of four. A replicate's threshold is logistic in
log n around n50. Independent problems draw a new threshold at every n, nested ones keep theirs. Widths are the 10-90 %
width in steps of the grid: 0.2 (the grid is coarser than the transition), 1 (equal), 5 (wide).
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from flatdist.fits.threshold import FitSettings, estimate_threshold
from flatdist.threshold.likelihood import quantile

N50 = 100.0
VALUES = 12
FACTOR = 4.0


@dataclass(frozen=True)
class Setting:
    """One kind of data set.

    Attributes:
        replicates: per value of n.
        steps: 10-90 % width in grid steps.
        nested: the same replicates at every n.
        center: position of n50 in the grid, 0.5 is its middle.
    """

    replicates: int
    steps: float
    nested: bool
    center: float


def settings() -> Iterator[Setting]:
    """All settings of the study."""
    for values in itertools.product((8, 32), (0.2, 1.0, 5.0), (False, True), (0.5, 0.75)):
        yield Setting(*values)


def simulate(setting: Setting, generator: np.random.Generator) -> pd.DataFrame:
    """One data set of labelled trials; the grid is shifted at random against n50 by up to half a step."""
    step = math.log(FACTOR) / (VALUES - 1)
    shift = (generator.random() - 0.5) * step
    log_n = math.log(N50) + shift + (np.arange(VALUES) - setting.center * (VALUES - 1)) * step
    n = np.unique(np.rint(np.exp(log_n) * 10.0)) / 10.0
    scale = setting.steps * step / (2.0 * quantile("logit", 0.9))
    shape = (1 if setting.nested else len(n), setting.replicates)
    threshold = math.log(N50) + scale * generator.logistic(size=shape)
    success = np.log(n)[:, None] >= threshold  # (n, replicate)
    return pd.DataFrame(
        {
            "n": np.repeat(n, setting.replicates),
            "replicate": np.tile(np.arange(setting.replicates), len(n)),
            "success": success.ravel(),
            "nested": setting.nested,
        }
    )


def study(setting: Setting, datasets: int, seed: int, link: str) -> dict[str, float | bool]:
    """Coverage and bias over many data sets of one setting."""
    generator = np.random.default_rng(
        [seed, setting.replicates, int(10 * setting.steps), setting.nested, int(100 * setting.center)]
    )
    fits = pd.DataFrame(
        [estimate_threshold(simulate(setting, generator), FitSettings(link=link)) for _ in range(datasets)]
    )
    covered = (fits["n50_low"] <= N50) & (fits["n50_high"] >= N50)
    return {
        "replicates": setting.replicates,
        "width_steps": setting.steps,
        "nested": setting.nested,
        "center": setting.center,
        "coverage": covered.mean(),
        "below": (fits["n50_low"] > N50).mean(),
        "above": (fits["n50_high"] < N50).mean(),
        "median_bias": fits["n50"].median() / N50 - 1.0,
        "interval": (fits["censored"] == "interval").mean(),
        "censored": (~fits["censored"].isin(["none", "interval"])).mean(),
        "half_width": (0.5 * (fits["n50_high"] - fits["n50_low"]) / N50).median(),
    }


def main() -> None:
    """Print one line per setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--link", default="logit")
    parser.add_argument("--out", help="write the table here, as CSV")
    options = parser.parse_args()
    rows = []
    for setting in settings():
        rows.append(study(setting, options.datasets, options.seed, options.link))
        print(" ".join(f"{name}={value:.4g}" for name, value in rows[-1].items()), flush=True)
    if options.out:
        pd.DataFrame(rows).to_csv(options.out, index=False)


if __name__ == "__main__":
    main()
