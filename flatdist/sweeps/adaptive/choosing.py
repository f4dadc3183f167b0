"""The rules that choose: where the threshold is, where each replicate's is, and how many replicates a grid needs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flatdist.sweeps.adaptive.fitted import expected_runs, is_known, range_of, runs_of
from flatdist.sweeps.adaptive.rules import Known, Plain, Run, Span
from flatdist.threshold import place, round_size


@dataclass(frozen=True)
class Boundary:
    """Run k is replicate k, at the n where it narrows n50 most; until n50 is known well enough.

    Attributes:
        budget: runs at most.
        precision: half-width of n50's 95 % interval, over n50.
        tolerance: relative error of a success.
    """

    budget: int
    precision: float
    tolerance: float

    def identity(self, span: Span) -> Sequence[object]:
        """What recorded runs belong to."""
        return "boundary", self.tolerance, span.low, span.high, span.allowed

    def ask(self, span: Span, known: Known) -> list[Run]:
        """The next runs."""
        done = len(known.asked)
        if done >= self.budget or is_known(span, known, self.precision):
            return []
        count = min(round_size(done), self.budget - done)
        placed = place(runs_of(known), range_of(span), count, precision=self.precision)
        return [Run(int(n), done + index) for index, n in enumerate(placed)]

    def left(self, span: Span, known: Known) -> tuple[int, int]:
        """How many more runs are expected, and the most there can be."""
        most = max(0, self.budget - len(known.asked))
        if not most or is_known(span, known, self.precision):
            return 0, 0
        return min(most, expected_runs(span, known, self.precision)), most

    def is_spent(self, span: Span, known: Known) -> bool:
        """Whether the budget ended the search."""
        return len(known.asked) >= self.budget and not is_known(span, known, self.precision)


@dataclass(frozen=True)
class FirstSuccess:
    """Bisects, for each replicate of nested problems, the smallest n that succeeds.

    Attributes:
        replicates: how many thresholds are wanted.
        tolerance: relative error of a success.
    """

    replicates: int
    tolerance: float
    precision = None

    def identity(self, span: Span) -> Sequence[object]:
        """What recorded runs belong to."""
        return "first_success", self.tolerance, span.low, span.high, span.allowed

    def ask(self, span: Span, known: Known) -> list[Run]:
        """The next runs."""
        values = span.values
        runs = []
        for replicate, (low, high) in enumerate(self._brackets(span, known)):
            if high - low > 1:
                runs.append(Run(values[(low + high) // 2], replicate))
        return runs

    def left(self, span: Span, known: Known) -> tuple[int, int]:
        """How many more runs are expected, and the most there can be."""
        steps = [math.ceil(math.log2(high - low)) for low, high in self._brackets(span, known) if high > low]
        return sum(steps), sum(steps)

    def is_spent(self, span: Span, known: Known) -> bool:
        """Never: no precision is asked for."""
        return False

    def _brackets(self, span: Span, known: Known) -> list[tuple[int, int]]:
        """Positions among the allowed n of each replicate's last failure and first success; equal where it broke off.

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
class UntilInterval:
    """A grid whose cells get more replicates, where they narrow n50, until it is known well enough.

    Attributes:
        least: replicates of every cell.
        most: replicates of a cell at most.
        precision: half-width of n50's 95 % interval, over n50.
        tolerance: relative error of a success.
    """

    least: int
    most: int
    precision: float
    tolerance: float

    def identity(self, span: Span) -> Sequence[object]:
        """What recorded runs belong to."""
        return "until_ci", self.tolerance  # a grid may gain values

    def ask(self, span: Span, known: Known) -> list[Run]:
        """The next runs."""
        first = Plain(self.least).ask(span, known)
        if first or self._is_finished(span, known):
            return first
        counts = Counter(run.n for run in known.asked)
        room = np.array([max(0, self.most - counts[n]) for n in span.values])
        count = min(round_size(len(known.asked)), int(room.sum()))
        runs = []
        for n in place(runs_of(known), range_of(span), count, precision=self.precision, room=room):
            runs.append(Run(int(n), counts[int(n)]))
            counts[int(n)] += 1
        return runs

    def left(self, span: Span, known: Known) -> tuple[int, int]:
        """How many more runs are expected, and the most there can be."""
        first = len(Plain(self.least).ask(span, known))
        if len(span.values) < 2:
            return first, first
        if not first and self._is_finished(span, known):
            return 0, 0
        most = self._room(span, known)
        return min(most, max(first, expected_runs(span, known, self.precision))), most

    def is_spent(self, span: Span, known: Known) -> bool:
        """Whether all cells have their most replicates, or there is one n alone."""
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
