"""Searches: sweeps that choose their cells themselves, round after round, from what the store holds."""

from flatdist.search.driving import Driver, Halving
from flatdist.search.early_stopping import EarlyStopping
from flatdist.search.metric import Metric, parse_metric
from flatdist.search.recorded import with_recorded_cells, with_stand_ins
from flatdist.search.rounds import Request, Round, RoundLog, Strategy
from flatdist.search.spec import Search
from flatdist.search.strategy import SearchStrategy

__all__ = [
    "Driver",
    "EarlyStopping",
    "Halving",
    "Metric",
    "Request",
    "Round",
    "RoundLog",
    "Search",
    "SearchStrategy",
    "Strategy",
    "parse_metric",
    "with_recorded_cells",
    "with_stand_ins",
]
