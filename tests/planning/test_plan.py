"""Plans: what is missing, in which shards, and how honest the prediction is."""

from __future__ import annotations

import dataclasses
import io
import itertools
import math
import random
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planned import FakeStore, row

from flatdist.cells.cell import Cell
from flatdist.errors import LaunchError, SweepError
from flatdist.planning import (
    Observation,
    Plan,
    Settings,
    WorkItem,
    keep_within,
    make_plan,
    parse_duration,
    plan_items,
)
from flatdist.planning.forecast import (
    DRIFT,
    PROBE_SECONDS,
    PROBE_STEPS,
    Forecast,
    duration,
    nominal_seconds,
    probe_observations,
    shortened,
)
from flatdist.planning.memory import (
    RAY_BYTES,
    available_bytes,
    memory_bytes,
    pack_bytes,
    replicates_that_fit,
    require_room,
)
from flatdist.planning.plan import SHARD_SECONDS, START_SECONDS
from flatdist.planning.settings import processors
from flatdist.planning.sharding import (
    PIECE_SECONDS,
    PIECES,
    Sized,
    in_pieces,
    make_shards,
    makespan,
    shuffle,
    split_items,
)
from flatdist.sweeps import parse_sweep

TEXT = (
    "name: a\nreplicates: 8\nfixed: {d_out: 12, d_in: 12, steps: 1000}\n"
    "axes: {rank: [1, 2], n: [40, 60, 80], method: [label_noise_sgd, min_nuclear_norm]}\n"
)


def replicates_of(items: Iterable[WorkItem]) -> list[tuple[str, int]]:
    return sorted((item.cell.cell_id, r) for item in items for r in item.replicates)


def planned(plan: Plan) -> list[tuple[str, int]]:
    return replicates_of(item for shard in plan.shards for item in shard.items)


def test_everything_is_missing_at_first_and_the_shards_hold_it_once() -> None:
    sweep = parse_sweep(TEXT)
    plan = make_plan([sweep], FakeStore(), Settings(slots=2))
    assert (plan.total, plan.done, plan.missing, plan.failed, plan.to_run) == (96, 0, 96, 0, 96)
    assert planned(plan) == sorted((cell.cell_id, r) for cell in sweep.cells for r in range(8))


def test_only_missing_replicates_run_and_failed_ones_only_when_asked() -> None:
    sweep = parse_sweep(TEXT)
    first, second, third = (cell.cell_id for cell in sweep.cells[:3])
    store = FakeStore(
        done={first: set(range(8)), second: {0, 1, 9}, third: {5}}, failed={second: {2: 1}, third: {5: 2, 6: 1}}
    )
    plan = make_plan([sweep], store, Settings(slots=2))
    assert (plan.done, plan.failed, plan.missing) == (8 + 2 + 1, 2, 96 - 13)
    items = {item.cell.cell_id: item.replicates for item in plan.items}
    assert first not in items
    assert items[second] == (3, 4, 5, 6, 7)
    assert items[third] == (0, 1, 2, 3, 4, 7)
    again = make_plan([sweep], store, Settings(slots=2, retry_failed=True))
    items = {item.cell.cell_id: item.replicates for item in again.items}
    assert items[second] == (2, 3, 4, 5, 6, 7)
    assert items[third] == (0, 1, 2, 3, 4, 6, 7)


def test_more_replicates_add_only_the_new_ones_and_overlapping_sweeps_share() -> None:
    eight, twenty = parse_sweep(TEXT), parse_sweep(TEXT.replace("replicates: 8", "replicates: 20"))
    store = FakeStore(done={cell.cell_id: set(range(8)) for cell in eight.cells})
    plan = make_plan([twenty], store, Settings(slots=2))
    assert {item.replicates for item in plan.items} == {tuple(range(8, 20))}
    union = make_plan([eight, twenty], store, Settings(slots=2))
    assert len(union.cells) == 12
    assert planned(union) == planned(plan)
    assert [(count.total, count.done) for count in union.sweeps] == [(96, 96), (240, 96)]


