"""The searchers of a search: random draws, or one of Ray Tune's searchers.

A searcher is created afresh for every round and receives all earlier points with their stored results, so that none of
its state has to be kept: a search resumes from the store alone, and suggests the same points however often it is
resumed.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import math
import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from flatdist.errors import LaunchError, did_you_mean
from flatdist.machine.provenance import package_version
from flatdist.sweepfile.choices import SEARCHERS, Choice, Domain, require_packages

Point = dict[str, Any]  # searched field -> value, as a sweep file would write it
METRIC = "value"


@dataclass(frozen=True, kw_only=True)
class Space:
    """What a searcher needs to know of a search."""

    domains: tuple[Domain, ...]  # the searched fields
    searcher: Choice  # who suggests
    mode: str  # min or max
    budget: int  # number of cells to suggest in all
    round_size: int  # cells suggested at a time
    seed: int  # of the searcher


@dataclass(frozen=True)
class Told:
    """An earlier point and its result."""

    point: Mapping[str, Any]  # the suggestion
    value: float  # the cell's metric; if it was stopped early, the value compared then
    rungs: Mapping[int, float] = field(default_factory=dict)  # step -> the value compared there, if it was stopped
    guess: float = math.nan  # an estimate of a stopped cell's metric from the values compared


class Searcher:
    """Suggests points one by one: independent draws, each a function of the field, the seed and its number."""

    def __init__(self, search: Space) -> None:
        self._search = search
        self._draws = itertools.count()  # from the beginning: earlier points are recognised by their cells

    def suggest(self) -> Point | None:
        """The next point, given that earlier ones are still running; None if there is none for now."""
        index = next(self._draws)
        return {domain.field: domain.drawn(self._search.seed, index) for domain in self._search.domains}

    def tell(self, told: Told) -> None:
        """What came of a point; draws do not depend on it."""


class TuneSearcher(Searcher):
    """One of Ray Tune's searchers, given all results in the store; each round has a seed of its own.

    Searchers that accept evaluated points receive them. For the others, all earlier points are first suggested through
    Tune's ``points_to_evaluate`` and reported as completed. BOHB sees the steps of a training as its budget.
    """

    def __init__(self, search: Space, told: Sequence[Told], number: int, steps: int) -> None:
        self._name, self._domains, self._steps = search.searcher.name, search.domains, steps
        self._count = 0
        self._running: dict[str, str] = {}  # point -> Tune's name for it
        finite = [t.value for t in told if math.isfinite(t.value) and not t.rungs] or [1.0]
        span = max(finite) - min(finite) or abs(finite[0]) or 1.0
        self._worst = max(finite) + span if search.mode == "min" else min(finite) - span
        known = [t for t in told if all(domain.holds(t.point[domain.field]) for domain in self._domains)]
        seed = int.from_bytes(hashlib.sha256(f"round {number} {search.seed}".encode()).digest()[:4])
        self._takes_results = self._name in ("optuna", "hebo", "zoopt")
        self._logs = self._name == "zoopt"  # knows no logarithmic scale: it is given logarithms
        self._apart = _Apart(seed)
        with self._apart:
            earlier = [] if self._takes_results else [self._parameters(one.point) for one in known]
            self._searcher = _make(search, seed if self._takes_results else seed % 2**31, earlier)
            space = {domain.field: tune_domain(domain, logs=self._logs) for domain in self._domains}
            _created(self._name, partial(self._searcher.set_search_properties, METRIC, search.mode, space), {})
        for one in known:
            if not self._takes_results:
                self._ask(one.point)
            self.tell(one)

    def suggest(self) -> Point | None:
        """The next point, given that the earlier ones of this round are still running."""
        return self._ask(None)

    def _ask(self, expected: Mapping[str, Any] | None) -> Point | None:
        """The next suggestion; one that was to be a given point counts as that, whatever rounding did to it."""
        self._count += 1
        name = f"suggestion-{self._count}"
        with self._apart:
            found = self._searcher.suggest(name)
        if not isinstance(found, Mapping):  # none before more results are in, or none at all
            return None
        point = dict(expected or {}) or {one.field: self._value(one, found[one.field]) for one in self._domains}
        self._running[_key(point)] = name
        return point

    def tell(self, told: Told) -> None:
        """Report the result of a point, whether this searcher suggested it or not."""
        name = self._running.pop(_key(told.point), None)
        with self._apart:
            if name is None:
                if self._takes_results:
                    self._add(told)
                return
            value = self._finite(told.guess if told.rungs else told.value)
            if self._name == "bohb":  # learns from every budget, as its scheduler would tell it
                for step, one in (told.rungs or {self._steps: value}).items():
                    result = {METRIC: self._finite(one), "hyperband_info": {"budget": step}}
                    self._searcher.on_trial_result(name, result)
            pruned = bool(told.rungs) and self._name == "optuna"
            self._searcher.on_trial_complete(name, None if pruned else {METRIC: value})

    def _add(self, told: Told) -> None:
        if self._name == "optuna":
            more = {"pruned": True, "intermediate_values": list(told.rungs.values())} if told.rungs else {}
            self._searcher.add_evaluated_point(self._parameters(told.point), told.value, **more)
            return
        value = self._finite(told.guess if told.rungs else told.value)
        if self._name == "hebo":
            self._searcher.add_evaluated_point(self._parameters(told.point), value)
        else:
            _add_to_zoopt(self._searcher, self._parameters(told.point), value)

    def _finite(self, value: float) -> float:
        return value if math.isfinite(value) else self._worst

    def _parameters(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """A point in the form of Tune's searcher: numbers of options instead of the options."""
        choices = {one.field: one.options.index(point[one.field]) for one in self._domains if one.is_choice}
        logs = {d.field: math.log(point[d.field]) for d in self._domains if self._logs and d.form == "loguniform"}
        return dict(point) | choices | logs

    def _value(self, domain: Domain, found: Any) -> Any:
        """A searcher's value as a sweep file would write it."""
        if domain.is_choice:
            return domain.options[int(found)]
        return domain.normal(math.exp(found) if self._logs and domain.form == "loguniform" else found)


