"""Reading the ``search`` of a sweep file; everything wrong with it is noted, none of it is run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any

from flatdist.cells.cell import FIELDS
from flatdist.cells.fields import Integer, Keyword, canonical_float
from flatdist.errors import SweepError, did_you_mean
from flatdist.expressions import ExpressionError, parse
from flatdist.sweepfile.expand import Expansion
from flatdist.sweepfile.problems import Problems
from flatdist.sweepfile.schema import Block
from flatdist.sweepfile.values import kind_of, takes_numbers
from flatdist.sweepfile.yamltree import Node
from flatdist.sweeps.search.domains import FORMS, Domain
from flatdist.sweeps.search.early_stopping import EarlyStopping
from flatdist.sweeps.search.metric import Metric, numeric_columns, parse_metric
from flatdist.sweeps.search.searchers import SEARCHERS
from flatdist.sweeps.search.spec import Point, Search

KEYS = ("fields", "searcher", "metric", "mode", "budget", "round", "seed", "early_stopping")
STOPPING_KEYS = ("first", "factor")
MODES = ("min", "max")
MAX_BUDGET = 10_000
_FORMS_IN_WORDS = ", ".join(f"{{{form}: {arguments}}}" for form, arguments in FORMS.items())


def search_schema() -> dict[str, Any]:
    """What a sweep file's ``search`` may hold, as a JSON Schema."""
    text, whole = {"type": "string"}, {"type": "integer", "minimum": 0}
    forms = {"anyOf": [{"type": "object", "required": [form], "additionalProperties": False,
                        "properties": {form: {"type": "array", "description": arguments}}}
                       for form, arguments in FORMS.items()]}  # fmt: skip
    stopping = {"type": "object", "required": ["first"], "additionalProperties": False,
                "properties": dict.fromkeys(STOPPING_KEYS, whole)}  # fmt: skip
    properties = {
        "fields": {"type": "object", "additionalProperties": False, "properties": dict.fromkeys(FIELDS, forms)},
        "searcher": {"enum": list(SEARCHERS)},
        "metric": {**text, "description": f"{', '.join(numeric_columns())}, or steps_to=ERROR"},
        "mode": {"enum": list(MODES)},
        "budget": {**whole, "description": "cells to suggest in all"},
        "round": {**whole, "description": "cells suggested at a time"},
        "seed": whole,
        "early_stopping": stopping,
    }
    assert tuple(properties) == KEYS
    return {"type": "object", "required": ["fields", "budget"], "additionalProperties": False, "properties": properties}


def read_search(node: Node, block: Block, problems: Problems) -> Search | None:
    """Read the ``search`` of a sweep file.

    Args:
        node: its mapping.
        block: the fixed fields and conditions of the file.
        problems: collects what is wrong.

    Returns:
        The search, or None where it cannot be run, with the reasons noted.
    """
    before = len(problems.found)
    if not isinstance(node.value, dict):
        problems.add("search", node.line, "expected a mapping", ", ".join(KEYS), node.plain)
        return None
    for axis in block.axes:
        allowed = "fixed beside a search; a list of values is {choice: [...]} under search.fields"
        problems.add(axis.key, axis.line, "cannot be combined with search", allowed)
    if block.chosen is not None:
        problems.add(block.chosen.key, block.chosen.line, "cannot be combined with search", "one n for all cells")
    for name in node.value:
        if name not in KEYS:
            problems.unknown_key("search", name, node.keys[name], KEYS)
    entries = node.value
    domains = _read_domains(entries.get("fields"), node, block, problems)
    searcher = _choice("searcher", entries.get("searcher"), node, tuple(SEARCHERS), "random", problems)
    mode = _choice("mode", entries.get("mode"), node, MODES, "min", problems)
    metric = _read_metric(entries.get("metric"), node, problems)
    budget = _whole("search.budget", entries.get("budget"), node.line, None, 1, MAX_BUDGET, problems)
    size = _whole("search.round", entries.get("round"), node.line, min(budget, 8), 1, MAX_BUDGET, problems)
    seed = _whole("search.seed", entries.get("seed"), node.line, 0, 0, 2**31 - 1, problems)
    stopping = _read_stopping(entries.get("early_stopping"), metric, problems)
    search = Search(block, tuple(domains), searcher, metric, mode, budget, size, seed, stopping)
    if len(problems.found) == before and not block.unusable:
        _check_corners(search, problems)
    return search if len(problems.found) == before else None


def _read_domains(fields: Node | None, node: Node, block: Block, problems: Problems) -> list[Domain]:
    if fields is None or not isinstance(fields.value, dict) or not fields.value:
        line = node.line if fields is None else fields.line
        problems.add("search.fields", line, "names no field to search", f"cell fields, each with {_FORMS_IN_WORDS}")
        return []
    domains = []
    for name, value in fields.value.items():
        key, line = f"search.fields.{name}", fields.keys[name]
        if name not in FIELDS:
            problems.unknown_key("search.fields", name, line, FIELDS)
        elif name in block.fixed and not block.fixed[name].key.startswith("--set"):
            problems.add(key, line, "is fixed too", "each field once: fixed or search.fields")
        elif name not in block.fixed:  # --set takes a field out of the search
            domain = _read_domain(name, key, value, problems)
            domains += [domain] if domain is not None else []
    if not domains and all(name in block.fixed for name in fields.value):
        problems.add("search.fields", fields.line, "has no field left to search", "at least one that is not --set")
    return domains


