"""What a search minimises: a column of the trials table, or the steps that a training needs to reach an error."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, cast

from flatdist.errors import SweepError, did_you_mean
from flatdist.sweepfile.declaration import RANKED_BY
from flatdist.threshold.median import median_interval

if TYPE_CHECKING:
    import pandas as pd

    from flatdist.store import Store

LEVEL = 0.95  # of intervals
STEPS_TO = "steps_to"
ALONG_TRAINING = ("train_loss", "population_loss", "nuclear_norm", "hessian_trace")  # also columns of the history
Values = dict[str, dict[int, float]]  # cell id -> replicate -> value


@dataclass(frozen=True)
class Metric:
    """A number for every replicate; a cell's is the median over its replicates.

    ``steps_to`` is the first evaluated step at which ||M - M*||_F^2 / ||M*||_F^2 is below the target; infinite where it
    never is.
    """

    name: str  # a numeric column of trials, or steps_to
    target: float = 0.0  # the error of steps_to

    @property
    def text(self) -> str:
        """As a user writes it."""
        return f"{STEPS_TO}={self.target:g}" if self.name == STEPS_TO else self.name

    @property
    def rung_column(self) -> str | None:
        """The column of the history that early stopping compares, None for no such column."""
        return "population_loss" if self.relative else self.name if self.name in ALONG_TRAINING else None

    @property
    def relative(self) -> bool:
        """Whether :attr:`rung_column` is to be divided by ||M*||_F^2."""
        return self.name in (STEPS_TO, "relative_error")

    @property
    def reported(self) -> str | None:
        """The column that a trial reports at every evaluation; None if the metric is known only at the end."""
        return "relative_error" if self.relative else self.rung_column

    def guess(self, value: float, steps: int) -> float:
        """The metric of a stopped training if it had ended with the value compared when it was stopped."""
        if self.name != STEPS_TO:
            return value
        return steps * (1 + max(0.0, math.log10(value / self.target))) if 0 < value < math.inf else math.inf

    def values(
        self, store: Store, cell_ids: Collection[str], *, where: str | None = None, guide: bool = False
    ) -> Values:
        """The metric of every stored replicate of some cells; NaN where a row has none.

        Args:
            store: where the rows are.
            cell_ids: the cells.
            where: only rows of trials that satisfy it.
            guide: also rate replicates that never reach the target of ``steps_to``, so that a searcher sees which came
                closer: the cell's steps times 1 + log10(final error / target).
        """
        ids, key = list(cell_ids), ["cell_id", "replicate"]
        curves: dict[tuple[str, int], pd.DataFrame] = {}
        columns = [self.name]
        if self.name == STEPS_TO:
            columns = ["status", "steps", "population_loss", "relative_error"]
            history = store.history(ids, columns=[*key, "step", "population_loss"])
            curves = {cast("tuple[str, int]", name): curve for name, curve in history.groupby(key)}
        values: Values = {}
        for row in store.trials(ids, where=where, columns=[*key, *columns]).to_dict("records"):
            cell_id, replicate = str(row["cell_id"]), int(row["replicate"])
            if self.name == STEPS_TO:
                value = self._steps_to(row, curves.get((cell_id, replicate)), guide)
            else:
                value = _number(row[self.name])
            values.setdefault(cell_id, {})[replicate] = value
        return values

    def _steps_to(self, row: Mapping[Hashable, Any], curve: pd.DataFrame | None, guide: bool) -> float:
        loss, error, steps = (_number(row[name]) for name in ("population_loss", "relative_error", "steps"))
        if row["status"] != "diverged" and error > 0 and curve is not None:
            below = curve[curve["population_loss"] / (loss / error) < self.target]["step"]
            if len(below):
                return float(below.iloc[0])
            return self.guess(error, int(steps)) if guide else math.inf
        return steps if error == 0 else math.inf


def parse_metric(text: object) -> Metric:
    """Read a metric as a user writes it: a column's name, or ``steps_to=0.01``."""
    known = (*RANKED_BY, STEPS_TO)
    name, equals, target = str(text).replace(" ", "").partition("=")
    if name not in known or (equals and name != STEPS_TO):
        allowed = f"{', '.join(RANKED_BY)}, or {STEPS_TO}=ERROR such as {STEPS_TO}=0.01"
        raise SweepError(f"{text!r} is not a metric{did_you_mean(name, known)}; allowed: {allowed}")
    if name != STEPS_TO:
        return Metric(name)
    try:
        number = float(target)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise SweepError(f"{text!r} needs a relative error to reach; allowed: {STEPS_TO}=ERROR such as {STEPS_TO}=0.01")
    return Metric(name, number)


def cell_value(values: Mapping[int, float], replicates: Collection[int], worst: float) -> float:
    """A cell's metric: the median over its replicates, one without a finite value counting as the worst."""
    return median(
        [value if math.isfinite(value := values.get(replicate, math.nan)) else worst for replicate in replicates]
    )


def _number(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):  # null, as pandas spells it
        return math.nan


def rank(
    store: Store, cell_ids: Sequence[str], metric: Metric, *, highest: bool, where: str | None = None
) -> list[tuple[str, float, float, float, int]]:
    """Cells with rows, the best first: cell id, median, its interval, and replicates."""
    worst = -math.inf if highest else math.inf
    ranked = []
    for cell_id, values in metric.values(store, cell_ids, where=where).items():
        finite = [value if math.isfinite(value) else worst for value in values.values()]
        ranked.append((cell_id, *median_interval(finite, LEVEL)[:3], len(finite)))
    return sorted(ranked, key=lambda row: (-row[1] if highest else row[1], row[0]))
