"""What a search may name: domains of fields, and searchers and schedulers of Ray Tune with their options.

Ray and the packages are imported once a search runs.
"""

from __future__ import annotations

import hashlib
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from importlib.util import find_spec
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, TypeAdapter, ValidationError

from flatdist.cells.cell import FIELD_TYPES
from flatdist.cells.fields import canonical_float
from flatdist.errors import LaunchError, did_you_mean
from flatdist.expressions import ExpressionError, parse
from flatdist.machine.extras import remedy
from flatdist.sweepfile.values import InvalidValue

DOMAINS = {"uniform": "[low, high]", "loguniform": "[low, high]", "choice": "a list of values"}
"""What a search may draw a field from -> its arguments."""
DOMAINS_IN_WORDS = ", ".join(f"{{{form}: {arguments}}}" for form, arguments in DOMAINS.items())


@dataclass(frozen=True)
class Domain:
    """The values that one field may take."""

    field: str
    form: str  # one of DOMAINS
    low: float = 0.0  # ends of a range, both included
    high: float = 0.0
    whole: bool = False  # a range of whole numbers only
    options: tuple[Any, ...] = ()  # of a choice, as a sweep file writes them
    line: int = 0

    @property
    def is_choice(self) -> bool:
        """Whether the values are unordered."""
        return self.form == "choice"

    def corners(self) -> tuple[Any, ...]:
        """Values that stand for all others when a search is checked: both ends, or every option."""
        return self.options if self.is_choice else (self.normal(self.low), self.normal(self.high))

    def normal(self, value: float) -> Any:
        """A number of the range as the cell stores it."""
        return round(value) if self.whole else canonical_float(min(max(value, self.low), self.high))

    def holds(self, value: Any) -> bool:
        """Whether a value belongs to the domain."""
        return value in self.options if self.is_choice else self.low <= value <= self.high

    def drawn(self, seed: int, index: int) -> Any:
        """Random value number ``index``, which depends only on the field's name, the seed and the index."""
        bits = hashlib.sha256(f"search {self.field} {seed} {index}".encode()).digest()
        share = int.from_bytes(bits[:6]) / 2**48
        if self.is_choice:
            return self.options[int(share * len(self.options))]
        if self.whole and self.form == "uniform":
            return min(int(self.low) + int(share * (self.high - self.low + 1)), int(self.high))
        if self.form == "uniform":
            return self.normal(self.low + (self.high - self.low) * share)
        return self.normal(math.exp(math.log(self.low) + math.log(self.high / self.low) * share))

    def plain(self) -> list[Any]:
        """The domain as JSON, for a search's identity."""
        return [self.field, self.form, list(self.options) if self.is_choice else [self.low, self.high, self.whole]]


Wrong: TypeAlias = tuple[tuple[str, ...], Any, str, str]  # the place within a value, what stands there, reason, allowed


def _refusal(*found: Wrong) -> ValidationError:
    """Problems inside the value that a check of pydantic reads."""
    details: list[Any] = [
        {"type": "value_error", "loc": at, "input": value, "ctx": {"error": InvalidValue(reason, allowed)}}
        for at, value, reason, allowed in found
    ]
    return ValidationError.from_exception_data("search", details)


def _unknown(at: tuple[str, ...], known: Mapping[str, Any]) -> Wrong:
    return at, None, f"is not known here{did_you_mean(at[-1], known)}", ", ".join(known)


