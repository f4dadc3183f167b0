"""Values computed once for common shapes, so that sweep files over them resolve at once."""

from __future__ import annotations

from functools import cache

from flatdist.theory.statdim.shapes import Shape
from flatdist.theory.statdim.values import TABLE_VERSION, VALUES


def tabulated(shape: Shape, version: int) -> float | None:
    """The tabulated value of a shape, or None where there is none of this version."""
    return _table().get(shape) if version == TABLE_VERSION else None


@cache
def _table() -> dict[Shape, float]:
    table = {}
    for line in VALUES.splitlines():
        sizes, values = line.split(":")
        small, large = map(int, sizes.split())
        table.update({Shape(small, large, rank): float(text) for rank, text in enumerate(values.split(), start=1)})
    return table
