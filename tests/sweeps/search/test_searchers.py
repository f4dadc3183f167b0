"""Who suggests: determinism, domains kept, and a searcher that learns."""

from __future__ import annotations

import math
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from search_fakes import error, made_up

from flatdist.errors import LaunchError
from flatdist.store import Store
from flatdist.sweepfile.choices import SEARCHERS, Choice, Domain, require_packages
from flatdist.sweeps.searchers import Told, TuneSearcher, _Apart, make_searcher


def test_random_draws_follow_their_distribution() -> None:
    scale = Domain("learning_rate", "loguniform", 1e-3, 1e-1)
    draws = sorted(scale.drawn(0, index) for index in range(2000))
    assert draws[0] >= 1e-3
    assert draws[-1] <= 1e-1
    assert math.isclose(draws[1000], 1e-2, rel_tol=0.15)  # the geometric middle; 5 standard errors
    whole = Domain("depth", "uniform", 2, 4, whole=True)
    counts = [[whole.drawn(0, index) for index in range(3000)].count(depth) for depth in (2, 3, 4)]
    assert sum(counts) == 3000
    assert min(counts) > 850
    assert {Domain("m", "choice", options=("a", "b")).drawn(0, index) for index in range(20)} == {"a", "b"}
    assert [scale.drawn(1, index) for index in range(5)] != [scale.drawn(0, index) for index in range(5)]


INSTALLED = [name for name, entry in SEARCHERS.items() if all(find_spec(module) for module in entry.packages)]


@pytest.mark.parametrize("name", INSTALLED)
def test_suggestions_depend_on_seed_and_results_alone(name: str) -> None:
    search = made_up(name)
    assert search is not None
    told = [Told({"learning_rate": 0.01 * (i + 1), "label_noise_std": 0.1 * i, "schedule": "constant"}, float(i))
            for i in range(12)]  # fmt: skip
    told.append(Told({"learning_rate": 0.5, "label_noise_std": 2.0, "schedule": "cosine_tail"}, math.inf))
    told.append(
        Told(
            {"learning_rate": 0.4, "label_noise_std": 1.0, "schedule": "cosine_tail"}, 3.0, {2000: 4.0, 6000: 3.0}, 3.0
        )
    )

    def points(told: list[Told], number: int) -> list[dict]:  # type: ignore[type-arg]
        searcher = make_searcher(search, told, number)
        return [searcher.suggest() for _ in range(6)]

    first = points(told, 3)
    assert first == points(told, 3)
    for point in first:
        assert all(domain.holds(point[domain.field]) for domain in search.domains)
        assert search.cell(point) is not None
    if name != "random":
        assert first != points(told[:11], 3)


def test_optuna_learns_where_random_draws_do_not(tmp_path: Path) -> None:
    """Over a smooth surface the points of the last rounds are much better than random ones."""
    errors = {}
    for name in ("random", "optuna"):
        search = made_up(name)
        assert search is not None
        told: list[Told] = []
        for number in range(12):
            searcher = make_searcher(search, told, number)
            points = [searcher.suggest() for _ in range(5)]
            for point in points:
                cell = search.cell(point)
                assert cell is not None
                told.append(Told(point, error(cell, 0)))
        errors[name] = sorted(one.value for one in told[-20:])[10]
    assert errors["optuna"] < 0.5 * errors["random"]


def test_a_domain_without_new_cells_ends_the_search(tmp_path: Path) -> None:
    sweep = made_up(learning_rate="{choice: [0.1]}", label_noise_std="{choice: [1.0]}")
    assert len(sweep.next_round([], Store(tmp_path))) == 2


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    search = made_up("optuna")
    assert search is not None
    with pytest.raises(LaunchError, match=r"pip install '\.\[search\]'"):
        make_searcher(search, [], 0)


@pytest.mark.parametrize("name", [name for name in SEARCHERS if SEARCHERS[name].packages])
def test_every_missing_package_is_named_before_a_sweep_starts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in SEARCHERS[name].packages:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(LaunchError, match=rf"search.searcher: {name} needs .*; .*pip install"):
        require_packages(Choice(name))


def test_a_version_that_tune_cannot_use_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    class TooNew:
        def set_search_properties(self, metric: str, mode: str, space: dict[str, Any]) -> None:
            raise AttributeError("'Objective' object has no attribute 'objectives'")

    monkeypatch.setattr("flatdist.sweeps.searchers._make", lambda *_: TooNew())
    with pytest.raises(LaunchError, match=r"ax cannot be made: .*'objectives'; it needs ax-platform<1.3, and .* is"):
        TuneSearcher(made_up("ax"), [], 0, 800)  # type: ignore[arg-type]


def test_a_points_value_reaches_a_searcher_that_takes_no_results(monkeypatch: pytest.MonkeyPatch) -> None:
    """Earlier points are suggested by name and completed; a stopped one and an infinite one with finite guesses."""
    given: dict[str, Any] = {}

    class Fake:
        def __init__(self, points: list[dict[str, Any]]) -> None:
            self.points, self.completed = list(points), []

        def set_search_properties(self, metric: str, mode: str, space: dict[str, Any]) -> None:
            given["space"] = set(space)

        def suggest(self, name: str) -> dict[str, Any]:
            return self.points.pop(0) if self.points else {"learning_rate": 0.2, "label_noise_std": 1, "schedule": 1}

        def on_trial_complete(self, name: str, result: dict[str, float]) -> None:
            self.completed.append(result["value"])

    def make(search: Any, seed: int, earlier: list[dict[str, Any]]) -> Fake:
        given["fake"] = Fake(earlier)
        return given["fake"]  # type: ignore[no-any-return]

    monkeypatch.setattr("flatdist.sweeps.searchers._make", make)
    search = made_up("hyperopt")
    assert search is not None
    point = {"learning_rate": 0.1, "label_noise_std": 1.0, "schedule": "constant"}
    told = [Told(point, 1.0), Told(point | {"schedule": "cosine_tail"}, math.inf),
            Told(point | {"learning_rate": 0.2}, 0.5, {100: 0.5}, 3.0), Told(point | {"label_noise_std": 9}, 1.0),
            Told(point | {"learning_rate": 0.3}, 2.0)]  # fmt: skip
    searcher = TuneSearcher(search, told, 0, 800)
    assert given["space"] == set(point)
    assert given["fake"].completed == [1.0, 3.0, 3.0, 2.0]  # 9 is outside of the domain; infinite: worst plus the span
    suggested = searcher.suggest()
    assert suggested == {"learning_rate": 0.2, "label_noise_std": 1.0, "schedule": "cosine_tail"}
    searcher.tell(Told(suggested, 0.25))
    assert given["fake"].completed[-1] == 0.25


def test_draws_of_the_whole_process_are_left_alone() -> None:
    search = made_up("optuna")
    assert search is not None
    np.random.seed(5)  # noqa: NPY002
    expected = np.random.RandomState(5).random()
    make_searcher(search, [], 0).suggest()
    assert np.random.random() == expected  # noqa: NPY002


def test_generators_that_the_system_would_seed_repeat_themselves_within_a_searcher_alone() -> None:
    drawn = []
    for _ in range(2):
        with _Apart(7):
            drawn += [np.random.default_rng().random(), np.random.default_rng(1).random()]
    assert drawn[:2] == drawn[2:]
    assert drawn[1] == np.random.default_rng(1).random()
    assert np.random.default_rng().random() != drawn[0]
