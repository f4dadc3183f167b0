"""Rules: which runs a group of cells requests next, given its results.

A rule sees only the runs of its group, so no group changes what another requests, and a part of a sweep requests the
same runs as the whole.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from flatdist.threshold import Runs, finished, place, round_size
from flatdist.threshold.posterior import search_posterior

TYPICAL_SCALE = 0.05  # of the success curve on log n, where nothing is known yet: for forecasts alone
FIRST_RUNS = 16  # that a boundary search spends on finding the transition: for forecasts alone


class Run(NamedTuple):
    """One replicate at one number of measurements."""

    n: int
    replicate: int


@dataclass(frozen=True)
class Known:
    """The runs of a group so far."""

    asked: Sequence[Run] = ()  # all runs requested, in order
    success: Mapping[Run, bool] = field(default_factory=dict)  # a run that failed with an exception has none


@dataclass(frozen=True)
class Span:
    """The numbers of measurements that a group may take."""

    low: int
    high: int  # included
    allowed: tuple[int, ...] | None = None  # ascending; None for all from low to high

    @property
    def values(self) -> Sequence[int]:
        """All allowed values, ascending."""
        return range(self.low, self.high + 1) if self.allowed is None else self.allowed


def runs_of(known: Known) -> Runs:
    """The runs that have a result, in the order of request."""
    ended = [run for run in known.asked if run in known.success]
    return Runs(
        np.array([run.n for run in ended], dtype=float), np.array([known.success[run] for run in ended], dtype=bool)
    )


def half_width(span: Span, known: Known) -> float:
    """Half-width of the interval that holds n50 with probability 95 %, on log n, within the range searched."""
    ends = float(span.values[0]), float(span.values[-1])
    low, high = search_posterior(runs_of(known), *ends).quantiles((0.025, 0.975))
    return 0.5 * float(high - low)


def expected_runs(span: Span, known: Known, precision: float) -> int:
    """About how many more runs n50 needs: its interval narrows as one over the root of their number.

    Runs at n50 of a logistic curve of known scale s on log n leave a half-width of 3.92 s / sqrt(runs); those that
    have to find n50 and s as well leave about 1.5 times that.
    """
    done = len(known.success)
    if done >= FIRST_RUNS:
        return max(1, math.ceil(done * ((half_width(span, known) / precision) ** 2 - 1)))
    return max(1, FIRST_RUNS + math.ceil((6.0 * TYPICAL_SCALE / precision) ** 2) - done)


def is_known(span: Span, known: Known, precision: float) -> bool:
    """Whether n50 is known as precisely as requested, or as it can be."""
    return finished(runs_of(known), np.array(span.values), precision)


class Rule:
    """How a group chooses its runs; depends only on its arguments."""

    precision: float | None = None  # requested half-width of n50's 95 % interval, over n50; None: not for n50
    tolerance: float | None = None  # relative error of a success; None: success does not matter
    chooses = True  # rather than listing replicates

    def identity(self, span: Span) -> Sequence[object]:
        """Settings, besides the group's fields, that identify the question recorded runs belong to."""
        raise NotImplementedError

    def ask(self, span: Span, known: Known) -> list[Run]:
        """The next runs, once all earlier ones have ended; none if the group is finished."""
        raise NotImplementedError

    def left(self, span: Span, known: Known) -> tuple[int, int]:
        """How many more runs are expected, and how many there can be at most."""
        raise NotImplementedError

    def budget_spent(self, span: Span, known: Known) -> bool:
        """Whether no runs are left although n50 is less precise than requested."""
        return False


@dataclass(frozen=True)
class Plain(Rule):
    """Replicates 0, 1, ... of every n."""

    replicates: int
    chooses = False

    def identity(self, span: Span) -> Sequence[object]:
        return "plain", span.low

    def ask(self, span: Span, known: Known) -> list[Run]:
        asked = set(known.asked)
        return [run for n in span.values for r in range(self.replicates) if (run := Run(n, r)) not in asked]

    def left(self, span: Span, known: Known) -> tuple[int, int]:
        count = len(self.ask(span, known))
        return count, count


