"""Rules: what a group of cells asks for next, given what is known of it.

A rule sees the runs of its group alone, so that no group changes what another asks for: a part of a sweep asks for the
same runs as the whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol


class Run(NamedTuple):
    """One replicate at one number of measurements."""

    n: int
    replicate: int


@dataclass(frozen=True)
class Known:
    """What is known of a group.

    Attributes:
        asked: all runs asked for, in order.
        success: of those that have a result; a run that failed with an exception has none.
    """

    asked: Sequence[Run] = ()
    success: Mapping[Run, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Span:
    """The numbers of measurements that a group may take.

    Attributes:
        low: smallest.
        high: largest.
        allowed: those that may be taken, ascending; None for all from low to high.
    """

    low: int
    high: int
    allowed: tuple[int, ...] | None = None

    @property
    def values(self) -> Sequence[int]:
        """All that may be taken, ascending."""
        return range(self.low, self.high + 1) if self.allowed is None else self.allowed


class Rule(Protocol):
    """How a group chooses its runs; a function of its arguments alone."""

    def identity(self, span: Span) -> Sequence[object]:
        """What makes recorded runs belong to another question when it changes, beside the group's fields."""

    @property
    def precision(self) -> float | None:
        """The half-width of n50's interval, over n50, that is wanted; None where n50 is not what is looked for."""

    def ask(self, span: Span, known: Known) -> list[Run]:
        """The next runs, all earlier ones having ended; none where the group is finished."""

    def left(self, span: Span, known: Known) -> tuple[int, int]:
        """How many more runs are expected, and how many there can be at most."""

    def is_spent(self, span: Span, known: Known) -> bool:
        """Whether there are no runs left although n50 is not known as precisely as it is wanted."""


@dataclass(frozen=True)
class Plain:
    """Replicates 0, 1, ... of every n."""

    replicates: int
    precision = None

    def identity(self, span: Span) -> Sequence[object]:
        """What recorded runs belong to."""
        return "plain", span.low

    def ask(self, span: Span, known: Known) -> list[Run]:
        """The next runs."""
        asked = set(known.asked)
        return [run for n in span.values for r in range(self.replicates) if (run := Run(n, r)) not in asked]

    def left(self, span: Span, known: Known) -> tuple[int, int]:
        """How many more runs are expected, and the most there can be."""
        count = len(self.ask(span, known))
        return count, count

    def is_spent(self, span: Span, known: Known) -> bool:
        """Never: no precision is asked for."""
        return False
