"""Plans for GPUs: whose times count, which engine a cell is sized for, and what runs beside the cards."""

from __future__ import annotations

import math

import pytest

from flatdist import engines
from flatdist.cells.cell import Cell
from flatdist.planning import Observation, Settings, WorkItem, plan_items
from flatdist.planning.forecast import Forecast, nominal_seconds
from flatdist.planning.packs import Card, device_bytes
from flatdist.store import Store

H100 = "cuda NVIDIA H100 80GB HBM3, CUDA 12.8, driver API 12080"
CARD = Card(processors=132, memory=80 * 10**9, name="NVIDIA H100 80GB HBM3")
SMALL = Cell(d_out=12, d_in=12, rank=1, n=60, steps=2000)


@pytest.fixture(autouse=True)
def _cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine for CUDA devices counts as installed."""
    monkeypatch.setattr(engines, "why_absent", lambda name: None)


@pytest.mark.parametrize(
    ("label", "card", "counts"),
    [
        (H100, CARD.name, True),
        (H100.replace("12.8", "13.0"), CARD.name, True),
        (H100, "", True),
        ("cuda", CARD.name, True),
        (H100.replace("H100", "A100"), CARD.name, False),
        ("cpu", CARD.name, False),
    ],
)
def test_rows_of_the_same_card_say_how_long_it_takes(label: str, card: str, counts: bool) -> None:
    model = Forecast([Observation(SMALL, 7.0, "cuda", label)], "auto", "cuda", card=card)
    assert math.isfinite(model.replicate(SMALL).distance) is counts
    assert model.replicate(SMALL).seconds == pytest.approx(7.0 if counts else nominal_seconds(SMALL, "cuda"))


@pytest.mark.parametrize("change", [{"d_out": 80}, {"dtype": "float64"}, {"width": 100}])
def test_what_no_chip_holds_is_sized_for_the_engine_that_takes_it(change: dict[str, object]) -> None:
    large = Cell(**{"d_out": 12, "d_in": 12, "rank": 1, "n": 60, "steps": 2000, **change})  # type: ignore[arg-type]
    assert device_bytes(large, "batched") > device_bytes(large, "cuda")
    items = [WorkItem(cell, tuple(range(200))) for cell in (SMALL, large)]
    tight = Card(processors=132, memory=100 * device_bytes(large, "batched"))
    settings = Settings(slots=1, device="cuda", card=tight)
    plan = plan_items(items, Store("nowhere"), settings)
    assert plan.engine == "cuda and batched"
    packs = [shard for shard in plan.shards if shard.together]
    assert all(len({item.cell.cell_id for item in pack.items}) == 1 for pack in packs)
    mine = [pack.replicates for pack in packs if pack.items[0].cell == large]
    assert sum(mine) == 200
    assert max(mine) <= 85, "85 % of the memory, as the batched engine fills it"


def test_solvers_run_beside_the_cards() -> None:
    solved = Cell(d_out=20, d_in=20, rank=1, n=200, method="min_nuclear_norm")
    items = [WorkItem(SMALL, tuple(range(64))), WorkItem(solved, tuple(range(640)))]

    def plan(cpu_slots: int):  # type: ignore[no-untyped-def]
        settings = Settings(slots=1, device="cuda", card=CARD, cpu_slots=cpu_slots)
        return plan_items(items, Store("nowhere"), settings)

    one, many = plan(1), plan(16)
    assert {shard.takes_steps for shard in one.shards} == {True, False}
    assert all(len({item.cell.spec.takes_steps for item in shard.items}) == 1 for shard in many.shards)
    work = sum(shard.predicted_seconds for shard in one.shards if not shard.takes_steps)
    assert one.time.mid > work
    assert many.time.mid < 10 + work / 8 + max(shard.predicted_seconds for shard in many.shards)
