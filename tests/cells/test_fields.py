"""Values that no field can hold are refused by name."""

from fractions import Fraction

import pytest

from flatdist.cells.cell import Cell
from flatdist.errors import CellError


@pytest.mark.parametrize("value", [10**400, Fraction(10**400)], ids=["integer", "fraction"])
def test_a_number_beyond_the_largest_float_is_out_of_range(value):
    with pytest.raises(CellError, match=r"label_noise_std: .*is out of range"):
        Cell(d_out=3, d_in=3, rank=1, n=5, label_noise_std=value)
