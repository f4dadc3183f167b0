"""Sweeps that choose n, or the number of replicates, from what the store holds: boundaries, first successes, grids."""

from flatdist.sweeps.adaptive.choosing import Boundary, FirstSuccess, UntilInterval
from flatdist.sweeps.adaptive.group import Group
from flatdist.sweeps.adaptive.recorded import group_states, with_recorded_runs, with_stand_ins
from flatdist.sweeps.adaptive.rules import Known, Plain, Rule, Run, Span
from flatdist.sweeps.adaptive.sweep import AdaptiveSweep, GroupStrategy

__all__ = [
    "AdaptiveSweep",
    "Boundary",
    "FirstSuccess",
    "Group",
    "GroupStrategy",
    "Known",
    "Plain",
    "Rule",
    "Run",
    "Span",
    "UntilInterval",
    "group_states",
    "with_recorded_runs",
    "with_stand_ins",
]
