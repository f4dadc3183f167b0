# The public names, and where each lives; flatdist/__init__.py loads them from this file when they are first used.
from . import figures as figures
from . import fits as fits
from . import theory as theory
from .api import plan as plan
from .api import sweep as sweep
from .cells.cell import Cell as Cell
from .cells.problems import Problem as Problem
from .cells.problems import sample_problem as sample_problem
from .errors import CellError as CellError
from .errors import FigureError as FigureError
from .errors import FitError as FitError
from .errors import FlatdistError as FlatdistError
from .errors import LaunchError as LaunchError
from .errors import SolverError as SolverError
from .errors import StoreError as StoreError
from .errors import SweepError as SweepError
from .factorization.flatness import hessian_trace as hessian_trace
from .factorization.flatness import sharpness as sharpness
from .factorization.local_flatness import local_flatness as local_flatness
from .factorization.products import end_to_end as end_to_end
from .factorization.regularizer import balanced_factorization as balanced_factorization
from .factorization.regularizer import induced_regularizer as induced_regularizer
from .fits.scaling import fit_scaling as fit_scaling
from .fits.threshold import fit_thresholds as fit_thresholds
from .report import write_report as write_report
from .results import load_history as load_history
from .results import load_trials as load_trials
from .solvers.min_frobenius_norm import min_frobenius_norm as min_frobenius_norm
from .solvers.min_hessian_trace import min_hessian_trace as min_hessian_trace
from .solvers.min_nuclear_norm import min_nuclear_norm as min_nuclear_norm
from .store import Store as Store
from .sweeps import Sweep as Sweep
from .sweeps import load_sweep as load_sweep
from .trials.run import run_cell as run_cell

__version__: str
