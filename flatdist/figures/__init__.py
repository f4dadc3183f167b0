"""Figures: rows in, axes or a figure out; drawn once for papers, pages and notebooks.

Every function takes a plain DataFrame with one row per replicate, and ``ax=`` where one panel makes sense.
"""

from flatdist.figures.command import FIGURES, Made, Script, make_figure, run_script
from flatdist.figures.dependence import dependence, tolerance
from flatdist.figures.dependence import grouping as dependence_columns
from flatdist.figures.example import example_trials
from flatdist.figures.extrapolation import COLUMNS as FLOW_COLUMNS
from flatdist.figures.extrapolation import flatness_gap, flow_limit
from flatdist.figures.fields import heatmap, lines, scatter
from flatdist.figures.paired import paired
from flatdist.figures.phase_diagram import diagram_columns, phase_diagram
from flatdist.figures.ratios import first_success, ratios
from flatdist.figures.risk import risk, risk_ratios, risk_steps, steps_table
from flatdist.figures.sample_complexity import sample_complexity
from flatdist.figures.scaling import collapse, scaling
from flatdist.figures.style import save_figure
from flatdist.figures.theorems import theorem
from flatdist.figures.tracing import origin
from flatdist.figures.training_curves import COLUMNS as CURVE_COLUMNS
from flatdist.figures.training_curves import training_curves

__all__ = [
    "CURVE_COLUMNS", "FIGURES", "FLOW_COLUMNS", "Made", "Script", "collapse", "dependence", "dependence_columns",
    "diagram_columns", "example_trials", "first_success", "flatness_gap", "flow_limit", "heatmap", "lines",
    "make_figure", "origin", "paired", "phase_diagram", "ratios", "risk", "risk_ratios", "risk_steps", "run_script",
    "sample_complexity", "save_figure", "scaling", "scatter", "steps_table", "theorem", "tolerance", "training_curves",
]  # fmt: skip
