"""Independent standard Gaussian entries (Example 1 of Gatmiry et al. 2023)."""

from flatdist.sensing.draws import Stream
from flatdist.sensing.ensembles.base import Ensemble
from flatdist.sensing.measurements import Dense
from flatdist.types import Array


def sample(stream: Stream, indices: Array, d_out: int, d_in: int) -> Dense:
    """Measurements ``indices`` of the stream, (m, d_out, d_in)."""
    return Dense(stream.normals(indices, d_out * d_in).reshape(-1, d_out, d_in))


ENSEMBLE = Ensemble("gaussian", sample, "independent standard normal entries")
