"""Who suggests: determinism, domains kept, and a searcher that learns."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
from search_fakes import error, made_up

from flatdist.errors import LaunchError
from flatdist.store import Store
from flatdist.sweeps.searchers import SEARCHERS, Domain, Told


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


@pytest.mark.parametrize("name", SEARCHERS)
def test_suggestions_depend_on_seed_and_results_alone(name: str) -> None:
    search = made_up(name).kind
    assert search is not None
    told = [Told({"learning_rate": 0.01 * (i + 1), "label_noise_std": 0.1 * i, "schedule": "constant"}, float(i))
            for i in range(12)]  # fmt: skip
    told.append(Told({"learning_rate": 0.5, "label_noise_std": 2.0, "schedule": "cosine_tail"}, math.inf))
    told.append(Told({"learning_rate": 0.4, "label_noise_std": 1.0, "schedule": "cosine_tail"}, 3.0, (4.0, 3.0)))

    def points(told: list[Told], number: int) -> list[dict]:  # type: ignore[type-arg]
        searcher = SEARCHERS[name](search, told, number)
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
    for name in SEARCHERS:
        search = made_up(name).kind
        assert search is not None
        told: list[Told] = []
        for number in range(12):
            searcher = SEARCHERS[name](search, told, number)
            points = [searcher.suggest() for _ in range(5)]
            for point in points:
                cell = search.cell(point)
                assert cell is not None
                told.append(Told(point, error(cell, 0)))
        errors[name] = sorted(one.value for one in told[-20:])[10]
    assert errors["optuna"] < 0.5 * errors["random"]


def test_a_domain_without_new_cells_ends_the_search(tmp_path: Path) -> None:
    sweep = made_up(learning_rate="{choice: [0.1]}", label_noise_std="{choice: [1.0]}")
    assert sweep.kind is not None
    assert len(sweep.kind.next_round([], Store(tmp_path))) == 2


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    search = made_up("optuna").kind
    assert search is not None
    with pytest.raises(LaunchError, match=r"pip install '\.\[search\]'"):
        SEARCHERS["optuna"](search, [], 0)
