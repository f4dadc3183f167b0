"""Matrix completion: single entries, A = sqrt(d_out d_in) e_a e_b^T, drawn without replacement.

The mean of <A, X>^2 over all entries is ||X||_F^2. There is no restricted isometry at any n < d_out d_in: an entry that
was not drawn is a matrix of rank one that no measurement sees, so delta_1 >= 1 and Lemmas 3 and 5 and Theorems 1 to 3
of Gatmiry et al. (2023) are void. A row or column without a drawn entry cannot be recovered by any method.
"""

import numpy as np

from flatdist.sensing.draws import Stream
from flatdist.sensing.ensembles.base import Ensemble
from flatdist.sensing.measurements import Entries
from flatdist.types import Array


def sample(stream: Stream, indices: Array, d_out: int, d_in: int) -> Entries:
    """Measurements ``indices`` of the stream's permutation of all entries."""
    places = stream.permutation(d_out * d_in)[indices]
    rows, columns = np.divmod(places, d_in)
    return Entries(rows.astype(np.int32), columns.astype(np.int32), (d_out, d_in))


ENSEMBLE = Ensemble(
    "entries",
    sample,
    "single entries, drawn without replacement and scaled by sqrt(d_out*d_in)",
    Entries,
    without_replacement=True,
)