def read_domain(name: str, raw: Any) -> Domain:
    """The domain of a searched field.

    Raises:
        ValidationError: with the reason and what is allowed.
    """
    forms = raw if isinstance(raw, dict) else {}
    if unknown := [_unknown((form,), DOMAINS) for form in forms if form not in DOMAINS]:
        raise _refusal(*unknown)
    if len(forms) != 1:
        raise _refusal(((), raw, "is not exactly one form", DOMAINS_IN_WORDS))
    ((form, arguments),) = forms.items()
    if form == "choice":
        if not isinstance(arguments, list) or not arguments:
            raise _refusal(((), arguments, "expected a list of values", DOMAINS[form]))
        unique = [option for index, option in enumerate(arguments) if option not in arguments[:index]]
        return Domain(name, form, options=tuple(unique))
    kind = FIELD_TYPES[name]
    if not kind.numeric or name == "width":
        raise _refusal(((), arguments, f"ranges need a numeric field; `{name}` is not numeric", "{choice: [...]}"))
    if not isinstance(arguments, list) or len(arguments) != 2:
        raise _refusal(((), arguments, "does not have two entries", DOMAINS[form]))
    low, high = (_constant(part) for part in arguments)
    if low is None or high is None or low >= high or (form == "loguniform" and low <= 0):
        more = ", both greater than 0" if form == "loguniform" else ""
        raise _refusal(((), arguments, "is not a range", f"[low, high]: two constants, low below high{more}"))
    return Domain(name, form, canonical_float(low), canonical_float(high), whole=kind.arrow == "int32")


def _constant(part: Any) -> float | None:
    if isinstance(part, bool) or not isinstance(part, (int, float, str)):
        return None
    try:
        value = parse(part if isinstance(part, str) else repr(part), {}).evaluate({})
        return float(value) if isinstance(value, Fraction) else None
    except (ExpressionError, OverflowError):
        return None


@dataclass(frozen=True)
class Option:
    """What one option of a searcher or scheduler may be."""

    type: Any  # as pydantic reads it
    allowed: str  # the values in words

    def accepts(self, value: Any) -> bool:
        """Whether a value of a sweep file is one of them."""
        try:
            TypeAdapter(self.type).validate_python(value, strict=True)
        except ValidationError:
            return False
        return True


@dataclass(frozen=True)
class Entry:
    """One searcher or scheduler."""

    options: Mapping[str, Option] = field(default_factory=dict)  # those that a sweep file may give
    packages: Mapping[str, str] = field(default_factory=dict)  # module that must be importable -> its name for pip
    seed: str = ""  # the name under which it takes a seed
    refusal: str = ""  # why it cannot be used


