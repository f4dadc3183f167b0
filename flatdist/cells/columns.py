"""The columns of every table: name, type, unit, meaning, and where results have it from, declared once.

The Parquet schemas, their metadata, the checks on rows and requested columns, and the rows of trials all derive from
these declarations; the cell fields among them derive from :data:`flatdist.cells.cell.FIELDS`. A column may be added at
any time: older parts then read as null. A column is never renamed, and never changes its type or its meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from flatdist.cells.cell import FIELDS, PROBLEM_FIELDS
from flatdist.cells.problems import frobenius_norm
from flatdist.types import Array

SCHEMA_VERSION = 5  # of the layout of files, written into each; a new column does not change it

DIMENSIONLESS = "1"
FROBENIUS = "entries of M"
SQUARED_FROBENIUS = "entries of M, squared"
STATUSES = ("converged", "budget_exhausted", "diverged")  # how a replicate can end


@dataclass(frozen=True)
class Answer:
    """What a method found, for the columns that depend on nothing else."""

    matrix: Array  # (d_out, d_in), M
    ground_truth: Array  # (d_out, d_in), M*
    singular_values: Array  # (min(d_out, d_in),), of M, in decreasing order


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    name: str  # which readers rely on
    type: str  # in Arrow's spelling (string, int32, list<float64>), made into a type by flatdist.store.schema
    unit: str  # physical or mathematical; 1 for pure numbers, empty if a unit makes no sense
    meaning: str  # one line
    required: bool = False  # never null
    answer: Callable[[Answer], Any] | None = None  # its value in trials, where it depends only on the answer
    training: Callable[[Any], Any] | None = None  # or on a finished flatdist.trials.trainee.Trained


def _effective_rank(singular_values: Array) -> Any:
    """exp of the entropy of the singular values divided by their sum (Roy, Vetterli 2007)."""
    weights = singular_values / (singular_values.sum() or 1.0)
    positive = weights[weights > 0]
    return np.exp(-np.sum(positive * np.log(positive)))


def _squared_error(answer: Answer) -> Any:
    return np.sum((answer.matrix - answer.ground_truth) ** 2)


_KEY = (
    Column("cell_id", "string", "", "hash of every field that matters to the method, and of its numerics", True),
    Column("replicate", "int32", DIMENSIONLESS, "number of the replicate within its cell, from 0", True),
)

CELL = tuple(
    Column(name, field.metadata["kind"].arrow, "", field.metadata["help"] + "; null where it does not matter")
    for name, field in FIELDS.items()
)
"""The fields of a cell; null where a field does not matter to the method, or stands for ``auto`` or ``full``."""

OLDER_NULLS: Mapping[str, str | None] = {
    **{name: None for name in PROBLEM_FIELDS if FIELDS[name].metadata["added_later"]},
    "init": "init_scale",
}
"""Fields of which a row older than the field has null, which is read as the field's default.

Of a problem's fields every null is older. A method's field maps to an older field of the same methods: only where that
one is known does null mean an older row.
"""

# fmt: off
RESULTS = (
    Column("status", "string", "", "converged, budget_exhausted or diverged"),
    Column("train_loss", "float64", SQUARED_FROBENIUS, "mean squared residual over all measurements at the end"),
    Column("train_loss_max", "float64", SQUARED_FROBENIUS, "largest mini-batch loss of the whole training",
           training=lambda t: np.nanmax(t.history["train_loss_max"]) if t.diverged_at is None else None),
    Column("population_loss", "float64", SQUARED_FROBENIUS, "||M - M*||_F^2", answer=_squared_error),
    Column("relative_error", "float64", DIMENSIONLESS,
           "||M - M*||_F^2 / ||M*||_F^2; flattest_local: 0 if nu < 1, else 1",
           answer=lambda a: _squared_error(a) / frobenius_norm(a.ground_truth) ** 2),
    Column("nuclear_norm", "float64", FROBENIUS, "||M||_*", answer=lambda a: a.singular_values.sum()),
    Column("nuclear_norm_truth", "float64", FROBENIUS, "||M*||_*"),
    Column("frobenius_norm", "float64", FROBENIUS, "||M||_F", answer=lambda a: frobenius_norm(a.matrix)),
    Column("spectral_norm", "float64", FROBENIUS, "largest singular value of M", answer=lambda a: a.singular_values[0]),
    Column("effective_rank", "float64", DIMENSIONLESS, "exponential of the entropy of the normalised singular values",
           answer=lambda a: _effective_rank(a.singular_values)),
    Column("hessian_trace", "float64", "loss per squared weight", "Lemma 2's sum; null without layers",
           training=lambda t: t.history["hessian_trace"][-1] if t.diverged_at is None else None),
    Column("sharpness", "float64", "loss per squared weight", "(2/n) lambda_max(J J^T), the Hessian's at a minimum"),
    Column("nu_low", "float64", DIMENSIONLESS, "lower bound of nu at M*; above 1, M* is not locally flattest"),
    Column("nu_high", "float64", DIMENSIONLESS,
           "upper bound of nu at M*; below 1, M* is a sharp local minimum of flatness"),
    Column("singular_values", "list<float64>", FROBENIUS, "singular values of M, in decreasing order",
           answer=lambda a: a.singular_values),
    Column("certificate", "float64", DIMENSIONLESS, "what the solver proves: the largest relative violation or gap"),
    Column("learning_rate_final", "float64", DIMENSIONLESS, "the step size used, where learning_rate is auto too",
           training=lambda t: t.learning_rate),
    Column("flow_time", "float64", DIMENSIONLESS, "sum over the steps of eta^2 s^2 / (2 B)",
           training=lambda t: t.flow_time),
    Column("steps_run", "int64", "steps", "steps taken, fewer than ``steps`` where the training diverged",
           training=lambda t: t.cell.steps if t.diverged_at is None else t.diverged_at),
    Column("quantities", "map<string, float64>", "", "what a study measured, by name "
           "(flatdist/solvers/theorem_probe.py); untrained: 1 where the loss never fell"),
)
"""What a trial finds: equal to the bit on the same engine, versions and CPU features, however often it is run.

