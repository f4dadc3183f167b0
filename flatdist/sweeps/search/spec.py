"""A search, read and checked: which fields, by which searcher, for which metric, within which budget."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flatdist.cells.cell import Cell
from flatdist.expressions import Expression
from flatdist.sweepfile.expand import Expansion, expand
from flatdist.sweepfile.problems import Problems
from flatdist.sweepfile.schema import Block, Fixed
from flatdist.sweepfile.values import InvalidValue, read_value
from flatdist.sweeps.search.domains import Domain
from flatdist.sweeps.search.metric import Metric

if TYPE_CHECKING:
    from flatdist.sweeps.search.early_stopping import EarlyStopping

Point = dict[str, Any]  # searched field -> value, as a sweep file would write it


@dataclass(frozen=True)
class Search:
    """What the ``search`` of a sweep file says.

    Attributes:
        block: the fixed fields and conditions that every suggestion is completed with.
        domains: the searched fields.
        searcher: who suggests.
        metric: what is best.
        mode: ``min`` or ``max``.
        budget: number of cells to suggest in all.
        round_size: cells suggested at a time.
        seed: of the searcher.
        early_stopping: when cells are given up early; None for never.
    """

    block: Block = field(repr=False)
    domains: tuple[Domain, ...]
    searcher: str
    metric: Metric
    mode: str
    budget: int
    round_size: int
    seed: int
    early_stopping: EarlyStopping | None = None

    @property
    def worst(self) -> float:
        """The worst value of the metric."""
        return float("inf") if self.mode == "min" else float("-inf")

    def cell(self, point: Mapping[str, Any]) -> Cell | None:
        """The cell of a suggestion; None where a condition leaves it out or no trial could run it."""
        expansion = Expansion({})
        problems = Problems("search")
        self.expand(point, expansion, problems)
        return None if problems.found else next(iter(expansion.cells.values()), None)

    def expand(self, point: Mapping[str, Any], into: Expansion, problems: Problems) -> None:
        """Add the cell of a suggestion to an expansion, and what is wrong with it to the problems."""
        block = dataclasses.replace(self.block, fixed=dict(self.block.fixed))
        for domain in self.domains:
            value = point[domain.field]
            try:
                block.fixed[domain.field] = Fixed(read_value(domain.field, value), domain.key, domain.line)
            except InvalidValue as error:
                problems.add(domain.key, domain.line, error.reason, error.allowed, value)
                block.unusable = {*block.unusable, domain.field}
        expand(block, into, problems)

    @property
    def identity(self) -> str:
        """Hash of all that decides which cells a search would ask for; recorded rounds belong to one identity.

        A larger budget, more replicates, another round size or early stopping go on with the rounds there are.
        """
        content = {
            "fixed": {name: _plain(entry.value) for name, entry in sorted(self.block.fixed.items())},
            "where": sorted(condition.expression.text for condition in self.block.conditions),
            "fields": sorted(domain.plain() for domain in self.domains),
            "searcher": self.searcher,
            "metric": self.metric.text,
            "mode": self.mode,
            "seed": self.seed,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:20]


def _plain(given: Any) -> Any:
    if isinstance(given, Expression):
        return {"expression": given.text}
    return [_plain(item) for item in given] if isinstance(given, tuple) else given