def _add_to_zoopt(searcher: Any, parameters: Mapping[str, Any], value: float) -> None:
    """Give ZOOpt a point with its value, as if it had suggested it: it takes few ``points_to_evaluate``."""
    solution: Any = import_module("zoopt.solution")  # untyped
    optimizer, name = searcher.optimizer, f"known-{len(searcher.solution_dict)}"
    searcher.solution_dict[name] = solution.Solution(x=[parameters[key] for key in searcher._dim_keys])
    searcher._live_trial_mapping[name] = dict(parameters)
    optimizer.live_num += 1
    searcher.on_trial_complete(name, {METRIC: value})
    past_start = optimizer.complete_num >= optimizer._parameter.get_train_size()
    optimizer.init_num = optimizer.complete_num + past_start


def make_searcher(search: Space, told: Sequence[Told], number: int, steps: int = 1) -> Searcher:
    """The searcher of a round, told of earlier points; ``steps`` are those of a whole training.

    Raises:
        LaunchError: it needs a package that is not installed, or does not take these options.
    """
    if search.searcher.name == "random":
        return Searcher(search)
    require_packages(search.searcher)
    from flatdist.machine.environment import import_ray

    import_ray(local=False)
    for module in SEARCHERS[search.searcher.name].packages:
        try:
            import_module(module)
        except ImportError as error:
            raise LaunchError(f"search.searcher: {module} is installed but cannot be imported: {error}") from error
    return TuneSearcher(search, told, number, steps)


def _make(search: Space, seed: int, earlier: Sequence[Mapping[str, Any]]) -> Any:
    from ray import tune

    choice = search.searcher
    options, name = dict(choice.options), choice.name
    if seed_name := SEARCHERS[name].seed:
        options[seed_name] = seed
    if name == "optuna":
        options = {"sampler": _optuna_sampler(options)}
    elif name == "bohb":
        options = {"seed": seed, "bohb_config": choice.options}
    elif name == "nevergrad":
        nevergrad: Any = import_module("nevergrad")  # untyped

        options["optimizer_kwargs"] = {"budget": search.budget, "num_workers": search.round_size}

        known, optimizer = nevergrad.optimizers.registry, options.get("optimizer", "NGOpt")
        if optimizer not in known:
            raise LaunchError(f"search.searcher.nevergrad.optimizer: {optimizer}{did_you_mean(optimizer, known)}")
        options["optimizer"] = known[optimizer]
    elif name == "zoopt":
        options |= {"budget": max(search.budget, 4), "parallel_num": search.round_size}
    elif name == "hebo":
        options["max_concurrent"] = search.round_size
    if earlier:
        options["points_to_evaluate"] = [dict(point) for point in earlier]
    if name in ("ax", "hebo"):  # Tune's create_searcher drops what it would pass on to these packages
        classes: Any = import_module("ray.tune.search").SEARCH_ALG_IMPORT
        return _created(name, classes[name](), options)
    return _created(name, tune.create_searcher, {"search_alg": name, **options})


