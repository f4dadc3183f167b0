from __future__ import annotations

from typing import Any

from flatdist.launch.launching import keys_of, split_missing
from flatdist.launch.ray.tune import PackedShards, split
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
    parts = split_missing(shard, {cells[1].cell_id: {1}})
    assert keys_of(parts) == {cells[1].cell_id: {1}}
    assert split_missing(shard, {}) == []
