"""A cell: one fully resolved configuration, everything but the seed, and its identity."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, cast

from flatdist.cells.fields import Choice, FieldType, Flag, Integer, Keyword, Number, Widths, declare
from flatdist.cells.plugins import digests_of, load_entry_points
from flatdist.errors import CellError, did_you_mean
from flatdist.machine.extras import load
from flatdist.methods import METHODS, Method
from flatdist.methods.base import GradientMethod
from flatdist.sensing.ensembles import ENSEMBLES, SAMPLING_VERSIONS
from flatdist.sensing.measurements import Dense

GROUND_TRUTHS = ("unit_frobenius", "gaussian_factors", "flat_spectrum")
SCHEDULES = ("constant", "cosine_tail")
DTYPES = ("float32", "float64")
STARTS = ("gaussian", "symmetric")

PROBLEM_FIELDS = (
    *("d_out", "d_in", "rank", "n", "ensemble", "ground_truth", "spectral_tail", "observation_noise_std", "nested"),
    "storage",
)
ALWAYS_RELEVANT = (*PROBLEM_FIELDS, "method")
ID_DIGITS = 20
OLD = "0.1.0"  # the release whose rows of SAM leave ``batch_size``, which was one measurement, null
MISSING = "is required and missing"
_REPEATED = (int, float, bool, str, type(None))


class _ByName(type):
    """Explains fields that are unknown, missing or given by position; a plain dataclass raises a bare TypeError."""

    def __call__(cls, *values: Any, **given: Any) -> Any:
        if values:
            raise CellError(
                f"a cell's fields are given by name, as Cell({', '.join(f'{n}=…' for n in REQUIRED_FIELDS)})"
            )
        whole = given.keys() <= FIELDS.keys() and given.keys() >= set(REQUIRED_FIELDS)
        if whole and any(isinstance(value, str) and _is_expression(name, value) for name, value in given.items()):
            given = load("flatdist.sweepfile.words:resolved_values")(given)
        checked, problems = check_values(given)
        if problems:
            raise CellError(listed(problems))
        # a sweep makes many cells: the generated __init__ would set each field by itself
        cell: Any = object.__new__(cast("type[Any]", cls))
        cell.__dict__.update(checked)
        return cell


def _is_expression(name: str, value: str) -> bool:
    """Whether text given for a field is to be computed from the other fields."""
    return FIELD_TYPES[name].numeric and value != FIELD_TYPES[name].word


@dataclass(frozen=True, kw_only=True)
class Cell(metaclass=_ByName):
    """One configuration: the problem, the method, and how the method is run.

    Values are checked and normalised on construction: floats are rounded to 12 significant digits, ``width`` becomes
    one width per hidden layer, ``learning_rate`` None means ``auto`` and ``batch_size`` None means ``full``. Text for a
    numeric field is an expression over the other fields, as in a sweep file.

    Example:
        >>> cell = Cell(d_out=8, d_in=8, rank=1, n="2*dof")
        >>> cell.n
        30
        >>> cell.replace(rank=2, n="2*dof").n
        56

    Raises:
        CellError: names every field whose value is not allowed, and what is allowed.
    """

    d_out: int = declare(Integer(1, 65536), "rows of the end-to-end matrix, the paper's d'")
    d_in: int = declare(Integer(1, 65536), "columns of the end-to-end matrix, the paper's d")
    rank: int = declare(Integer(1, 65536), "rank of the ground truth, the paper's r")
    n: int = declare(Integer(1), "number of measurements")
    ensemble: str = declare(Choice(lambda: tuple(ENSEMBLES)), "distribution of the measurement matrices", "gaussian")
    ground_truth: str = declare(Choice(lambda: GROUND_TRUTHS), "how the ground truth is drawn", "unit_frobenius")
    spectral_tail: float = declare(
        Number(0.0, 1.0, open_maximum=True),
        "share of the ground truth's Frobenius norm that lies outside of its rank-r part: M* = sqrt(1 - t^2) M_r + t T",
        0.0,
        added_later=True,
    )
    observation_noise_std: float = declare(
        Number(), "standard deviation of fixed noise on the labels, in units of the ground truth's Frobenius norm", 0.0
    )
    nested: bool = declare(Flag(), "a replicate's problem at n is the first n measurements of one stream", False)
    storage: str = declare(
        Choice(lambda: tuple(SAMPLING_VERSIONS)),
        "how measurements are kept: exact, or rounded to float16, which labels follow; for entries that are not exact",
        "exact",
        added_later=True,
    )
    method: str = declare(Choice(lambda: tuple(METHODS)), "the estimator", "label_noise_sgd")
    depth: int = declare(  # None is infinite, which flattest_local alone allows
        Keyword("inf", Integer(2, 64)), "number of layers, the paper's L; inf for flattest_local alone", 3
    )
    width: tuple[int, ...] = declare(Widths(), "hidden widths, one per hidden layer; default max(d_out, d_in)", None)
    init_scale: float = declare(Number(open_minimum=True), "layers start as N(0, init_scale^2 / fan_in)", 0.5)
    init: str = declare(
        Choice(lambda: STARTS),
        "gaussian, or symmetric: two orthogonal halves whose products cancel, width 2 max(d_out, d_in) or more",
        "gaussian",
        added_later=True,
    )
    learning_rate: float | None = declare(
        Keyword("auto", Number(open_minimum=True)), "step size; auto is a fraction of the stability limit", None
    )
    label_noise_std: float = declare(
        Number(), "label noise at every step, in units of the ground truth's Frobenius norm", 1.0
    )
    batch_size: int | None = declare(
        Keyword("full", Integer(1, 2**24)), "indices drawn with replacement at every step; full is every index once", 50
    )
    steps: int = declare(Integer(1), "number of SGD steps", 40000)
    schedule: str = declare(
        Choice(lambda: SCHEDULES), "constant label noise, or annealed to 0 over the last anneal_fraction", "cosine_tail"
    )
    anneal_fraction: float = declare(Number(0.0, 1.0), "fraction of the steps over which label noise is annealed", 0.3)
    sam_radius: float = declare(Number(), "length of sam's perturbation, in units of the weights", 0.05)
    momentum: float = declare(Number(0.0, 1.0, open_maximum=True), "heavy_ball's momentum", 0.9, added_later=True)
    flow_duration: float = declare(
        Number(open_minimum=True),
        "how long flow_limit follows its flow, in flow time: the sum over SGD steps of eta^2 s^2 / (2 B)",
        1.0,
        added_later=True,
    )
    evaluations: int = declare(Integer(2, 10**6), "rows of history per replicate, first and last step included", 64)
    dtype: str = declare(Choice(lambda: DTYPES), "floating-point type of the training", "float32")

    def __getstate__(self) -> dict[str, Any]:
        """The fields alone: a cell that one thread pickles may gain cached values in another."""
        return {name: getattr(self, name) for name in FIELDS}

    @property
    def spec(self) -> Method:
        """The method's declaration."""
        return METHODS[self.method]

    @property
    def training(self) -> GradientMethod:
        """The declaration of a method that takes steps."""
        assert self.spec.takes_steps, f"{self.method} takes no steps"
        return cast("GradientMethod", self.spec)

    @property
    def widths(self) -> tuple[int, ...]:
        """Layer widths d_0 ... d_L from input to output."""
        return (self.d_in, *self.width, self.d_out)

    @property
    def relevant_fields(self) -> tuple[str, ...]:
        """The fields that change this cell's results, in declaration order."""
        return relevant_fields(self.method, self.schedule, self.batch_size)

    @cached_property
    def cell_id(self) -> str:
        """Identity: a hash of every field that matters to the method and of the versions of its numerics."""
        return _digest(fields=self._canonical(self.relevant_fields), numerics=self.numerics)

    @cached_property
    def configuration_id(self) -> str:
        """Identity without the numerics versions: equal for the same question asked of older and newer code."""
        return _digest(fields=self._canonical(self.relevant_fields))

    @property
    def numerics(self) -> dict[str, Any]:
        """Versions of the numerics behind this cell's results, and hashes of plugins that define them."""
        versions = {"method": self.spec.version(self), "sampling": SAMPLING_VERSIONS[self.storage]}
        return versions | digests_of(self.method, self.ensemble)

    def words(self) -> dict[str, Any]:
        """Every field as a user writes it: ``auto`` and ``full`` by name, None where it does not matter."""
        words = {name: FIELD_TYPES[name].word for name in self.relevant_fields}
        return {name: words.get(name) if value is None else value for name, value in self.row().items()}

    def replace(self, **changes: Any) -> Cell:
        """The same cell with other values for some fields; default hidden widths stay the default.

        Raises:
            CellError: as on construction.
        """
        given = {name: getattr(self, name) for name in FIELDS} | changes
        if "width" not in changes and set(self.width) == {default_width(vars(self))}:
            del given["width"]
        return Cell(**given)

    def _repr_html_(self) -> str:
        words = self.words()
        rows = "".join(f"<tr><th>{name}</th><td>{words[name]}</td></tr>" for name in self.relevant_fields)
        return f"<table><caption>cell {self.cell_id}</caption>{rows}</table>"

    def row(self) -> dict[str, Any]:
        """Every field as the ``trials`` table stores it: null where it does not matter to the method."""
        relevant = set(self.relevant_fields)
        row = {name: getattr(self, name) if name in relevant else None for name in FIELDS}
        row["width"] = None if row["width"] is None else list(row["width"])
        if takes_one(self.method) and self.batch_size is not None:
            row["batch_size"] = 1  # null would read as full
        return row

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Cell:
        """The cell of a row of ``trials``: a null is the field's word, or stands where the method does not use it.

        Raises:
            CellError: this version of flatdist has no such cell.
        """
        given: dict[str, Any] = {}
        for name in FIELDS:
            value = row.get(name)
            if value is None or (isinstance(value, float) and math.isnan(value)):
                given |= dict.fromkeys([name] if null_word(name, row["method"], row.get("flatdist_version")) else ())
            elif name == "width":
                given[name] = [int(width) for width in value]
            else:
                given[name] = value.item() if hasattr(value, "item") else value
        return cls(**given)

    def problem_stream(self) -> str:
        """Names the random stream of this cell's problems; the same for every method, so methods are paired.

        Where ``nested`` is true the stream does not depend on n: problems at different n share their measurements.
        Problems that differ only in ``spectral_tail`` share measurements and the ground truth's rank-r part; with
        ``storage: float16`` the measurements are those of ``exact``, rounded.
        """
        apart = {"spectral_tail", "storage"} | ({"n"} if self.nested else set())
        return _canonical_json(self._canonical([name for name in PROBLEM_FIELDS if name not in apart]))

    def training_stream(self) -> str:
        """Names the random stream of this cell's batches and label noise; how often it is evaluated does not matter."""
        return _canonical_json(self._canonical([name for name in self.relevant_fields if name != "evaluations"]))

    def _canonical(self, names: Iterable[str]) -> dict[str, Any]:
        values = ((name, self.__dict__[name]) for name in names)
        return {name: value for name, value in values if name not in _ADDED_LATER or value != _ADDED_LATER[name]}


