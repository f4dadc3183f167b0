"""Packs: who trains together, how many at a time, and what becomes of them on the way to the store."""

import numpy as np
import pytest

from flatdist.cells.cell import Cell
from flatdist.launch.ray.tune import split
from flatdist.launch.worker import run_shard
from flatdist.planning import Settings, WorkItem, make_plan
from flatdist.planning.packs import Card, company, device_bytes, make_packs, pack_sizes
from flatdist.store import Store
from flatdist.sweeps import parse_sweep
from flatdist.trials.run import run_pack, run_replicates
from flatdist.trials.settings import RunSettings
from flatdist.trials.train import pack_key

BASE = {"d_out": 5, "d_in": 4, "steps": 700, "evaluations": 5}
CELLS = [
    Cell(**BASE, rank=1, n=12),
    Cell(**BASE, rank=2, n=20, label_noise_std=0.5),
    Cell(**BASE, rank=1, n=9, observation_noise_std=0.1, init_scale=0.3),
]
SWEEP = """
name: packed
replicates: 3
fixed: {d_out: 5, d_in: 4, steps: 600, evaluations: 4}
axes: {rank: [1, 2], n: [9, 14, 20], method: [label_noise_sgd, gradient_descent, heavy_ball, min_nuclear_norm]}
"""


def measured(outcomes):
    """Rows without what differs from run to run."""
    free = ("wall_seconds", "finished_at")
    rows = {}
    for outcome in outcomes:
        trial = {name: value for name, value in outcome.trial.items() if name not in free}
        rows[trial["cell_id"], trial["replicate"]] = trial, outcome.history
    return rows


@pytest.mark.parametrize("engine", ["fused", "reference"])
def test_a_pack_of_different_cells_has_the_rows_of_each_alone(engine):
    settings = RunSettings(engine=engine)
    cells = CELLS if engine == "fused" else [Cell(**(BASE | {"steps": 40}), rank=1, n=n) for n in (9, 14)]
    together = measured(run_pack([(cell, [0, 3]) for cell in cells], settings))
    alone = {}
    for cell in cells:
        alone |= measured(run_replicates(cell, [0, 3], settings))
    assert together == alone


def test_threads_change_no_bit_of_a_pack():
    items = [(cell, [0, 3]) for cell in CELLS]
    one, three = (measured(run_pack(items, RunSettings(threads=threads))) for threads in (1, 3))
    assert one == three


def test_a_batched_pack_agrees_within_the_tolerance_between_engines():
    together = measured(run_pack([(cell, [0, 3]) for cell in CELLS], RunSettings(engine="batched")))
    alone = {}
    for cell in CELLS:
        alone |= measured(run_replicates(cell, [0, 3], RunSettings(engine="fused")))
    assert together.keys() == alone.keys()
    for key, (trial, _) in together.items():
        assert trial["status"] == alone[key][0]["status"]
        assert trial["population_loss"] == pytest.approx(alone[key][0]["population_loss"], rel=1e-3, abs=1e-7)


def test_a_diverged_replicate_leaves_its_pack_alone():
    wild = Cell(**BASE, rank=1, n=12, learning_rate=30.0)
    tame = Cell(**BASE, rank=1, n=20, learning_rate=0.02)
    rows = measured(run_pack([(wild, [0]), (tame, [0])], RunSettings()))
    assert rows[wild.cell_id, 0][0]["status"] == "diverged"
    assert rows[tame.cell_id, 0] == measured(run_replicates(tame, [0], RunSettings()))[tame.cell_id, 0]


@pytest.mark.parametrize(
    ("change", "together"),
    [
        ({"n": 20, "rank": 2, "label_noise_std": 0.1, "init_scale": 0.2, "ground_truth": "flat_spectrum"}, True),
        ({"steps": 800}, False),
        ({"evaluations": 6}, False),
        ({"depth": 4}, False),
        ({"d_in": 5}, False),
        ({"dtype": "float64"}, False),
        ({"batch_size": 10}, False),
        ({"learning_rate": 0.1}, False),
        ({"method": "minibatch_sgd"}, False),
    ],
)
def test_what_may_differ_within_a_pack(change, together):
    given = BASE | {"rank": 1, "n": 12}
    assert (pack_key(Cell(**given), "fused") == pack_key(Cell(**(given | change)), "fused")) is together


