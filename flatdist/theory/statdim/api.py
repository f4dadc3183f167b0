"""The statistical dimension as sweep files use it: rounded, versioned, and remembered."""

from __future__ import annotations

from functools import lru_cache

from flatdist.theory.statdim.bounds import statistical_dimension_asymptotic
from flatdist.theory.statdim.cache import read_value, write_value
from flatdist.theory.statdim.exact import exact_form
from flatdist.theory.statdim.shapes import Shape
from flatdist.theory.statdim.table import tabulated

VERSION = 1  # raised when any value changes: sweep files set n by these values
DECIMALS = 1
LARGEST_SAMPLED = 400_000  # entries of the normal part
# Far below the rounding, far above what two processors' arithmetic differs by: ties round alike on both.
_TIE = 1e-7


def statistical_dimension(d_out: int, d_in: int, rank: int) -> float:
    """The exact statistical dimension of the nuclear norm's descent cone at a matrix of this shape and rank.

    Accurate to 0.03 % before rounding to 0.1. Deterministic: the same value on every machine and in every session of
    this ``VERSION``. Symmetric in ``d_out`` and ``d_in``. Beyond 400,000 entries the large-size limit is returned; it
    differs from the exact form by less than 0.15 % there.

    Args:
        d_out, d_in: shape of the matrix.
        rank: rank of the ground truth.

    Returns:
        A number of measurements, not necessarily whole.

    Raises:
        CellError: sizes that are not whole numbers, or rank > min(d_out, d_in).
    """
    return _remembered(Shape.of(d_out, d_in, rank))


@lru_cache(maxsize=4096)
def _remembered(shape: Shape) -> float:
    value = tabulated(shape, VERSION)
    if value is not None:
        return value
    name = f"statistical_dimension-{VERSION}-{shape.small}x{shape.large}-{shape.rank}.txt"
    kept = read_value(name)
    if kept is not None and shape.degrees_of_freedom - 1 <= kept <= shape.small * shape.large:
        return kept
    value = compute(shape)
    write_value(name, value)
    return value


def compute(shape: Shape) -> float:
    """The rounded value, computed anew."""
    rows, columns = shape.normal
    if rows * columns > LARGEST_SAMPLED:
        value = statistical_dimension_asymptotic(shape.small, shape.large, shape.rank)
    else:
        value, _ = exact_form(shape, VERSION)
    return round(value + _TIE, DECIMALS)