def _read_domain(name: str, key: str, node: Node, problems: Problems) -> Domain | None:
    forms = list(node.value) if isinstance(node.value, dict) else []
    for form in forms:
        if form not in FORMS:
            problems.unknown_key(key, form, node.keys[form], FORMS)
            return None
    if len(forms) != 1:
        problems.add(key, node.line, "is not exactly one form", _FORMS_IN_WORDS, node.plain)
        return None
    form, arguments = forms[0], node.value[forms[0]].plain
    if form == "choice":
        if not isinstance(arguments, list) or not arguments:
            problems.add(key, node.line, "expected a list of values", FORMS[form], arguments)
            return None
        unique = [option for index, option in enumerate(arguments) if option not in arguments[:index]]
        return Domain(name, form, options=tuple(unique), key=key, line=node.line)
    return _read_range(Domain(name, form, key=key, line=node.line), arguments, problems)


def _read_range(domain: Domain, arguments: Any, problems: Problems) -> Domain | None:
    name, form = domain.field, domain.form
    if not takes_numbers(name) or name == "width":
        reason = f"ranges need a numeric field; `{name}` is not numeric"
        problems.add(domain.key, domain.line, reason, "{choice: [...]}", arguments)
        return None
    if not isinstance(arguments, list) or len(arguments) != 2:
        problems.add(domain.key, domain.line, "does not have two entries", FORMS[form], arguments)
        return None
    low, high = (_constant(part) for part in arguments)
    if low is None or high is None or low >= high or (form == "loguniform" and low <= 0):
        more = ", both greater than 0" if form == "loguniform" else ""
        allowed = f"[low, high]: two constants, low below high{more}"
        problems.add(domain.key, domain.line, "is not a range", allowed, arguments)
        return None
    kind = kind_of(name)
    whole = isinstance(kind.otherwise if isinstance(kind, Keyword) else kind, Integer)
    return replace(domain, low=canonical_float(low), high=canonical_float(high), whole=whole)


def _constant(part: Any) -> float | None:
    if isinstance(part, bool) or not isinstance(part, (int, float, str)):
        return None
    try:
        value = parse(part if isinstance(part, str) else repr(part), {}).evaluate({})
        return float(value) if isinstance(value, Fraction) else None
    except (ExpressionError, OverflowError):
        return None


def _read_metric(node: Node | None, search: Node, problems: Problems) -> Metric:
    try:
        return parse_metric("relative_error" if node is None else node.value, numeric_columns())
    except SweepError as error:
        problems.add("search.metric", search.line if node is None else node.line, str(error))
        return Metric("relative_error")


def _read_stopping(node: Node | None, metric: Metric, problems: Problems) -> EarlyStopping | None:
    if node is None or node.value is None:
        return None
    key = "search.early_stopping"
    if not isinstance(node.value, dict):
        problems.add(key, node.line, "expected a mapping", "{first: STEPS, factor: 3}", node.plain)
        return None
    for name in node.value:
        if name not in STOPPING_KEYS:
            problems.unknown_key(key, name, node.keys[name], STOPPING_KEYS)
    if metric.rung_column is None:
        allowed = "relative_error, train_loss, population_loss, nuclear_norm, hessian_trace, steps_to=ERROR"
        problems.add(key, node.line, f"needs a metric that the history has; {metric.text} is not", allowed)
    first = _whole(f"{key}.first", node.value.get("first"), node.line, None, 1, 2**31 - 1, problems)
    factor = _whole(f"{key}.factor", node.value.get("factor"), node.line, 3, 2, 100, problems)
    return EarlyStopping(first, factor)


def _choice(
    name: str, node: Node | None, search: Node, known: tuple[str, ...], default: str, problems: Problems
) -> str:
    if node is None:
        return default
    if node.value not in known:
        reason = f"is not known{did_you_mean(node.value, known)}"
        problems.add(f"search.{name}", node.line or search.line, reason, ", ".join(known), node.plain)
        return default
    return str(node.value)


def _whole(key: str, node: Node | None, line: int, default: int | None, low: int, high: int, problems: Problems) -> int:
    value = default if node is None else node.value
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        reason = "is required and missing" if node is None else "is not a whole number in range"
        allowed = f"a whole number from {low} to {high}"
        problems.add(key, line if node is None else node.line, reason, allowed, None if node is None else node.plain)
        return low
    return value


def _check_corners(search: Search, problems: Problems) -> None:
    """Try the ends of every range and all options, each with the others' first, so that few suggestions can fail."""
    seen: set[tuple[str, str]] = set()
    for point in _corners(search.domains):
        found = Problems(problems.name)
        search.expand(point, Expansion({}), found)
        for problem in found.found:
            if (problem.key, problem.reason) not in seen:
                seen.add((problem.key, problem.reason))
                problems.found.append(problem)


def _corners(domains: tuple[Domain, ...]) -> Iterator[Point]:
    for end in (0, -1):
        yield {domain.field: domain.corners()[end] for domain in domains}
    for domain in domains:
        for option in domain.corners():
            yield {other.field: other.corners()[0] for other in domains} | {domain.field: option}
