"""Counter-based random draws: the same integers in numpy, Numba and torch (Philox4x32-10)."""

from flatdist.sensing.draws.stream import Stream, stream_key

__all__ = ["Stream", "stream_key"]
