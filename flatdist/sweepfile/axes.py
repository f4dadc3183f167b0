"""Axes: a list of values, or ``{linspace|logspace|range|uniform|loguniform: [...]}``; counted before they are built."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from flatdist.cells.fields import Integer
from flatdist.expressions import ExpressionError, parse
from flatdist.sweepfile.declaration import BOUNDARY, FIRST_SUCCESS, FORMS, RANDOM
from flatdist.sweepfile.problems import Problems
from flatdist.sweepfile.values import Given, InvalidValue, kind_of, read_value, takes_numbers
from flatdist.sweepfile.yamltree import Node

_FORMS_IN_WORDS = ", ".join(f"{{{form}: {arguments}}}" for form, arguments in FORMS.items())


@dataclass(frozen=True)
class Axis:
    """The values of one field, not yet built.

    Attributes:
        field: name of the cell field.
        key: its place in the file, such as ``axes.rank``.
        line: its line.
        count: how many values it has.
        value: value number -> what the user might have written there, and its line.
    """

    field: str
    key: str
    line: int
    count: int
    value: Callable[[int], tuple[Any, int]]

    def build(self, problems: Problems) -> list[Given | InvalidValue]:
        """All values, checked one by one; an invalid one is noted and replaced by the exception."""
        built: list[Given | InvalidValue] = []
        for index in range(self.count):
            raw, line = self.value(index)
            try:
                built.append(read_value(self.field, raw))
            except InvalidValue as error:
                built.append(error)
                shown = str(raw) if isinstance(raw, Fraction) else raw
                problems.add(self.key, line, error.reason, error.allowed, shown)
        return built


def read_axis(field: str, key: str, node: Node, problems: Problems) -> Axis | None:
    """Read one axis; None if it cannot be used, with the reason noted."""
    if isinstance(node.value, list):
        if not node.value:
            problems.add(key, node.line, "is an empty list, which makes the sweep empty", "at least one value")
            return None
        items = [(item.plain, item.line) for item in node.value]
        return Axis(field, key, node.line, len(items), items.__getitem__)
    if isinstance(node.value, dict):
        return _number_axis(field, key, node, problems)
    hint = "a list of values" + (f", or one of {_FORMS_IN_WORDS}" if takes_numbers(field) else "")
    problems.add(key, node.line, "expected a list; put a single value under `fixed`", hint, node.plain)
    return None


def _number_axis(field: str, key: str, node: Node, problems: Problems) -> Axis | None:
    for name in node.value:
        if name not in (*FORMS, "seed"):
            known = (*FORMS, "seed", *((BOUNDARY, FIRST_SUCCESS) if field == "n" else ()))
            problems.unknown_key(key, name, node.keys[name], known)
            return None
    forms = [name for name in node.value if name in FORMS]
    if len(forms) != 1 or ("seed" in node.value and forms[0] not in RANDOM):
        problems.add(key, node.line, "takes exactly one form, and a seed only where it is random", _FORMS_IN_WORDS)
        return None
    form = forms[0]
    key, arguments = f"{key}.{form}", node.value[form].plain
    if not takes_numbers(field):
        problems.add(
            key,
            node.line,
            f"numeric axes need a numeric field; `{field}` is not numeric",
            f"a list of: {kind_of(field).allowed}",
        )
        return None
    if not isinstance(arguments, list) or len(arguments) != 3:
        problems.add(key, node.line, "does not have three entries", FORMS[form], arguments)
        return None
    value: Callable[[int], Any]
    try:
        if form in RANDOM:
            count, value = _random(field, form, arguments, node.plain.get("seed", 0))
        else:
            count, value = (_range if form == "range" else _spaced)(form, arguments)
    except InvalidValue as error:
        problems.add(key, node.line, error.reason, error.allowed, arguments)
        return None
    return Axis(field, key, node.line, count, lambda index: (value(index), node.line))


def _spaced(form: str, arguments: Sequence[Any]) -> tuple[int, Callable[[int], str]]:
    """Values from start to stop, both included, in equal steps or equal ratios."""
    start, stop, count = _ends_and_count(form, arguments)
    _check_positive(form, arguments)
    steps = max(count - 1, 1)

    def value(index: int) -> str:
        if index == 0:
            return start
        if index == count - 1:
            return stop
        if form == "linspace":
            return f"({start}) + (({stop}) - ({start})) * {index} / {steps}"
        return f"({start}) * (({stop}) / ({start})) ** ({index} / {steps})"

    return count, value


def _random(field: str, form: str, arguments: Sequence[Any], seed: Any) -> tuple[int, Callable[[int], str]]:
    """Values drawn from the field's name and a seed; a longer axis begins with the values of a shorter one."""
    low, high, count = _ends_and_count(form, arguments)
    _check_positive(form, arguments)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise InvalidValue(f"has the seed {seed!r}", "a whole number")
    is_whole = isinstance(kind_of(field), Integer)

    def value(index: int) -> str:
        drawn = hashlib.sha256(f"{field} {seed} {index}".encode()).digest()
        share = f"{int.from_bytes(drawn[:4])} / {2**32}"
        if form == "uniform":
            text = f"({low}) + (({high}) - ({low})) * {share}"
        else:
            text = f"({low}) * (({high}) / ({low})) ** ({share})"
        return f"round({text})" if is_whole else text

    return count, value


def _check_positive(form: str, arguments: Sequence[Any]) -> None:
    """Reject ends of a logarithmic form that are 0 or negative, often exponents meant for numpy's ``logspace``."""
    ends = [_argument(form, part)[1] for part in arguments[:2]] if form in ("logspace", "loguniform") else []
    if any(end is not None and end <= 0 for end in ends):
        raise InvalidValue("needs ends greater than 0: the values themselves, not exponents of 10", FORMS[form])


def _ends_and_count(form: str, arguments: Sequence[Any]) -> tuple[str, str, int]:
    start, stop = (_argument(form, part)[0] for part in arguments[:2])
    count = arguments[2]
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise InvalidValue("has a count that is not a whole number of at least 1", FORMS[form])
    return start, stop, count


def _range(form: str, arguments: Sequence[Any]) -> tuple[int, Callable[[int], int | Fraction]]:
    """Values start, start + step, ... up to stop, which is included if a step lands on it."""
    numbers = [_argument(form, part)[1] for part in arguments]
    start, stop, step = numbers
    if start is None or stop is None or step is None:
        raise InvalidValue("depends on other fields, so its length is unknown; use linspace", "three numbers")
    if step == 0 or (stop - start) / step < 0:
        raise InvalidValue("never reaches stop: the step is 0 or leads away from it", FORMS[form])
    count = math.floor((stop - start) / step) + 1
    if start.denominator == step.denominator == 1:
        return count, lambda index: int(start) + index * int(step)
    return count, lambda index: start + index * step


def _argument(form: str, part: Any) -> tuple[str, Fraction | None]:
    """An argument as expression text and, if it depends on no field, its value."""
    if isinstance(part, bool) or not isinstance(part, (int, float, str)):
        raise InvalidValue(f"has an entry that is not a number: {part!r}", FORMS[form])
    try:
        expression = parse(repr(part) if not isinstance(part, str) else part)
        value = None if expression.names else expression.evaluate({})
    except ExpressionError as error:
        raise InvalidValue(f"has the entry {part!r}: character {error.position}: {error.reason}", FORMS[form]) from None
    if value is not None and (isinstance(value, bool) or not isinstance(value, Fraction)):
        raise InvalidValue(f"has an entry that is not a number: {part!r}", FORMS[form])
    return expression.text, value
