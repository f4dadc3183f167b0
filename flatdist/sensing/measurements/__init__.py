"""Measurement matrices as values: one class per way of storing them, one file each.

Code that works with measurements uses the methods of these classes
(:class:`~flatdist.sensing.measurements.base.Measurements`) and does not depend on how they are stored.
"""

from __future__ import annotations

from typing import Any

from flatdist.sensing.measurements.base import Measurements
from flatdist.sensing.measurements.dense import Dense
from flatdist.sensing.measurements.entries import Entries
from flatdist.sensing.measurements.factors import Factors
from flatdist.sensing.measurements.signs import Signs


def as_measurements(given: Any) -> Measurements:
    """Measurements as they are, or an array (..., n, d_out, d_in) of them, numpy or torch, not copied."""
    if isinstance(given, Measurements):
        return given
    return Signs(given) if str(given.dtype).removeprefix("torch.") == "int8" else Dense(given)


__all__ = ["Dense", "Entries", "Factors", "Measurements", "Signs", "as_measurements"]
