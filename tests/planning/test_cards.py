"""Plans for GPUs: whose times count, which engine a cell is sized for, and what runs beside the cards."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from planned import FakeStore, row

from flatdist import engines
from flatdist.cells.cell import Cell
from flatdist.errors import LaunchError
from flatdist.launch import plan_sweeps
from flatdist.planning import Observation, Settings, WorkItem, plan_items
from flatdist.planning import settings as planning_settings
from flatdist.planning.forecast import Forecast, make_probe, nominal_seconds
from flatdist.planning.packs import Card, device_bytes, pack_sizes
from flatdist.store import Store
from flatdist.sweeps import parse_sweep

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
    store = FakeStore(rows=[row(SMALL, 7.0, "cuda") | {"device": label}])
    asked: list[Cell] = []
    settings = Settings(slots=1, device="cuda", card=replace(CARD, name=card))
    plan = plan_items([WorkItem(SMALL, (0,))], store, settings, probe=lambda cell: asked.append(cell) or 5.0)  # type: ignore[func-returns-value]
    assert plan.forecast.basis == ("times in the store" if counts else "1 short probe")
    assert bool(asked) is not counts


def test_a_probe_fills_the_card_within_a_quarter_of_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def run(cell: Cell, together: range, *_: object, **__: object) -> list[SimpleNamespace]:
        tried.append(len(together))
        return [SimpleNamespace(trial={"wall_seconds": 60.0})] * len(together)

    monkeypatch.setattr("flatdist.trials.run.run_replicates", run)
    for memory in (CARD.memory, 4 * 10 * device_bytes(SMALL, "cuda") + 1, 1):
        monkeypatch.setattr(Card, "here", lambda memory=memory: replace(CARD, memory=memory))
        make_probe("cuda", "cuda", 1)(SMALL)
    assert tried[::2] == [CARD.fill(SMALL), 10, 1]


def test_the_card_here_is_the_first_as_torch_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Card.here() == Card()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    cards = [SimpleNamespace(multi_processor_count=77, name="One")]
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: cards[index])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: [(5, 9)][index])
    assert Card.here() == Card(77, 5, "One")


def test_the_first_packs_are_half_of_what_is_left_for_a_card() -> None:
    assert pack_sizes(10_000, slots=4, fill=100, most=10**6)[:4] == [1250, 1094, 957, 838]


def test_a_pinned_device_has_its_own_gpus() -> None:
    assert (Settings(gpus_per_trial=0.5).pinned("cpu").gpus_per_trial, Settings().pinned("cuda").gpus_per_trial) == (
        0,
        1,
    )
    assert Settings(executor="inline").pinned().device == "cpu"


def test_a_trial_wider_than_the_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    Settings(cpus_per_trial=4).check_here()
    with pytest.raises(LaunchError) as caught:
        Settings(cpus_per_trial=5).check_here()
    words = "--cpus-per-trial 5: this machine has 4 CPUs; allowed: at most 4, or a cluster's --address"
    assert str(caught.value) == words
    monkeypatch.setattr(planning_settings, "cuda_devices", lambda: ())
    with pytest.raises(LaunchError, match=r"use --device cpu, or a cluster's --address$"):
        Settings(device="cuda").check_here()


@pytest.mark.parametrize("change", [{"d_out": 80}, {"dtype": "float64"}, {"width": 100}])
def test_what_no_chip_holds_is_sized_for_the_engine_that_takes_it(change: dict[str, object]) -> None:
    large = Cell(**{"d_out": 12, "d_in": 12, "rank": 1, "n": 60, "steps": 2000, **change})  # type: ignore[arg-type]
    assert device_bytes(large, "batched") > device_bytes(large, "cuda")
    assert Forecast([], "auto", "cuda").replicate(large).seconds == nominal_seconds(large, "batched")
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


def plan_of(cell: Cell, **settings: object):  # type: ignore[no-untyped-def]
    how = Settings(**{"slots": 1, "device": "cuda", "card": CARD, **settings})  # type: ignore[arg-type]
    return plan_items([WorkItem(cell, (0,))], Store("nowhere"), how)


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (
            {"dtype": "float64"},
            {"engine": "cuda"},
            "the cuda engine cannot run this: it computes in float32, not in float64",
        ),
        (
            {"width": 100},
            {"engine": "triton"},
            "layers of up to 64 x 64 on the chip, not 100; use --engine auto or batched",
        ),
        ({}, {"engine": "fused"}, "the fused engine runs on the CPU, not on 'cuda'; use --engine auto there"),
        (
            {"n": 10**6},
            {"card": Card(memory=10**8, name="Tiny")},
            r"a replicate of 12x12 with n=1000000 takes 553 MiB on a GPU, and Tiny has 81 MiB",
        ),
    ],
)
def test_what_cannot_run_is_refused_by_the_plan(
    change: dict[str, object], settings: dict[str, object], message: str
) -> None:
    with pytest.raises(LaunchError, match=message):
        plan_of(SMALL.replace(**change), **settings)


def test_a_plan_says_what_a_share_of_a_card_and_a_missing_engine_mean(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    assert "4 trials use a GPU in turns, unless" in repr(plan_of(SMALL, gpus_per_trial=0.25))
    (tmp_path / "control").touch()
    assert "4 trials use a GPU at the same time, through NVIDIA's MPS" in repr(plan_of(SMALL, gpus_per_trial=0.25))
    assert "note" not in repr(plan_of(SMALL))
    for module in (engines, planning_settings):
        monkeypatch.setattr(module, "why_absent", lambda name: f"no {name} here")
    text = repr(plan_of(SMALL))
    assert "the batched engine is used, since faster ones are missing: cuda (no cuda here), triton (no triton" in text


def test_a_gpu_that_torch_cannot_use_is_named_and_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(planning_settings, "local_gpus", lambda: 1)
    fixed = {"d_out": 4, "d_in": 4, "rank": 1, "n": 12, "steps": 5}
    sweep = parse_sweep(json.dumps({"name": "one", "fixed": fixed, "replicates": 1}))
    told: list[str] = []
    plan = plan_sweeps([sweep], Store(tmp_path), Settings(slots=1, probe=False), told.append)
    assert plan.settings.device == "cpu"
    assert told == [
        "there is a GPU but torch does not see it: torch is a CPU build, or the driver is too old; the CPU is used"
    ]
    with pytest.raises(LaunchError, match=r"--device cuda: there is a GPU but torch does not see it.*use --device cpu"):
        Settings(device="cuda").check_here()
