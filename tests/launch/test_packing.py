from __future__ import annotations

from typing import Any

from flatdist.launch.ray.tune import PackedShards, Shards, split
from flatdist.planning import Shard, WorkItem


def test_shards_come_out_as_they_went_in(make_cell: Any) -> None:
    shards = [Shard((WorkItem(make_cell(n), tuple(range(n))),), float(n)) for n in (3, 1, 2)]
    packed = PackedShards(shards)
    assert [packed[number] for number in range(len(packed))] == shards


def test_a_shard_is_split_into_cells_and_halves_of_their_replicates(make_cell: Any) -> None:
    cells = [make_cell(n) for n in (10, 11)]
    shard = Shard((WorkItem(cells[0], (0, 1, 2)), WorkItem(cells[1], (5,))), 8.0)
    parts = split(shard)
    assert [part.items for part in parts] == [
        (WorkItem(cells[0], (0, 1)),),
        (WorkItem(cells[0], (2,)),),
        (WorkItem(cells[1], (5,)),),
    ]
    assert [part.predicted_seconds for part in parts] == [4.0, 2.0, 2.0]


def test_only_what_is_missing_is_tried_again(make_cell: Any) -> None:
    cells = [make_cell(n) for n in (10, 11)]
    shard = Shard(tuple(WorkItem(cell, (0, 1, 2)) for cell in cells), 6.0)
    missing = {(cells[1].cell_id, 1)}
    (part,) = split(shard.keeping(missing.__contains__))
    assert part.keys == missing
    assert split(shard.keeping(set().__contains__)) == []


def test_trials_of_solvers_alone_ask_for_no_card(make_cell: Any) -> None:
    cells = [make_cell(10), make_cell(10, method="min_nuclear_norm"), make_cell(11)]
    shards = {number: Shard((WorkItem(cell, (0,)),), 1.0) for number, cell in enumerate(cells, start=5)}
    assert Shards(shards, cells=True).solving == {cells[1].cell_id}
    packs = Shards(shards, cells=False)
    assert packs.solving == {1}
    assert packs.number({"position": 1}) == 6
