"""``where``: which rows are wanted, as a mapping, as (column, operator, value) tuples, or as text.

::

    {"rank": 2, "method": ["sam", "label_noise_sgd"], "learning_rate": None}
    [("n", ">", 40), ("relative_error", "<=", 1e-2)]
    "rank == 2 and n > 1.5*dof and method in ['sam', 'label_noise_sgd']"

Each becomes Arrow expressions, which Parquet evaluates while it reads. Text is parsed, never evaluated as Python: names
of columns, numbers, strings, lists, comparisons, and/or/not, + - * / and the derived names below. ``auto`` and ``full``
are stored as null, as is a field that a row's method does not use: comparing with the word means only the rows whose
method uses the field, comparing with ``None`` means null for either reason. Both take == and != only; any other
comparison with null leaves the row out.
"""

from flatdist.expressions.filters.comparisons import Condition
from flatdist.expressions.filters.conditions import Where, conjunction, parse_where

__all__ = ["Condition", "Where", "conjunction", "parse_where"]
