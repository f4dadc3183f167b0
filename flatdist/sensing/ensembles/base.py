"""What every measurement ensemble declares about itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flatdist.sensing.draws import Stream
from flatdist.sensing.measurements import Dense, Measurements
from flatdist.types import Array


@dataclass(frozen=True)
class Ensemble:
    """A distribution of measurement matrices A with E <A, X>^2 = ||X||_F^2 for every X.

    Attributes:
        name: the value of a cell's ``ensemble``.
        sample: ``(stream, indices (m,), d_out, d_in) -> m measurements``, float64; measurement i depends only on the
            stream and i, so that nested problems share their measurements.
        summary: one line for documentation.
        storage: how the measurements of a problem are stored.
        spread: how much more the squared gradient of one measurement varies with the measurement than for independent
            entries; ``learning_rate: auto`` allows for it.
        without_replacement: measurements are drawn from d_out * d_in possible ones, each at most once.
    """

    name: str
    sample: Callable[[Stream, Array, int, int], Measurements]
    summary: str
    storage: type[Measurements] = Dense
    spread: float = 1.0
    without_replacement: bool = False
