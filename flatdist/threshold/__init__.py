"""Searching n50, the number of measurements at which half of the runs succeed: statistics alone, no running of trials.

A search alternates between :func:`place`, which says at which n the next runs narrow n50 most, and :func:`finished`.
:func:`interval` is what is reported in the end.
"""

from flatdist.threshold.curves import Runs
from flatdist.threshold.interval import Interval, interval
from flatdist.threshold.placing import finished, place, round_size

__all__ = ["Interval", "Runs", "finished", "interval", "place", "round_size"]
