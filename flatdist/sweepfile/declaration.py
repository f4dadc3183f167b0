"""What a sweep file may say, declared once: pydantic checks it, messages quote it, and editors get it as JSON Schema.

Values of cell fields are checked by the fields' own declarations (:mod:`flatdist.cells.fields`), beside this one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, TypeVar, Union, cast, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    GetCoreSchemaHandler,
    PlainValidator,
    Tag,
    ValidationError,
    WithJsonSchema,
    create_model,
    model_validator,
)
from pydantic_core import core_schema

from flatdist.cells.cell import FIELDS
from flatdist.cells.columns import COSTS, RESULTS
from flatdist.cells.fields import Choice, FieldType, Flag, Integer, Keyword, Number
from flatdist.errors import did_you_mean
from flatdist.sweepfile.choices import DOMAINS, SCHEDULERS, SEARCHERS, choice_schema, closed, read_choice, read_domain
from flatdist.sweepfile.problems import Problems
from flatdist.sweepfile.values import InvalidValue, read_value
from flatdist.sweepfile.yamltree import Node

MAX_REPLICATES = MAX_RUNS = 1_000_000
FORMS = {
    "linspace": "[start, stop, count]",
    "logspace": "[start, stop, count]",
    "range": "[start, stop, step]",
    "uniform": "[low, high, count]",
    "loguniform": "[low, high, count]",
}
"""Axes of numbers -> their arguments."""
RANDOM = ("uniform", "loguniform")  # these take a seed beside them
BOUNDARY, FIRST_SUCCESS = "boundary", "first_success"
CHOSEN_IN_WORDS = (
    "{boundary: {from: 0.5*statdim, to: entries, budget: 400, precision: 0.03}}, or "
    "{first_success: {from: 1, to: entries}}"
)
UNTIL_IN_WORDS = "{min: 8, max: 64, until_ci: 0.05}"
RANKED_BY = tuple(column.name for column in (*RESULTS, *COSTS) if column.type in ("float64", "int64"))
"""Columns of the trials table that cells can be ranked by."""
_OPEN = ("method", "ensemble")  # plugins may add to their names
_PLACE = "<"  # prefix of pydantic's names for alternatives, which do not occur in a file

Model = TypeVar("Model", bound="Keys")


@dataclass(frozen=True)
class Says:
    """The message for a refused value: the reason, empty if the check gives its own, and what is allowed."""

    reason: str
    allowed: str
    names: tuple[str, ...] = ()  # of which the nearest is named

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        def check(value: Any, inner: Callable[[Any], Any]) -> Any:
            try:
                return inner(value)
            except ValidationError:
                raise InvalidValue(self.reason + did_you_mean(value, self.names), self.allowed) from None

        inside = handler(source)
        return core_schema.no_info_wrap_validator_function(check, inside) if self.reason else inside


_NOT_WHOLE, _NEAR_N50 = "is not a whole number in range", "a number between 0 and 1, such as 0.03 for 3 % of n50"
_NUMBER = {"type": ["number", "string"]}
Measurements = Annotated[
    Any,
    PlainValidator(partial(read_value, "n")),
    Says("", "a number of measurements, or an expression"),
    WithJsonSchema(_NUMBER),
]
Runs = Annotated[int, Field(ge=1, le=MAX_RUNS), Says(_NOT_WHOLE, f"a whole number from 1 to {MAX_RUNS}")]
Precision = Annotated[float, Field(gt=0, lt=1), Says("is not a precision", _NEAR_N50)]
Tolerance = Annotated[float, Field(gt=0, allow_inf_nan=False),
                      Says("is not a relative error", "a positive number, such as 1e-2")]  # fmt: skip
Suggested = Annotated[int, Field(ge=1, le=10_000), Says(_NOT_WHOLE, "a whole number from 1 to 10000")]
Natural = Annotated[int, Field(ge=0, le=2**31 - 1), Says(_NOT_WHOLE, f"a whole number from 0 to {2**31 - 1}")]
Count = Annotated[int, Field(ge=1, le=MAX_REPLICATES),
                  Says(_NOT_WHOLE, f"a whole number from 1 to {MAX_REPLICATES}, or {UNTIL_IN_WORDS}")]  # fmt: skip
Name = Annotated[
    str,
    Field(pattern=r"^(?!.*\n)[A-Za-z0-9](?:[A-Za-z0-9_-]|\.(?!\.)){0,99}$", description="names the sweep in the store"),
    Says(
        "cannot name a sweep",
        "text of letters, digits, '_', '-' and single '.', at most 100, beginning with a letter or digit",
    ),
]
Text = Annotated[str, Says("must be text", "one line of text, in quotes")]


class Keys(BaseModel):
    """A mapping with the declared keys and no others."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        regex_engine="python-re",
        arbitrary_types_allowed=True,
        defer_build=True,  # each is built where it is used: most are parts of one
    )

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The keys, as a file spells them."""
        own = sorted(cls.model_fields.items(), key=lambda one: one[0] not in cls.__annotations__)
        return tuple(field.alias or name for name, field in own)


class Boundary(Keys):
    """Runs around n50, until it is known."""

    low: Measurements = Field(alias="from")
    high: Measurements = Field(alias="to")
    budget: Runs
    precision: Precision
    tolerance: Tolerance | None = None


class FirstSuccess(Keys):
    """Each replicate's smallest n that succeeds, by bisection."""

    low: Measurements = Field(alias="from")
    high: Measurements = Field(alias="to")
    tolerance: Tolerance | None = None


