"""A sweep of groups as a strategy: recorded rounds and stored results in, the next round of runs out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from flatdist.sweeps.adaptive.choosing import UntilInterval
from flatdist.sweeps.adaptive.fitted import half_width
from flatdist.sweeps.adaptive.group import Group
from flatdist.sweeps.adaptive.results import Results
from flatdist.sweeps.adaptive.rules import Known, Plain, Run
from flatdist.sweeps.search.rounds import Request, Round

if TYPE_CHECKING:
    from flatdist.cells.cell import Cell
    from flatdist.store import Store

IDENTITY = "groups"


@dataclass(frozen=True)
class AdaptiveSweep:
    """The groups of a sweep; its plain cells are groups of one cell each.

    What one group asks for depends on its own results alone. So recorded runs belong to the group they name, whatever
    other groups the sweep has gained or lost.
    """

    groups: tuple[Group, ...]

    @property
    def identity(self) -> str:
        """Under which rounds are recorded."""
        return IDENTITY

    @cached_property
    def by_key(self) -> Mapping[str, Group]:
        """The groups by their identity."""
        return {group.key: group for group in self.groups}

    @cached_property
    def choosing(self) -> tuple[Group, ...]:
        """The groups that choose something."""
        return tuple(group for group in self.groups if not isinstance(group.rule, Plain))

    @cached_property
    def listed(self) -> tuple[Cell, ...]:
        """The cells that the file lists: all but those whose n is chosen."""
        fixed = (group for group in self.groups if isinstance(group.rule, Plain | UntilInterval))
        return tuple(group.cell(n) for group in fixed for n in group.span.values)

    def current(self, rounds: Sequence[Round]) -> list[Round]:
        """Recorded rounds without what this sweep does not ask for any more."""
        kept = []
        for one in rounds:
            requests = [wanted for request in one.requests if (wanted := self._wanted(request)) is not None]
            if requests:
                kept.append(Round(tuple(requests)))
        return kept

    def merged(self, recorded: Sequence[Round], rounds: Sequence[Round], part: AdaptiveSweep) -> list[Round]:
        """What is recorded of this sweep once a part of it has run some rounds.

        What one group asks for depends on its own runs alone, so that a part asks for what the whole would: its rounds
        take the place of what was recorded of its groups. Groups that only the part has are left out.
        """
        others = AdaptiveSweep(tuple(group for group in self.groups if group.key not in part.by_key))
        return [*others.current(recorded), *self.current(rounds)]

    def _wanted(self, request: Request) -> Request | None:
        """What the sweep still asks for of a recorded request."""
        group = self.by_key.get(str(request.note.get("group")))
        if group is None:
            return None
        if not isinstance(group.rule, Plain) or request.replicates[-1] < group.rule.replicates:
            return request
        fewer = tuple(r for r in request.replicates if r < group.rule.replicates)
        return dataclasses.replace(request, replicates=fewer) if fewer else None


class GroupStrategy:
    """Asks for the next runs of every group that has not finished."""

    def __init__(self, sweep: AdaptiveSweep) -> None:
        self.sweep = sweep
        self._results = Results()
        self._open: dict[str, float] = {}  # groups with further runs, and the half-width of their intervals

    def next_round(self, rounds: Sequence[Round], store: Store) -> list[Request]:
        """The next runs of all groups; a function of the rounds and the stored rows."""
        requests: list[Request] = []
        self._open = {}
        known = self.known(rounds, store)
        for key, group in self.sweep.by_key.items():
            runs = group.rule.ask(group.span, known[key])
            requests += requests_of(group, runs)
            if runs and group.rule.precision is not None and known[key].success:
                self._open[key] = half_width(group.span, known[key])
            elif runs and not isinstance(group.rule, Plain):
                self._open[key] = math.nan
        return requests

    def known(self, rounds: Sequence[Round], store: Store) -> dict[str, Known]:
        """What is known of each group, by its key."""
        return self._results.known(self.sweep.by_key, rounds, store)

    def describe(self, requests: Sequence[Request]) -> str:
        """The round that was asked for last, in words."""
        runs = sum(len(request.replicates) for request in requests)
        text = f"{runs:,} runs"
        total = len(self.sweep.choosing)
        if total:
            text += f", {total - len(self._open):,} of {total:,} groups finished"
        widths = [width for width in self._open.values() if not math.isnan(width)]
        if widths:
            text += f", widest interval +-{max(widths):.1%}"
        return text


def requests_of(group: Group, runs: Sequence[Run]) -> list[Request]:
    """A group's runs as requests, one for each n."""
    replicates: dict[int, list[int]] = {}
    for run in runs:
        replicates.setdefault(run.n, []).append(run.replicate)
    note = {"group": group.key}
    return [Request(group.cell(n), tuple(sorted(numbers)), note) for n, numbers in sorted(replicates.items())]
