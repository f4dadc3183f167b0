"""Shapes of problems: the columns that define one, and a prediction's value for each row's shape."""

from __future__ import annotations

import numpy as np
import pandas as pd

from flatdist.theory import prediction

SHAPE = ("d_out", "d_in", "rank")


def predicted(name: str, table: pd.DataFrame) -> np.ndarray:
    """A prediction of :mod:`flatdist.theory`, such as ``statdim``, at each row's shape: (rows,), in measurements."""
    value = prediction(name).value
    return np.array([value(int(a), int(b), int(r)) for a, b, r in table[list(SHAPE)].itertuples(index=False)])
