"""Arithmetic over the fields of a cell, as sweep files and ``--where`` use it.

    n: "1.1*dof"                      where: "n <= entries and method != 'sam'"

Everything is computed in exact fractions, so that ``1.1*50`` is 55 and not 55.000000000000007; square roots,
logarithms and fractional powers that have no exact value are rounded to 15 significant digits. There is no ``eval``
behind it: a small recursive-descent parser knows numbers, text in quotes, names, the operators and the functions
below, and refuses everything else, numbers of more than 2048 bits and nesting deeper than 40 included.
"""

from flatdist.expressions.derived import DERIVED, derived
from flatdist.expressions.parser import Expression, parse
from flatdist.expressions.values import ExpressionError, Value, show, to_value, whole_above, without_noise

__all__ = [
    "DERIVED",
    "Expression",
    "ExpressionError",
    "Value",
    "derived",
    "parse",
    "show",
    "to_value",
    "whole_above",
    "without_noise",
]
