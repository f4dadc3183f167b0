"""Measurement matrices as values: one class for each way of keeping them, one file each.

Whoever works with measurements asks these classes for what it needs
(:class:`~flatdist.sensing.measurements.base.Measurements`) and does not know how they are kept.
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
