"""What a replicate would cost on a nominal CPU core: the shape of the cost, before any measurement sets its scale.

Counts of multiplications for each part of a run times round costs of one core. Only ratios between cells matter once
something has been measured: :mod:`flatdist.planning.cost` multiplies these figures by measured over nominal.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from flatdist.cells.cell import Cell
from flatdist.methods.base import GradientMethod
from flatdist.sensing.ensembles import ENSEMBLES

STEP_OVERHEAD = 0.5e-6  # seconds
LAYER_OVERHEAD = 0.2e-6
EVALUATION_OVERHEAD = 4e-5
REPLICATE_OVERHEAD = 1e-3
DRAWN_FLOPS = 1.5e10  # per second: passes over the drawn measurements
PRODUCT_FLOPS = 1e11  # products of small matrices that stay in cache
EVALUATION_FLOPS = 5e9
SOLVER_FLOPS = 5e9
SAMPLING = 2e-8  # seconds for one entry of a measurement
ITERATION_FLOPS = 1e5  # what an iteration costs however small the matrices are
SOLVER_ITERATIONS = {"min_nuclear_norm": 400, "min_hessian_trace": 2000}
STUDY_SECONDS = {"flow_limit": 2.0, "theorem_probe": 3.0, "flattest_local": 0.03}  # for matrices of 100 entries
ENGINE_FACTORS = {"fused": 1.0, "batched": 15.0, "reference": 150.0}


@dataclass(frozen=True)
class Nominal:
    """Cost of one replicate of a cell.

    Attributes:
        seconds: on a nominal core.
        steps: SGD steps; 0 for solvers.
    """

    seconds: float
    steps: int


def nominal_cost(cell: Cell, engine: str = "fused") -> Nominal:
    """The nominal cost of one replicate.

    Args:
        cell: the configuration.
        engine: what takes the steps; solvers have none.
    """
    entries = cell.d_out * cell.d_in
    sampling = REPLICATE_OVERHEAD + SAMPLING * cell.n * entries
    method = cell.spec
    if not isinstance(method, GradientMethod):
        return Nominal(sampling + _solver_flops(cell) / SOLVER_FLOPS, 0)
    widths = cell.widths
    chain = sum(a * b * min(widths[0], widths[-1]) for a, b in pairwise(widths))
    drawn = {"drawn": cell.batch_size or cell.n, "full": cell.n, "one": 1}[method.batch]
    passes = 2 if method.sharpness_aware else 1
    passing = PRODUCT_FLOPS if ENSEMBLES[cell.ensemble].storage.structured else DRAWN_FLOPS
    computing = 4 * drawn * entries / passing + 6 * chain / PRODUCT_FLOPS
    step = STEP_OVERHEAD + passes * (LAYER_OVERHEAD * cell.depth + computing)
    evaluation = EVALUATION_OVERHEAD + cell.n * entries * (2 + 2 * cell.depth) / EVALUATION_FLOPS
    evaluations = min(cell.evaluations, cell.steps + 1)
    stepping = cell.steps * step * ENGINE_FACTORS.get(engine, 1.0)
    return Nominal(sampling + stepping + evaluations * evaluation, cell.steps)


def _solver_flops(cell: Cell) -> float:
    entries, smaller = cell.d_out * cell.d_in, min(cell.d_out, cell.d_in)
    gram = 2.0 * cell.n**2 * entries + cell.n**3 / 3
    iteration = 4.0 * cell.n * entries + 20.0 * entries * smaller
    if cell.method == "min_hessian_trace":
        iteration *= cell.depth
    if cell.method in STUDY_SECONDS:
        length = cell.flow_duration if "flow_duration" in cell.spec.fields else 1.0
        return STUDY_SECONDS[cell.method] * length * entries / 100 * SOLVER_FLOPS
    return gram + SOLVER_ITERATIONS.get(cell.method, 0) * (iteration + ITERATION_FLOPS)
