"""The fused engine against the reference, draw for draw, and its independence of packing, threads and cuts."""

import dataclasses
import itertools

import numpy as np
import pytest

from flatdist.cells.cell import Cell
from flatdist.engines import fused
from flatdist.engines._fused_cache import sole_compiler
from flatdist.engines.fused import WORTH_COMPILING, FusedEngine, warm
from flatdist.engines.reference import ReferenceEngine
from flatdist.errors import LaunchError
from flatdist.types import aligned_zeros

STEPS = 61


def trained(engine, task, cuts=(0, 19, STEPS), rate=0.03):
    """Layers and the largest losses of each stretch after STEPS annealed steps."""
    session = engine.start(task)
    anneal = np.linspace(1, 0, STEPS)
    rates, noise = np.full(task.replicates, rate), np.full(task.replicates, 0.5)
    losses = [
        session.advance(start, stop, rates, noise, anneal[start:stop]) for start, stop in itertools.pairwise(cuts)
    ]
    return session.layers(), np.stack(losses)


def assert_same_bits(first, second):
    for a, b in zip(first[0], second[0], strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(first[1], second[1])


METHODS = {
    "label noise": {},
    "batch above n": {"batch_size": 50},
    "full batch": {"batch_size": None, "label_noise": False},
    "full batch with label noise": {"batch_size": None},
    "mini-batch": {"label_noise": False},
    "sam": {"batch_size": 1, "label_noise": False, "sam_radius": 0.05},
}


@pytest.mark.parametrize("options", METHODS.values(), ids=METHODS.keys())
@pytest.mark.parametrize("widths", [[3], [4, 5], [9, 4, 17, 8]], ids=["depth 2", "depth 3", "depth 5"])
def test_the_reference_is_matched_draw_for_draw(make_task, widths, options):
    cell = Cell(d_out=5, d_in=3, rank=1, n=15, depth=len(widths) + 1, width=widths, dtype="float64")
    task = make_task(cell, [0, 1, 5], **options)
    expected, ours = trained(ReferenceEngine(), task), trained(FusedEngine(), task)
    for start, a, b in zip(task.layers[0], expected[0], ours[0], strict=True):
        assert np.abs(a[0] - start).max() > 1e-3, "the reference moved"
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-13)
    np.testing.assert_allclose(ours[1], expected[1], rtol=1e-11)


@pytest.mark.parametrize("shape", [(12, 12), (30, 20), (33, 50), (60, 60)], ids=str)
def test_the_reference_is_matched_at_working_sizes(make_task, shape):
    cell = Cell(d_out=shape[0], d_in=shape[1], rank=1, n=2 * sum(shape))
    task = make_task(cell, [0], batch_size=50)
    expected, ours = trained(ReferenceEngine(), task), trained(FusedEngine(), task)
    for a, b in zip(expected[0], ours[0], strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=2e-6)
    np.testing.assert_allclose(ours[1], expected[1], rtol=1e-4)


@pytest.mark.parametrize("d", [7, 12, 30])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_signs_in_int8_give_the_bits_of_signs_in_floats(make_task, d, dtype):
    cell = Cell(d_out=d, d_in=d, rank=1, n=3 * d, ensemble="rademacher", dtype=dtype)
    narrow, wide = (make_task(cell, [0, 1], batch_size=13, storage=storage) for storage in ("int8", dtype))
    assert narrow.measurements[0].dtype == np.int8
    assert_same_bits(trained(FusedEngine(), narrow), trained(FusedEngine(), wide))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_float16_rows_give_the_bits_of_the_same_numbers_in_floats(make_task, dtype):
    cell = Cell(d_out=7, d_in=9, rank=1, n=30, storage="float16", dtype=dtype)
    narrow, wide = (make_task(cell, [0, 1], batch_size=13, storage=storage) for storage in ("float16", dtype))
    assert narrow.measurements[0].dtype == np.float16
    np.testing.assert_array_equal(narrow.measurements[0].astype(dtype), wide.measurements[0])
    assert_same_bits(trained(FusedEngine(), narrow), trained(FusedEngine(), wide))


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({"d_out": 12, "d_in": 12}, {"batch_size": 50, "threads": 2}),
        ({"d_out": 5, "d_in": 3, "depth": 5, "width": [9, 4, 17, 8]}, {"batch_size": 13, "sam_radius": 0.05}),
    ],
    ids=["depth 3", "depth 5, sam"],
)
def test_code_for_one_shape_has_the_bits_of_code_for_all(make_task, fields, options):
    task = make_task(Cell(rank=1, n=40, **fields), [0, 1, 2], **options)
    chosen = dataclasses.replace(task, planned_steps=WORTH_COMPILING)
    assert_same_bits(trained(FusedEngine(), task), trained(FusedEngine(), chosen))


