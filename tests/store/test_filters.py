"""``where`` and ``columns``: the same rows as pandas would choose, and nothing but comparisons."""

from __future__ import annotations

import pytest

from flatdist.errors import StoreError
from flatdist.results import load_history


@pytest.fixture(scope="module", params=["parts", "compacted"])
def filled(request, tmp_path_factory, cells, rows):
    from flatdist.store import Store

    store = Store(tmp_path_factory.mktemp("filters"))
    for number, cell in enumerate(cells):
        store.write(*rows(cell, range(2), value=0.1 * number, learning_rate=None if number % 2 else 0.05))
    if request.param == "compacted":
        store.compact()
        store.write(*rows(cells[0], range(2, 3)))  # and one part beside the compacted file
    return store


@pytest.mark.parametrize(
    ("where", "chosen"),
    [
        ({"rank": 2}, lambda f: f["rank"] == 2),
        ({"rank": 2, "n": [10, 30]}, lambda f: (f["rank"] == 2) & f["n"].isin([10, 30])),
        ({"learning_rate": None}, lambda f: f["learning_rate"].isna()),
        ({"learning_rate": "auto"}, lambda f: f["learning_rate"].isna()),
        ({"n": range(10, 21)}, lambda f: f["n"].between(10, 20)),
        ({"n": []}, lambda f: f["n"] < 0),
        ([("n", ">", 10), ("relative_error", "<=", 1.3)], lambda f: (f["n"] > 10) & (f["relative_error"] <= 1.3)),
        ([("method", "not in", ["sam"])], lambda f: f["n"] > 0),
        ("rank == 2 and n > 10", lambda f: (f["rank"] == 2) & (f["n"] > 10)),
        ("10 < n <= 30 or rank==1", lambda f: ((f["n"] > 10) & (f["n"] <= 30)) | (f["rank"] == 1)),
        ("not (rank == 1) and learning_rate != auto", lambda f: (f["rank"] != 1) & f["learning_rate"].notna()),
        ("n > 1.2*dof", lambda f: f["n"] > 1.2 * f["rank"] * (f["d_out"] + f["d_in"] - f["rank"])),
        ("n / entries >= 2/3", lambda f: f["n"] / (f["d_out"] * f["d_in"]) >= 2 / 3),
        ("method in ['sam', 'label_noise_sgd'] and -n < -10", lambda f: f["n"] > 10),
        ("cell_id == 'nothing'", lambda f: f["n"] < 0),
        ("nested == false", lambda f: f["n"] > 0),
    ],
)
def test_rows_are_those_that_pandas_would_choose(filled, where, chosen):
    whole = filled.trials()
    expected = whole[chosen(whole)].reset_index(drop=True)
    found = filled.trials(where=where, columns=["relative_error", "cell_id"])
    assert found.columns.tolist() == ["relative_error", "cell_id"]
    assert found.equals(expected[["relative_error", "cell_id"]])