def relevant_fields(method: str, schedule: str, batch_size: int | None = 1) -> tuple[str, ...]:
    """The fields that change the results of a method, in declaration order; all fields for an unknown method."""
    if method not in METHODS:
        return tuple(FIELDS)
    full = ("batch_size",) if batch_size is None and takes_one(method) else ()  # full-batch SAM
    return _in_order((*METHODS[method].fields, *full), schedule == "constant")


@lru_cache
def _in_order(fields: tuple[str, ...], constant: bool) -> tuple[str, ...]:
    """A problem's fields and these, in declaration order; without label noise that is annealed if it is constant."""
    relevant = {*ALWAYS_RELEVANT, *fields} - ({"anneal_fraction"} if constant else set())
    return tuple(name for name in FIELDS if name in relevant)


def takes_one(method: str) -> bool:
    """Whether a method, such as SAM, reads every ``batch_size`` other than ``full`` as one measurement."""
    return getattr(METHODS.get(method), "batch", None) == "one"


def null_word(name: str, method: str, version: str | None) -> str | None:
    """What a field's null means in a row of a method written by a version: its word; None where it is not used."""
    spec = METHODS.get(method)
    of_sam = name == "batch_size" and takes_one(method) and version != OLD
    return NULL_NAMES.get(name) if spec is None or name in spec.fields or of_sam else None


