"""Kernels for CUDA devices without a device: the Triton kernel interpreted, the CUDA C++ kernel as ordinary threads."""

import ctypes
import dataclasses
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.tasks import join, widened
from flatdist.cells.cell import Cell
from flatdist.engines import cuda
from flatdist.engines._launched import LaunchedSession, Shape
from flatdist.engines.base import TrainingTask
from flatdist.engines.fused import FusedEngine
from flatdist.engines.reference import ReferenceEngine
from flatdist.engines.triton import TritonEngine
from flatdist.errors import LaunchError
from flatdist.factorization.evaluation import BLOCK
from flatdist.planning.packs import device_bytes
from flatdist.sensing.draws import Stream
from flatdist.sensing.measurements import as_measurements

ONE_THREAD = cuda.Configuration(threads=1, lanes=1, rows=1, tall=4, wide=4, blocks=1)
STEPS, CUT = 5, 2
KINDS = {
    "label noise": {},
    "full batch": {"batch_size": None},
    "full batch, no noise": {"batch_size": None, "label_noise": False},
    "mini-batch": {"label_noise": False},
    "sam": {"batch_size": 1, "label_noise": False, "sam_radius": 0.05},
}


class CompiledAsThreads:
    """The cuda engine's kernel as ordinary C++, a replicate after the other; a block is a group of threads."""

    name = "cuda"

    def __init__(self, folder, chosen=ONE_THREAD, sanitize=()):
        self.folder, self.chosen, self.sanitize = folder, chosen, sanitize

    def start(self, task):
        return LaunchedSession(task, lambda launch: self._launch(launch, Shape.of(task)))

    def _launch(self, launch, shape):
        library = ctypes.CDLL(str(self._compiled(shape)))
        need = cuda.shared_bytes(shape, self.chosen, launch.room) // 4
        pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in launch.tensors()]
        library.run_all(len(launch.counts), need, *pointers, launch.levels.shape[1], launch.room)

    def _compiled(self, shape):
        text = cuda.source(shape, self.chosen)
        target = Path(self.folder, f"{abs(hash(text))}.so")
        if not target.exists():
            command = [
                "g++",
                "-std=c++20",
                "-O0",
                "-pthread",
                *self.sanitize,
                "-x",
                "c++",
                "-shared",
                "-fPIC",
                "-o",
                str(target),
                "-",
            ]
            subprocess.run(command, input=text, text=True, check=True)
        return target


@pytest.fixture(params=["triton", "cuda"])
def engine(request, tmp_path_factory):
    """One of the two kernels, on the CPU."""
    if request.param == "triton":
        pytest.importorskip("triton")
        return TritonEngine()
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    return CompiledAsThreads(tmp_path_factory.getbasetemp())


def trained(engine, task, steps=STEPS, cut=CUT, rate=0.03):
    """Layers and largest losses after annealed steps, stopped once in between."""
    session = engine.start(task)
    anneal, rates, noise = np.linspace(1, 0, steps), np.full(task.replicates, rate), np.full(task.replicates, 0.5)
    first = session.advance(0, cut, rates, noise, anneal[:cut])
    second = session.advance(cut, steps, rates, noise, anneal[cut:])
    return session.layers(), np.stack([first, second])


def assert_close(ours, expected, start):
    for a, b, began in zip(ours[0], expected[0], start, strict=True):
        assert np.linalg.norm(b - began) > 1e-3, "the reference moved"
        assert np.linalg.norm(a - b) < 2e-7 * np.linalg.norm(b)
    np.testing.assert_allclose(ours[1], expected[1], rtol=2e-6)


def beginnings(task):
    return [np.stack(layers) for layers in zip(*task.layers, strict=True)]


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS.keys())
@pytest.mark.parametrize("depth", [2, 3, 5])
def test_the_float64_reference_is_matched_draw_for_draw(engine, make_task, depth, options):
    cell = Cell(d_out=5, d_in=4, rank=1, n=15, depth=depth, width=[4 + j for j in range(depth - 1)])
    task = make_task(cell, [0, 5], **options)
    assert_close(trained(engine, task), trained(ReferenceEngine(), widened(task)), beginnings(task))