@dataclass(frozen=True)
class Boundary(Rule):
    """Run k is replicate k, at the n where it narrows n50 most; until n50 is known well enough."""

    budget: int  # largest number of runs
    precision: float = field()
    tolerance: float = field()

    def identity(self, span: Span) -> Sequence[object]:
        return "boundary", self.tolerance, span.low, span.high, span.allowed

    def ask(self, span: Span, known: Known) -> list[Run]:
        done = len(known.asked)
        if done >= self.budget or is_known(span, known, self.precision):
            return []
        count = min(round_size(done), self.budget - done)
        placed = place(runs_of(known), np.array(span.values), count)
        return [Run(int(n), done + index) for index, n in enumerate(placed)]

    def left(self, span: Span, known: Known) -> tuple[int, int]:
        most = max(0, self.budget - len(known.asked))
        if not most or is_known(span, known, self.precision):
            return 0, 0
        return min(most, expected_runs(span, known, self.precision)), most

    def budget_spent(self, span: Span, known: Known) -> bool:
        return len(known.asked) >= self.budget and not is_known(span, known, self.precision)


@dataclass(frozen=True)
class FirstSuccess(Rule):
    """Bisects, for each replicate of nested problems, the smallest n that succeeds."""

    replicates: int  # number of thresholds requested
    tolerance: float = field()

    def identity(self, span: Span) -> Sequence[object]:
        return "first_success", self.tolerance, span.low, span.high, span.allowed

    def ask(self, span: Span, known: Known) -> list[Run]:
        brackets = enumerate(self._brackets(span, known))
        return [Run(span.values[(low + high) // 2], replicate) for replicate, (low, high) in brackets if high - low > 1]

    def left(self, span: Span, known: Known) -> tuple[int, int]:
        steps = [math.ceil(math.log2(high - low)) for low, high in self._brackets(span, known) if high > low]
        return sum(steps), sum(steps)

    def _brackets(self, span: Span, known: Known) -> list[tuple[int, int]]:
        """Positions among the allowed n of each replicate's last failure and first success; equal if it broke off.

        Positions -1 and the count of values stand for n beyond the ends.
        """
        position = {n: index for index, n in enumerate(span.values)}
        brackets = [(-1, len(position))] * self.replicates
        for run in known.asked:
            if run.replicate >= self.replicates or run.n not in position:
                continue
            low, high = brackets[run.replicate]
            at = position[run.n]
            if run not in known.success:
                brackets[run.replicate] = (at, at)
            elif low < at < high:
                brackets[run.replicate] = (low, at) if known.success[run] else (at, high)
        return brackets


@dataclass(frozen=True)
class UntilInterval(Rule):
    """A grid whose cells get more replicates, where they narrow n50, until it is known well enough."""

    least: int  # replicates of every cell
    most: int  # of a cell at most
    precision: float = field()
    tolerance: float = field()

    def identity(self, span: Span) -> Sequence[object]:
        return "until_ci", self.tolerance  # a grid may gain values

    def ask(self, span: Span, known: Known) -> list[Run]:
        first = Plain(self.least).ask(span, known)
        if first or self._is_finished(span, known):
            return first
        counts = Counter(run.n for run in known.asked)
        room = np.array([max(0, self.most - counts[n]) for n in span.values])
        count = min(round_size(len(known.asked)), int(room.sum()))
        runs = []
        for n in place(runs_of(known), np.array(span.values), count, room=room):
            runs.append(Run(int(n), counts[int(n)]))
            counts[int(n)] += 1
        return runs

    def left(self, span: Span, known: Known) -> tuple[int, int]:
        first = len(Plain(self.least).ask(span, known))
        if len(span.values) < 2:
            return first, first
        if not first and self._is_finished(span, known):
            return 0, 0
        most = self._room(span, known)
        return min(most, max(first, expected_runs(span, known, self.precision))), most

    def budget_spent(self, span: Span, known: Known) -> bool:
        if self._room(span, known) and len(span.values) > 1:
            return False
        return not is_known(span, known, self.precision)

    def _room(self, span: Span, known: Known) -> int:
        counts = Counter(run.n for run in known.asked)
        return sum(max(0, self.most - counts[n]) for n in span.values)

    def _is_finished(self, span: Span, known: Known) -> bool:
        if len(span.values) < 2 or not self._room(span, known):  # one n says only on which side of it n50 is
            return True
        return is_known(span, known, self.precision)