def test_code_for_one_shape_that_has_other_bits_is_left_out(make_task, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(fused, "_trusted", {})
    monkeypatch.setattr(fused.log, "warning", lambda text, *values: said.append(text % values))
    task = make_task(Cell(d_out=6, d_in=5, rank=1, n=20), [0, 1])
    expected = trained(FusedEngine(), task)

    class Wrong:
        def __init__(self, code):
            self.code = code

        def __call__(self, *arguments):
            largest = self.code(*arguments)
            arguments[2][0] += 1e-7  # a weight
            return largest

    compiled = fused.compiled_steps
    monkeypatch.setattr(
        fused, "compiled_steps", lambda *a: Wrong(compiled(*a[:3], None)) if a[3] is not None else compiled(*a)
    )
    ours = trained(FusedEngine(), dataclasses.replace(task, planned_steps=WORTH_COMPILING))
    assert_same_bits(expected, ours)
    assert said == ["code for the shape (5, 6, 6, 6) is not used: its bits differ from the general code's"]


def test_a_process_does_not_wait_for_code_that_another_compiles(make_task, tmp_path, monkeypatch):
    monkeypatch.setenv("FLATDIST_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(fused, "_trusted", {})
    monkeypatch.setattr(fused, "sole_compiler", lambda name: sole_compiler("the same"))
    task = make_task(Cell(d_out=6, d_in=5, rank=1, n=20), [0], planned_steps=WORTH_COMPILING)
    with sole_compiler("the same") as alone:
        assert alone
        general = FusedEngine().start(task)._run_steps
    assert general is FusedEngine().start(dataclasses.replace(task, planned_steps=0))._run_steps


@pytest.mark.parametrize("d", [12, 30])
def test_bits_do_not_depend_on_company_threads_or_alignment(make_task, d):
    cell = Cell(d_out=d, d_in=d, rank=1, n=5 * d)
    alone = trained(FusedEngine(), make_task(cell, [3], batch_size=50))
    for count, position in ((2, 1), (7, 4), (16, 15)):
        replicates = [r + 10 for r in range(count)]
        replicates[position] = 3
        task = make_task(cell, replicates, batch_size=50, threads=1 + count % 3)
        block = aligned_zeros(task.measurements[position].size + 1, cell.dtype)
        shifted = block[1:].reshape(task.measurements[position].shape)
        shifted[...] = task.measurements[position]
        measurements = [*task.measurements[:position], shifted, *task.measurements[position + 1 :]]
        layers, losses = trained(FusedEngine(), dataclasses.replace(task, measurements=measurements))
        assert_same_bits(alone, ([w[position : position + 1] for w in layers], losses[:, position : position + 1]))


@pytest.mark.parametrize("options", METHODS.values(), ids=METHODS.keys())
def test_where_a_run_is_cut_does_not_change_it(make_task, options):
    cell = Cell(d_out=6, d_in=5, rank=1, n=20)
    whole = trained(FusedEngine(), make_task(cell, [0, 1], **options), cuts=(0, STEPS))
    cut = trained(FusedEngine(), make_task(cell, [0, 1], **options), cuts=(0, 1, 18, 19, 52, STEPS))
    assert_same_bits((whole[0], whole[1][0]), (cut[0], cut[1].max(axis=0)))


def test_a_run_goes_on_from_its_layers_to_the_bit(make_task):
    cell = Cell(d_out=6, d_in=5, rank=1, n=20)
    task = make_task(cell, [0, 1])
    whole, _ = trained(FusedEngine(), task)
    session = FusedEngine().start(task)
    ones = np.ones(task.replicates)
    session.advance(0, 30, 0.03 * ones, 0.5 * ones, np.linspace(1, 0, STEPS)[:30])
    stored = [[w[r] for w in session.layers()] for r in range(task.replicates)]
    resumed = FusedEngine().start(dataclasses.replace(task, layers=stored))
    resumed.advance(30, STEPS, 0.03 * ones, 0.5 * ones, np.linspace(1, 0, STEPS)[30:])
    for a, b in zip(whole, resumed.layers(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_diverging_replicate_is_seen_and_harms_no_other(make_task, dtype):
    cell = Cell(d_out=6, d_in=5, rank=1, n=20, dtype=dtype)
    task = make_task(cell, [0, 1])
    session = FusedEngine().start(task)
    largest = session.advance(0, 500, np.array([30.0, 0.03]), np.full(2, 0.5), np.ones(500))
    assert not np.isfinite(largest[0])
    assert np.isfinite(largest[1])
    later = session.advance(500, 510, np.array([30.0, 0.03]), np.full(2, 0.5), np.ones(10))
    assert not np.isfinite(later[0]), "a replicate stays diverged"
    assert all(np.isfinite(w[1]).all() for w in session.layers())


def test_exact_interpolation_leaves_sam_finite(make_task):
    cell = Cell(d_out=4, d_in=4, rank=1, n=8)
    task = make_task(cell, [0], batch_size=1, label_noise=False, sam_radius=0.05)
    at_zero = dataclasses.replace(task, layers=[[np.zeros_like(w) for w in task.layers[0]]])
    layers, losses = trained(FusedEngine(), at_zero)  # every gradient vanishes: ||g|| = 0
    assert np.isfinite(losses).all()
    assert all((w == 0).all() for w in layers)


def test_layers_are_copies(make_task):
    session = FusedEngine().start(make_task(Cell(d_out=4, d_in=4, rank=1, n=8), [0]))
    before = session.layers()
    before[0][...] = np.nan
    assert np.isfinite(session.layers()[0]).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"device": "cuda"}, "runs on the CPU, not on 'cuda'"),
        ({"dtype": "float16"}, "dtype 'float16' is not supported .* allowed: float32, float64"),
        ({"threads": 0}, "threads is 0; allowed: 1 or more"),
    ],
)
def test_what_the_engine_lacks_is_named(make_task, changes, message):
    task = make_task(Cell(d_out=4, d_in=4, rank=1, n=8), [0])
    with pytest.raises(LaunchError, match=message):
        FusedEngine().start(dataclasses.replace(task, **changes))


@pytest.mark.parametrize("signs", [False, True])
def test_the_measurements_are_not_copied(make_task, signs):
    ensemble, storage = ("rademacher", "int8") if signs else ("gaussian", "float32")
    cell = Cell(d_out=20, d_in=30, rank=1, n=100, ensemble=ensemble)
    task = make_task(cell, range(3), batch_size=50, storage=storage, threads=2)
    session = FusedEngine().start(task)
    assert all(np.shares_memory(a, b) for a, b in zip(task.measurements, session._measurements, strict=True))


def test_warming_compiles_what_will_be_met():
    from flatdist.engines._fused_kernel import run_steps

    warm(("float32",), (False,))
    assert any(str(signature[0]).startswith("array(float32, 2d") for signature in run_steps.signatures)
