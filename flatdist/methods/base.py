"""What every method declares: its identity, what runs it and on which engines, its state, and its step sizes.

Declarations are plain data and short functions, so that identity and planning load no numerics; whatever runs a method
is named as ``module:function`` and imported when it first runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from flatdist.machine.extras import load

ARCHITECTURE_FIELDS = ("depth", "width")
START_FIELDS = (*ARCHITECTURE_FIELDS, "init_scale", "init")
TRAINING_FIELDS = (*START_FIELDS, "learning_rate", "steps", "evaluations", "dtype")
SGD_TOLERANCE = 1e-2  # annealed label noise ends at 1e-3 ... 1e-5; the noise floor of short runs is above that
SOLVER_TOLERANCE = 1e-6  # float64 solvers tell exact recovery from a near miss

TINY = 1e-3  # an init_scale below it is so small that label noise must not bound the automatic step size
Produced = tuple[int, dict[str, Any], list[dict[str, Any]]]  # replicate, columns of its trial, rows of its history


@dataclass(frozen=True)
class Method:
    """A method's declaration.

    Attributes:
        name: the value of a cell's ``method``.
        numerics_version: raised when the numbers that the method produces change; part of every cell's identity.
        fields: cell fields beyond the problem's that change the method's results.
        summary: one line for documentation and figures.
        label: its name in figures.
        tolerance: relative error below which a replicate counts as a success by default.
        engines: names of the engines that can take its steps, None for all of them, empty if it takes none.
        runner: ``module:function`` with the arguments of :meth:`run`.
        iterations: nominal, of passes over the measurements and singular value decompositions, before any was timed.
        study_seconds: nominal, for matrices of 100 entries, where that describes the cost better; else 0.
    """

    name: str
    numerics_version: int
    fields: tuple[str, ...]
    summary: str
    label: str
    tolerance: float = SOLVER_TOLERANCE
    engines: tuple[str, ...] | None = ()
    runner: str = "flatdist.trials.solve:solve"
    iterations: int = 0
    study_seconds: float = 0.0

    def version(self, cell: Any) -> int:
        """The version of the numerics behind a cell's results; higher for cells whose numbers changed."""
        return self.numerics_version

    @property
    def takes_steps(self) -> bool:
        """Whether an engine runs the method, step by step."""
        return self.engines != ()

    @property
    def chooses_steps(self) -> bool:
        """Whether ``learning_rate: auto`` is allowed."""
        return True

    def run(self, cell: Any, replicates: Sequence[int], settings: Any, hooks: Any) -> Iterator[Produced]:
        """Compute replicates of a :class:`~flatdist.Cell` of this method, by their numbers.

        ``settings`` and ``hooks`` are the classes of :mod:`flatdist.trials.settings`.

        Yields:
            Per replicate its number, the measured columns of its ``trials`` row, and its ``history`` rows.
        """
        produced: Iterator[Produced] = load(self.runner)(cell, replicates, settings, hooks)
        return produced


@dataclass(frozen=True)
class UpdateRule:
    """How a gradient moves the weights, entry by entry, for methods that do more than W <- W - eta g.

    Attributes:
        step: maps (weight, gradient, state, learning rate, constants) to (weight, state). ``state`` and ``constants``
            are tuples as long as declared here. Every engine calls it, with numbers (compiled by Numba) or with arrays
            (torch), so it must be plain arithmetic that needs nothing from outside its own file.
        state: names of the numbers kept with every weight; they start at 0 and checkpoints carry them.
        constants: the numbers that a cell hands to ``step``.
        gain: how many learning rates a constant gradient of 1 moves a weight by per step in the long run. ``auto``
            divides its step sizes by it, and flow time counts learning rates multiplied by it. None where steps are
            not in proportion to the gradient, as RMSprop's: ``auto`` is refused then.
    """

    step: Callable[[Any, Any, tuple[Any, ...], Any, tuple[Any, ...]], tuple[Any, tuple[Any, ...]]]
    state: tuple[str, ...] = ()
    constants: Callable[[Any], tuple[float, ...]] = lambda cell: ()
    gain: Callable[[Any], float] | None = lambda cell: 1.0


@dataclass(frozen=True)
class GradientMethod(Method):
    """A method that trains the layers step by step.

    Attributes:
        batch: what one step sees: ``drawn`` (``batch_size`` indices with replacement, or every index once where the
            cell says ``full``), ``full`` (every index once) or ``one`` (a single drawn index, or
            every index once where the cell says ``full``).
        label_noise: fresh noise is added to the labels at every step.
        sharpness_aware: the gradient is taken ``sam_radius`` further along the normalised gradient.
        update: how the gradient moves the weights; None for W <- W - eta g.
        step_size: ``module:function`` behind ``learning_rate: auto``, with the arguments of
            :func:`flatdist.trials.learning_rate.stable_learning_rate`; its answer is divided by the update's gain.
    """

    batch: Literal["drawn", "full", "one"] = "drawn"
    label_noise: bool = False
    sharpness_aware: bool = False
    update: UpdateRule | None = None
    step_size: str = "flatdist.trials.learning_rate:stable_learning_rate"
    tolerance: float = SGD_TOLERANCE
    engines: tuple[str, ...] | None = None
    runner: str = "flatdist.trials.train:train"

    def version(self, cell: Any) -> int:
        """The version of the numerics; one higher for cells whose automatic step size has a lower bound since 0.2."""
        return self.numerics_version + self.starts_tiny(cell)

    def starts_tiny(self, cell: Any) -> bool:
        """Whether ``auto`` would take no steps to speak of, as label noise is held small next to tiny layers."""
        return self.label_noise and cell.learning_rate is None and cell.init_scale < TINY

    def batch_size(self, cell: Any) -> int | None:
        """Indices drawn at each step of a cell; None where every index is used once."""
        size: int | None = {"drawn": cell.batch_size, "full": None, "one": cell.batch_size and 1}[self.batch]
        return size

    def drawn(self, cell: Any) -> int:
        """Number of measurements behind one step's gradient."""
        return self.batch_size(cell) or int(cell.n)

    def gain(self, cell: Any) -> float:
        """The update rule's gain, 1 without one."""
        return 1.0 if self.update is None or self.update.gain is None else self.update.gain(cell)

    @property
    def chooses_steps(self) -> bool:
        """Whether ``learning_rate: auto`` has a meaning for its update rule."""
        return self.update is None or self.update.gain is not None


@dataclass(frozen=True)
class StudyMethod(Method):
    """A method that examines a problem, its ground truth included, instead of estimating the ground truth.

    Attributes:
        study: ``module:function``; it takes the cell, the replicate's number and its problem, and returns the measured
            columns of the ``trials`` row and the history's rows.
    """

    study: str = ""
    runner: str = "flatdist.trials.solve:study"


@dataclass(frozen=True)
class SolverMethod(Method):
    """A method that computes its answer and a certificate of it.

    Attributes:
        solver: ``module:function``.
        has_layers: the answer is a list of layers rather than a matrix.
    """

    solver: str = ""
    has_layers: bool = False
