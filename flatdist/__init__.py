"""How many linear measurements does a deep matrix factorization's flattest solution need?

The public names below are loaded when first used: ``import flatdist`` loads neither torch nor ray nor pandas, and
reading results needs none of torch, ray and numba.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flatdist import theory as theory
    from flatdist.cells.cell import Cell as Cell
    from flatdist.cells.problems import Problem as Problem
    from flatdist.cells.problems import sample_problem as sample_problem
    from flatdist.errors import CellError as CellError
    from flatdist.errors import FitError as FitError
    from flatdist.errors import FlatdistError as FlatdistError
    from flatdist.errors import LaunchError as LaunchError
    from flatdist.errors import SolverError as SolverError
    from flatdist.errors import StoreError as StoreError
    from flatdist.errors import SweepError as SweepError
    from flatdist.factorization.flatness import hessian_trace as hessian_trace
    from flatdist.factorization.products import end_to_end as end_to_end
    from flatdist.factorization.regularizer import balanced_factorization as balanced_factorization
    from flatdist.factorization.regularizer import induced_regularizer as induced_regularizer
    from flatdist.results import load_history as load_history
    from flatdist.results import load_trials as load_trials
    from flatdist.solvers.min_frobenius_norm import min_frobenius_norm as min_frobenius_norm
    from flatdist.solvers.min_hessian_trace import min_hessian_trace as min_hessian_trace
    from flatdist.solvers.min_nuclear_norm import min_nuclear_norm as min_nuclear_norm
    from flatdist.trials.run import run_cell as run_cell

_HOMES = {
    "Cell": "flatdist.cells.cell",
    "CellError": "flatdist.errors",
    "FitError": "flatdist.errors",
    "FlatdistError": "flatdist.errors",
    "LaunchError": "flatdist.errors",
    "Problem": "flatdist.cells.problems",
    "SolverError": "flatdist.errors",
    "StoreError": "flatdist.errors",
    "SweepError": "flatdist.errors",
    "balanced_factorization": "flatdist.factorization.regularizer",
    "end_to_end": "flatdist.factorization.products",
    "hessian_trace": "flatdist.factorization.flatness",
    "induced_regularizer": "flatdist.factorization.regularizer",
    "load_history": "flatdist.results",
    "load_trials": "flatdist.results",
    "min_frobenius_norm": "flatdist.solvers.min_frobenius_norm",
    "min_hessian_trace": "flatdist.solvers.min_hessian_trace",
    "min_nuclear_norm": "flatdist.solvers.min_nuclear_norm",
    "run_cell": "flatdist.trials.run",
    "sample_problem": "flatdist.cells.problems",
}

__all__ = [
    "Cell",
    "CellError",
    "FitError",
    "FlatdistError",
    "LaunchError",
    "Problem",
    "SolverError",
    "StoreError",
    "SweepError",
    "__version__",
    "balanced_factorization",
    "end_to_end",
    "hessian_trace",
    "induced_regularizer",
    "load_history",
    "load_trials",
    "min_frobenius_norm",
    "min_hessian_trace",
    "min_nuclear_norm",
    "run_cell",
    "sample_problem",
    "theory",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name == "theory":
        return import_module("flatdist.theory")
    if name == "__version__":
        from flatdist.machine.provenance import package_version

        return package_version("flatdist")
    raise AttributeError(f"module 'flatdist' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