@dataclass(frozen=True)
class Choice:
    """A searcher or scheduler as a sweep file names it: ``asha``, or ``{asha: {grace_period: 1000}}``."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def plain(self) -> Any:
        """As JSON; a name alone stays one."""
        return {self.name: dict(sorted(self.options.items()))} if self.options else self.name


def _one_of(*words: str) -> Option:
    literal: Any = Literal
    return Option(literal[words], ", ".join(words))


_WHOLE = Option(Annotated[int, Field(ge=1)], "a whole number of at least 1")
_NAME, _FLAG = Option(str, "a name"), Option(bool, "true, false")
_SHARE = Option(Annotated[float, Field(ge=0, le=1)], "a number of at least 0 and at most 1")
_POSITIVE = Option(Annotated[float, Field(ge=0)], "a number of at least 0")
_PERCENT = Option(Annotated[int, Field(ge=1, le=99)], "a whole number of at least 1 and at most 99")
_FACTOR = Option(Annotated[float, Field(ge=2, le=100)], "a number of at least 2 and at most 100")

SEARCHERS: Mapping[str, Entry] = {
    "random": Entry(),
    "optuna": Entry({"sampler": _one_of("tpe", "gp", "cmaes", "qmc", "random"), "n_startup_trials": _WHOLE,
                     "multivariate": _FLAG, "n_ei_candidates": _WHOLE}, {"optuna": "optuna"}, "seed"),
    "hyperopt": Entry({"n_initial_points": _WHOLE, "gamma": _SHARE}, {"hyperopt": "hyperopt"}, "random_state_seed"),
    "bohb": Entry({"min_points_in_model": _WHOLE, "top_n_percent": _PERCENT, "num_samples": _WHOLE,
                   "random_fraction": _SHARE, "bandwidth_factor": _POSITIVE, "min_bandwidth": _POSITIVE},
                  {"hpbandster": "hpbandster", "ConfigSpace": "ConfigSpace"}, "seed"),
    "hebo": Entry({"model_name": _NAME, "rand_sample": _WHOLE}, {"hebo": "HEBO"}, "random_state_seed"),
    "ax": Entry({}, {"ax": "ax-platform<1.3"}, "random_seed"),
    "nevergrad": Entry({"optimizer": _NAME}, {"nevergrad": "nevergrad"}),
    "zoopt": Entry({"algo": _one_of("asracos", "sracos")}, {"zoopt": "zoopt"}),
}  # fmt: skip
"""Who may suggest points: name -> what it takes."""

_HALVING = {"max_t": _WHOLE, "reduction_factor": _FACTOR, "stop_last_trials": _FLAG}
_NO_CELL = (
    "changes fields of a trial during its run and copies weights between trials; a cell with other fields is another "
    "cell, so such a run would be no cell's result"
)

SCHEDULERS: Mapping[str, Entry] = {
    "asha": Entry({"grace_period": _WHOLE, "brackets": _WHOLE, **_HALVING}),
    "hyperband": Entry(_HALVING),
    "bohb": Entry(_HALVING),
    "median": Entry({"grace_period": _WHOLE, "min_samples_required": _WHOLE, "hard_stop": _FLAG}),
    "pbt": Entry(refusal=_NO_CELL),
    "pb2": Entry(refusal=_NO_CELL),
}
"""Who may stop trials early: name -> what it takes."""

TUNE_NAMES = {"asha": "async_hyperband", "hyperband": "hyperband", "bohb": "hb_bohb", "median": "median_stopping_rule"}


def read_choice(known: Mapping[str, Entry], raw: Any) -> Choice | None:
    """A searcher or scheduler: its name, or its name and a mapping of its options; null is random, or None.

    Raises:
        ValidationError: with the reasons and what is allowed.
    """
    if raw is None:
        return Choice("random") if "random" in known else None
    name, options = next(iter(raw.items())) if isinstance(raw, dict) and len(raw) == 1 else (raw, None)
    usable = [one for one, entry in known.items() if not entry.refusal]
    if not isinstance(name, str) or name not in known:
        hint = did_you_mean(name, usable) if isinstance(name, str) else ""
        raise _refusal(((), raw, f"is not known{hint}", f"{', '.join(usable)}, or {{NAME: {{option: value}}}}"))
    entry = known[name]
    if entry.refusal:
        raise _refusal(((), None, f"{name} {entry.refusal}", ", ".join(usable)))
    if not isinstance(options, dict | None):
        raise _refusal(((name,), options, "expected a mapping of options", ", ".join(entry.options)))
    wrong: list[Wrong] = []
    for option, value in (options or {}).items():
        if option not in entry.options:
            wrong.append(_unknown((name, option), entry.options))
        elif not entry.options[option].accepts(value):
            wrong.append(((name, option), value, "cannot be used", entry.options[option].allowed))
    if wrong:
        raise _refusal(*wrong)
    return Choice(name, options or {})


def closed(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A mapping with these keys and no others, as JSON Schema."""
    return {"type": "object", "properties": properties, "additionalProperties": False, **more}


def choice_schema(known: Mapping[str, Entry]) -> dict[str, Any]:
    """A name, or a name with its options, as JSON Schema."""
    usable = {name: entry.options for name, entry in known.items() if not entry.refusal}
    options = {
        name: closed({option: TypeAdapter(one.type).json_schema() for option, one in options.items()})
        for name, options in usable.items()
    }
    return {"anyOf": [{"enum": list(usable)}, closed(options, minProperties=1, maxProperties=1)]}


def require_packages(choice: Choice) -> None:
    """Check that a searcher's packages can be imported, before anything is started.

    Raises:
        LaunchError: a package is missing; the message names it.
    """
    for module, package in SEARCHERS[choice.name].packages.items():
        try:
            found = find_spec(module) is not None
        except ValueError:  # a module installed without a specification
            found = True
        if not found:
            how = remedy("search") if choice.name == "optuna" else f"pip install {shlex.quote(package)}"
            raise LaunchError(f"search.searcher: {choice.name} needs {module}; {how}")
