"""What editors need of the sweep file: its JSON Schema, made from the declarations that the reader goes by."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from flatdist.cells.cell import FIELDS
from flatdist.cells.fields import Choice, FieldType, Flag, Integer, Keyword, Number
from flatdist.sweepfile.axes import FORMS, RANDOM
from flatdist.sweepfile.chosen import BOUNDARY, FIRST_SUCCESS, MAX_RUNS
from flatdist.sweepfile.schema import DEFAULT_REPLICATES, MAX_REPLICATES
from flatdist.sweepfile.values import takes_numbers

OPEN = ("method", "ensemble")  # plugins may add to their names
_TEXT = {"type": "string"}
_TOGETHER = {"$ref": "#/$defs/together"}
_EXPRESSION = {"type": "string", "description": "arithmetic over the other fields, such as 2*dof"}
_NUMBER = {"type": ["number", "string"]}
_CONDITION = {"type": ["string", "boolean"], "description": "cells that fail it are left out, such as n <= entries"}


def json_schema(search: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON Schema of a sweep file.

    Args:
        search: the schema of what stands under ``search``.
    """
    block = {
        "fixed": {"$ref": "#/$defs/fixed"},
        "axes": {"$ref": "#/$defs/axes"},
        "zip": _list({"anyOf": [_TOGETHER, _list(_TEXT), _TEXT]}, "axes that advance together, or a group's name"),
        "where": {"anyOf": [_CONDITION, _list(_CONDITION)]},
    }
    until = {
        "min": _whole(1, MAX_RUNS),
        "max": _whole(1, MAX_RUNS),
        "until_ci": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
        "tolerance": {"type": "number", "exclusiveMinimum": 0},
    }
    replicates = {
        "anyOf": [_whole(1, MAX_REPLICATES), _closed(until, required=("min", "max", "until_ci"))],
        "default": DEFAULT_REPLICATES,
        "description": "replicates of each cell, or {min, max, until_ci}",
    }
    file = {
        "name": {
            **_TEXT,
            "pattern": "^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$",
            "description": "names the sweep in the store",
        },
        "description": {**_TEXT, "description": "one line, printed by plan"},
        "plugin": {**_TEXT, "description": "a Python file beside it, with methods and ensembles of your own"},
        "replicates": replicates,
        "groups": {"type": "object", "additionalProperties": _TOGETHER, "description": "axes that zip uses by name"},
        **block,
        "blocks": _list(_closed(block), "further sets of cells; the sweep is the union"),
        "search": search,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A flatdist sweep file",
        **_closed(file),
        "$defs": {
            "fixed": _closed({name: _fixed(name) for name in FIELDS}, "fields with one value"),
            "axes": {**_axes(chosen=True), "description": "fields with several values: the cells are the product"},
            "together": _axes(),
            **{name: _axis(name) for name in FIELDS},
        },
    }


def _value(kind: FieldType, name: str = "") -> dict[str, Any]:
    """What a field's value may be, expressions included."""
    if isinstance(kind, Keyword):
        return {"anyOf": [{"const": kind.word}, _value(kind.otherwise)]}
    if isinstance(kind, Choice):
        known = {"enum": list(kind.options())}
        return {"anyOf": [known, _TEXT]} if name in OPEN else known
    if isinstance(kind, Flag):
        return {"type": "boolean"}
    if isinstance(kind, Integer):
        literal = {"type": "number"} if name == "n" else _whole(kind.minimum, kind.maximum)
        return {"anyOf": [literal, _EXPRESSION]}
    if isinstance(kind, Number):
        return {"anyOf": [{"type": "number", "minimum": kind.minimum}, _EXPRESSION]}
    return {"anyOf": [_whole(1), _EXPRESSION, _list(_NUMBER)]}


def _described(name: str) -> dict[str, Any]:
    field = FIELDS[name]
    default = {} if field.default in (dataclasses.MISSING, None) else {"default": field.default}
    return {"description": field.metadata["help"], **default}


def _fixed(name: str) -> dict[str, Any]:
    value = _value(FIELDS[name].metadata["kind"], name)
    if name == "n":
        value = {"anyOf": [*value["anyOf"], *_chosen()]}
    return {**_described(name), **value}


def _axis(name: str) -> dict[str, Any]:
    kind = FIELDS[name].metadata["kind"]
    forms = [{**_list(_value(kind, name)), "minItems": 1}]
    if takes_numbers(name):
        forms += [_form(form, arguments) for form, arguments in FORMS.items()]
    return {**_described(name), "anyOf": forms}


def _axes(*, chosen: bool = False) -> dict[str, Any]:
    """Fields with their axes; with ``chosen``, n may be left to the sweep."""
    axes: dict[str, Any] = {name: {"$ref": f"#/$defs/{name}"} for name in FIELDS}
    if chosen:
        axes["n"] = {"anyOf": [axes["n"], *_chosen()]}
    return _closed(axes)


def _form(form: str, arguments: str) -> dict[str, Any]:
    three = {**_list(_NUMBER), "minItems": 3, "maxItems": 3, "description": arguments}
    return _closed({form: three, **({"seed": {"type": "integer"}} if form in RANDOM else {})}, required=(form,))


def _chosen() -> list[dict[str, Any]]:
    ends = {"from": _NUMBER, "to": _NUMBER, "tolerance": {"type": "number", "exclusiveMinimum": 0}}
    share = {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}
    boundary = _closed({**ends, "budget": _whole(1, MAX_RUNS), "precision": share},
                       required=("from", "to", "budget", "precision"))  # fmt: skip
    bisection = _closed(ends, required=("from", "to"))
    return [
        _closed({form: inner}, required=(form,)) for form, inner in ((BOUNDARY, boundary), (FIRST_SUCCESS, bisection))
    ]


def _closed(properties: Mapping[str, Any], text: str = "", required: Iterable[str] = ()) -> dict[str, Any]:
    """A mapping with these keys and no others; null is an empty one."""
    described = {"description": text} if text else {}
    kind = "object" if required else ["object", "null"]
    return {**described, "type": kind, "additionalProperties": False, "required": [*required],
            "properties": dict(properties)}  # fmt: skip


def _list(items: Mapping[str, Any], text: str = "") -> dict[str, Any]:
    return {**({"description": text} if text else {}), "type": "array", "items": dict(items)}


def _whole(low: int, high: int | None = None) -> dict[str, Any]:
    return {"type": "integer", "minimum": low} | ({} if high is None else {"maximum": high})
