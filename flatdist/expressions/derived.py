"""Names that follow from a cell's fields."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from flatdist.expressions.values import ExpressionError, Names, number, show

DERIVED: Mapping[str, str] = {
    "dof": "rank*(d_out+d_in-rank), the degrees of freedom of a rank-r matrix",
    "rsum": "rank*(d_out+d_in)",
    "entries": "d_out*d_in",
    "statdim": "the statistical dimension of the nuclear norm's descent cone at the ground truth",
}


def derived(name: str, names: Names) -> Fraction:
    """The value of one of the ``DERIVED`` names.

    Raises:
        ExpressionError: ``statdim`` of a rank that no matrix of that shape has.
    """
    d_out, d_in = number(names["d_out"]), number(names["d_in"])
    if name == "entries":
        return d_out * d_in
    rank = number(names["rank"])
    if name == "rsum":
        return rank * (d_out + d_in)
    if name == "dof":
        return rank * (d_out + d_in - rank)
    assert name == "statdim", name
    if not 1 <= rank <= min(d_out, d_in) or any(size.denominator != 1 for size in (rank, d_out, d_in)):
        raise ExpressionError(name, 1, f"rank {show(rank)} is not a whole number from 1 to min(d_out, d_in)")
    from flatdist.theory.statdim import statistical_dimension

    return Fraction(repr(float(statistical_dimension(int(d_out), int(d_in), int(rank)))))
