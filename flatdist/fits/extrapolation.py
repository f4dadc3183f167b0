"""Extrapolation of paired differences to learning rate 0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from flatdist.errors import FitError


@dataclass(frozen=True)
class Limit:
    """A difference at learning rate 0.

    Attributes:
        value: mean over replicates of each replicate's intercept.
        error: its standard error over replicates.
        degree: of the polynomial in the learning rate.
        coefficients: mean polynomial, highest power first.
        replicates: how many have every learning rate.
    """

    value: float
    error: float
    degree: int
    coefficients: tuple[float, ...]
    replicates: int

    def __str__(self) -> str:
        return f"{self.value:.3g} +- {self.error:.2g}"


def to_zero(table: pd.DataFrame, value: str, degree: int = 1) -> Limit:
    """Fit a polynomial in the learning rate to each replicate and average the intercepts.

    Replicates share their problem and their start across learning rates, so fitting each by itself removes what differs
    between problems; the spread of the intercepts is then the error, whatever the noise of a single run.

    Args:
        table: with ``replicate``, ``learning_rate`` and the value; one row for each pair.
        value: column to extrapolate.
        degree: of the polynomial; more learning rates than that are needed.

    Raises:
        FitError: too few learning rates, or fewer than two replicates that have all of them.
    """
    wide = table.pivot_table(index="replicate", columns="learning_rate", values=value).dropna()
    rates = wide.columns.to_numpy(dtype=float)
    if len(rates) <= degree or len(wide) < 2:
        raise FitError(
            f"{len(wide)} replicates have all {len(rates)} learning rates; an extrapolation of degree {degree} to "
            f"learning rate 0 needs at least 2 replicates and {degree + 1} learning rates: run more of them"
        )
    fits = np.polyfit(rates, wide.to_numpy(dtype=float).T, degree)  # (degree + 1, replicates)
    intercepts = fits[-1]
    error = float(intercepts.std(ddof=1) / np.sqrt(len(intercepts)))
    mean: Sequence[float] = fits.mean(axis=1).tolist()
    return Limit(float(intercepts.mean()), error, degree, tuple(mean), len(wide))
