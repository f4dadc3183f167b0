"""load_trials: dtypes independent of the rows, nulls that groupby keeps, success by tolerance, what is missing."""

from __future__ import annotations

import pytest

from flatdist import load_trials
from flatdist.errors import StoreError
from flatdist.figures.command import Context, load
from flatdist.fits.success import missing_lines, resolve_tolerance
from flatdist.sweepfile import Changes
from flatdist.sweeps import load_sweep, open_sweep, parse_sweep

SWEEP = """
name: two
replicates: 2
fixed: {d_out: 4, d_in: 4, rank: 1, n: 16}
axes: {method: [label_noise_sgd, min_frobenius_norm]}
"""


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "two.yaml"
    path.write_text(SWEEP)
    return path


@pytest.fixture
def fill(store, rows):
    """Put rows of some of the sweep's methods into the store."""

    def put(*methods):
        for cell in parse_sweep(SWEEP).cells:
            if cell.method in methods:
                store.write(*rows(cell, range(2), 1e-3))

    return put


def test_a_method_without_rows_still_sets_the_tolerance_and_is_said_to_be_missing(store, fill, path):
    fill("min_frobenius_norm")
    trials = load_trials(store, sweep=path)
    assert set(trials["method"]) == {"min_frobenius_norm"}
    assert resolve_tolerance(trials, None) == 1e-2
    assert missing_lines(trials) == ["the sweep is not complete: 2 of 4 replicates are done (label_noise_sgd 0 of 2)"]
    assert missing_lines(load_trials(store, sweep=path, where="n == 16")) == missing_lines(trials)
    solver = load_trials(store, sweep=path, where={"method": "min_frobenius_norm"})
    assert missing_lines(solver) == []  # what was asked for is there
    assert resolve_tolerance(solver, None) == 1e-2  # and is judged like the rest of the sweep
    assert (
        missing_lines(load_trials(store, sweep=path, where="relative_error < 0.1")) == []
    )  # results cannot be asked for
    assert resolve_tolerance(load_trials(store), None) == 1e-6


def test_several_sweeps_are_counted_together_and_shared_cells_once(store, fill, path, tmp_path):
    fill("min_frobenius_norm")
    other = tmp_path / "other.yaml"
    other.write_text(SWEEP.replace("two", "other").replace("n: 16", "n: 12"))
    trials = load(Context([str(path), str(path), str(other)], store.uri))
    assert missing_lines(trials) == [
        "the sweep is not complete: 2 of 8 replicates are done (label_noise_sgd 0 of 4, min_frobenius_norm 2 of 4)"
    ]


def test_a_sweep_run_with_set_is_known_by_what_was_run(store, rows, path):
    changed = load_sweep(path, changes=Changes({"rank": 2, "n": "4*rank"}))
    assert changed.name == "two+rank-2+n-4-rank"
    changed.record(store)
    cell = next(cell for cell in changed.cells if cell.method == "min_frobenius_norm")
    store.write(*rows(cell, range(2), 1e-3))
    trials = load_trials(store, sweep=changed.name)
    assert set(trials["n"]) == {8}
    assert missing_lines(trials) == ["the sweep is not complete: 2 of 4 replicates are done (label_noise_sgd 0 of 2)"]
    again = open_sweep(changed.name, store)
    assert (again.name, again.cells) == (changed.name, changed.cells)
    assert open_sweep(changed.name, store, Changes({"rank": 1})).name == "two+rank-2+n-4-rank+rank-1"
    with pytest.raises(StoreError, match="no sweep 'two'"):
        store.sweeps.load("two")


def test_a_complete_sweep_has_nothing_to_say(store, fill, path):
    fill("min_frobenius_norm", "label_noise_sgd")
    assert missing_lines(load_trials(store, sweep=path)) == []


def test_columns_keep_their_dtype_whatever_rows_are_loaded(store, fill):
    fill("min_frobenius_norm", "label_noise_sgd")
    everything = load_trials(store)
    for where in ("method == 'min_frobenius_norm'", "method == 'label_noise_sgd'", "n == 5"):
        assert load_trials(store, where=where).dtypes.to_dict() == everything.dtypes.to_dict()


def test_filled_nulls_keep_their_rows_in_groupby(store, fill):
    fill("min_frobenius_norm", "label_noise_sgd")
    fields = ["method", "depth", "learning_rate"]
    assert load_trials(store).groupby(fields).size().sum() == 0  # pandas drops what has a null in a key
    counts = load_trials(store, fill=True).groupby(fields).size().to_dict()
    assert counts == {("label_noise_sgd", 3, "auto"): 2, ("min_frobenius_norm", "none", "none"): 2}


def test_success_is_a_column_where_a_tolerance_is_given(store, fill):
    fill("min_frobenius_norm")
    assert "success" not in load_trials(store)
    loaded = load_trials(store, columns=["replicate"], tolerance=0.5)
    assert list(loaded) == ["replicate", "success"]
    assert loaded["success"].tolist() == [True, False]  # relative errors 0.001 and 1.001
    with pytest.raises(StoreError, match=r"tolerance=-1\.0 is not a relative error"):
        load_trials(store, tolerance=-1.0)