@pytest.mark.parametrize("ensemble", ["rademacher", "rank_one", "entries"])
@pytest.mark.parametrize("options", [{}, {"batch_size": None}], ids=["drawn", "full"])
def test_every_storage_is_read(engine, make_task, ensemble, options):
    cell = Cell(d_out=9, d_in=10, rank=1, n=33, depth=4, ensemble=ensemble)
    task = make_task(cell, [0, 5], storage="int8" if ensemble == "rademacher" else None, **options)
    assert Shape.of(task).storage == {"rademacher": "signs", "rank_one": "factors", "entries": "entries"}[ensemble]
    assert_close(trained(engine, task), trained(ReferenceEngine(), widened(task)), beginnings(task))


@pytest.mark.parametrize(("d", "depth"), [(12, 3), (16, 2), (20, 3), (32, 4), (60, 3)])
def test_shapes_up_to_the_widest(engine, make_task, d, depth):
    task = make_task(Cell(d_out=d, d_in=d, rank=1, n=2 * d, depth=depth), [1], batch_size=50)
    steps = 3 if d > 20 else STEPS
    ours, expected = (trained(e, t, steps, 1) for e, t in ((engine, task), (ReferenceEngine(), widened(task))))
    assert_close(ours, expected, beginnings(task))


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
@pytest.mark.parametrize(
    ("lanes", "storage", "sam"),
    [
        (8, "gaussian", False),
        (64, "gaussian", False),
        (32, "rademacher", True),
        (16, "rank_one", False),
        (1, "entries", False),
    ],
)
def test_the_threads_of_a_block_share_the_work_out(make_task, tmp_path, lanes, storage, sam):
    """As on a card, each thread of a block has its part; on a processor a step takes them milliseconds."""
    chosen = cuda.Configuration(threads=64, lanes=lanes, rows=2, tall=2, wide=2, blocks=1)
    options = {"batch_size": 1, "label_noise": False, "sam_radius": 0.05} if sam else {"batch_size": 11}
    cell = Cell(d_out=9, d_in=10, rank=1, n=30, depth=3, ensemble=storage)
    task = make_task(cell, [2], storage="int8" if storage == "rademacher" else None, **options)
    ours = trained(CompiledAsThreads(tmp_path, chosen), task, 3, 1)
    assert_close(ours, trained(ReferenceEngine(), widened(task), 3, 1), beginnings(task))


@pytest.mark.parametrize("options", [{}, {"batch_size": None}], ids=["drawn", "full"])
def test_bits_alone_and_in_packs_of_mixed_n_and_cuts(engine, make_task, options):
    tasks = [make_task(Cell(d_out=6, d_in=7, rank=1, n=n), [n % 3], **options) for n in (20, 33, 21)]
    together = trained(engine, join(tasks), 5, 2)
    for position, task in enumerate(tasks):
        alone = trained(engine, task, 5, 4)
        for a, b in zip(alone[0], together[0], strict=True):
            np.testing.assert_array_equal(a[0], b[position])
        assert alone[1].max() == together[1].max(0)[position]


def test_packs_of_mixed_n_run_on_the_fused_engine_with_the_bits_of_each_alone(make_task):
    for options in ({}, {"batch_size": None}):
        tasks = [make_task(Cell(d_out=6, d_in=7, rank=1, n=n), [4, 1], **options) for n in (20, 300, 33, 150)]
        together = trained(FusedEngine(), join(tasks), 40, 13)
        for position, task in enumerate(tasks):
            for a, b in zip(trained(FusedEngine(), task, 40, 21)[0], together[0], strict=True):
                np.testing.assert_array_equal(a, b[2 * position : 2 * position + 2])


