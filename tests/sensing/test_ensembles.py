"""The distributions of measurements: moments, independence of n, and what a problem takes in memory."""

import dataclasses
import tracemalloc

import numpy as np
import pytest
from scipy import stats

from flatdist.cells.cell import Cell
from flatdist.cells.problems import sample_arrays, sample_problem, sample_stored
from flatdist.errors import CellError, SweepError
from flatdist.planning.memory import memory_bytes
from flatdist.sensing.draws import Stream
from flatdist.sensing.ensembles import ENSEMBLES
from flatdist.sweeps import load_sweep
from flatdist.trials.run import run_replicates
from flatdist.trials.settings import RunSettings

SHAPE = {"d_out": 7, "d_in": 5, "rank": 2}


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_squared_inner_products_are_squared_norms_on_average(ensemble):
    matrix = np.random.default_rng(0).standard_normal((7, 5))
    n = 35 if ensemble == "entries" else 4000
    measurements = sample_stored(Cell(**SHAPE, n=n, ensemble=ensemble), 0).measurements
    ratios = measurements.apply(matrix) ** 2 / np.sum(matrix**2)
    if ensemble == "entries":  # over all entries the mean is exact
        assert ratios.mean() == pytest.approx(1.0, rel=1e-12)
    else:
        assert abs(ratios.mean() - 1.0) < 5 * ratios.std() / np.sqrt(n)


def test_rank_one_measurements_are_products_of_independent_normals():
    measurements = sample_stored(Cell(**SHAPE, n=6000, ensemble="rank_one"), 0).measurements
    factors = np.concatenate([measurements.left, measurements.right], axis=1)
    assert stats.kstest(factors.ravel(), "norm").pvalue > 1e-3
    correlation = np.corrcoef(factors.T) - np.eye(12)
    assert np.abs(correlation).max() < 5 / np.sqrt(6000)
    left, right = np.eye(7)[0], np.eye(5)[0]
    fourth = np.mean(measurements.apply(np.outer(left, right)) ** 4)
    assert fourth == pytest.approx(9.0, rel=0.5), "E u^4 E v^4, where independent entries have 3"
    assert np.linalg.matrix_rank(measurements.dense()[0]) == 1


def test_entries_are_drawn_without_replacement_and_uniformly():
    d_out, d_in, replicates = 4, 3, 600
    first, pairs = np.zeros(12), np.zeros((12, 12))
    for replicate in range(replicates):
        cell = Cell(d_out=d_out, d_in=d_in, rank=1, n=12, ensemble="entries")
        measurements = sample_stored(cell, replicate).measurements
        places = measurements.rows * d_in + measurements.columns
        np.testing.assert_array_equal(np.sort(places), np.arange(12))
        first[places[:5]] += 1
        pairs[places[0], places[1]] += 1
    # Each entry is among the first five in 5/12 of the replicates; counts of one replicate are negatively correlated.
    scale = (replicates * 5 / 12) * (7 / 12) * 12 / 11
    assert stats.chi2.sf(np.sum((first - replicates * 5 / 12) ** 2) / scale, 11) > 1e-3
    apart = pairs[~np.eye(12, dtype=bool)]
    assert apart.sum() == replicates
    assert stats.chisquare(apart).pvalue > 1e-3


def test_a_permutation_is_one_and_its_own_for_each_stream():
    permutation = Stream((1, 2)).permutation(1000)
    np.testing.assert_array_equal(np.sort(permutation), np.arange(1000))
    np.testing.assert_array_equal(permutation[:5], [811, 388, 985, 911, 783])
    assert (permutation != Stream((1, 3)).permutation(1000)).mean() > 0.9


@pytest.mark.parametrize("ensemble", ["rank_one", "entries"])
def test_nested_problems_are_prefixes_of_one_stream(ensemble):
    given = {"d_out": 60, "d_in": 50, "rank": 2, "nested": True, "ensemble": ensemble, "observation_noise_std": 0.1}
    small, large = (sample_stored(Cell(**given, n=n), 3) for n in (40, 3000))
    np.testing.assert_array_equal(small.measurements.dense(), large.measurements.select(slice(0, 40)).dense())
    np.testing.assert_array_equal(small.labels, large.labels[:40])
    apart = sample_stored(Cell(**given | {"nested": False}, n=40), 3)
    assert not np.array_equal(apart.measurements.dense(), small.measurements.dense())


@pytest.mark.parametrize("ensemble", ["rank_one", "entries"])
def test_the_public_problem_is_written_out_and_shared_by_methods(ensemble):
    problem = sample_problem(Cell(**SHAPE, n=30, ensemble=ensemble), 4)
    assert tuple(problem.measurements.shape) == (30, 7, 5)
    expected = [float((a * problem.ground_truth).sum()) for a in problem.measurements]
    np.testing.assert_allclose(problem.labels, expected, rtol=1e-12, atol=1e-14)
    other = sample_arrays(Cell(**SHAPE, n=30, ensemble=ensemble, method="min_nuclear_norm"), 4)
    np.testing.assert_array_equal(problem.measurements, other.measurements)
    gaussian = sample_arrays(Cell(**SHAPE, n=30), 4)
    assert not np.allclose(gaussian.ground_truth, other.ground_truth)


def test_more_entries_than_there_are_is_refused_where_it_is_written(tmp_path):
    Cell(**SHAPE, n=35, ensemble="entries")
    with pytest.raises(CellError, match=r"n: 36 exceeds d_out\*d_in.*allowed: a whole number from 1 to 35"):
        Cell(**SHAPE, n=36, ensemble="entries")
    path = tmp_path / "many.yaml"
    path.write_text("fixed: {d_out: 7, d_in: 5, rank: 2}\naxes: {ensemble: [gaussian, entries], n: [35, 36]}\n")
    with pytest.raises(SweepError, match=r"many.yaml:2: axes.n: 36 exceeds d_out\*d_in.*\(1 of 4 cells"):
        load_sweep(path)


BIG = {"d_out": 120, "d_in": 80, "rank": 1, "n": 3000, "steps": 20, "evaluations": 3, "depth": 3}


@pytest.mark.parametrize("ensemble", ["rank_one", "entries"])
@pytest.mark.parametrize("engine", ["fused", "batched"])
def test_a_problem_never_takes_n_d_out_d_in(ensemble, engine):
    cell = Cell(**BIG, ensemble=ensemble)
    entries = cell.n * cell.d_out * cell.d_in  # 28.8 million: 115 MB in float32
    one, two = (memory_bytes(cell, replicates, engine) for replicates in (1, 2))
    weights = 4 * sum(a * b for a, b in zip(cell.widths, cell.widths[1:], strict=False))
    kept = {"rank_one": 4 * cell.n * (cell.d_out + cell.d_in), "entries": 8 * cell.n}[ensemble]
    snapshots = 2 * 18 * weights + 3 * weights
    assert two - one <= 2 * kept + snapshots + 1e6, "the plan promises no more than the factors, twice"
    warm = dataclasses.replace(cell, d_out=4, d_in=4, n=8, width=None)
    settings = RunSettings(engine=engine)
    list(run_replicates(warm, [0], settings))  # imports and compiles
    tracemalloc.start()
    (outcome,) = run_replicates(cell, [0], settings)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert outcome.trial["status"] != "diverged"
    assert peak < 0.35 * 4 * entries, "numpy's share; torch's tensors hold the factors alone"
