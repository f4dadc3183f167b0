"""Planning: what is missing, in which shards to run it, how long it takes and how much memory it needs."""

from flatdist.planning.forecast import Interval, Observation, duration, make_probe
from flatdist.planning.plan import Plan, SweepCounts, keep_within, make_plan, parse_duration, plan_items
from flatdist.planning.settings import Settings
from flatdist.planning.work import Shard, WorkItem

__all__ = [
    "Interval",
    "Observation",
    "Plan",
    "Settings",
    "Shard",
    "SweepCounts",
    "WorkItem",
    "duration",
    "keep_within",
    "make_plan",
    "make_probe",
    "parse_duration",
    "plan_items",
]