class ChosenN(Keys):
    """An ``n`` that the sweep chooses."""

    boundary: Boundary | None = None
    first_success: FirstSuccess | None = None

    @model_validator(mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        if isinstance(value, dict) and len(value) != 1:
            raise InvalidValue("is not exactly one form", CHOSEN_IN_WORDS)
        if isinstance(value, dict) and None in value.values():
            raise InvalidValue("says nothing", CHOSEN_IN_WORDS)
        return value

    @property
    def form(self) -> str:
        """``boundary`` or ``first_success``."""
        return BOUNDARY if self.boundary is not None else FIRST_SUCCESS

    @property
    def rule(self) -> Boundary | FirstSuccess:
        """How it is chosen."""
        return cast("Boundary | FirstSuccess", self.boundary or self.first_success)


class Until(Keys):
    """Replicates that are raised until n50 is known well enough."""

    least: Runs = Field(alias="min")
    most: Runs = Field(alias="max")
    precision: Precision = Field(alias="until_ci")
    tolerance: Tolerance | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Until:
        if self.least > self.most:
            raise InvalidValue(f"has min {self.least} above max {self.most}", UNTIL_IN_WORDS)
        return self


def _value(kind: FieldType, name: str = "") -> dict[str, Any]:
    """What a field's value may be, expressions included."""
    expression = {"type": "string", "description": "arithmetic over the other fields, such as 2*dof"}
    if isinstance(kind, Keyword):
        return {"anyOf": [{"const": kind.word}, _value(kind.otherwise)]}
    if isinstance(kind, Choice):
        known = {"enum": list(kind.options())}
        return {"anyOf": [known, {"type": "string"}]} if name in _OPEN else known
    if isinstance(kind, Flag):
        return {"type": "boolean"}
    if isinstance(kind, Integer):
        whole = {"type": "integer", "minimum": kind.minimum, "maximum": kind.maximum}
        return {"anyOf": [{"type": "number"} if name == "n" else whole, expression]}
    if isinstance(kind, Number):
        return {"anyOf": [{"type": "number", "minimum": kind.minimum}, expression]}
    return {"anyOf": [{"type": "integer", "minimum": 1}, expression, {"type": "array", "items": _NUMBER}]}


def _axis(kind: FieldType, name: str) -> dict[str, Any]:
    """What the axis of a field may be: a list, or a form of numbers."""
    forms: list[dict[str, Any]] = [{"type": "array", "items": _value(kind, name), "minItems": 1}]
    for form, arguments in FORMS.items() if kind.numeric else ():
        three = {"type": "array", "items": _NUMBER, "minItems": 3, "maxItems": 3, "description": arguments}
        seed = {"seed": {"type": "integer"}} if form in RANDOM else {}
        forms.append(closed({form: three, **seed}, required=[form]))
    return {"anyOf": forms}


def _by_field(
    name: str,
    schema: Callable[[FieldType, str], dict[str, Any]],
    chooses: Callable[[Any], bool] | None = None,
    read: Callable[[str, Any], Any] = lambda name, value: value,
) -> type[Keys]:
    """A mapping from cell fields; ``chooses`` tells an n that is left to the sweep from other values."""
    entries: dict[str, Any] = {}
    for one, field in FIELDS.items():
        default = {} if field.default in (dataclasses.MISSING, None) else {"default": field.default}
        described = {"description": field.metadata["help"], **default, **schema(field.metadata["kind"], one)}
        value: Any = Annotated[Any, PlainValidator(partial(read, one)), WithJsonSchema(described)]
        if one == "n" and chooses is not None:
            tell = Discriminator(lambda value: f"{_PLACE}chosen" if chooses(value) else f"{_PLACE}given")
            either = (Annotated[value, Tag(f"{_PLACE}given")], Annotated[ChosenN, Tag(f"{_PLACE}chosen")])
            value = Annotated[Union.__getitem__(either), tell]
        entries[one] = (value, None)
    made: type[Keys] = create_model(name, __base__=Keys, **entries)
    return made


def is_chosen(value: Any) -> bool:
    """Whether the sweep chooses n itself."""
    return isinstance(value, dict) and not {BOUNDARY, FIRST_SUCCESS}.isdisjoint(value)


_DOMAIN = {
    "anyOf": [
        closed({form: {"type": "array", "description": arguments}}, required=[form])
        for form, arguments in DOMAINS.items()
    ]
}
_Condition = {"type": ["string", "boolean"], "description": "cells that fail it are left out, such as n <= entries"}
if TYPE_CHECKING:
    Fixed: TypeAlias = Keys
    Axes: TypeAlias = Keys
    Together: TypeAlias = Keys
    Domains: TypeAlias = Keys
else:
    Fixed = _by_field("Fixed", _value, lambda value: isinstance(value, dict))
    Axes = _by_field("Axes", _axis, is_chosen)
    Together = _by_field("Together", _axis)
    Domains = _by_field("Domains", lambda kind, name: _DOMAIN, read=read_domain)
_Group = Annotated[
    Annotated[Together, Tag(f"{_PLACE}axes")]
    | Annotated[list[Any], Tag(f"{_PLACE}names")]
    | Annotated[str, Tag(f"{_PLACE}name")],
    Discriminator(lambda one: {list: f"{_PLACE}names", str: f"{_PLACE}name"}.get(type(one), f"{_PLACE}axes")),
]


class BlockKeys(Keys):
    """The keys of every set of cells."""

    fixed: Fixed | None = Field(None, description="fields with one value")
    axes: Axes | None = Field(None, description="fields with several values: the cells are the product")
    zip: list[_Group] | None = Field(None, description="axes that advance together, or a group's name")
    where: Annotated[
        Any, WithJsonSchema({"anyOf": [_Condition, {"type": "array", "items": _Condition}, {"type": "null"}]})
    ] = None


class EarlyStopping(Keys):
    """When the cells of a search are compared."""

    first: Annotated[int, Field(ge=1, le=2**31 - 1), Says(_NOT_WHOLE, f"a whole number from 1 to {2**31 - 1}")]
    factor: Annotated[int, Field(ge=2, le=100), Says(_NOT_WHOLE, "a whole number from 2 to 100")] = 3

    def rungs(self, steps: int) -> list[int]:
        """The rungs for a number of steps; the last is at steps / factor, since stopping later saves little."""
        rungs = [self.first]
        while rungs[-1] * self.factor <= steps:
            rungs.append(rungs[-1] * self.factor)
        return rungs[:-1]

    def stopped(self, here: Mapping[int, float], before: Sequence[float], mode: str) -> tuple[int, ...]:
        """Which candidates are stopped: all but the best 1/factor of those that ever reached the rung.

        Args:
            here: candidate -> value at the rung.
            before: values of earlier rounds at this rung.
            mode: ``min`` or ``max``.
        """
        sign = 1.0 if mode == "min" else -1.0
        ranked = sorted(sign * value for value in (*here.values(), *before))
        cutoff = ranked[math.ceil(len(ranked) / self.factor) - 1] if ranked else 0.0
        return tuple(index for index, value in here.items() if sign * value > cutoff or not math.isfinite(value))


class SearchKeys(Keys):
    """A search for the best cells."""

    fields: Annotated[Domains, Says("", "cell fields, each with a range or a choice")]
    searcher: Annotated[Any, PlainValidator(partial(read_choice, SEARCHERS)),
                        WithJsonSchema(choice_schema(SEARCHERS))] = Field("random", validate_default=True)  # fmt: skip
    metric: Any = Field("relative_error", description=f"{', '.join(RANKED_BY)}, or steps_to=ERROR")
    mode: Annotated[Literal["min", "max"], Says("is not known", "min, max", ("min", "max"))] = "min"
    budget: Suggested = Field(description="cells to suggest in all")
    round: Suggested | None = Field(None, description="cells suggested at a time")
    seed: Natural = 0
    early_stopping: EarlyStopping | None = None
    scheduler: Annotated[Any, PlainValidator(partial(read_choice, SCHEDULERS)),
                         WithJsonSchema(choice_schema(SCHEDULERS))] = None  # fmt: skip


class SweepKeys(BlockKeys):
    """A flatdist sweep file."""

    name: Name
    description: Text | None = Field("", description="one line, printed by plan")
    plugin: Any = Field(None, description="a Python file beside it, with methods and ensembles of your own")
    replicates: Annotated[
        Annotated[Count, Tag(f"{_PLACE}count")] | Annotated[Until, Tag(f"{_PLACE}until")],
        Discriminator(lambda value: f"{_PLACE}until" if isinstance(value, dict) else f"{_PLACE}count"),
    ] = Field(8, description="replicates of each cell, or {min, max, until_ci}")
    groups: dict[str, Together] | None = Field(None, description="axes that zip uses by name")
    blocks: list[BlockKeys] | None = Field(None, description="further sets of cells; the sweep is the union")
    search: SearchKeys = cast("SearchKeys", None)  # a file may omit these, but not set them to null


def validated(
    model: type[Model], node: Node, key: str, problems: Problems, defaults: Mapping[str, Any] | None = None
) -> Model | None:
    """A mapping of a file, at a key, as a model; None if it is invalid, with every problem noted.

    ``defaults`` are entries to assume where the mapping has none; the key is empty for the whole file.
    """
    content = node.plain
    try:
        return model.model_validate({**(defaults or {}), **content} if isinstance(content, dict) else content)
    except ValidationError as error:
        for one in error.errors(include_url=False):
            last = one["loc"][-1:] if one["type"] == "extra_forbidden" else ()  # a key, whatever its type
            path = [part for part in one["loc"][: len(one["loc"]) - len(last)] if not str(part).startswith(_PLACE)]
            path += last
            _note(model, node, key, path, cast("dict[str, Any]", one), problems)
    return None


def _note(
    model: type[Keys], node: Node, key: str, path: Sequence[Any], error: Mapping[str, Any], problems: Problems
) -> None:
    """Note one of pydantic's errors where the file has it."""
    place, line = node, node.line
    for part in path:
        inside = isinstance(place.value, (dict, list)) and (isinstance(part, int) or part in place.value)
        if inside:
            line = place.keys.get(part, line)
            place = place.value[part]
    for part in path:
        key += f"[{part}]" if isinstance(part, int) else f".{part}" if key else str(part)
    owner, kind = _model_at(model, path[:-1]), error["type"]
    if kind == "extra_forbidden":
        known = owner.names()
        hint = " (a cell field: it belongs under fixed or axes)" if path[-1] in FIELDS and "axes" in known else ""
        problems.unknown_key(key.rpartition(".")[0], str(path[-1]), line, known, hint)
    elif kind == "missing":
        entry = next(field for name, field in owner.model_fields.items() if (field.alias or name) == path[-1])
        allowed = next((one.allowed for one in entry.metadata if isinstance(one, Says)), "")
        problems.add(key, place.line, "is required and missing", allowed)
    elif kind == "value_error":
        wrong = error["ctx"]["error"]
        problems.add(key, place.line, wrong.reason, wrong.allowed, error["input"])
    else:
        word = "list" if kind == "list_type" else "mapping" if kind in ("model_type", "dict_type") else kind
        problems.add(key, place.line, f"expected a {word}", value=error["input"])


def _model_at(model: type[Keys], path: Sequence[Any]) -> type[Keys]:
    """The model of a mapping inside a model."""
    annotation: Any = model
    for part in path:
        if isinstance(part, str) and isinstance(annotation, type) and issubclass(annotation, Keys):
            fields = {field.alias or name: field for name, field in annotation.model_fields.items()}
            models = list(_models_in(fields[part].annotation)) if part in fields else []
            annotation = next((one for one in models if one is not annotation), annotation)
    return cast("type[Keys]", annotation)


def _models_in(annotation: Any) -> Iterator[type[Keys]]:
    """The models that a type names."""
    if isinstance(annotation, type) and issubclass(annotation, Keys):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a sweep file, for editors."""
    schema = cast("dict[str, Any]", _tidy(SweepKeys.model_json_schema()))
    schema["required"] = []  # a file that gives no name has its own
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "A flatdist sweep file", **schema}


def _tidy(part: Any) -> Any:
    """Without pydantic's titles, and without defaults that say nothing."""
    if isinstance(part, list):
        return [_tidy(one) for one in part]
    if not isinstance(part, dict):
        return part
    return {name: _tidy(one) for name, one in part.items()
            if not (name == "title" and isinstance(one, str)) and (name, one) != ("default", None)}  # fmt: skip
