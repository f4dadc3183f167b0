"""One cell's replicates by a method that computes its answer with a certificate, or that studies the problem itself."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from flatdist.cells.cell import Cell
from flatdist.cells.problems import StoredProblem, sample_stored
from flatdist.errors import SolverError
from flatdist.factorization.evaluation import final_metrics
from flatdist.factorization.flatness import hessian_trace, sharpness
from flatdist.factorization.products import end_to_end
from flatdist.machine.extras import load
from flatdist.machine.threads import set_threads
from flatdist.solvers.flattest_local import nu_bracket
from flatdist.trials.settings import Hooks, Interrupted, RunSettings

if TYPE_CHECKING:
    from flatdist.methods.base import Produced, SolverMethod, StudyMethod


def solve(cell: Cell, replicates: Sequence[int], settings: RunSettings, hooks: Hooks) -> Iterator[Produced]:
    """Solve replicates of a cell of a :class:`~flatdist.methods.base.SolverMethod`, one after another."""
    method = cast("SolverMethod", cell.spec)
    solver = load(method.solver)  # outside the measured time

    def solved(replicate: int, problem: StoredProblem) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        return _solved(method, solver, cell, problem), []

    return _one_by_one(solved, cell, replicates, settings, hooks)


def study(cell: Cell, replicates: Sequence[int], settings: RunSettings, hooks: Hooks) -> Iterator[Produced]:
    """Study the problems of replicates of a cell of a :class:`~flatdist.methods.base.StudyMethod`, one by one."""
    function = load(cast("StudyMethod", cell.spec).study)
    return _one_by_one(lambda r, problem: function(cell, r, problem.arrays()), cell, replicates, settings, hooks)


def _one_by_one(
    compute: Callable[[int, StoredProblem], tuple[dict[str, Any], list[dict[str, Any]]]],
    cell: Cell,
    replicates: Sequence[int],
    settings: RunSettings,
    hooks: Hooks,
) -> Iterator[Produced]:
    """What is computed of each replicate's problem, on the CPU; interrupted between replicates."""
    set_threads(settings.threads)
    for replicate in replicates:
        if hooks.should_stop():
            raise Interrupted
        started = time.perf_counter()
        trial, history = compute(replicate, sample_stored(cell, replicate))
        hooks.on_steps(1)
        seconds = time.perf_counter() - started
        yield replicate, trial | {"wall_seconds": seconds, "engine": "solver", "device": "cpu"}, history


def _solved(method: SolverMethod, solver: Callable[..., Any], cell: Cell, problem: StoredProblem) -> dict[str, Any]:
    options = {"depth": cell.depth, "width": cell.width} if method.has_layers else {}
    answer, certificate = solver(problem.measurements.dense(), problem.labels, **options, return_certificate=True)
    layers = [np.asarray(layer) for layer in answer] if method.has_layers else None
    matrix = np.asarray(answer) if layers is None else end_to_end(layers)
    residuals = problem.measurements.apply(matrix) - problem.labels
    nu: dict[str, float] = {}
    if method.has_layers and not cell.observation_noise_std:  # the ground truth interpolates: a proof of its own
        with contextlib.suppress(SolverError):  # F is not attained there
            nu = dict(zip(("nu_low", "nu_high"), nu_bracket(problem.arrays(), cell.depth), strict=True))
    return (
        final_metrics(matrix, problem)
        | {
            "status": "converged" if bool(certificate.converged) else "budget_exhausted",
            "train_loss": float(np.mean(residuals**2)),
            "hessian_trace": None if layers is None else float(hessian_trace(layers, problem.measurements)),
            "sharpness": None if layers is None else sharpness(layers, problem.measurements),
            "certificate": float(certificate.value),
        }
        | nu
    )