FIELDS: Mapping[str, dataclasses.Field[Any]] = {field.name: field for field in dataclasses.fields(Cell)}
_ADDED_LATER = {name: field.default for name, field in FIELDS.items() if field.metadata["added_later"]}
REQUIRED_FIELDS = tuple(name for name, field in FIELDS.items() if field.default is dataclasses.MISSING)
FIELD_TYPES: Mapping[str, FieldType] = {name: field.metadata["kind"] for name, field in FIELDS.items()}
_DEFAULTS = {name: field.default for name, field in FIELDS.items() if name not in REQUIRED_FIELDS}


@dataclass(frozen=True)
class FieldProblem:
    """One reason why a set of field values is not a cell."""

    field: str
    value: Any
    reason: str
    allowed: str

    def __str__(self) -> str:
        value = f" {self.value!r}" if self.reason != MISSING else ""
        return f"{self.field}:{value} {self.reason}; allowed: {self.allowed}"


def check_values(given: Mapping[str, Any]) -> tuple[dict[str, Any], list[FieldProblem]]:
    """Check and normalise the values of a cell's fields, and collect everything that is wrong with them.

    Args:
        given: field name -> value; missing fields take their defaults.

    Returns:
        The normalised values of all fields, and the problems found. The values are complete only without problems.
    """
    missing = (name for name in REQUIRED_FIELDS if name not in given)
    problems = [FieldProblem(name, None, MISSING, FIELD_TYPES[name].allowed) for name in missing]
    values = _DEFAULTS.copy()
    for name, value in given.items():
        kind = FIELD_TYPES.get(name)
        if kind is None:
            reason = "is given for an unknown field" + did_you_mean(name, FIELDS)
            problems.append(FieldProblem(name, value, reason, ", ".join(FIELDS)))
            continue
        try:
            repeats = type(value) in _REPEATED and not isinstance(kind, Choice)  # whose names may change
            values[name] = _parsed(name, value) if repeats else kind.parse(value)
        except ValueError as error:
            values.pop(name, None)
            problems.append(FieldProblem(name, value, str(error), kind.allowed))
    if problems:
        problems.sort(key=lambda one: [*FIELDS].index(one.field) if one.field in FIELDS else -1)
    problems += _conflicts(values)
    return values, problems


