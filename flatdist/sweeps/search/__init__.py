"""Searches: sweeps that choose their cells themselves, round after round, from what the store holds."""

from flatdist.sweeps.search.early_stopping import EarlyStopping
from flatdist.sweeps.search.metric import Metric, parse_metric
from flatdist.sweeps.search.recorded import with_recorded_cells, with_stand_ins
from flatdist.sweeps.search.rounds import Request, Round, RoundLog, Strategy
from flatdist.sweeps.search.spec import Search
from flatdist.sweeps.search.strategy import SearchStrategy

__all__ = [
    "EarlyStopping",
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
