"""Independent standard Gaussian entries (Example 1 of Gatmiry et al. 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flatdist.sensing.ensembles.base import Ensemble
from flatdist.sensing.measurements import Dense

if TYPE_CHECKING:
    import numpy as np

    from flatdist.sensing.draws import Stream


def sample(stream: Stream, indices: np.ndarray, d_out: int, d_in: int) -> Dense:
    """Measurements ``indices`` of the stream, (m, d_out, d_in)."""
    return Dense(stream.normals(indices, d_out * d_in).reshape(-1, d_out, d_in))


ENSEMBLE = Ensemble("gaussian", sample, "independent standard normal entries")
