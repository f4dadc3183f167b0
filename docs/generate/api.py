"""The public names with their signatures and docstrings, as Markdown; griffe reads them without importing anything."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import griffe
from prose import escape, plain_text, table

ROOT = Path(__file__).resolve().parents[2]
_TOGETHER = re.compile(r"^    ([\w*]+(?:, [\w*]+)+): (.*(?:\n {5,}.*)*)", re.MULTILINE)
TOPICS: Mapping[str, tuple[str, Sequence[str]]] = {
    "sweeps": (
        "Plan and run sweeps",
        ("plan", "sweep", "run_cell", "load_sweep", "Sweep", "Cell", "sample_problem", "Problem"),
    ),
    "results": ("Load results", ("load_trials", "load_history", "Store")),
    "fits": ("Fit thresholds and laws", ("fit_thresholds", "fit_scaling", "fits.*")),
    "figures": ("Draw figures and write reports", ("write_report", "figures.*")),
    "solvers": (
        "Interpolators and their flatness",
        (
            *(
                "min_nuclear_norm",
                "min_frobenius_norm",
                "min_hessian_trace",
                "end_to_end",
                "hessian_trace",
                "sharpness",
            ),
            *("local_flatness", "induced_regularizer", "balanced_factorization"),
        ),
    ),
    "theory": ("Predictions and the statistical dimension", ("theory.*",)),
    "tune": ("Cells in your own Tuner", ("tune.*",)),
    "errors": (
        "Errors",
        (
            *("FlatdistError", "SweepError", "CellError", "StoreError", "LaunchError", "SolverError", "FitError"),
            "FigureError",
        ),
    ),
    "declarations": (
        "What a method, an ensemble or a field declares",
        (
            *(
                f"methods.base.{name}"
                for name in ("Method", "GradientMethod", "SolverMethod", "StudyMethod", "UpdateRule")
            ),
            *("sensing.ensembles.base.Ensemble", "cells.fields.declare"),
        ),
    ),
}
"""Page -> its title and the names on it, below ``flatdist``; ``room.*`` stands for all that the room exports."""


def page(topic: str) -> str:
    """The page of one topic.

    Raises:
        ValueError: a docstring describes a parameter that the signature lacks, or cannot be read.
    """
    title, names = TOPICS[topic]
    public = [name for pattern in names for name in _matching(pattern)]
    parts = [(name, thing) for name in public if (thing := _find(name)) and (thing.is_function or thing.is_class)]
    parts.sort(
        key=lambda part: bool(part[1].is_class) and "*" in "".join(names)
    )  # what a room exports: functions first
    return f"# {title}\n\n" + "\n".join(_entry(name, thing) for name, thing in parts)


@cache
def _package() -> Any:
    logger = logging.getLogger("griffe")
    logger.addHandler(_Refuse())
    logger.propagate = False
    return griffe.load("flatdist", search_paths=[ROOT])


class _Refuse(logging.Handler):
    """Makes an error of every warning about a docstring."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            raise ValueError(record.getMessage())


def _matching(pattern: str) -> list[str]:
    room, star, _ = pattern.partition(".*")
    if not star:
        return [pattern]
    exported = _exported(room)
    already = {name.rpartition(".")[2] for _, names in TOPICS.values() for name in names if "*" not in name}
    return [f"{room}.{name}" for name in exported if name not in already]


def _exported(room: str) -> list[str]:
    """The names in a room's ``__all__``, as written there."""
    return [str(name).strip("'\"") for name in _package()[room]["__all__"].value.elements]


def _find(name: str) -> Any:
    thing = _package()[name]
    thing = thing.final_target if thing.is_alias else thing
    function = name.rpartition(".")[2]  # which a module of the same name hides from a static reader
    return thing[function] if thing.is_module and function in thing.members else thing


def _entry(name: str, thing: Any, level: int = 2) -> str:
    head = f"{'#' * level} {name if level == 2 else thing.name}\n\n"
    text = head + f"```python\n{_signature(thing)}\n```\n\n{_docstring(thing)}\n"
    if not thing.is_class:
        return text
    methods = [member for key, member in thing.members.items() if not key.startswith("_") and member.docstring]
    return text + "\n".join(_entry(name, member, level + 1) for member in methods if member.is_function)


def _signature(thing: Any) -> str:
    function, own = (thing.members.get("__init__"), True) if thing.is_class else (thing, thing.parent.is_class)
    if function is None or not function.is_function:
        return f"class {thing.name}({', '.join(map(str, thing.bases))})" if thing.bases else f"class {thing.name}"
    parts: list[str] = []
    for parameter in list(function.parameters)[own and "staticmethod" not in function.labels :]:
        kind = parameter.kind.name if parameter.kind else ""
        if kind == "keyword_only" and not any(part.startswith("*") for part in parts):
            parts.append("*")
        stars = {"var_positional": "*", "var_keyword": "**"}.get(kind, "")
        note = f": {parameter.annotation}" if parameter.annotation else ""
        default = f" = {parameter.default}" if parameter.default is not None and not stars else ""
        parts.append(f"{stars}{parameter.name}{note}{default}")
    ends = f") -> {function.returns}" if function.returns and not thing.is_class else ")"
    start = f"class {thing.name}(" if thing.is_class else f"{thing.name}("
    line = start + ", ".join(parts) + ends
    return line if len(line) <= 80 else start + "".join(f"\n    {part}," for part in parts) + "\n" + ends


def _docstring(thing: Any) -> str:
    if thing.docstring is None:
        return ""
    value = _TOGETHER.sub(_apart, thing.docstring.value)
    docstring = griffe.Docstring(value, parent=thing, lineno=thing.docstring.lineno)
    sections = docstring.parse("google", returns_multiple_items=False, returns_named_value=False)
    return "\n\n".join(filter(None, map(_section, sections)))


def _apart(match: re.Match[str]) -> str:
    """``low, high: limits`` as one entry for each of the names."""
    return "\n".join(f"    {name}: {match[2]}" for name in match[1].split(", "))


def _section(section: Any) -> str:
    kind, value = section.kind.value, section.value
    if kind == "text":
        return plain_text(value)
    if kind in ("parameters", "attributes", "other parameters"):
        rows = [(f"`{entry.name}`", escape(entry.description)) for entry in value]
        return table(("argument" if kind == "parameters" else "attribute", "meaning"), rows)
    if kind == "raises":
        return "**Raises** " + " ".join(f"`{entry.annotation}`: {escape(entry.description)}" for entry in value)
    if kind in ("returns", "yields"):
        return f"**{kind.capitalize()}** " + " ".join(escape(entry.description) for entry in value)
    if kind == "examples":
        return "\n\n".join(f"```pycon\n{text}\n```" if form.value == "examples" else text for form, text in value)
    return f"```pycon\n{value.description}\n```"  # an Example, which griffe takes for an admonition
