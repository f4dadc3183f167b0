"""What a search draws from, and who suggests its next points: random draws, or one of Ray Tune's searchers.

A searcher is made anew for every round and is told all earlier points with their stored results, so that nothing of it
has to be kept: a search resumes from the store alone, and suggests the same points however often it is resumed.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from flatdist.cells.fields import canonical_float
from flatdist.errors import LaunchError

Point = dict[str, Any]  # searched field -> value, as a sweep file would write it
METRIC = "value"


@dataclass(frozen=True)
class Domain:
    """The values that one field may take.

    Attributes:
        field: name of the cell field.
        form: ``uniform``, ``loguniform`` or ``choice``.
        low: smallest value of a range.
        high: largest value of a range, included.
        whole: whether a range holds whole numbers only.
        options: what a choice is between, as a sweep file writes it.
        key: where it stands in the sweep file.
        line: its line.
    """

    field: str
    form: str
    low: float = 0.0
    high: float = 0.0
    whole: bool = False
    options: tuple[Any, ...] = ()
    key: str = ""
    line: int = 0

    @property
    def is_choice(self) -> bool:
        """Whether there is no order between the values."""
        return self.form == "choice"

    def corners(self) -> tuple[Any, ...]:
        """Values that stand for all others when a search is checked: both ends, or every option."""
        return self.options if self.is_choice else (self.normal(self.low), self.normal(self.high))

    def normal(self, value: float) -> Any:
        """A number of the range as the cell will hold it."""
        return round(value) if self.whole else canonical_float(min(max(value, self.low), self.high))

    def holds(self, value: Any) -> bool:
        """Whether a value belongs to the domain."""
        return value in self.options if self.is_choice else self.low <= value <= self.high

    def at(self, share: float) -> Any:
        """The value a given share, in [0, 1), of the way through the domain."""
        if self.is_choice:
            return self.options[int(share * len(self.options))]
        if self.whole and self.form == "uniform":
            return min(int(self.low) + int(share * (self.high - self.low + 1)), int(self.high))
        if self.form == "uniform":
            return self.normal(self.low + (self.high - self.low) * share)
        return self.normal(math.exp(math.log(self.low) + math.log(self.high / self.low) * share))

    def drawn(self, seed: int, index: int) -> Any:
        """Random value number ``index``: a function of the field's name, the seed and the index alone."""
        bits = hashlib.sha256(f"search {self.field} {seed} {index}".encode()).digest()
        return self.at(int.from_bytes(bits[:6]) / 2**48)

    def plain(self) -> list[Any]:
        """The domain as JSON, for a search's identity."""
        return [self.field, self.form, list(self.options) if self.is_choice else [self.low, self.high, self.whole]]


class Space(Protocol):
    """What a searcher needs of a search."""

    @property
    def domains(self) -> Sequence[Domain]:
        """The searched fields."""

    @property
    def mode(self) -> str:
        """``min`` or ``max``."""

    @property
    def seed(self) -> int:
        """Of the searcher."""


@dataclass(frozen=True)
class Told:
    """An earlier point and what came of it.

    Attributes:
        point: the suggestion.
        value: the cell's metric; where it was stopped early, what was compared at its last rung.
        rungs: what was compared at each rung, if it was stopped early; empty otherwise.
    """

    point: Mapping[str, Any]
    value: float
    rungs: tuple[float, ...] = ()


class Searcher(Protocol):
    """Suggests points, one after the other, without seeing their results."""

    def suggest(self) -> Point:
        """The next point."""


class RandomSearcher:
    """Independent draws, each a function of the field, the seed and its number, as random axes have them."""

    def __init__(self, search: Space, told: Sequence[Told], number: int) -> None:
        self._search = search
        self._index = 0  # from the beginning: points suggested earlier are recognised by their cells

    def suggest(self) -> Point:
        """The next draw."""
        point = {domain.field: domain.drawn(self._search.seed, self._index) for domain in self._search.domains}
        self._index += 1
        return point


class TuneSearcher:
    """One of Ray Tune's searchers, fed with everything the store knows.

    Args:
        search: its domains and mode.
        told: all earlier points.
        number: of the round; each has a seed of its own.
        make: seed -> the searcher, without a space.
    """

    def __init__(self, search: Space, told: Sequence[Told], number: int, make: Callable[[int], Any]) -> None:
        self._domains = search.domains
        self._asked = 0
        seed = hashlib.sha256(f"round {number} {search.seed}".encode()).digest()
        with _quiet():
            self._searcher = make(int.from_bytes(seed[:4]))
            space = {domain.field: tune_domain(domain) for domain in self._domains}
            self._searcher.set_search_properties(METRIC, search.mode, space)
            for point in told:
                self._tell(point)

    def _tell(self, told: Told) -> None:
        if not all(domain.holds(told.point[domain.field]) for domain in self._domains):
            return
        parameters = dict(told.point)
        parameters |= {one.field: one.options.index(told.point[one.field]) for one in self._domains if one.is_choice}
        more = {"pruned": True, "intermediate_values": list(told.rungs)} if told.rungs else {}
        self._searcher.add_evaluated_point(parameters, told.value, **more)

    def suggest(self) -> Point:
        """The next point, given that the earlier ones of this round are still being tried."""
        self._asked += 1
        with _quiet():
            found = self._searcher.suggest(f"suggestion-{self._asked}")
        return {
            one.field: one.options[found[one.field]] if one.is_choice else one.normal(found[one.field])
            for one in self._domains
        }


def _optuna(search: Space, told: Sequence[Told], number: int) -> TuneSearcher:
    """Optuna's tree-structured Parzen estimator, through Tune."""
    try:
        import optuna
    except ImportError as error:
        remedy = "in your clone of flatdist: pip install '.[search]'"
        raise LaunchError(f"search.searcher: optuna needs a package; {remedy}") from error
    from flatdist.machine.environment import import_ray

    import_ray(local=False)
    from ray.tune.search.optuna import OptunaSearch

    def make(seed: int) -> Any:
        # constant_liar: points of one round are chosen apart from each other, though none of them has a result yet
        return OptunaSearch(sampler=optuna.samplers.TPESampler(seed=seed, constant_liar=True))

    return TuneSearcher(search, told, number, make)


SEARCHERS: Mapping[str, Callable[[Space, Sequence[Told], int], Searcher]] = {
    "random": RandomSearcher,
    "optuna": _optuna,
}
"""Name in a sweep file -> (search, earlier points, number of the round) -> searcher."""


def tune_domain(domain: Domain, *, by_value: bool = False) -> Any:
    """Tune's own domain; a choice is between numbers of options, or between the options themselves."""
    from ray import tune

    if domain.is_choice:
        return tune.choice(list(domain.options) if by_value else list(range(len(domain.options))))
    if domain.whole:
        draw = tune.lograndint if domain.form == "loguniform" else tune.randint
        return draw(int(domain.low), int(domain.high) + 1)
    return (tune.loguniform if domain.form == "loguniform" else tune.uniform)(domain.low, domain.high)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's messages about studies and experimental options."""
    logger = logging.getLogger("optuna")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.setLevel(level)
