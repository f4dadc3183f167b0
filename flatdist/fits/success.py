"""When a replicate counts as a success, decided at analysis time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import NormalDist

import numpy as np
import pandas as pd

from flatdist.errors import FitError, did_you_mean
from flatdist.fits.grouping import grouped
from flatdist.methods.base import SGD_TOLERANCE
from flatdist.threshold.recovery import default_tolerance


def common_tolerance(methods: Iterable[str]) -> float:
    """One tolerance for methods that are compared: the loosest of their defaults."""
    return max((default_tolerance(method) for method in methods), default=SGD_TOLERANCE)


def resolve_tolerance(trials: pd.DataFrame, tolerance: float | None) -> float:
    """Check that a tolerance is a positive finite number, or choose the common one of the methods present."""
    if tolerance is None:
        if "method" not in trials:
            return SGD_TOLERANCE
        # A method that has no rows yet counts too, or n50 would change when its first row arrives.
        return common_tolerance({*trials["method"].dropna().unique(), *trials.attrs.get("wanted", {})})
    if isinstance(tolerance, bool) or not isinstance(tolerance, (int, float)) or not 0 < tolerance < float("inf"):
        raise FitError(f"tolerance={tolerance!r} is not a relative error; allowed: a positive number such as 1e-2")
    return float(tolerance)


def check_level(level: float) -> None:
    """Reject what is not a confidence level."""
    if not 0.0 < level < 1.0:
        raise FitError(f"level={level!r} is not a confidence level; allowed: between 0 and 1, such as 0.95")


def missing_lines(trials: pd.DataFrame) -> list[str]:
    """A sentence on what the sweep of these trials has not finished; no line if it is complete or that is unknown."""
    lines = [f"the sweep is not complete: {trials.attrs['outlook']}"] if trials.attrs.get("outlook") else []
    asked: dict[str, int] = trials.attrs.get("asked") or {}
    done = {name: min(int((trials["method"] == name).sum()), count) for name, count in asked.items()}
    if done == asked:
        return lines
    short = ", ".join(f"{name} {done[name]:,} of {count:,}" for name, count in asked.items() if done[name] < count)
    total = f"{sum(done.values()):,} of {sum(asked.values()):,} replicates are done"
    return [*lines, f"the sweep is not complete: {total} ({short})"]


def success_words(tolerance: float) -> str:
    """The definition of success, printed wherever n50 is."""
    return f"success: relative error below {tolerance:g}"


def wilson_interval(successes: int, total: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of a share (Wilson 1927); ``total`` at least 1.

    >>> [round(limit, 3) for limit in wilson_interval(8, 10)]
    [0.49, 0.943]
    """
    z = NormalDist().inv_cdf(0.5 + 0.5 * level)
    share, weight = successes / total, total + z * z
    middle = (successes + 0.5 * z * z) / weight
    reach = z / weight * math.sqrt(total * share * (1.0 - share) + 0.25 * z * z)
    return max(middle - reach, 0.0), min(middle + reach, 1.0)


def require_columns(frame: pd.DataFrame, columns: Sequence[str], what: str) -> None:
    """Check that columns exist; the error names each missing one and the nearest existing one."""
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        names = ", ".join(f"{name!r}{did_you_mean(name, map(str, frame.columns))}" for name in missing)
        raise FitError(f"{what} {names} not in the table; it has: {', '.join(map(str, frame.columns)) or 'no columns'}")


def label_success(trials: pd.DataFrame, tolerance: float) -> pd.DataFrame:
    """Add ``success``, ``diverged`` and ``unconverged`` to a copy of the trials.

    A replicate succeeds if relative_error < tolerance. A missing or non-finite error is a divergence, and a divergence
    is a failure. ``unconverged`` replicates used up their budget without the method's own certificate of convergence;
    their errors count as they are.

    Raises:
        FitError: no rows, missing columns, or n that is not positive.
    """
    require_columns(trials, ("n", "replicate", "relative_error"), "needed columns")
    if trials.empty:
        raise FitError("there are no trials to analyse: the table has no rows")
    n, error = (pd.to_numeric(trials[name], errors="coerce").to_numpy(float) for name in ("n", "relative_error"))
    counted = np.isfinite(n) & (n > 0)
    if not counted.all():
        raise FitError(f"{int((~counted).sum())} trials have no positive number of measurements n")
    status = trials["status"].astype(object).to_numpy() if "status" in trials else np.full(len(trials), "converged")
    diverged = (status == "diverged") | ~np.isfinite(error)
    return trials.assign(
        n=n.astype(np.int64) if np.all(n == np.floor(n)) else n,
        relative_error=error,
        diverged=diverged,
        unconverged=(status == "budget_exhausted") & ~diverged,
        success=(error < tolerance) & ~diverged,
    )


def success_rates(trials: pd.DataFrame, by: Sequence[str], tolerance: float) -> pd.DataFrame:
    """Success probability for each group and n: columns of ``by``, ``n``, ``rate``, ``count``, ``diverged``."""
    labelled = label_success(trials, tolerance)
    names = list(dict.fromkeys([*by, "n"]))
    keys, index = grouped(labelled, names)
    rates = labelled.groupby(index).agg(rate=("success", "mean"), count=("n", "size"), diverged=("diverged", "sum"))
    return pd.DataFrame(keys, columns=names).join(rates)
