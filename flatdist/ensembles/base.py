"""What every measurement ensemble declares about itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from flatdist.draws import Stream


@dataclass(frozen=True)
class Ensemble:
    """A distribution of measurement matrices whose entries have mean 0 and variance 1.

    Attributes:
        name: the value of a cell's ``ensemble``.
        sample: ``(stream, indices (m,), d_out, d_in) -> (m, d_out, d_in) float64``; measurement i depends only on the
            stream and i, so that nested problems share their measurements.
        summary: one line for documentation.
        signs: every entry is +1 or -1, so that a measurement may be stored as int8.
    """

    name: str
    sample: Callable[[Stream, np.ndarray, int, int], np.ndarray]
    summary: str
    signs: bool = False
