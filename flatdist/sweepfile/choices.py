"""Searchers and schedulers of Ray Tune by name: what each needs installed, and the options that a sweep file may give.

Data only: Ray and the packages are imported once a search runs.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from flatdist.errors import LaunchError
from flatdist.machine.extras import remedy


@dataclass(frozen=True)
class Option:
    """What one option of a searcher or scheduler may be.

    Attributes:
        kind: ``int``, ``float``, ``bool`` or ``str``.
        low: smallest number.
        high: largest number.
        words: allowed texts; empty for any.
    """

    kind: type
    low: float = -math.inf
    high: float = math.inf
    words: tuple[str, ...] = ()

    @property
    def allowed(self) -> str:
        """The values in words."""
        if self.words or self.kind is bool:
            return ", ".join(self.words) or "true, false"
        if self.kind is str:
            return "a name"
        what = "a whole number" if self.kind is int else "a number"
        low = "" if self.low == -math.inf else f" of at least {self.low:g}"
        return f"{what}{low}" + ("" if self.high == math.inf else f" and at most {self.high:g}")

    def accepts(self, value: Any) -> bool:
        """Whether a value of a sweep file is one of them."""
        if self.kind in (bool, str):
            return isinstance(value, self.kind) and (not self.words or value in self.words)
        number = isinstance(value, int if self.kind is int else (int, float)) and not isinstance(value, bool)
        return bool(number and self.low <= value <= self.high)

    @property
    def schema(self) -> dict[str, Any]:
        """As JSON Schema."""
        if self.words:
            return {"enum": list(self.words)}
        kinds = {int: "integer", float: "number", bool: "boolean", str: "string"}
        limits = {"minimum": self.low, "maximum": self.high}
        return {"type": kinds[self.kind], **{name: n for name, n in limits.items() if math.isfinite(n)}}


@dataclass(frozen=True)
class Entry:
    """One searcher or scheduler.

    Attributes:
        options: those that a sweep file may give.
        packages: module that must be importable -> its name for pip.
        seed: the name under which it takes a seed; empty where it takes none.
        refusal: why it cannot be used; empty where it can.
    """

    options: Mapping[str, Option] = field(default_factory=dict)
    packages: Mapping[str, str] = field(default_factory=dict)
    seed: str = ""
    refusal: str = ""


@dataclass(frozen=True)
class Choice:
    """A searcher or scheduler as a sweep file names it: ``asha``, or ``{asha: {grace_period: 1000}}``."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def plain(self) -> Any:
        """As JSON; a name alone stays one."""
        return {self.name: dict(sorted(self.options.items()))} if self.options else self.name


_WHOLE, _SHARE, _FLAG = Option(int, 1), Option(float, 0.0, 1.0), Option(bool)

SEARCHERS: Mapping[str, Entry] = {
    "random": Entry(),
    "optuna": Entry(
        {
            "sampler": Option(str, words=("tpe", "gp", "cmaes", "qmc", "random")),
            "n_startup_trials": _WHOLE,
            "multivariate": _FLAG,
            "n_ei_candidates": _WHOLE,
        },
        {"optuna": "optuna"},
        seed="seed",
    ),
    "hyperopt": Entry({"n_initial_points": _WHOLE, "gamma": _SHARE}, {"hyperopt": "hyperopt"}, "random_state_seed"),
    "bohb": Entry(
        {
            "min_points_in_model": _WHOLE,
            "top_n_percent": Option(int, 1, 99),
            "num_samples": _WHOLE,
            "random_fraction": _SHARE,
            "bandwidth_factor": Option(float, 0.0),
            "min_bandwidth": Option(float, 0.0),
        },
        {"hpbandster": "hpbandster", "ConfigSpace": "ConfigSpace"},
        seed="seed",
    ),
    "hebo": Entry({"model_name": Option(str), "rand_sample": _WHOLE}, {"hebo": "HEBO"}, "random_state_seed"),
    "ax": Entry({}, {"ax": "ax-platform<1.3"}, "random_seed"),
    "nevergrad": Entry({"optimizer": Option(str)}, {"nevergrad": "nevergrad"}),
    "zoopt": Entry({"algo": Option(str, words=("asracos", "sracos"))}, {"zoopt": "zoopt"}),
}
"""Who may suggest points: name -> what it takes."""

_HALVING = {"max_t": _WHOLE, "reduction_factor": Option(float, 2, 100), "stop_last_trials": _FLAG}
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


def choice_schema(known: Mapping[str, Entry]) -> dict[str, Any]:
    """A name, or a name with its options, as JSON Schema."""
    entries = {name: entry for name, entry in known.items() if not entry.refusal}
    options = {
        name: {"type": "object", "additionalProperties": False,
               "properties": {option: one.schema for option, one in entry.options.items()}}
        for name, entry in entries.items()
    }  # fmt: skip
    one = {"type": "object", "additionalProperties": False, "minProperties": 1, "maxProperties": 1}
    return {"anyOf": [{"enum": list(entries)}, {**one, "properties": options}]}


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
