"""What figures show as one point or one tile: the replicates of one configuration at one n."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from statsmodels.stats.proportion import proportion_confint

from flatdist.fits.grouping import group_rows
from flatdist.report.material import Material
from flatdist.report.words import name_of, number, percent


@dataclass(frozen=True)
class Point:
    """Success of one configuration at one n.

    Attributes:
        index: its number on the page.
        key: the columns of :attr:`Material.configuration` and n.
        cells: its cells, as rows of :attr:`Material.cells`: one, unless they differ in how they were computed only.
        rate: share of replicates that succeeded.
        count, successes, diverged: replicates.
        low, high: 95 % interval of the success probability, Wilson's.
        error: median relative error of the replicates that did not diverge; NaN where all did.
    """

    index: int
    key: Mapping[str, Any]
    cells: tuple[int, ...]
    rate: float
    count: int
    successes: int
    diverged: int
    low: float
    high: float
    error: float

    @property
    def n(self) -> float:
        """Number of measurements."""
        return float(self.key["n"])

    def shown(self, names: Sequence[str]) -> dict[str, Any]:
        """What a chart needs of it: numbers to draw, and texts for whoever points at it.

        Args:
            names: columns that tell points apart, for its name.
        """
        name = name_of({column: self.key[column] for column in names} | {"n": self.key["n"]})
        success = f"{self.successes} of {self.count}"
        return {
            "point": self.index,
            "n": self.n,
            "rate": self.rate,
            "name": name,
            "success": f"{success} ({percent(self.rate)})",
            "interval": f"{percent(self.low)} to {percent(self.high)}",
            "error": number(self.error),
            "diverged": self.diverged,
            "label": f"{name}: {success} succeed",
        }


TOOLTIP: Mapping[str, str] = {
    "name": "configuration",
    "success": "success",
    "interval": "95 % interval",
    "error": "median relative error",
    "diverged": "diverged",
}
"""Fields of :meth:`Point.shown` that appear when a point is pointed at, and what they are called there."""


def points_of(material: Material) -> list[Point]:
    """Every point of the sweep, in the order of its configuration and n."""
    rows = material.cell_of_trials()
    labelled = material.labelled.assign(cell_row=rows.loc[material.labelled.index])
    points = []
    by = [*material.configuration, "n"]
    for index, (key, group) in enumerate(group_rows(labelled, by)):
        successes, count = int(group["success"].sum()), len(group)
        low, high = proportion_confint(successes, count, method="wilson")
        cells = tuple(sorted({int(row) for row in group["cell_row"] if row >= 0}))
        error = pd.to_numeric(group.loc[~group["diverged"], "relative_error"]).median()
        counts = (count, successes, int(group["diverged"].sum()))
        points.append(Point(index, key, cells, successes / count, *counts, float(low), float(high), float(error)))
    return points


def matching_points(points: Sequence[Point], key: Mapping[str, Any]) -> list[Point]:
    """Points whose key has these values."""
    return [point for point in points if all(point.key[name] == value for name, value in key.items())]