def _created(name: str, make: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    try:
        return make(**options)
    except (AssertionError, AttributeError, ImportError, TypeError, ValueError) as error:
        bounds = [one.partition("<") for one in SEARCHERS[name].packages.values() if "<" in one]
        needs = "".join(f"; it needs {one}<{bound}, and {package_version(one)} is here" for one, _, bound in bounds)
        raise LaunchError(f"search.searcher: {name} cannot be made: {error}{needs}") from error


def _optuna_sampler(options: dict[str, Any]) -> Any:
    """Optuna's sampler; TPE keeps points of one round apart though none of them has a result yet (constant liar)."""
    import optuna

    name = options.pop("sampler", "tpe")
    kinds = optuna.samplers
    if name == "tpe":
        return kinds.TPESampler(constant_liar=True, **options)
    makers = {"gp": "GPSampler", "cmaes": "CmaEsSampler", "qmc": "QMCSampler", "random": "RandomSampler"}
    try:
        return getattr(kinds, makers[name])(**options)
    except (ImportError, TypeError) as error:
        raise LaunchError(f"search.searcher.optuna: the sampler {name} cannot be made: {error}") from error


def _key(point: Mapping[str, Any]) -> str:
    return json.dumps(point, sort_keys=True, default=str)


def tune_domain(domain: Domain, *, by_value: bool = False, logs: bool = False) -> Any:
    """Tune's own domain; of options by value or by number, and of a logarithmic range's logarithms if asked."""
    from ray import tune

    if domain.is_choice:
        return tune.choice(list(domain.options) if by_value else list(range(len(domain.options))))
    if domain.form == "loguniform" and logs:
        return tune.uniform(math.log(domain.low), math.log(domain.high))
    if domain.whole:
        draw = tune.lograndint if domain.form == "loguniform" else tune.randint
        return draw(int(domain.low), int(domain.high) + 1)
    return (tune.loguniform if domain.form == "loguniform" else tune.uniform)(domain.low, domain.high)


class _Apart:
    """While entered, silences a searcher's messages and gives it its own random state.

    Some searchers take no seed and draw from generators that the whole process shares (bohb, nevergrad, zoopt), or from
    new ones that the system seeds (hebo); otherwise they would suggest different points each time they are created.
    """

    def __init__(self, seed: int) -> None:
        self._own: tuple[Any, Any] = (random.Random(seed).getstate(), np.random.RandomState(seed).get_state())  # noqa: S311

    def __enter__(self) -> None:
        self._disabled = logging.root.manager.disable
        logging.disable(logging.WARNING)  # Ax gives each of its loggers a level and a handler of its own
        self._warnings = warnings.catch_warnings(action="ignore")
        self._warnings.__enter__()
        self._others = (random.getstate(), np.random.get_state())  # noqa: NPY002
        self._put(self._own)
        self._new = np.random.default_rng
        np.random.default_rng = self._seeded

    def __exit__(self, *error: object) -> None:
        np.random.default_rng = self._new
        self._own = (random.getstate(), np.random.get_state())  # noqa: NPY002
        self._put(self._others)
        self._warnings.__exit__(None, None, None)
        logging.disable(self._disabled)

    def _seeded(self, seed: Any = None) -> np.random.Generator:
        return self._new(np.random.randint(2**31) if seed is None else seed)  # noqa: NPY002

    @staticmethod
    def _put(state: tuple[Any, Any]) -> None:
        random.setstate(state[0])
        np.random.set_state(state[1])  # noqa: NPY002