def test_nothing_to_run() -> None:
    sweep = parse_sweep(TEXT)
    plan = make_plan([sweep], FakeStore(done={cell.cell_id: set(range(8)) for cell in sweep.cells}))
    assert plan.shards == ()
    assert plan.time.high == 0.0
    assert plan.memory_bytes == 0


def test_limit_takes_the_first_cells() -> None:
    sweep = parse_sweep(TEXT)
    plan = make_plan([sweep], FakeStore(), Settings(slots=2, limit=3))
    assert [cell.cell_id for cell in plan.cells] == [cell.cell_id for cell in sweep.cells[:3]]
    assert (plan.total, plan.to_run) == (24, 24)


def test_the_order_is_shuffled_by_the_seed_alone() -> None:
    sweep = parse_sweep(TEXT.replace("[40, 60, 80]", "{range: [40, 140, 2]}"))

    def order(seed: int) -> list[str]:
        plan = make_plan([sweep], FakeStore(), Settings(slots=2, seed=seed))
        return [item.cell.cell_id for shard in plan.shards for item in shard.items]

    assert order(0) == order(0)
    assert order(0) != order(1)
    plan = make_plan([sweep], FakeStore(), Settings(slots=2))
    ranks = [item.cell.rank for shard in plan.shards for item in shard.items]
    half = ranks[: len(ranks) // 2]
    assert 0.3 < half.count(1) / len(half) < 0.7


def cells_of(count: int) -> list[Cell]:
    return [Cell(d_out=12, d_in=12, rank=1, n=20 + i) for i in range(count)]


def sized(seconds: Iterable[float], replicates: int = 4) -> list[Sized]:
    seconds = list(seconds)
    items = [WorkItem(cell, tuple(range(replicates))) for cell in cells_of(len(seconds))]
    return [Sized(item, value) for item, value in zip(items, seconds, strict=True)]


def test_shards_are_long_first_and_short_at_the_end() -> None:
    items = sized([1.0] * 2000)
    shards = make_shards(items, slots=2)
    lengths = [shard.predicted_seconds for shard in shards]
    assert min(lengths[: len(lengths) // 2]) >= 50
    assert max(lengths) <= 75
    assert max(lengths[-2:]) <= 4
    assert lengths == sorted(lengths, reverse=True)
    assert replicates_of(i for shard in shards for i in shard.items) == replicates_of(s.item for s in items)


@given(
    seconds=st.lists(st.floats(0.01, 500.0), min_size=1, max_size=300),
    slots=st.integers(1, 40),
    seed=st.integers(0, 10),
)
@settings(max_examples=150, deadline=None)
def test_no_shard_of_mixed_items_is_longer_than_launching_needs(seconds: list[float], slots: int, seed: int) -> None:
    """A shard holds several items only while they fit its target: 50 s, or 1/3 of what a slot still has to do."""
    parts = split_items(sized(seconds, replicates=16), slots)
    shards = make_shards(shuffle(parts, slots, seed), slots)
    assert sum(shard.predicted_seconds for shard in shards) == pytest.approx(sum(seconds))
    left = sum(seconds)
    for shard in shards:
        target = min(50.0, max(2.0, left / (3 * slots)))
        assert len(shard.items) == 1 or shard.predicted_seconds <= 1.5 * target + 1e-6
        left -= shard.predicted_seconds
    whole = [shard.predicted_seconds for shard in shards[:-1]]
    following = [shard.predicted_seconds for shard in shards[1:]]
    assert all(a + b >= 2.0 for a, b in zip(whole, following, strict=True)), "launching costs more"


@pytest.mark.parametrize("slots", [1, 2, 7, 64])
@pytest.mark.parametrize("kind", ["equal", "mixed", "few long", "one long"])
def test_no_slot_idles_long_at_the_end(slots: int, kind: str) -> None:
    generator = random.Random(3)
    seconds = {
        "equal": [30.0] * 500,
        "mixed": [generator.lognormvariate(1.0, 1.5) for _ in range(3000)],
        "few long": [2.0] * 2000 + [400.0] * 12,
        "one long": [1.0] * 1000 + [900.0],
    }[kind]
    parts = split_items(sized(seconds, replicates=16), slots)
    shards = make_shards(shuffle(parts, slots, seed=1), slots)
    ideal = sum(seconds) / slots
    longest = max(part.seconds for part in parts)
    assert makespan(shards, slots) <= max(1.08 * ideal + 5, 1.02 * (longest + 5))


def test_long_items_are_split_by_replicates_and_short_ones_are_not() -> None:
    parts = split_items(sized([800.0, 10.0], replicates=8), slots=2)
    long = [part for part in parts if part.item.cell.n == 20]
    assert [part.item.replicates for part in parts if part.item.cell.n == 21] == [tuple(range(8))]
    assert sorted(itertools.chain.from_iterable(part.item.replicates for part in long)) == list(range(8))
    assert len(long) == 8
    assert {part.seconds for part in long} == {100.0}


def test_items_are_split_to_fit_into_memory() -> None:
    cell = Cell(d_out=60, d_in=60, rank=3, n=1200, ensemble="gaussian")
    one = memory_bytes(cell, 1)
    limit = memory_bytes(cell, 5)
    assert replicates_that_fit(cell, limit) == 5
    assert replicates_that_fit(cell, one - 1) == 1
    plan = make_plan(
        [parse_sweep("replicates: 16\nfixed: {d_out: 60, d_in: 60, rank: 3, n: 1200, steps: 1000}\n")],
        FakeStore(),
        Settings(slots=2, memory_limit=limit),
    )
    held = [len(item.replicates) for shard in plan.shards for item in shard.items]
    assert sum(held) == 16
    assert max(held) <= 5
    assert plan.memory_bytes <= limit


def test_memory_counts_the_measurements_of_all_replicates() -> None:
    cell = Cell(d_out=40, d_in=40, rank=3, n=2000)
    measurements = 2000 * 40 * 40 * 4
    growth = memory_bytes(cell, 9) - memory_bytes(cell, 1)
    assert 8 * measurements <= growth <= 8 * measurements * 1.2
    signs = dataclasses.replace(cell, ensemble="rademacher")
    assert memory_bytes(signs, 9) - memory_bytes(signs, 1) < growth / 2
    batched = [memory_bytes(one, count, "batched") for one in (signs, cell) for count in (1, 9)]
    assert batched[1] - batched[0] == batched[3] - batched[2] > growth


def test_a_cell_that_cannot_fit_is_refused_with_the_figures() -> None:
    small, large = Cell(d_out=8, d_in=8, rank=1, n=20), Cell(d_out=300, d_in=200, rank=3, n=20000)
    need = memory_bytes(large, 1)
    require_room([(small, "fused"), (large, "fused")], need, "ray")
    message = (
        rf"d_out=300, d_in=200, n=20000 needs {need / 2**30:.1f} GiB and 2\.0 GiB are available here; take a smaller "
        "n, or run it on a cluster with --address$"
    )
    with pytest.raises(LaunchError, match=message):
        require_room([(small, "fused"), (large, "fused"), (small, "fused")], 2 * 2**30, "ray")


@pytest.mark.parametrize("method", ["label_noise_sgd", "min_nuclear_norm"])
def test_memory_grows_as_what_is_held(method: str) -> None:
    cells = [Cell(d_out=8, d_in=8, rank=1, n=n, method=method) for n in (100, 200, 300)]
    few, some, many = (memory_bytes(cell, 1) for cell in cells)
    gram = 0 if cells[0].spec.takes_steps else 3 * 8 * 100**2  # three matrices n x n in float64
    assert many - 2 * some + few == 2 * gram
    for cell in cells:
        assert memory_bytes(cell, 1) - memory_bytes(cell, 1, executor="inline") == RAY_BYTES
    for engine in ("fused", "batched"):
        parts = [(cells[0], 2), (cells[0], 3)]
        whole = memory_bytes(cells[0], 5 if cells[0].spec.takes_steps else 1, engine, "inline")
        assert pack_bytes(parts, engine, "inline") == whole


def test_factors_are_multiplied_in_float64_in_an_evaluation() -> None:
    few, many = (Cell(d_out=8, d_in=6, rank=1, n=n, ensemble="rank_one") for n in (100, 200))
    assert memory_bytes(many, 0) - memory_bytes(few, 0) == 4 * 8 * 100 * (8 + 6)


def test_the_machine_is_asked_for_its_memory_and_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {3, 5, 7}, raising=False)
    assert processors() == 3
    monkeypatch.setattr("builtins.open", lambda *_, **__: io.StringIO("MemTotal: 9 kB\nMemAvailable: 7 kB\n"))
    assert available_bytes() == 7 * 1024
    monkeypatch.setattr("builtins.open", lambda *_, **__: io.StringIO("MemTotal: 9 kB\n"))  # as older kernels say it
    assert (available_bytes() or 0) > 2**20


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0.0499, "0 s"), (0.05, "0.05 s"), (9.94, "9.9 s"), (9.96, "10 s"), (89.9, "90 s"), (90, "1.5 min")),
        *((5399, "90 min"), (5400, "1.5 h"), (172799, "48 h"), (172800, "2 days"), (123.5 * 86400, "124 days")),
    ],
)
def test_durations_in_words(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_nominal_costs_grow_as_the_arithmetic() -> None:
    def cost(**fields: Any) -> float:
        return nominal_seconds(Cell(**{"d_out": 60, "d_in": 60, "rank": 1, "n": 2000} | fields))

    gram = cost(d_out=120, method="min_frobenius_norm") / cost(method="min_frobenius_norm")
    assert 1.6 < gram < 2.0, "2 n^2 d_out d_in flops, and n^3 / 3"
    for method in ("flow_limit", "theorem_probe", "flattest_local"):
        assert cost(method=method, n=4000) > cost(method=method) > cost(method=method, d_out=30) > 0
    assert cost(method="flow_limit", flow_duration=8.0) > 7 * cost(method="flow_limit")
    assert cost(method="sam", batch_size="full") > 1.8 * cost(method="gradient_descent", batch_size="full")


def true_seconds(cell: Cell) -> float:
    """A machine three times slower than the nominal one, and slower still for large matrices."""
    return 3 * nominal_seconds(cell) * (1 + cell.d_in / 40)


def test_predictions_recover_the_times_behind_the_observations() -> None:
    generator = random.Random(0)
    grid = itertools.product((8, 12, 20, 30), (50, 200), (2, 3, 4))
    shapes = [Cell(d_out=d, d_in=d, rank=1, n=n, depth=depth) for d, n, depth in grid]
    observed = [
        Observation(cell, true_seconds(cell) * generator.lognormvariate(0, 0.1), "fused", "cpu")
        for cell in shapes
        for _ in range(5)
    ]
    model = Forecast(observed, "fused", "cpu")
    for new in [Cell(d_out=12, d_in=12, rank=2, n=100), Cell(d_out=16, d_in=16, rank=1, n=120, depth=3, steps=5000)]:
        prediction = model.replicate(new)
        assert prediction.seconds == pytest.approx(true_seconds(new), rel=0.2)
        assert 0.01 < prediction.scatter < 0.4


@pytest.mark.parametrize(("scatter", "kinds"), [(0.15, 8), (0.25, 8), (0.15, 16)])
def test_the_interval_covers_nine_times_in_ten(scatter: float, kinds: int) -> None:
    """Kinds of cells scatter about their family's factor, and the machine is faster or slower today than it was."""
    generator = random.Random(kinds)
    grid = itertools.product((10, 12, 14), (60, 80, 100), (3, 4), (40, 50))
    pool = [Cell(d_out=d, d_in=d, rank=1, n=n, depth=depth, batch_size=batch) for d, n, depth, batch in grid]
    covered = 0
    for _ in range(400):
        cells, factor, today = generator.sample(pool, kinds + 6), generator.gauss(0, 1), generator.gauss(0, DRIFT)
        seconds = [nominal_seconds(cell) * math.exp(factor + generator.gauss(0, scatter)) for cell in cells]
        observed = [Observation(cells[i], seconds[i], "fused", "cpu") for i in range(kinds)]
        items = [WorkItem(cell, (0, 1, 2, 3)) for cell in cells[kinds:]]
        interval = Forecast(observed, "fused", "cpu").interval(items)
        covered += interval.low <= math.exp(today) * sum(4 * one for one in seconds[kinds:]) <= interval.high
    assert 0.85 <= covered / 400 <= 0.96


def test_the_interval_widens_away_from_what_was_measured() -> None:
    cells = [Cell(d_out=12, d_in=12, rank=1, n=20 + 10 * i) for i in range(6)]
    model = Forecast([Observation(cell, true_seconds(cell), "fused", "cpu") for cell in cells], "fused", "cpu")
    near, far = Cell(d_out=12, d_in=12, rank=1, n=60), Cell(d_out=60, d_in=60, rank=1, n=1500)
    assert model.replicate(far).doubt > 2 * model.replicate(near).doubt
    assert math.isinf(Forecast([], "fused", "cpu").replicate(near).distance)
    half, whole = (model.interval([WorkItem(cell, (0,))]) for cell in (near, far))
    assert whole.high / whole.mid > half.high / half.mid


def test_other_engines_and_devices_say_nothing() -> None:
    cell = Cell(d_out=12, d_in=12, rank=1, n=60)
    others = [Observation(cell, 99.0, "reference", "cpu"), Observation(cell, 1.0, "fused", "cuda")]
    model = Forecast(others, "fused", "cpu")
    assert math.isinf(model.replicate(cell).distance)
    assert model.replicate(cell).seconds == nominal_seconds(cell)
    model = Forecast([Observation(cell, 1.0, "fused", "cpu")], "fused", "cpu")
    assert math.isinf(model.replicate(cell.replace(dtype="float64")).distance)
    assert model.replicate(cell.replace(method="minibatch_sgd")).distance == 0.0, "all gradient methods are one family"


def test_solvers_are_predicted_from_their_own_times_on_any_engine() -> None:
    cell = Cell(d_out=12, d_in=12, rank=1, n=60, method="min_nuclear_norm")
    model = Forecast([Observation(cell, 2.5, "solver", "cpu")], "batched", "cuda")
    assert model.replicate(cell).seconds == pytest.approx(2.5)
    other = dataclasses.replace(cell, method="min_frobenius_norm")
    assert math.isinf(model.replicate(other).distance)


def test_times_in_the_store_replace_probes() -> None:
    sweep = parse_sweep(TEXT)
    asked: list[Cell] = []

    def probe(cell: Cell) -> float:
        asked.append(cell)
        return true_seconds(cell)

    empty = make_plan([sweep], FakeStore(), Settings(slots=1, executor="inline"), probe=probe)
    assert {cell.method for cell in asked} == {"label_noise_sgd", "min_nuclear_norm"}
    assert len(asked) == 2, "one probe for each kind of cell"
    assert asked[0] in sweep.cells, "short cells are measured whole"
    truth = sum(8 * true_seconds(cell) for cell in sweep.cells)
    assert empty.work.low < truth < empty.work.high
    assert empty.forecast.basis == "2 short probes"
    single = plan_items([WorkItem(sweep.cells[0], (0,))], FakeStore(), Settings(slots=1), probe=probe)
    assert single.forecast.basis == "1 short probe"
    assert (single.total, single.done, single.failed, single.to_run) == (1, 0, 0, 1)
    asked.clear()
    rows = [row(cell, true_seconds(cell), "fused" if "sgd" in cell.method else "solver") for cell in sweep.cells]
    stored = make_plan([sweep], FakeStore(rows=rows), Settings(slots=1, executor="inline"), probe=probe)
    assert asked == []
    assert stored.work.mid == pytest.approx(truth, rel=0.1)
    assert stored.forecast.basis == "times in the store"


def test_probes_stop_once_they_have_taken_their_time() -> None:
    """A budget that is just used up is not exceeded: one more probe runs, and none after it."""
    asked: list[Cell] = []

    def probe(cell: Cell) -> float:
        asked.append(cell)
        return PROBE_SECONDS / 2

    shapes = [(8, "min_nuclear_norm"), (60, "min_nuclear_norm"), (8, "min_frobenius_norm"), (60, "min_frobenius_norm")]
    cells = [Cell(d_out=d, d_in=d, rank=1, n=4 * d, method=method) for d, method in shapes]
    found = probe_observations(cells, Forecast([], "fused", "cpu"), probe)
    assert [one.cell for one in found] == asked
    assert len(asked) == 3


def test_long_cells_are_probed_in_a_fraction_of_their_steps() -> None:
    cell = Cell(d_out=60, d_in=60, rank=3, n=1200, steps=1_000_000)
    short = shortened(cell)
    assert PROBE_STEPS <= short.steps < cell.steps / 50
    assert dataclasses.replace(short, steps=cell.steps, evaluations=cell.evaluations) == cell
    assert shortened(cell, "reference").steps == PROBE_STEPS
    assert short.evaluations == 4
    quick, solved = cell.replace(d_out=6, d_in=6, n=20, steps=10, rank=1), cell.replace(method="min_hessian_trace")
    assert shortened(quick) is quick
    assert shortened(solved) is solved


def test_a_probe_that_fails_leaves_the_nominal_seconds() -> None:
    def broken(cell: Cell) -> float:
        raise RuntimeError("no such engine")

    plan = make_plan([parse_sweep(TEXT)], FakeStore(), Settings(slots=2), probe=broken)
    assert "nominal costs for 12 of 12 cells" in plan.forecast.basis


def test_rows_that_diverged_or_came_without_a_time_are_no_observations() -> None:
    cell = Cell(d_out=12, d_in=12, rank=1, n=60)
    rows = [row(cell, 99.0) | {"status": "diverged"}, row(cell, 1.0) | {"wall_seconds": None}]
    plan = make_plan([parse_sweep(TEXT)], FakeStore(rows=rows), Settings(slots=2))
    assert "store" not in plan.forecast.basis


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("30min", 1800), ("1.5h", 5400), ("1h30m", 5400), ("2d", 172800)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "m", "30x", "-5m", "1h 30", "0s", "0m"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(SweepError, match="allowed: 90s, 30m"):
        parse_duration(text)


def budget_plan() -> Plan:
    text = "replicates: 8\nfixed: {d_out: 12, d_in: 12, rank: 1, steps: 400000}\naxes: {n: {range: [40, 139, 1]}}\n"
    return make_plan([parse_sweep(text)], FakeStore(), Settings(slots=2))


def test_a_plan_over_the_budget_is_refused_with_the_prediction() -> None:
    plan = budget_plan()
    assert keep_within(plan, 2 * plan.time.mid, fit=False) is plan
    with pytest.raises(SweepError, match=r"the budget is 60 s and this would take .* add --fit"):
        keep_within(plan, 60, fit=False)


def test_fit_takes_whole_cells_first_and_stays_within_the_budget() -> None:
    plan = budget_plan()
    budget = plan.time.mid / 3
    part = keep_within(plan, budget, fit=True)
    assert 0.7 * budget < part.time.mid <= 1.05 * budget
    counts = [len(item.replicates) for item in part.items]
    assert counts.count(8) >= len(counts) - 2
    assert set(planned(part)) < set(planned(plan))
    assert part.missing == plan.missing
    with pytest.raises(SweepError, match="a single replicate already exceeds the"):
        keep_within(plan, 1, fit=True)


@pytest.mark.parametrize("method", ["min_hessian_trace", "label_noise_sgd"])
def test_compilation_is_no_part_of_a_probe(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from flatdist.planning import make_probe

    times = iter([30.0, 0.4, 0.3, 0.35])

    def run(cell: Cell, together: Any, how: Any, provenance: Any) -> list[Any]:
        assert (list(together), how.engine, how.device, how.threads) == ([0], "fused", "cpu", 1)
        return [SimpleNamespace(trial={"wall_seconds": next(times)})]

    monkeypatch.setattr("flatdist.trials.run.run_replicates", run)
    probe = make_probe("fused", "cpu", 1)
    cell = Cell(d_out=12, d_in=12, rank=1, n=23, method=method)
    assert probe(cell) == 0.4, "the first run compiles"
    assert probe(cell) == 0.3, "short runs are measured twice"


def test_one_measurement_makes_a_wider_interval_than_many() -> None:
    cell = Cell(d_out=12, d_in=12, rank=1, n=23)
    one = Forecast([Observation(cell, 1.0, "fused", "cpu")], "fused", "cpu").replicate(cell)
    many = Forecast([Observation(cell, 1.0, "fused", "cpu")] * 50, "fused", "cpu").replicate(cell)
    assert one.seconds == pytest.approx(many.seconds) == pytest.approx(1.0)
    assert one.doubt > 2 * many.doubt


@pytest.mark.parametrize("executor", ["ray", "inline"])
def test_the_time_counts_starting_the_launcher_and_every_shard(executor: str) -> None:
    plan = make_plan([parse_sweep(TEXT)], FakeStore(), Settings(slots=2, executor=executor))
    start, each = START_SECONDS[executor], SHARD_SECONDS[executor] * len(plan.shards) / plan.slots
    running = makespan(plan.shards, plan.slots)
    assert plan.time.mid == pytest.approx(start + each + running)
    assert plan.time.low == pytest.approx(0.6 * start + each + running * plan.work.low / plan.work.mid)
    assert plan.time.high == pytest.approx(1.5 * start + each + running * plan.work.high / plan.work.mid)


def test_an_item_that_pauses_at_a_rung_is_predicted_for_the_steps_that_it_takes() -> None:
    cell = Cell(d_out=6, d_in=6, rank=1, n=20, steps=1000)
    model = Forecast([Observation(cell, 8.0, "fused", "cpu")], "fused", "cpu")
    whole = model.item_seconds(WorkItem(cell, (0, 1)))
    assert whole == pytest.approx(16.0, rel=0.2)
    assert model.item_seconds(WorkItem(cell, (0, 1), until=250)) == pytest.approx(whole / 4)
    assert model.item_seconds(WorkItem(cell, (0, 1), until=2000)) == whole


def test_what_a_plan_says() -> None:
    sweep = parse_sweep(TEXT)
    plan = make_plan([sweep], FakeStore(failed={sweep.cells[0].cell_id: {2: 1}}), Settings(slots=1, executor="inline"))
    assert repr(plan).splitlines() == [
        "a",
        "  12 cells with 8 replicates each: 0 done, 95 missing, 1 failed",
        "to run: 95 replicates of 12 cells in 1 shard",
        f"time:   {plan.time} on one slot with the fused engine, from nominal costs for 12 of 12 cells",
        f"memory: {plan.memory_bytes / 2**20:.0f} MiB per trial at most",
    ]
    nothing = make_plan([sweep], FakeStore(failed={cell.cell_id: dict.fromkeys(range(8), 1) for cell in sweep.cells}))
    assert repr(nothing).splitlines()[-1] == "nothing to run; --retry-failed reruns the failed ones"


def test_settings_that_cannot_be_used_are_all_named() -> None:
    with pytest.raises(LaunchError) as caught:
        Settings(executor="rya", slots=0, cpus_per_trial=0.0, gpus_per_trial=1.5, runner="x")
    assert str(caught.value).splitlines() == [
        "executor 'rya' does not exist (did you mean 'ray'?); allowed: ray, inline",
        "slots: 0 cannot be used; allowed: 1 or more",
        "cpus_per_trial: 0.0 cannot be used; allowed: a number greater than 0",
        "gpus_per_trial: 1.5 cannot be used; allowed: 0, a fraction below 1, or a whole number",
        "runner: 'x' cannot be used; allowed: module:function",
    ]


@pytest.mark.parametrize("sharers", [1, 2, 5])
def test_pieces_of_shared_shards_hold_everything_and_are_short(sharers: int) -> None:
    shards = make_shards(sized([1.0, 30.0, 2.0, 0.5, 60.0, 8.0], replicates=16), slots=2)
    pieces = in_pieces(shards, "fused", threads=2, sharers=sharers)
    assert replicates_of(i for piece in pieces for i in piece.items) == replicates_of(
        i for s in shards for i in s.items
    )
    total = sum(shard.predicted_seconds for shard in shards)
    assert sum(piece.predicted_seconds for piece in pieces) == pytest.approx(total)
    longest = min(PIECE_SECONDS, total / (PIECES * sharers))
    for piece in pieces:
        whole = sharers == 1 or max(len(item.replicates) for item in piece.items) <= 2
        assert piece.predicted_seconds <= 1.5 * longest or (len(piece.items) == 1 and whole)