def test_history_is_filtered_by_its_own_and_by_the_trials_columns(filled):
    whole = filled.history().merge(filled.trials()[["cell_id", "replicate", "rank", "n"]])
    expected = whole[(whole["rank"] == 2) & (whole["step"] >= 10) & (whole["step"] < whole["n"])]
    columns = ["n", "step", "population_loss", "cell_id"]
    for where in ("rank == 2 and step >= 10 and step < n", [("rank", "==", 2), ("step", ">=", 10)]):
        found = load_history(filled, where=where, columns=columns)
        found = found[found["step"] < found["n"]].reset_index(drop=True)
        assert found.equals(expected[columns].reset_index(drop=True))
    assert set(load_history(filled, where={"status": "diverged"})) >= {"step"}
    assert len(load_history(filled, where={"status": "diverged"})) == 0


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("rankk == 2", r"'rankk' that does not exist \(did you mean 'rank'\?\)"),
        ("__import__('os').system('true')", "holds a Call, which is not allowed"),
        ("cell_id.__class__ == 1", "holds a Attribute, which is not allowed"),
        ("n[0] == 1", "Subscript"),
        ("[n for n in (1,)]", "ListComp"),
        ("n ** 9999999 > 1", "Pow"),
        ("rank ==", r"cannot be read: invalid syntax; write it like"),
        ("rank == auto", "auto is no value of rank; compare it with learning_rate"),
        ("learning_rate < auto", "auto can be compared with == and !="),
        ("n > statdim", "statdim is for sweep files and cells only"),
        ("1 == 1", "names no column"),
        ("rank", "compared with a value of another type|is no condition|type"),
        ("rank == 'two'", "compared with a value of another type"),
        ("n > None", "None can be compared with == and !="),
        ("n in 3", "take a list"),
        ("n > 1/0", "division by zero"),
        ("(" * 60 + "n" + ")" * 60 + " > 1 and " + "-" * 60 + "n > 1", "nested|cannot be read"),
        ("n > 1 " * 5000, "characters long"),
        ({"rankk": 2}, "does not exist"),
        ([("n", "~", 3)], "is no operator"),
        ([("n", "in", 3)], "in and not in take a list"),
        (3, "neither text, nor a mapping"),
    ],
)
def test_anything_else_is_refused(filled, where, message):
    with pytest.raises(StoreError, match=message):
        filled.trials(where=where)


def test_unknown_columns_are_refused(filled):
    with pytest.raises(StoreError, match=r"trials has no column 'relativ_error' \(did you mean 'relative_error'\?\)"):
        filled.trials(columns=["relativ_error"])


def test_only_the_wanted_columns_are_decoded(filled, monkeypatch):
    """Pushed down to Parquet: no other column leaves the reader."""
    from flatdist.store import read

    seen: set[str] = set()
    original = read.conform

    def spy(data, table):
        seen.update(data.column_names)
        return original(data, table)

    monkeypatch.setattr(read, "conform", spy)
    filled.history(columns=["step"])
    assert "population_loss" not in seen
    assert "nuclear_norm" not in seen


@pytest.fixture(scope="module")
def three_methods(tmp_path_factory, rows):
    """One cell that uses both fields, one that uses only the learning rate, one that uses neither."""
    from flatdist.cells.cell import Cell
    from flatdist.store import Store

    store = Store(tmp_path_factory.mktemp("methods"))
    for method in ("minibatch_sgd", "gradient_descent", "min_nuclear_norm"):
        store.write(*rows(Cell(d_out=6, d_in=5, rank=1, n=10, steps=20, batch_size="full", method=method), range(1)))
    given = Cell(d_out=6, d_in=5, rank=1, n=20, steps=20, method="minibatch_sgd", batch_size=4, learning_rate=0.1)
    store.write(*rows(given, range(1)))
    return store


@pytest.mark.parametrize("as_table", ["trials", "history"])
@pytest.mark.parametrize(
    ("where", "methods"),
    [
        ("batch_size == 'full'", {"minibatch_sgd"}),
        ("full == batch_size", {"minibatch_sgd"}),
        ({"batch_size": "full"}, {"minibatch_sgd"}),
        ({"batch_size": ["full", 7]}, {"minibatch_sgd"}),
        ([("batch_size", "==", "full")], {"minibatch_sgd"}),
        ("batch_size in ['full'] and n < 11", {"minibatch_sgd"}),
        ({"batch_size": None}, {"minibatch_sgd", "gradient_descent", "min_nuclear_norm"}),
    ],
)
def test_a_word_means_only_rows_whose_method_uses_the_field(three_methods, where, methods, as_table):
    found = getattr(three_methods, as_table)(where=where, columns=["method", "n"])
    assert set(found["method"]) == methods
    assert set(found["n"]) == {10}


def test_auto_is_no_row_of_a_solver_and_not_auto_is_a_number(three_methods):
    auto = three_methods.trials(where="learning_rate == 'auto'", columns=["method", "n"])
    assert sorted(zip(auto["method"], auto["n"], strict=True)) == [("gradient_descent", 10), ("minibatch_sgd", 10)]
    assert three_methods.trials(where="learning_rate != auto", columns=["n"])["n"].tolist() == [20]
