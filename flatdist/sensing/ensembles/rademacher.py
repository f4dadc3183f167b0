"""Independent symmetric +1/-1 entries (Example 2 of Gatmiry et al. 2023)."""

from flatdist.sensing.draws import Stream
from flatdist.sensing.ensembles.base import Ensemble
from flatdist.sensing.measurements import Dense, Signs
from flatdist.types import Array


def sample(stream: Stream, indices: Array, d_out: int, d_in: int) -> Dense:
    """Measurements ``indices`` of the stream, (m, d_out, d_in)."""
    return Dense(stream.signs(indices, d_out * d_in).reshape(-1, d_out, d_in))


ENSEMBLE = Ensemble("rademacher", sample, "independent entries of +1 or -1, equally likely", Signs)
