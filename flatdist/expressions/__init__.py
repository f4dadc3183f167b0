"""The one language: conditions and arithmetic over a cell's fields and the columns of results.

::

    n: "1.1*dof"                                      a value in a sweep file
    "n <= entries and method != 'sam'"                a condition, on cells or on rows
    {"rank": 2, "method": ["sam", "label_noise_sgd"]} the same for rows, from Python: every entry must hold
    [("n", ">", 40), ("relative_error", "<=", 1e-2)]  and as comparisons

A text is read by Python's own parser and refused unless it consists of numbers, text in quotes, names, the operators
and functions below, comparisons, ``in [...]``, ``is None``, and/or/not. Numbers are exact fractions; a float field is
compared with a number as it stores it, with 12 significant digits. ``width == 16`` means every hidden width. ``auto``
and ``full`` are stored as null, as is a field that the cell's method does not use: ``is None`` is true of both,
``== auto`` of the first alone. A missing value equals nothing else and has no order; ``!=`` is the opposite of ``==``.
"""

from flatdist.expressions.exact import (
    ARITHMETIC,
    COMPARISONS,
    FUNCTIONS,
    Expression,
    ExpressionError,
    Value,
    Word,
    show,
    to_value,
    whole_above,
    without_noise,
)
from flatdist.expressions.grammar import parse, parse_condition
from flatdist.expressions.names import CELL_NAMES, DERIVED, DERIVED_FROM, HISTORY_NAMES, TRIAL_NAMES, derived
from flatdist.expressions.rows import Condition, Row, Where, conjunction, holding, parse_where

__all__ = [
    "ARITHMETIC", "CELL_NAMES", "COMPARISONS", "DERIVED", "DERIVED_FROM", "FUNCTIONS", "HISTORY_NAMES", "TRIAL_NAMES",
    "Condition", "Expression", "ExpressionError", "Row", "Value", "Where", "Word", "conjunction", "derived",
    "holding", "parse", "parse_condition", "parse_where", "show", "to_value", "whole_above", "without_noise",
]  # fmt: skip