What has neither ``answer`` nor ``training`` is returned by name by whatever computes it.
"""

COSTS = (Column("wall_seconds", "float64", "s", "this replicate's share of the time its batch took",
                training=lambda t: t.seconds),)
# fmt: on

PROVENANCE = (
    Column("flatdist_version", "string", "", "version of flatdist"),
    Column("numerics_version", "int32", "", "version of the method's numerics"),
    Column("sampling_version", "int32", "", "version of the problem sampling"),
    Column("git_sha", "string", "", "revision of flatdist's own checkout; null for an installed release"),
    Column("git_dirty", "bool", "", "whether that checkout had uncommitted changes"),
    Column("torch_version", "string", "", "version of torch"),
    Column("plugins", "string", "", "files and packages of methods and ensembles that were loaded, with their hashes"),
    Column("engine", "string", "", "which engine took the steps; solver for methods that take none"),
    Column("device", "string", "", "device that computed it: cpu, or cuda with its number where one was chosen"),
    Column("cpu_features", "string", "", "instruction sets that results may depend on to the last bit"),
    Column("host", "string", "", "name of the machine"),
    Column("finished_at", "timestamp[us, UTC]", "UTC", "when the trial ended; never compared by the store"),
)

BOOKKEEPING = (
    Column("generation", "int32", DIMENSIONLESS, "how often this key had been invalidated before it was run", True),
    Column("part", "string", "", "name of the part that brought the row in; the smallest wins among duplicates", True),
)
"""The store's own columns; loaders return them only by name."""

TRIALS: tuple[Column, ...] = (
    *_KEY,
    Column("configuration_id", "string", "", "like cell_id without the versions of the numerics"),
    *CELL,
    *RESULTS,
    *COSTS,
    *PROVENANCE,
)

HISTORY: tuple[Column, ...] = (
    *_KEY,
    Column("step", "int64", "steps", "steps taken when the row was measured", True),
    Column("train_loss", "float64", SQUARED_FROBENIUS, "mean squared residual over all measurements"),
    Column("train_loss_max", "float64", SQUARED_FROBENIUS, "largest mini-batch loss since the previous row"),
    Column("population_loss", "float64", SQUARED_FROBENIUS, "||M - M*||_F^2"),
    Column("nuclear_norm", "float64", FROBENIUS, "||M||_*"),
    Column("hessian_trace", "float64", "loss per squared weight", "Lemma 2's sum"),
    Column("learning_rate", "float64", DIMENSIONLESS, "step size at this step"),
    Column("label_noise_std", "float64", "||M*||_F", "label noise at this step, annealing included"),
    Column("flow_time", "float64", DIMENSIONLESS, "sum over the steps so far of eta^2 s^2 / (2 B)"),
)

FAILURES: tuple[Column, ...] = (
    *_KEY,
    Column("attempt", "int32", DIMENSIONLESS, "number of the attempt, from 1"),
    Column("error_type", "string", "", "class of the exception"),
    Column("message", "string", "", "its message"),
    Column("traceback", "string", "", "its traceback"),
    Column("host", "string", "", "name of the machine"),
    Column("at", "timestamp[us, UTC]", "UTC", "when it happened; never compared by the store"),
)

TABLES: dict[str, tuple[Column, ...]] = {"trials": TRIALS, "history": HISTORY, "failures": FAILURES}


def column_names(columns: tuple[Column, ...]) -> tuple[str, ...]:
    """Return the names of the columns, in order."""
    return tuple(column.name for column in columns)


RESULT_COLUMNS = column_names(RESULTS)
"""Names of the columns that two runs of one trial must agree on to the bit."""
