"""The batched engine against the reference, draw for draw, and its independence of what is packed together."""

import numpy as np
import pytest
import torch

from flatdist.cells.cell import Cell
from flatdist.engines.batched import CHUNK, BatchedEngine, BatchedSession
from flatdist.engines.reference import ReferenceEngine

STEPS = CHUNK + 41  # a full chunk and a part of one


def trained(engine, task, split=50):
    """Layers and the largest losses after STEPS annealed steps, stopped once in between."""
    session = engine.start(task)
    anneal = np.linspace(1, 0, STEPS)
    rate, noise = np.full(task.replicates, 0.03), np.full(task.replicates, 0.5)
    first = session.advance(0, split, rate, noise, anneal[:split])
    second = session.advance(split, STEPS, rate, noise, anneal[split:])
    return session.layers(), np.stack([first, second])


@pytest.mark.parametrize(
    "options",
    [{}, {"batch_size": None}, {"label_noise": False}, {"batch_size": 1, "label_noise": False, "sam_radius": 0.05}],
    ids=["label noise", "full batch", "mini-batch", "sam"],
)
@pytest.mark.parametrize("depth", [2, 3, 5])
def test_the_reference_is_matched_draw_for_draw(make_task, depth, options):
    widths = [4 + j for j in range(depth - 1)]
    cell = Cell(d_out=5, d_in=4, rank=1, n=15, depth=depth, width=widths, dtype="float64")
    task = make_task(cell, [0, 1, 5], **options)
    expected, ours = trained(ReferenceEngine(), task), trained(BatchedEngine(), task)
    for a, b in zip(expected[0], ours[0], strict=True):
        assert np.abs(a - task.layers[0][0].mean()).max() > 1e-3, "the reference moved"
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-12)
    np.testing.assert_allclose(ours[1], expected[1], rtol=1e-10)


@pytest.mark.parametrize("d", [12, 30])
def test_bits_do_not_depend_on_company_or_threads(make_task, d):
    cell = Cell(d_out=d, d_in=d, rank=1, n=5 * d)
    alone = trained(BatchedEngine(), make_task(cell, [3], batch_size=50))
    threads = torch.get_num_threads()
    try:
        for count, position in ((2, 1), (7, 4), (16, 15)):
            torch.set_num_threads(1 + count % 2)
            replicates = [r + 10 for r in range(count)]
            replicates[position] = 3
            packed = trained(BatchedEngine(), make_task(cell, replicates, batch_size=50))
            for a, b in zip(alone[0], packed[0], strict=True):
                np.testing.assert_array_equal(a[0], b[position])
            np.testing.assert_array_equal(alone[1][:, 0], packed[1][:, position])
    finally:
        torch.set_num_threads(threads)


def test_where_a_run_is_cut_does_not_change_it(make_task):
    cell = Cell(d_out=6, d_in=5, rank=1, n=20)
    runs = [trained(BatchedEngine(), make_task(cell, [0, 1]), split) for split in (1, 50, CHUNK, STEPS - 1)]
    for layers, _ in runs[1:]:
        for a, b in zip(runs[0][0], layers, strict=True):
            np.testing.assert_array_equal(a, b)


def test_products_are_not_rounded_to_fewer_bits_and_the_process_keeps_its_choice(make_task, monkeypatch):
    seen = []
    step = BatchedSession._step
    monkeypatch.setattr(
        BatchedSession, "_step", lambda *a: (seen.append(torch.get_float32_matmul_precision()), step(*a))[1]
    )
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        session = BatchedEngine().start(make_task(Cell(d_out=6, d_in=5, rank=1, n=20), [0]))
        session.advance(0, 3, np.full(1, 0.03), np.full(1, 0.5), np.ones(3))
        assert seen == ["highest"] * 3
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_captured_graph_matches_the_cpu(make_task):
    import dataclasses

    cell = Cell(d_out=12, d_in=12, rank=1, n=60, dtype="float64")
    task = make_task(cell, list(range(4)), batch_size=50)
    on_cpu, on_gpu = (trained(BatchedEngine(), dataclasses.replace(task, device=device)) for device in ("cpu", "cuda"))
    for a, b in zip(on_cpu[0], on_gpu[0], strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-10)
