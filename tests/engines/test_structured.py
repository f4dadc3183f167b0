"""Measurements kept as factors or as single entries: every engine against the reference on them written out."""

import dataclasses
import itertools

import numpy as np
import pytest

from flatdist.cells.cell import Cell
from flatdist.engines._fused_layout import FACTOR_ROWS
from flatdist.engines.batched import BatchedEngine
from flatdist.engines.fused import FusedEngine
from flatdist.engines.reference import ReferenceEngine

STEPS = 41
ENSEMBLES = ["rank_one", "entries"]
ENGINES = {"fused": FusedEngine, "batched": BatchedEngine, "reference": ReferenceEngine}
METHODS = {
    "label noise": {},
    "batch above n": {"batch_size": FACTOR_ROWS + 9},
    "full batch": {"batch_size": None, "label_noise": False},
    "sam": {"batch_size": 1, "label_noise": False, "sam_radius": 0.05},
}


def trained(engine, task, cuts=(0, 19, STEPS), rate=0.02):
    """Layers and the largest losses of each stretch after STEPS annealed steps."""
    session = engine.start(task)
    anneal = np.linspace(1, 0, STEPS)
    rates, noise = np.full(task.replicates, rate), np.full(task.replicates, 0.5)
    losses = [
        session.advance(start, stop, rates, noise, anneal[start:stop]) for start, stop in itertools.pairwise(cuts)
    ]
    return session.layers(), np.stack(losses)


def written_out(task):
    return dataclasses.replace(task, measurements=[one.dense() for one in task.measurements])


def assert_same_bits(first, second):
    for a, b in zip(first[0], second[0], strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(first[1], second[1])


@pytest.mark.parametrize("options", METHODS.values(), ids=METHODS.keys())
@pytest.mark.parametrize("widths", [[3], [9, 4, 17, 8]], ids=["depth 2", "depth 5"])
@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_the_reference_is_matched_draw_for_draw(make_task, ensemble, widths, options):
    cell = Cell(d_out=5, d_in=3, rank=1, n=15, depth=len(widths) + 1, width=widths, dtype="float64", ensemble=ensemble)
    task = make_task(cell, [0, 1, 5], **options)
    expected = trained(ReferenceEngine(), written_out(task))
    for start, a in zip(task.layers[0], expected[0], strict=True):
        assert np.abs(a[0] - start).max() > 1e-3, "the reference moved"
    for name, engine in ENGINES.items():
        ours = trained(engine(), task)
        for a, b in zip(expected[0], ours[0], strict=True):
            np.testing.assert_allclose(b, a, rtol=0, atol=1e-12, err_msg=name)
        np.testing.assert_allclose(ours[1], expected[1], rtol=1e-11, err_msg=name)


@pytest.mark.parametrize("shape", [(12, 12), (30, 20), (33, 50)], ids=str)
@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_the_reference_is_matched_at_working_sizes(make_task, ensemble, shape):
    cell = Cell(d_out=shape[0], d_in=shape[1], rank=1, n=2 * sum(shape), ensemble=ensemble)
    task = make_task(cell, [0], batch_size=70)
    expected = trained(ReferenceEngine(), task, rate=0.005)
    for engine in (FusedEngine(), BatchedEngine()):
        ours = trained(engine, task, rate=0.005)
        for a, b in zip(expected[0], ours[0], strict=True):
            np.testing.assert_allclose(b, a, rtol=0, atol=2e-6)
        np.testing.assert_allclose(ours[1], expected[1], rtol=1e-4)


@pytest.mark.parametrize("engine", [FusedEngine, BatchedEngine])
@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_bits_do_not_depend_on_company_threads_or_cuts(make_task, ensemble, engine):
    cell = Cell(d_out=12, d_in=12, rank=1, n=60, ensemble=ensemble)
    alone = trained(engine(), make_task(cell, [3], batch_size=20))
    together = trained(engine(), make_task(cell, [10, 3, 11, 12, 13], batch_size=20, threads=2))
    assert_same_bits(alone, ([w[1:2] for w in together[0]], together[1][:, 1:2]))
    whole = trained(engine(), make_task(cell, [3], batch_size=20), cuts=(0, STEPS))
    cut = trained(engine(), make_task(cell, [3], batch_size=20), cuts=(0, 1, 18, 30, STEPS))
    assert_same_bits((whole[0], whole[1][0]), (cut[0], cut[1].max(axis=0)))


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_a_diverging_replicate_harms_no_other(make_task, ensemble):
    cell = Cell(d_out=6, d_in=5, rank=1, n=20, ensemble=ensemble)
    task = make_task(cell, [0, 1])
    session = FusedEngine().start(task)
    rates, noise = np.array([30.0, 0.01]), np.full(2, 0.5)
    largest = session.advance(0, 200, rates, noise, np.ones(200))
    assert not np.isfinite(largest[0])
    assert np.isfinite(largest[1])
    alone = FusedEngine().start(make_task(cell, [1]))
    alone.advance(0, 200, rates[1:], noise[1:], np.ones(200))
    for a, b in zip(session.layers(), alone.layers(), strict=True):
        np.testing.assert_array_equal(a[1], b[0])


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_the_measurements_are_neither_copied_nor_written_out(make_task, ensemble):
    task = make_task(Cell(d_out=20, d_in=30, rank=1, n=100, ensemble=ensemble), range(3), batch_size=50)
    session = FusedEngine().start(task)
    for given, kept in zip(task.measurements, session._measurements, strict=True):
        parts = (given.left, given.right) if ensemble == "rank_one" else (given.rows, given.columns)
        assert all(np.shares_memory(a, b) for a, b in zip(parts, kept, strict=True))