def test_methods_that_take_no_steps_are_run_by_themselves():
    assert pack_key(Cell(d_out=4, d_in=4, rank=1, n=9, method="min_nuclear_norm"), "fused") is None


@pytest.mark.parametrize("total", [1, 7, 100, 2112, 5000, 100_000])
@pytest.mark.parametrize("slots", [1, 8, 64])
@pytest.mark.parametrize("most", [300, 10**6])
def test_packs_fit_memory_fill_cards_and_leave_none_idle(total, slots, most):
    fill = 264
    sizes = pack_sizes(total, slots, fill, most)
    assert sum(sizes) == total
    assert sizes == sorted(sizes, reverse=True)
    assert 0 < min(sizes) <= max(sizes) <= most
    if total >= slots * fill:
        assert len(sizes) >= slots, "a card idles"
    free = np.zeros(slots)  # when each card is done, with the time of a pack max(fill, size)
    for size in sizes:
        free[free.argmin()] += max(fill, size)
    ideal = max(total / slots, fill)
    assert free.max() <= 1.3 * ideal + fill


def test_a_pack_is_cut_by_the_memory_of_its_card():
    cell = Cell(d_out=60, d_in=60, rank=1, n=1200)
    items = [WorkItem(cell, tuple(range(3000)))]
    card = Card(processors=132, memory=10 * 10**9)
    packs, alone = make_packs(items, lambda cell: "cuda", 1, lambda part: 1.0, card)
    assert not alone
    assert sum(pack.replicates for pack in packs) == 3000
    assert max(pack.replicates for pack in packs) * device_bytes(cell, "cuda") <= 0.85 * card.memory
    assert company(packs[0], card) == 1.0


def rows_of(store):
    frame = store.trials().sort_values(["cell_id", "replicate"]).reset_index(drop=True)
    return frame.drop(columns=["wall_seconds", "finished_at"])


@pytest.mark.parametrize("pack", [1000, 5])
def test_a_sweep_in_packs_stores_the_rows_of_one_without(tmp_path, pack):
    sweep = parse_sweep(SWEEP)
    stores = []
    for name, settings in (("plain", Settings(slots=1)), ("packs", Settings(slots=1, pack=pack))):
        store = Store(tmp_path / name)
        plan = make_plan([sweep], store, settings)
        assert any(shard.together for shard in plan.shards) == (name == "packs")
        assert plan.to_run == sweep.replicates * len(sweep.cells)
        for shard in plan.shards:
            counts = run_shard(shard, store.uri, Settings())
            assert (counts.stored, counts.failed) == (shard.replicates, 0)
        stores.append(rows_of(store))
    assert stores[0].equals(stores[1])


def test_memory_that_runs_out_halves_a_pack_and_a_broken_cell_does_not_sink_it(tmp_path, monkeypatch):
    import flatdist.trials.run as run

    sizes, whole = [], run.run_pack

    def limited(items, *arguments, **options):
        sizes.append(sum(len(replicates) for _, replicates in items))
        if sizes[-1] > 3:
            raise MemoryError
        if any(cell.n == 9 for cell, _ in items):
            raise ArithmeticError("a broken cell")
        return whole(items, *arguments, **options)

    monkeypatch.setattr(run, "run_pack", limited)
    monkeypatch.setattr(run, "run_replicates", lambda cell, replicates, *a, **k: limited([(cell, replicates)], *a, **k))
    from flatdist.planning import Shard

    shard = Shard(tuple(WorkItem(cell, (0, 1)) for cell in CELLS), 1.0, together=True)
    store = Store(tmp_path)
    counts = run_shard(shard, store.uri, Settings())
    assert sizes[:2] == [6, 3]
    assert (counts.stored, counts.failed) == (4, 2)
    assert store.failed() == {CELLS[2].cell_id: {0: 1, 1: 1}}


def test_a_pack_whose_process_died_is_tried_in_two():
    from flatdist.planning import Shard

    shard = Shard(tuple(WorkItem(cell, (0, 1)) for cell in CELLS), 1.0, together=True)
    parts = split(shard)
    assert [part.together for part in parts] == [True, True]
    assert [item for part in parts for item in part.items] == list(shard.items)