@lru_cache(maxsize=1 << 14, typed=True)
def _parsed(name: str, value: Any) -> Any:
    """The normalised value of a field: a sweep's cells share most of theirs."""
    return FIELD_TYPES[name].parse(value)


def listed(problems: Iterable[object]) -> str:
    """The message about a cell that cannot be run."""
    return "this cell cannot be run:\n" + "\n".join(f"  {problem}" for problem in problems)


def _conflicts(values: dict[str, Any]) -> list[FieldProblem]:
    """Problems between fields; resolves ``width`` in place."""
    problems: list[FieldProblem] = []
    if not {"d_out", "d_in"} <= values.keys():
        return problems

    def wrong(field: str, value: Any, reason: str, allowed: str) -> None:
        problems.append(FieldProblem(field, value, reason, allowed))

    smaller, larger = sorted((values["d_out"], values["d_in"]))
    if values.get("rank", 0) > smaller:
        wrong("rank", values["rank"], "exceeds min(d_out, d_in)", f"a whole number from 1 to {smaller}")
    entries = smaller * larger
    bounded = "ensemble" in values and ENSEMBLES[values["ensemble"]].without_replacement
    if bounded and values.get("n", 0) > entries:
        reason = f"exceeds d_out*d_in, the {values['ensemble']} there are, each measured at most once"
        wrong("n", values["n"], reason, f"a whole number from 1 to {entries}")
    elif values.get("spectral_tail", 0.0) and values.get("rank") == smaller:
        reason = f"has no room beside a rank of min(d_out, d_in) = {smaller}"
        wrong("spectral_tail", values["spectral_tail"], reason, "0, or a rank below min(d_out, d_in)")
    rounded = values.get("storage") == "float16" and "ensemble" in values
    if rounded and ENSEMBLES[values["ensemble"]].storage is not Dense:
        reason = f"rounds independent real entries, and those of {values['ensemble']} are kept another way"
        wrong("storage", "float16", reason, "exact")
    method = values.get("method", "label_noise_sgd")
    if values.get("learning_rate", 0.0) is None and not METHODS[method].chooses_steps:
        reason = f"estimates steps in proportion to the gradient, and those of {method} are not"
        wrong("learning_rate", "auto", reason, "a positive number")
    infinite = "depth" in values and values["depth"] is None
    if infinite and "width" in METHODS[method].fields:
        wrong("depth", "inf", "is for flattest_local alone", "a whole number from 2 to 64")
    elif {"width", "depth"} <= values.keys():
        hidden = (values["depth"] or 2) - 1
        width = default_width(values) if values["width"] is None else values["width"]
        widths = width if isinstance(width, tuple) else (width,) * hidden
        if len(widths) != hidden:
            wrong("width", list(widths), f"has {len(widths)} entries", f"depth-1 = {hidden} of them")
        elif min(widths) < smaller:
            wrong("width", width, "is smaller than min(d_out, d_in)", f"hidden widths of at least {smaller}")
        elif _is_symmetric(values) and (len(set(widths)) > 1 or widths[0] % 2 or widths[0] < 2 * larger):
            allowed = f"one even width of at least 2*max(d_out, d_in) = {2 * larger}"
            wrong("width", width, "does not hold the two halves of a symmetric start", allowed)
        values["width"] = widths
    return problems


def _is_symmetric(values: Mapping[str, Any]) -> bool:
    return values.get("init") == "symmetric" and "init" in METHODS[values.get("method", "label_noise_sgd")].fields


def default_width(values: Mapping[str, Any]) -> int:
    """One hidden width where none is given."""
    larger: int = max(values["d_out"], values["d_in"])
    return 2 * larger if _is_symmetric(values) else larger


_canonical_json = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode


def _digest(**parts: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical_json(parts).encode()).hexdigest()[:ID_DIGITS]


NULL_NAMES: Mapping[str, str] = {name: kind.word for name, kind in FIELD_TYPES.items() if kind.word}
"""What a null means where the row's method uses the field: ``learning_rate`` auto, ``batch_size`` full."""


load_entry_points()
