"""Gaussian measurements of rank one, A = u v^T with u and v standard normal.

E <A, X>^2 = ||X||_F^2, but the products are heavy-tailed: E <A, X>^4 is up to 9 ||X||_F^4 where independent Gaussian
entries have 3. These measurements have no restricted isometry unless n is of the order of d_out d_in (Cai, Zhang 2015,
"ROP: Matrix recovery via rank-one projections"): X = u_1 v_1^T alone makes delta_1 at least about d_out d_in / n - 1.
So Lemmas 3 and 5 and Theorems 1 to 3 of Gatmiry et al. (2023) do not cover them; Lemma 2 and Theorem 5 hold.
"""

from flatdist.sensing.draws import Stream
from flatdist.sensing.ensembles.base import Ensemble
from flatdist.sensing.measurements import Factors
from flatdist.types import Array


def sample(stream: Stream, indices: Array, d_out: int, d_in: int) -> Factors:
    """Measurements ``indices`` of the stream, by their factors u (m, d_out) and v (m, d_in)."""
    drawn = stream.normals(indices, d_out + d_in)
    return Factors(drawn[:, :d_out], drawn[:, d_out:])


# The squared gradient of one measurement has up to 9 / 3 times the fourth moment that independent entries give it.
ENSEMBLE = Ensemble("rank_one", sample, "u v^T with independent standard normal vectors u and v", Factors, spread=3.0)
