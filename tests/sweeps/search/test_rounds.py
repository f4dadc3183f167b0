"""Rounds as the store records them."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
from search_fakes import made_up

from flatdist.errors import StoreError
from flatdist.store import Store
from flatdist.sweeps.rounds import Request, Round, RoundLog, Rung, Stopped, recorded_rounds


def first_round(store: Store) -> Round:
    search = made_up()
    assert search is not None
    requests = search.next_round([], store)
    return Round(tuple(requests), (Rung(100, {0: 0.5, 1: math.inf, 2: -math.inf, 3: 1e-3}, (1, 2)),))


def test_a_round_is_recorded_in_full(tmp_path: Path) -> None:
    store, sweep = Store(tmp_path), made_up()
    log = RoundLog(store, sweep.name, sweep.source, 3, sweep.identity)
    log.add(first_round(store))
    again = recorded_rounds(Store(tmp_path), sweep.name, sweep.identity)
    assert again == log.rounds
    assert again[0].stopped() == {1: Stopped(100, math.inf), 2: Stopped(100, -math.inf)}
    assert store.sweeps.load(sweep.name).cell_ids == tuple(one.cell.cell_id for one in log.rounds[0].requests)
    assert sweep.recorded(store).cells == tuple(one.cell for one in log.rounds[0].requests)


def test_more_replicates_are_wanted_of_recorded_cells_too(tmp_path: Path) -> None:
    store, sweep = Store(tmp_path), made_up()
    RoundLog(store, sweep.name, sweep.source, 3, sweep.identity).add(first_round(store))
    again = recorded_rounds(store, sweep.name, sweep.identity, 5)
    assert {request.replicates for request in again[0].requests} == {(0, 1, 2, 3, 4)}


def test_rounds_of_another_search_are_left_alone(tmp_path: Path) -> None:
    store, sweep = Store(tmp_path), made_up()
    RoundLog(store, sweep.name, sweep.source, 3, "another").add(first_round(store))
    assert recorded_rounds(store, sweep.name, sweep.identity) == []
    assert len(recorded_rounds(store, sweep.name, "another")) == 1


def test_a_damaged_record_is_an_error(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.sweeps.save(
        "made-up", "", [], 3, {"format": 1, "search": "x", "common": {}, "rounds": [{"requests": [{}], "rungs": []}]}
    )
    with pytest.raises(StoreError, match="damaged"):
        recorded_rounds(store, "made-up", "x")


def test_nothing_is_recorded_where_it_is_not_to_be(tmp_path: Path) -> None:
    store = Store(tmp_path)
    log = RoundLog(store, "made-up", "", 3, "x", keep=False)
    log.add(first_round(store))
    assert store.sweeps.names() == []
    assert isinstance(log.rounds[0].requests[0], Request)


def test_two_drivers_of_one_search_record_one_list_of_rounds(tmp_path: Path) -> None:
    """The slower one takes up the rounds of the faster one, and does not shorten the record."""
    store = Store(tmp_path)
    fast, slow = (RoundLog(store, "made-up", "", None, "x") for _ in range(2))
    first = first_round(store)
    other = dataclasses.replace(first, requests=first.requests[:1])
    fast.add(first)
    fast.add(other)
    fast.replace_round(1, dataclasses.replace(other, rungs=(Rung(5, {0: 0.5}, ()),)))
    slow.add(other)  # it has seen fewer results, say
    assert slow.rounds == [first]
    slow.save()
    assert RoundLog(store, "made-up", "", None, "x").rounds == fast.rounds
    slow.add(first)
    assert slow.rounds == fast.rounds