def test_draws_are_the_streams(engine, make_task):
    """With one step of rate 1 from zero layers but W_1, whose gradient is then the noisy labels' adjoint."""
    cell = Cell(d_out=4, d_in=4, rank=1, n=23, depth=2)
    task = make_task(cell, [3], batch_size=6)
    identity, zero = np.eye(4, dtype=np.float32), np.zeros((4, 4), np.float32)
    task = dataclasses.replace(task, layers=[[zero, identity]])
    session = engine.start(task)
    at = 2**31 - 5
    session.advance(at, at + 1, np.ones(1), np.full(1, 0.5), np.ones(1))
    keys = [tuple(map(int, key[0])) for key in (task.batch_keys, task.noise_keys)]
    rows, xi = Stream(keys[0]).indices(np.array([at]), 6, 23)[0], Stream(keys[1]).normals(np.array([at]), 6)[0]
    residual = 0.5 * xi - task.labels[0][rows]
    expected = -np.einsum("i,iab->ab", 2 / 6 * residual, as_measurements(task.measurements[0]).dense()[rows])
    np.testing.assert_allclose(session.layers()[0][0], expected, rtol=0, atol=2e-6)


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")  # of the interpreter's numpy
def test_a_diverging_replicate_says_so_and_leaves_its_neighbour_alone(engine, make_task):
    task = make_task(Cell(d_out=5, d_in=5, rank=1, n=20), [0, 1])
    rates, noise, anneal = np.array([50.0, 0.03]), np.full(2, 0.5), np.ones(25)
    session = engine.start(task)
    largest = session.advance(0, 25, rates, noise, anneal)
    assert not np.isfinite(largest[0])
    assert np.isfinite(largest[1])
    again = session.advance(25, 26, rates, noise, np.ones(1))
    assert not np.isfinite(again[0])
    alone = engine.start(make_task(Cell(d_out=5, d_in=5, rank=1, n=20), [1]))
    alone.advance(0, 25, rates[1:], noise[1:], anneal)
    alone.advance(25, 26, rates[1:], noise[1:], np.ones(1))
    for a, b in zip(alone.layers(), session.layers(), strict=True):
        np.testing.assert_array_equal(a[0], b[1])


def test_what_the_kernels_cannot_run_is_said(make_task, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET")
    task = make_task(Cell(d_out=5, d_in=5, rank=1, n=20), [0])
    for kind, changes, reason in (
        (TritonEngine, {"dtype": "float64"}, "float32, not in float64"),
        (TritonEngine, {"widths": (5, 65, 5)}, "up to 64 x 64"),
        (TritonEngine, {}, "runs on CUDA devices"),
        (cuda.CudaEngine, {"widths": (5, 65, 5)}, "up to 64 x 64"),
        (cuda.CudaEngine, {}, "runs on CUDA devices"),
    ):
        with pytest.raises(LaunchError, match=reason):
            kind().start(dataclasses.replace(task, **changes))


@pytest.mark.parametrize("depth", [2, 3, 5])
@pytest.mark.parametrize("d", [4, 12, 20, 32, 60])
def test_every_configuration_shares_rows_and_tiles_out_evenly(d, depth):
    for storage in cuda.STORAGES:
        shape = Shape((d,) * (depth + 1), 50, True, False, storage)
        chosen = cuda.configuration_of(shape)
        assert chosen.threads % chosen.lanes == 0
        assert chosen.threads % 32 == 0
        assert cuda.shared_bytes(shape, chosen, 52) <= cuda.USUAL_SHARED


def test_a_task_knows_the_n_of_each_replicate(make_task):
    task = join([make_task(Cell(d_out=5, d_in=5, rank=1, n=n), [0], batch_size=None) for n in (9, 20)])
    assert isinstance(task, TrainingTask)
    assert (task.counts, task.drawn) == ([9, 20], 20)
    assert torch.equal(LaunchedSession(task, lambda launch: None).bases, torch.tensor([0, 9]))


def test_the_estimate_of_a_replicates_memory_is_that_of_its_tensors(make_task):
    cell = Cell(d_out=20, d_in=20, rank=1, n=200)
    session = LaunchedSession(make_task(cell, [0], batch_size=50), lambda launch: None)
    snapshots = BLOCK * 2 * session.weights.nbytes  # they stay there, to be evaluated in float64
    kept = session.first.nbytes + session.labels.nbytes + session.weights.nbytes + snapshots
    assert kept <= device_bytes(cell, "cuda") <= 1.2 * kept
