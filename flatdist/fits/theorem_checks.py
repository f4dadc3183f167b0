"""The statements of Gatmiry et al. (2023), each as a check of trials; docs/theorems.md states them.

An isometry constant delta is known from below and, if measurements outnumber entries, also from above. A bound that
grows with delta holds if it holds at the lower value, and is violated if it fails at the upper value; in between it is
undecided. A lower value of 1 or more voids the statement's hypothesis.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from flatdist.cells.cell import PROBLEM_FIELDS
from flatdist.fits.grouping import group_rows
from flatdist.theory import flattest_risk_bound, flattest_trace, minimum_norm_law, nuclear_norm_ratio_bound

HOLDS = "holds"
VIOLATED = "violated"
UNRESOLVED = "unresolved"
VACUOUS = "vacuous"
NO_POWER = "no power"  # these measurements would have looked the same had the statement been false
VERDICTS = (HOLDS, UNRESOLVED, NO_POWER, VACUOUS, VIOLATED)

ROUNDING = 1e-9  # relative; bounds that are attained exactly must not fail by it
LEMMA_2 = 1e-10
LEMMA_4 = 1e-10
PRODUCT = 1e-12
CLOSED_FORM = 1e-6
EXACT = 1e-9  # below it a recovery is exact: drawn there on logarithmic axes, and not compared
SIGNIFICANCE = 1e-3  # of one test of a law; divided by the number of tests
SLOPE = 0.1  # by which Corollary 1's exponent may differ from -1/2
MANY = 8  # measurements over entries from which on the exponent is fitted

_KEY = [*PROBLEM_FIELDS, "replicate"]
_SHOWN = ["cell_id", "configuration_id", *_KEY, "depth", "nuclear_norm_truth"]
_SIZE = ["d_out", "d_in", "ensemble"]
_FEW = "ensemble == 'gaussian' and n < d_out * d_in"
_DELTAS = ["delta_1_lower", "delta_1_upper", "delta_2_lower", "delta_2_upper"]

Finding = tuple[pd.DataFrame, str, str]  # instances with their verdicts, the measurement and the worst case in words


@dataclass(frozen=True)
class Check:
    """One row of the table, and its figure."""

    statement: str  # its name in the paper
    name: str  # of the figure's file
    predicted: str  # the statement, in one line
    instances: pd.DataFrame  # one row each, with ``verdict``
    measured: str  # the finding, in one line
    worst: str  # the instance that came nearest to failing, in words

    @property
    def verdict(self) -> str:
        """The verdict of all instances together."""
        return combined(self.instances["verdict"])

    def row(self) -> dict[str, object]:
        """The row of the table."""
        verdicts = list(self.instances["verdict"])
        row: dict[str, object] = {name: getattr(self, name) for name in ("statement", "predicted", "measured")}
        row |= {"instances": len(verdicts), **{verdict: verdicts.count(verdict) for verdict in VERDICTS}}
        return row | {"worst": self.worst, "verdict": self.verdict}


@dataclass(frozen=True)
class Statement:
    """A statement of the paper."""

    name: str
    title: str
    predicted: str
    select: Callable[[pd.DataFrame], pd.DataFrame]  # the rows of trials that test it
    find: Callable[[pd.DataFrame], Finding]  # what they show

    def check(self, trials: pd.DataFrame) -> Check | None:
        """The statement against trials; None where none of them tests it."""
        rows = self.select(trials)
        return None if rows.empty else Check(self.title, self.name, self.predicted, *self.find(rows))


def run_checks(trials: pd.DataFrame) -> tuple[list[Check], list[str]]:
    """Check every statement; return the checks, and the names of statements that no trial tests."""
    found = [(statement.title, statement.check(trials)) for statement in STATEMENTS]
    return [check for _, check in found if check], [title for title, check in found if not check]


def verdict_table(checks: Sequence[Check]) -> pd.DataFrame:
    """One row for each statement: predicted, measured, instances of each verdict, worst case, verdict."""
    return pd.DataFrame([check.row() for check in checks])


def combined(verdicts: Sequence[str] | pd.Series) -> str:
    """One verdict for several instances: vacuous ones count only if there are no others."""
    present = set(verdicts)
    return next((verdict for verdict in (VIOLATED, UNRESOLVED, HOLDS, NO_POWER) if verdict in present), VACUOUS)


def judge(measured: float, bound: Callable[[float], float], lower: float, upper: float) -> str:
    """Verdict on ``measured <= bound(delta)`` for a bound that grows with delta, lower <= delta <= upper."""
    if not math.isfinite(measured) or not math.isfinite(lower):
        return UNRESOLVED
    if lower >= 1.0:
        return VACUOUS
    if measured <= bound(lower) * (1.0 + ROUNDING) + ROUNDING:
        return HOLDS
    return VIOLATED if upper < 1.0 and measured > bound(upper) * (1.0 + ROUNDING) + ROUNDING else UNRESOLVED


def problems(trials: pd.DataFrame) -> pd.DataFrame:
    """One row for each problem that was probed at any depth, with its isometry constants."""
    return _probes(trials).drop_duplicates(_KEY)


def _probes(trials: pd.DataFrame) -> pd.DataFrame:
    """One row for each theorem_probe trial, its quantities as columns."""
    chosen = trials[(trials["method"] == "theorem_probe") & trials["quantities"].notna()]
    if chosen.empty:
        return pd.DataFrame(columns=[*_SHOWN, *_DELTAS], dtype=float)
    shown = chosen[[name for name in _SHOWN if name in chosen]].reset_index(drop=True)
    return pd.concat([shown, pd.DataFrame(list(chosen["quantities"]))], axis=1)


def _probed(*quantities: str, where: str = "n > 0") -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Selects the probes that have these quantities."""

    def select(trials: pd.DataFrame) -> pd.DataFrame:
        rows = _probes(trials).query(where)
        return rows.dropna(subset=list(quantities)) if set(quantities) <= set(rows) else rows.iloc[:0]

    return select


