"""How a file leaves choices to the sweep: which n a block measures at, and how many replicates a grid gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flatdist.sweepfile.problems import Problems
from flatdist.sweepfile.values import Given, InvalidValue, read_value
from flatdist.sweepfile.yamltree import Node

BOUNDARY, FIRST_SUCCESS = "boundary", "first_success"
KEYS: Mapping[str, tuple[str, ...]] = {
    BOUNDARY: ("from", "to", "budget", "precision", "tolerance"),
    FIRST_SUCCESS: ("from", "to", "tolerance"),
}
FORMS_IN_WORDS = (
    "{boundary: {from: 0.5*statdim, to: entries, budget: 400, precision: 0.03}}, or "
    "{first_success: {from: 1, to: entries}}"
)
UNTIL_KEYS = ("min", "max", "until_ci", "tolerance")
UNTIL_IN_WORDS = "{min: 8, max: 64, until_ci: 0.05}"
MAX_RUNS = 1_000_000
_PRECISION = "a number between 0 and 1, such as 0.03 for 3 % of n50"


@dataclass(frozen=True)
class ChosenN:
    """An ``n`` that the sweep chooses.

    Attributes:
        form: ``boundary`` or ``first_success``.
        key: where it stands in the file.
        line: its line.
        low: smallest n, a number or an expression over the other fields.
        high: largest n.
        budget: runs of each group at most; 0 for ``first_success``.
        precision: half-width of n50's 95 % interval, over n50; 0 for ``first_success``.
        tolerance: relative error of a success; None for the method's own.
    """

    form: str
    key: str
    line: int
    low: Given = None
    high: Given = None
    budget: int = 0
    precision: float = 0.0
    tolerance: float | None = None


@dataclass(frozen=True)
class Until:
    """Replicates that are raised until n50 is known well enough: ``{min, max, until_ci}``."""

    least: int
    most: int
    precision: float
    tolerance: float | None = None


def is_chosen(field: str, node: Node) -> bool:
    """Whether an entry leaves n to the sweep."""
    return field == "n" and isinstance(node.value, dict) and any(form in node.value for form in KEYS)


def read_chosen(key: str, node: Node, problems: Problems) -> ChosenN | None:
    """Read an ``n`` that the sweep chooses; None where it cannot be used, with the reasons noted."""
    before = len(problems.found)
    for name in node.value:
        if name not in KEYS:
            problems.unknown_key(key, name, node.keys[name], KEYS)
    if len(node.value) != 1:
        problems.add(key, node.line, "is not exactly one form", FORMS_IN_WORDS, node.plain)
    form = next((name for name in node.value if name in KEYS), None)
    if form is None:
        return None
    inner, key = node.value[form], f"{key}.{form}"
    if not isinstance(inner.value, dict):
        problems.add(key, inner.line, "expected a mapping", FORMS_IN_WORDS, inner.plain)
        return None
    for name in inner.value:
        if name not in KEYS[form]:
            problems.unknown_key(key, name, inner.keys[name], KEYS[form])
    low, high = (_end(f"{key}.{end}", inner, end, problems) for end in ("from", "to"))
    budget, precision = 0, 0.0
    if form == BOUNDARY:
        budget = _whole(f"{key}.budget", inner, "budget", 1, problems)
        precision = _share(f"{key}.precision", inner, "precision", problems)
    tolerance = _tolerance(f"{key}.tolerance", inner, problems)
    chosen = ChosenN(form, key, node.line, low, high, budget, precision, tolerance)
    return chosen if len(problems.found) == before else None


def read_until(node: Node, problems: Problems) -> Until | None:
    """Read ``replicates: {min, max, until_ci}``; None where it cannot be used, with the reasons noted."""
    before = len(problems.found)
    key = "replicates"
    for name in node.value:
        if name not in UNTIL_KEYS:
            problems.unknown_key(key, name, node.keys[name], UNTIL_KEYS)
    least = _whole(f"{key}.min", node, "min", 1, problems)
    most = _whole(f"{key}.max", node, "max", 1, problems)
    precision = _share(f"{key}.until_ci", node, "until_ci", problems)
    tolerance = _tolerance(f"{key}.tolerance", node, problems)
    if len(problems.found) == before and least > most:
        problems.add(key, node.line, f"has min {least} above max {most}", UNTIL_IN_WORDS, node.plain)
    return Until(least, most, precision, tolerance) if len(problems.found) == before else None


def _end(key: str, node: Node, name: str, problems: Problems) -> Given:
    if name not in node.value:
        problems.add(key, node.line, "is required and missing", "a number of measurements, or an expression")
        return None
    raw = node.value[name]
    try:
        return read_value("n", raw.plain)
    except InvalidValue as error:
        problems.add(key, raw.line, error.reason, error.allowed, raw.plain)
        return None


def _whole(key: str, node: Node, name: str, low: int, problems: Problems) -> int:
    value, line = _entry(node, name)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= MAX_RUNS:
        reason = "is required and missing" if name not in node.value else "is not a whole number in range"
        problems.add(key, line, reason, f"a whole number from {low} to {MAX_RUNS}", value)
        return low
    return value


def _share(key: str, node: Node, name: str, problems: Problems) -> float:
    value, line = _entry(node, name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1:
        reason = "is required and missing" if name not in node.value else "is not a precision"
        problems.add(key, line, reason, _PRECISION, value)
        return 0.5
    return float(value)


def _tolerance(key: str, node: Node, problems: Problems) -> float | None:
    value, line = _entry(node, "tolerance")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        problems.add(key, line, "is not a relative error", "a positive number, such as 1e-2", value)
        return None
    return float(value)


def _entry(node: Node, name: str) -> tuple[Any, int]:
    """The value of a key, None where it is missing, and its line."""
    if name not in node.value:
        return None, node.line
    return node.value[name].plain, node.value[name].line
