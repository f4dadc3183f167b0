"""``field=value`` words of a command line, read as a sweep file reads the same fields."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from flatdist.cells.cell import FIELDS, Cell, check_values, listed
from flatdist.errors import CellError, SweepError, did_you_mean
from flatdist.sweepfile.expand import Scope, Unresolved
from flatdist.sweepfile.values import InvalidValue, names_in, read_value
from flatdist.sweepfile.yamltree import parse_tree


def read_words(words: Iterable[str]) -> dict[str, Any]:
    """Parse ``field=value`` words into field -> value, as YAML reads the values; SweepError for all that are wrong."""
    values: dict[str, Any] = {}
    problems = []
    for word in words:
        name, equals, text = word.partition("=")
        name = name.strip()
        if not equals:
            problems.append(f"{word!r} is not of the form field=value, such as rank=2")
        elif name not in FIELDS:
            hint, allowed = did_you_mean(name, FIELDS), ", ".join(FIELDS)
            problems.append(f"{word!r}: there is no field {name!r}{hint}; allowed: {allowed}")
        elif name in values:
            problems.append(f"{word!r}: {name} is given twice; give each field once")
        else:
            values[name] = parse_tree(text, word).plain
    if problems:
        raise SweepError("\n".join(problems))
    return values


def cell_from_words(words: Iterable[str]) -> Cell:
    """The cell that ``field=value`` words describe; values may be expressions over the other fields."""
    return Cell(**resolved_values(read_words(words)))


def resolved_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Field values as YAML reads them, with the expressions among them computed from the other fields.

    Raises:
        CellError: every field that is missing or whose value is not allowed.
    """
    problems = []
    given: dict[str, Any] = {}
    for name, raw in values.items():
        try:
            given[name] = read_value(name, raw)
        except InvalidValue as error:
            problems.append(f"{name}: {raw!r} {error.reason}; allowed: {error.allowed}")
    literals, errors = ({}, {}) if problems else Scope(given, frozenset()).literals(given)
    for name, why in errors.items():
        if isinstance(why, RecursionError):
            problems.append(f"{name}: depends on itself through {', '.join(sorted(names_in(given[name])))}")
        elif not isinstance(why, Unresolved):
            problems.append(f"{name}: {why}")
    problems = problems or [str(one) for one in check_values(literals)[1] if one.field not in errors]
    if problems:
        raise CellError(listed(problems))
    return literals