def _overdetermined(trials: pd.DataFrame) -> pd.DataFrame:
    """Problems of the sizes that were probed at three n or more far beyond the number of entries."""
    rows = problems(trials).query(f"n >= {MANY} * d_out * d_in")
    return rows.groupby(_SIZE).filter(lambda group: group["n"].nunique() > 2)


def _flattest(delta: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Selects certified flattest interpolators of fewer measurements than entries whose problem's delta is known.

    Of the minimum nuclear norm on the same problem they have ``least_nuclear_norm``.
    """

    def select(trials: pd.DataFrame) -> pd.DataFrame:
        certified = trials.query("status == 'converged' and n < d_out * d_in")
        rows, nuclear = (certified[certified["method"] == name] for name in ("min_hessian_trace", "min_nuclear_norm"))
        known = problems(trials).reindex(columns=[*_KEY, *_DELTAS]).dropna(subset=delta)
        if rows.empty or nuclear.empty or known.empty:  # empty columns have no type to merge on
            return rows.iloc[:0]
        least = nuclear[[*_KEY, "nuclear_norm"]].rename(columns={"nuclear_norm": "least_nuclear_norm"})
        return rows.merge(least, on=_KEY).merge(known, on=_KEY)

    return select


def _judged(
    rows: pd.DataFrame, measured: Any, rank: int, bound: Callable[[float, int], float] = lambda delta, depth: delta
) -> pd.DataFrame:
    """The rows with ``measured``, delta_rank as ``lower`` and ``upper``, and the verdict on measured <= bound."""
    rows = rows.assign(measured=measured, lower=rows[f"delta_{rank}_lower"], upper=rows[f"delta_{rank}_upper"])

    def at(depth: float) -> Callable[[float], float]:
        return lambda delta: bound(delta, int(depth))

    columns = zip(*(rows[name] for name in ("measured", "depth", "lower", "upper")), strict=True)
    return rows.assign(verdict=[judge(value, at(depth), *limits) for value, depth, *limits in columns])


def _within_delta(rows: pd.DataFrame, measured: Any, rank: int) -> Finding:
    """measured <= delta_rank."""
    rows = _judged(rows, measured, rank)
    useful = rows[rows["lower"] < 1.0]
    shown = rows if useful.empty else useful
    worst = _largest(shown, shown["measured"] / shown["lower"])
    share = f"left side at most {worst['measured'] / worst['lower']:.3f} of delta_{rank}'s lower bound"
    limits = f"delta_{rank} in [{worst['lower']:.4f}, {worst['upper']:.4f}]"
    return (
        rows,
        share + (" (all beyond 1)" if useful.empty else ""),
        f"{worst['measured']:.4f} with {limits} at {_where(worst)}",
    )


def _equal(rows: pd.DataFrame, errors: pd.Series, tolerance: float, measured: str) -> Finding:
    """Equality of two sides to this relative difference."""
    rows = rows.assign(measured=errors, verdict=np.where(errors <= tolerance, HOLDS, VIOLATED))
    worst = _largest(rows, errors)
    return rows, measured, f"{worst['measured']:.1e} at {_where(worst)}"


def _largest(rows: pd.DataFrame, values: Any) -> pd.Series:
    """The row with the largest of these values, nulls left aside."""
    return rows.iloc[int(np.nanargmax(np.asarray(values, dtype=float)))]


def _where(row: pd.Series) -> str:
    """Which problem an instance is, in words."""
    layers = "" if pd.isna(row.get("depth")) else f", L = {int(row['depth'])}"
    size = f"{int(row['d_out'])} x {int(row['d_in'])}, r = {int(row['rank'])}, n = {int(row['n'])}"
    return f"{size}{layers}, {row['ensemble']}, replicate {int(row['replicate'])}"


def _lemma_2(rows: pd.DataFrame) -> Finding:
    on, off = rows["lemma2_on"], rows["lemma2_off"]
    measured = f"largest relative difference {on.max():.1e} at interpolators, {off.max():.1e} elsewhere"
    return _equal(rows, rows[["lemma2_on", "lemma2_off"]].max(axis=1), LEMMA_2, measured)


def _lemma_4(rows: pd.DataFrame) -> Finding:
    excess, product, others = rows["lemma4_excess"].abs(), rows["lemma4_product"], rows["lemma4_others"]
    good = (excess <= LEMMA_4) & (product <= PRODUCT) & (others >= -LEMMA_4)
    measured = f"R differs by at most {excess.max():.1e}, products by {product.max():.1e}; other factorizations end "
    worst = _largest(rows, excess)
    return (
        rows.assign(verdict=np.where(good, HOLDS, VIOLATED)),
        measured + f"{others.min():.1%} or more above",
        f"{abs(worst['lemma4_excess']):.1e} at {_where(worst)}",
    )


def _theorem_1_regularizer(rows: pd.DataFrame) -> Finding:
    sizes = zip(rows["nuclear_norm_truth"], rows["d_out"], rows["d_in"], rows["depth"], strict=True)
    ideal = [flattest_trace(norm, int(out), int(into), int(depth)) for norm, out, into, depth in sizes]
    return _within_delta(rows, np.abs(rows["regularizer"] / ideal - 1.0), 1)


def _theorem_1_nuclear_norm(rows: pd.DataFrame) -> Finding:
    rows = _judged(rows, rows["nuclear_norm"] / rows["least_nuclear_norm"], 1, nuclear_norm_ratio_bound)
    useful = rows[rows["verdict"] != VACUOUS]
    shown = rows if useful.empty else useful
    worst = _largest(shown, shown["measured"])
    some = "vacuous everywhere" if useful.empty else f"{useful['measured'].max():.4f} where delta_1 may be below 1"
    bound = nuclear_norm_ratio_bound(float(worst["lower"]), int(worst["depth"]))
    return (
        rows,
        f"ratio at most {rows['measured'].max():.4f}; {some}",
        f"{worst['measured']:.4f} against {bound:.2f} at {_where(worst)}",
    )


def _theorem_2(rows: pd.DataFrame) -> Finding:
    error = rows["population_loss"] / rows["nuclear_norm_truth"] ** 2
    rows = _judged(rows, error, 2, lambda delta, depth: flattest_risk_bound(delta, 1.0, depth))
    useful = int((rows["verdict"] != VACUOUS).sum())
    worst = _largest(rows, -rows["lower"])
    return (
        rows,
        f"left side at most {error.max():.2f} ||M*||_*^2; the bound says something of {useful} problems",
        f"smallest delta_2 at least {worst['lower']:.2f}, at {_where(worst)}",
    )


def _theorem_3(rows: pd.DataFrame) -> Finding:
    """The C that the measurements need must not grow with d.

    A C that does not grow is no evidence: errors vanish above the transition, which lies at a multiple of r (d + d'),
    so the largest error over n falls against (d + d') log^3 n / n whether or not the theorem is sharp.
    """
    n, size = rows["n"].astype(float), (rows["d_out"] + rows["d_in"]).astype(float)
    constant = rows["population_loss"] * n / (size * rows["nuclear_norm_truth"] ** 2 * np.log(n) ** 3)
    rows = rows.assign(measured=constant, size=size)
    # Ranks apart: of a ground truth with many singular values the squared nuclear norm alone makes C small.
    needed = rows.groupby(["rank", "size"])["measured"].max()
    compared = [group.to_numpy() for _, group in needed.groupby("rank") if len(group) > 1]
    # Exact recoveries need no constant: rounding in them is no growth.
    grows = not compared or any(group[-1] > 1.1 * max(group[0], EXACT) for group in compared)
    worst = _largest(rows, rows["measured"])
    table = needed.reset_index().itertuples(index=False, name=None)
    listed = (f"{value:.4f} at d + d' = {size:g} (rank {rank:g})" for rank, size, value in table)
    return (
        rows.assign(verdict=UNRESOLVED if grows else NO_POWER),
        f"C needed: {', '.join(listed)}",
        f"C >= {worst['measured']:.4f} at {_where(worst)}",
    )


def _theorem_4(rows: pd.DataFrame) -> Finding:
    from scipy import special, stats

    tests = []
    for _, group in rows.groupby("cell_id", sort=False):
        first, errors = group.iloc[0], group["relative_error"].to_numpy(dtype=float)
        law = minimum_norm_law(int(first["d_out"]), int(first["d_in"]), int(first["n"]))
        score = (errors.mean() - law.mean()) / (law.std() / np.sqrt(len(errors)))
        tests.append(
            {
                **first[["d_out", "d_in", "rank", "n", "ensemble"]],
                "replicates": len(errors),
                "measured": errors.mean(),
                "expected": law.mean(),
                "mean_p": 2.0 * special.ndtr(-abs(score)),
                "law_p": stats.kstest(law.cdf(errors), "uniform").pvalue,
                "ranks": np.sort(law.cdf(errors)),
            }
        )
    table = pd.DataFrame(tests)
    least = table[["mean_p", "law_p"]].min(axis=1)
    table = table.assign(least=least, verdict=np.where(least > SIGNIFICANCE / (2 * len(table)), HOLDS, VIOLATED))
    worst, apart = _largest(table, -least), (table["measured"] - table["expected"]).abs().max()
    smallest = f"mean {table['mean_p'].min():.3f}, Kolmogorov-Smirnov {table['law_p'].min():.3f}"
    cells = f"({len(table)} cells of {table['replicates'].min()} replicates)"
    return (
        table,
        f"means differ by at most {apart:.4f}; smallest p: {smallest} {cells}",
        f"p = {worst['least']:.3f} at {int(worst['d_out'])} x {int(worst['d_in'])}, n = {int(worst['n'])}",
    )


def _closed_form(rows: pd.DataFrame) -> Finding:
    optimised, minimiser = (np.abs(rows[name] / rows["closed_form"] - 1.0) for name in ("regularizer", "closed_trace"))
    rows = rows.assign(optimised=optimised, minimiser=minimiser)
    measured = f"optimised value differs by at most {optimised.max():.1e}, the explicit minimiser's trace by "
    measured += f"{minimiser.max():.1e} and product by {rows['closed_product'].max():.1e}"
    return _equal(rows, rows[["optimised", "minimiser", "closed_product"]].max(axis=1), CLOSED_FORM, measured)


def _corollary_1(rows: pd.DataFrame) -> Finding:
    """For each size the exponent of n, from both bounds of delta."""
    from scipy.stats import linregress

    fits = []
    for key, group in group_rows(rows, _SIZE):
        n = group["n"].to_numpy(dtype=float)
        for rank, side in itertools.product((1, 2), ("lower", "upper")):
            delta = group[f"delta_{rank}_{side}"].to_numpy(dtype=float)
            fit = linregress(np.log(n), np.log(delta))
            constant = float(np.max(delta / np.sqrt(rank * (key["d_out"] + key["d_in"]) / n)))
            # An upper bound that shrinks at least this fast suffices; that it shrinks no faster is no claim.
            holds = fit.slope - 2 * fit.stderr <= -0.5 + SLOPE
            verdict = HOLDS if holds else VIOLATED if side == "lower" else UNRESOLVED
            row = {"delta": rank, "side": side, "slope": fit.slope, "error": fit.stderr, "constant": constant}
            fits.append({**key, **row, "verdict": verdict})
    table = pd.DataFrame(fits)
    slope, least = table["slope"], table.groupby("side")["constant"].max()
    worst = _largest(table, slope)
    size = f"{int(worst['d_out'])} x {int(worst['d_in'])}, delta_{worst['delta']}"
    measured = f"exponents {slope.min():.2f} to {slope.max():.2f}; c at least {least['lower']:.2f}, at most "
    return (
        table,
        measured + f"{least['upper']:.2f} at these sizes",
        f"exponent {worst['slope']:.2f} +- {worst['error']:.2f} at {size} from "
        + ("below" if worst["side"] == "lower" else "above"),
    )


STATEMENTS = (
    Statement(
        "lemma_2", "Lemma 2", f"tr Hess L(W) equals the sum over layers, to {LEMMA_2:g}",
        _probed("lemma2_on", "lemma2_off"), _lemma_2,
    ),
    Statement(
        "lemma_3", "Lemma 3", "|tr Hess L / (2 R) - 1| <= delta_1",
        _probed("lemma3_low", "lemma3_high"),
        lambda rows: _within_delta(rows, np.fmax(rows["lemma3_high"] - 1.0, 1.0 - rows["lemma3_low"]), 1),
    ),
    Statement(
        "lemma_4", "Lemma 4",
        f"min R = L (d d')^(1/L) ||M||_*^(2(L-1)/L), attained to {LEMMA_4:g} with a product exact to {PRODUCT:g}",
        _probed("lemma4_excess", "lemma4_product", "lemma4_others"), _lemma_4,
    ),
    Statement(
        "lemma_5", "Lemma 5", "|(1/n) sum <A_i, X>^2 - ||X||_F^2| <= delta_2 ||X||_*^2",
        _probed("lemma5_left", "delta_2_lower"), lambda rows: _within_delta(rows, rows["lemma5_left"], 2),
    ),
    Statement(
        "theorem_1_regularizer", "Theorem 1, regularizer",
        "|F(M) / G(M) - 1| <= delta_1, G = 2 L (d d')^(1/L) ||M||_*^(2(L-1)/L)",
        _probed("regularizer"), _theorem_1_regularizer,
    ),
    Statement(
        "theorem_1_nuclear_norm", "Theorem 1, nuclear norm",
        "||M-hat||_* / min ||M||_* <= ((1+delta_1)/(1-delta_1))^(L/(2(L-1)))",
        _flattest("delta_1_lower"), _theorem_1_nuclear_norm,
    ),
    Statement(
        "theorem_2", "Theorem 2", "||M-hat - M*||_F^2 <= 4 delta_2 / (1 - delta_2)^2 ||M*||_*^2",
        _flattest("delta_2_lower"), _theorem_2,
    ),
    Statement(
        "theorem_3", "Theorem 3",
        "population loss <= C (d + d')/n ||M*||_*^2 log^3 n, C unknown: the C needed must not grow with d",
        lambda trials: trials.query(f"method == 'min_hessian_trace' and status == 'converged' and {_FEW} and n > 1"),
        _theorem_3,
    ),
    Statement(
        "theorem_4", "Theorem 4",
        "relative error of the minimum-Frobenius-norm interpolator ~ Beta((D-n)/2, n/2), mean 1 - n/D",
        lambda trials: trials.query(f"method == 'min_frobenius_norm' and observation_noise_std == 0 and {_FEW}")
        .groupby("cell_id").filter(lambda cell: len(cell) > 1),
        _theorem_4,
    ),
    Statement(
        "theorem_5", "Theorem 5", f"F(M) = 4 ||S_out^(1/2) M S_in^(1/2)||_*, to {CLOSED_FORM:g}",
        _probed("closed_form", where="depth == 2"), _closed_form,
    ),
    Statement(
        "theorem_7", "Theorem 7", f"F(M) = 2L ||(A^T M)^(L-1) A^T||_(S 2/L)^(2/L), n = 1, to {CLOSED_FORM:g}",
        _probed("closed_form", where="n == 1 and depth > 2"), _closed_form,
    ),
    Statement(
        "corollary_1", "Corollary 1", "delta_r <= c sqrt(r (d + d')/n): exponent -1/2 of n",
        _overdetermined, _corollary_1,
    ),
)  # fmt: skip
