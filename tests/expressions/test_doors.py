"""One text selects the same cells at every door: sweep files, the commands' --where, loaders and figures."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pytest

import flatdist
from flatdist.cells.cell import Cell
from flatdist.cli import main
from flatdist.expressions import ExpressionError
from flatdist.figures.command import Context
from flatdist.figures.command import load as figure_rows
from flatdist.store import Store
from flatdist.sweeps import parse_sweep

THIRD = 0.333333333333  # as a float field stores 1/3
LOGSPACE = [float(value) for value in np.logspace(-3, -1, 5)]
STORED = [float(f"{value:.12g}") for value in LOGSPACE]


def dof(cell: Cell) -> int:
    return cell.rank * (cell.d_out + cell.d_in - cell.rank)


def has(cell: Cell, *names: str) -> bool:
    """Whether some fields matter to a cell; SAM's batch of one does not, its batch of all does."""
    return set(names) <= set(cell.relevant_fields)


def statdim(cell: Cell) -> float:
    return float(flatdist.theory.statistical_dimension(cell.d_out, cell.d_in, cell.rank))


# text -> which cells it means, worked out from the cells in another way
TABLE: dict[str, Callable[[Cell], bool]] = {
    "n == 1.1*dof": lambda c: Fraction(11, 10) * dof(c) == c.n,
    "n == ceil(1.1*dof)": lambda c: -(-11 * dof(c) // 10) == c.n,
    "n < 1.1*dof": lambda c: 10 * c.n < 11 * dof(c),
    "init_scale >= 1/3": lambda c: has(c, "init_scale") and c.init_scale >= THIRD,
    "init_scale == 1/3": lambda c: has(c, "init_scale") and c.init_scale == THIRD,
    "init_scale != 1/3": lambda c: not (has(c, "init_scale") and c.init_scale == THIRD),
    "init_scale in [1/3, 0.1]": lambda c: has(c, "init_scale") and c.init_scale in (THIRD, 0.1),
    "init_scale == 0.33333333333333331": lambda c: has(c, "init_scale") and c.init_scale == THIRD,
    f"learning_rate in {LOGSPACE[1:3]}": lambda c: has(c, "learning_rate") and c.learning_rate in STORED[1:3],
    f"learning_rate == {LOGSPACE[3]!r}": lambda c: has(c, "learning_rate") and c.learning_rate == STORED[3],
    "learning_rate == 10**-1.5": lambda c: has(c, "learning_rate") and c.learning_rate == STORED[3],
    "learning_rate < 0.01": lambda c: (
        has(c, "learning_rate") and c.learning_rate is not None and c.learning_rate < 0.01
    ),
    "learning_rate == auto": lambda c: has(c, "learning_rate") and c.learning_rate is None,
    "learning_rate != auto": lambda c: not (has(c, "learning_rate") and c.learning_rate is None),
    "learning_rate is None": lambda c: not has(c, "learning_rate") or c.learning_rate is None,
    "learning_rate is not None": lambda c: has(c, "learning_rate") and c.learning_rate is not None,
    "learning_rate in [auto, 0.1]": lambda c: has(c, "learning_rate") and c.learning_rate in (None, 0.1),
    "learning_rate in [None, 0.1]": lambda c: not has(c, "learning_rate") or c.learning_rate in (None, 0.1),
    "width == 16": lambda c: has(c, "width") and set(c.width) == {16},
    "width != 16": lambda c: not (has(c, "width") and set(c.width) == {16}),
    "width == [16, 24]": lambda c: has(c, "width") and c.width == (16, 24),
    "width in [16, 24]": lambda c: has(c, "width") and set(c.width) in ({16}, {24}),
    "width in [[12, 10], 10]": lambda c: has(c, "width") and (c.width == (12, 10) or set(c.width) == {10}),
    "width == max(d_out, d_in)": lambda c: has(c, "width") and set(c.width) == {max(c.d_out, c.d_in)},
    "batch_size == full": lambda c: has(c, "batch_size") and c.batch_size is None,
    "full == batch_size": lambda c: has(c, "batch_size") and c.batch_size is None,
    "batch_size <= n": lambda c: has(c, "batch_size") and c.batch_size is not None and c.batch_size <= c.n,
    "not batch_size <= n": lambda c: not (has(c, "batch_size") and c.batch_size is not None and c.batch_size <= c.n),
    "2*batch_size > n": lambda c: has(c, "batch_size") and c.batch_size is not None and 2 * c.batch_size > c.n,
    "method is not None": lambda c: True,
    "method is None": lambda c: False,
    "method == 'sam'": lambda c: c.method == "sam",
    "method != 'sam' and method != \"label_noise_sgd\"": lambda c: c.method not in ("sam", "label_noise_sgd"),
    "method in ['sam', 'min_nuclear_norm']": lambda c: c.method in ("sam", "min_nuclear_norm"),
    "method not in ('sam', 'min_nuclear_norm')": lambda c: c.method not in ("sam", "min_nuclear_norm"),
    "n > min(d_out, d_in)": lambda c: c.n > min(c.d_out, c.d_in),
    "n // 2 > 20": lambda c: c.n // 2 > 20,
    "n**2 > 1e3": lambda c: c.n**2 > 1000,
    "sqrt(n) > 6": lambda c: c.n > 36,
    "log(n) > 4": lambda c: math.log(c.n) > 4,
    "log(n, 2) < 5": lambda c: c.n < 32,
    "round(n / dof) == 1": lambda c: math.floor(Fraction(c.n, dof(c)) + Fraction(1, 2)) == 1,
    "n > statdim": lambda c: c.n > statdim(c),
    "n == entries": lambda c: c.n == c.d_out * c.d_in,
    "rsum - rank**2 == dof": lambda c: True,
    "55 >= n > 30 or rank == 3": lambda c: 30 < c.n <= 55 or c.rank == 3,
    "nested": lambda c: c.nested,
    "nested == true and n > 20": lambda c: c.nested and c.n > 20,
    "nested != True": lambda c: not c.nested,
    "depth != 2": lambda c: not (has(c, "depth") and c.depth == 2),
    "depth in [2, 4] or depth is None": lambda c: not has(c, "depth") or c.depth in (2, 4),
    "anneal_fraction == 2/3": lambda c: has(c, "anneal_fraction") and c.anneal_fraction == 0.666666666667,
    "sam_radius < 1/7": lambda c: has(c, "sam_radius") and c.sam_radius < 0.142857142857,
    "sam_radius <= 1/7": lambda c: has(c, "sam_radius"),
    "observation_noise_std in [0, 1/3]": lambda c: c.observation_noise_std in (0.0, THIRD),
    "observation_noise_std == 0.1 or ensemble == 'rademacher'": lambda c: (
        c.observation_noise_std == 0.1 or c.ensemble == "rademacher"
    ),
    "spectral_tail == 0": lambda c: True,
    "n in []": lambda c: False,
    "n in [19, 57.0, 2*dof]": lambda c: c.n in (19, 57, 2 * dof(c)),
    "n == 54.5": lambda c: False,
    "n < 10**40 and n > -10**40": lambda c: True,
    "n < 10**400 and sam_radius > -10**400": lambda c: has(c, "sam_radius"),
    "-n < -55": lambda c: c.n > 55,
    "rank == 3 or 1/(rank-3) < -0.6": lambda c: c.rank == 3 or c.rank == 2,
    "true": lambda c: True,
    "not (rank == 1 and (n > 20 or nested)) and d_out == 12": lambda c: (
        not (c.rank == 1 and (c.n > 20 or c.nested)) and c.d_out == 12
    ),
    "d_out != d_in": lambda c: c.d_out != c.d_in,
    "(n > 40) == true": lambda c: c.n > 40,
}

# what a text says, as a mapping or as tuples
VALUES: list[tuple[str, Any]] = [
    ("rank == 2 and n == 55", {"rank": 2, "n": 55}),
    ("rank == 2 and n == 55", {"rank": np.int64(2), "n": np.float64(55)}),
    (f"learning_rate == {LOGSPACE[1]!r}", {"learning_rate": np.logspace(-3, -1, 5)[1]}),
    (f"learning_rate in {LOGSPACE}", {"learning_rate": np.logspace(-3, -1, 5)}),
    ("init_scale == 1/3", {"init_scale": 1 / 3}),
    ("init_scale >= 1/3", [("init_scale", ">=", 1 / 3)]),
    ("init_scale != 1/3", [("init_scale", "!=", 1 / 3)]),
    ("learning_rate == auto", {"learning_rate": "auto"}),
    ("learning_rate is None", {"learning_rate": None}),
    ("batch_size == full", [("batch_size", "=", "full")]),
    ("batch_size in [full, 1]", {"batch_size": ["full", 1]}),
    ("width == 16", {"width": 16}),
    ("width == [16, 24]", [("width", "==", (16, 24))]),
    ("width in [16, 24]", {"width": [16, 24]}),
    ("method in ['sam', 'min_nuclear_norm']", {"method": {"sam", "min_nuclear_norm"}}),
    ("method not in ['sam']", [("method", "not in", ["sam"])]),
    ("method is not None", [("method", "!=", None)]),
    ("nested", {"nested": True}),
    ("not nested", {"nested": np.bool_(False)}),
    ("n > 30 and n <= 55", [("n", ">", 30), ("n", "<=", 55)]),
    ("n in []", {"n": []}),
    ("n >= 40 and n < 50", {"n": range(40, 50)}),
    ("n > statdim", [("n", ">", 0), ("statdim", "<", 10**30)]),
]


def run(*words: str) -> int:
    return main(list(words))


@pytest.mark.parametrize("text", TABLE)
def test_every_door_selects_the_same_cells(filled, text, capsys, monkeypatch, tmp_path):
    """The command lines, the loaders, a figure's rows and a sweep file."""
    expected = filled.ids(cell for cell in filled.sweep.cells if TABLE[text](cell))
    path, store, name = str(filled.path), filled.store, filled.sweep.name
    rows, voided = tmp_path / "rows.csv", set()
    monkeypatch.setattr(Store, "invalidate", lambda self, keys: voided.update(cell for cell, _ in keys) or len(voided))

    def said(*words: str) -> str:
        capsys.readouterr()
        status = run(*words, "--where", text)
        out, err = capsys.readouterr()
        if status > 1:
            raise flatdist.FlatdistError(err)
        return out

    def planned() -> int:
        plan = json.loads(said("plan", path, "--store", store, "--no-probe", "--json"))
        assert plan["replicates"]["done"] == plan["cells"]
        return int(plan["cells"])

    def swept() -> int:
        out = said("sweep", path, "--store", store, "--no-probe", "--executor", "inline")
        assert "nothing to run" in out
        return int(re.search(r"(\d+) cells?\b", out)[1])

    def differed() -> set[str]:
        def compare(first: pd.DataFrame, second: pd.DataFrame, **_: Any) -> None:
            raise StopIteration(set(first["cell_id"]) & set(second["cell_id"]))

        # Its statistics take longest, and have tests of their own.
        monkeypatch.setattr("flatdist.fits.comparison.compare", compare)
        with pytest.raises(StopIteration) as caught:
            said("diff", path, path, "--store", store)
        return set(caught.value.value)

    assert set(flatdist.load_history(store, name, where=text)["cell_id"]) == expected
    said("export", path, "--store", store, "--csv", "--out", str(rows))
    assert set(pd.read_csv(rows)["cell_id"]) == expected
    said("invalidate", path, "--store", store, "--yes")
    assert voided == expected
    doors: dict[str, Callable[[], set[str] | int]] = {
        "cells": lambda: {cell["cell_id"] for cell in json.loads(said("cells", path, "--json"))},
        "best": lambda: {
            cell["cell_id"] for cell in json.loads(said("best", path, "--store", store, "--limit", "99", "--json"))
        },
        "plan": planned,
        "sweep": swept,
        "diff": differed,
        "figure, load_trials": lambda: set(figure_rows(Context([name], store, text))["cell_id"]),
        "a sweep file": lambda: filled.ids(parse_sweep(f"{filled.sweep.source}\nwhere: {json.dumps(text)}\n").cells),
    }
    for door, selected in doors.items():
        if expected:
            assert selected() == (expected if door not in ("plan", "sweep") else len(expected)), door
        else:  # these say that nothing is left
            with pytest.raises(
                flatdist.FlatdistError, match=r"leaves out all|has no trials|has no rows|no such trials"
            ):
                selected()


@pytest.mark.parametrize(("text", "where"), VALUES, ids=[text[:60] for text, _ in VALUES])
def test_values_from_python_select_as_the_text_does(filled, text, where):
    expected = flatdist.load_trials(filled.store, where=text)["cell_id"].tolist()
    if "statdim" not in text:
        assert flatdist.load_trials(filled.store, where=where)["cell_id"].tolist() == expected
    assert len(flatdist.load_history(filled.store, where=where)) >= 2 * len(expected) * ("statdim" not in text)


def test_columns_of_results_are_known_where_rows_are_selected(filled):
    frame = flatdist.load_trials(filled.store)
    for text, mask in (
        ("relative_error < 0.05 and method == 'sam'", (frame["relative_error"] < 0.05) & (frame["method"] == "sam")),
        ("status != 'converged'", frame["status"] != "converged"),
        ("train_loss < 0.02*relative_error", frame["train_loss"] < 0.02 * frame["relative_error"]),
        (
            "sqrt(train_loss) > 0.04 and n < 2*dof",
            (frame["train_loss"] > 0.0016)
            & (frame["n"] < 2 * frame["rank"] * (frame["d_out"] + frame["d_in"] - frame["rank"])),
        ),
        ("hessian_trace is None", frame["hessian_trace"].isna()),
        ("relative_error/(n-55) > 10**9", frame["n"] == 55),  # measured numbers in double precision: infinity
        ("not hessian_trace > 0", frame["hessian_trace"].isna()),
        ("finished_at >= '2026-01-01'", frame["finished_at"] >= pd.Timestamp("2026-01-01", tz="UTC")),
    ):
        assert flatdist.load_trials(filled.store, where=text)["cell_id"].tolist() == frame[mask]["cell_id"].tolist()
    with pytest.raises(flatdist.SweepError, match="relative_error is a column of results"):
        parse_sweep(filled.sweep.source + "\nwhere: relative_error < 1\n")


def test_a_cell_field_in_history_means_the_cells(filled):
    """The history has a learning rate of its own, at every step; conditions speak of the cell's."""
    cells = filled.ids(cell for cell in filled.sweep.cells if cell.learning_rate == 0.01 and has(cell, "learning_rate"))
    rows = flatdist.load_history(filled.store, where="learning_rate == 0.01 and step > 0")
    assert set(rows["cell_id"]) == cells
    assert set(rows["step"]) == {100}
    mixed = flatdist.load_history(filled.store, where="step*learning_rate > 0.5", columns=["cell_id", "learning_rate"])
    assert set(mixed["cell_id"]) == filled.ids(
        cell for cell in filled.sweep.cells if has(cell, "learning_rate") and (cell.learning_rate or 0) * 100 > 0.5
    )
    assert set(mixed["learning_rate"]) == {0.7}


REFUSED = {
    "n >": (4, "cannot be read here"),
    "": (1, "is empty"),
    "(n > 1": (1, "this bracket is not closed"),
    "n = 2": (3, "compare with =="),
    "n ^ 2 > 4": (3, r"write \*\* for a power"),
    "2rank > 1": (1, r"write 2\*rank for a product"),
    "n > 1_000": (5, "without separators"),
    "n > 0x10": (5, "is not a decimal number"),
    "rnak == 2": (1, r"no name 'rnak' \(did you mean 'rank'\?\)"),
    "method == label_noise_sgd": (11, r"text goes in quotes: 'label_noise_sgd'"),
    "n > mxa(1, 2)": (5, r"no function 'mxa' \(did you mean 'max'\?\)"),
    "n > sqrt(1, 2)": (5, "sqrt takes 1 arguments, not 2"),
    "sqrt > 2": (1, r"write sqrt\(...\)"),
    "n": (1, "is a number; a condition compares"),
    "'n'": (1, "is text; a condition compares"),
    "n and rank == 2": (1, "and, or and not join conditions"),
    "n in 3": (6, "take a list"),
    "n is 3": (6, "is applies only to None"),
    "rank == auto": (6, "auto is not a value of rank .*; compare it with learning_rate"),
    "learning_rate < auto": (15, "learning_rate .* has no order|auto .* has no order"),
    "rank == 'two'": (6, r"rank \(a number\) cannot be compared with 'two' \(text\)"),
    "method == 3": (8, r"method \(text\) cannot be compared with 3"),
    "method < 'sam'": (8, "has no order"),
    "method + 1 > 2": (1, "'method' is text, not a number"),
    "method in ['sam', 3]": (19, "cannot be compared"),
    "n > None": (3, "None .* has no order"),
    "n > 1/0": (6, "division by zero"),
    "n > 1//(2-2)": (6, "division by zero"),
    "n/0 > 1": (2, "division by zero"),
    "n > 0**-1": (6, "division by zero"),
    "n > sqrt(-1)": (5, "square root of a negative number"),
    "n > 9**9**9": (6, "more than 2048 bits"),
    "n > 1e999": (5, "too large a number"),
    "n > " + "9" * 100: (5, "too large a number"),
    "n > 10**10**10": (7, "more than 2048 bits"),
    "method == '\ud800'": (12, "a lone surrogate"),
    "method == '\\ud800'": (11, "a lone surrogate"),
    "n\0 > 1": (1, "."),
    "n > 1; import os": (6, "cannot be read here"),
    "__import__('os').system('id')": (1, "is not arithmetic"),
    "n.real > 1": (1, "is not arithmetic"),
    "n[0] > 1": (1, "is not arithmetic"),
    "(lambda: 1) > 0": (2, "is not arithmetic"),
    "f'{n}' == 'x'": (1, "is not arithmetic"),
    "(n if rank else 1) > 0": (2, "is not arithmetic"),
    "n % 2 == 0": (1, "is not arithmetic"),
    "n > 1j": (5, "is not a decimal number|is not a value"),
    "n == b'x'": (6, "bytes is not a value"),
    "(" * 150 + "n" + ")" * 150 + " > 1 and " + "-" * 150 + "n > 1": (1, "nested"),
    " or ".join(["n > 1"] * 3000): (1, "characters long"),
    "not " * 2400 + "nested": (1, "nested"),
}


@pytest.mark.parametrize(
    "text", REFUSED, ids=[text[:40].encode("ascii", "backslashreplace").decode() for text in REFUSED]
)
def test_a_refusal_reads_the_same_at_every_door(filled, text, capsys):
    position, reason = REFUSED[text]
    with pytest.raises(ExpressionError, match=reason) as caught:
        flatdist.load_trials(filled.store, where=text)
    message = f"character {caught.value.position}: {caught.value.reason}"
    if "nested" not in reason and reason != ".":
        assert caught.value.position == position
    for words in (("best",), ("export", "--csv"), ("invalidate", "--yes"), ("plan",), ("cells",), ("sweep",)):
        assert run(words[0], str(filled.path), "--store", filled.store, *words[1:], "--where", text) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(ExpressionError) as of_history:
        flatdist.load_history(filled.store, where=text)
    assert str(of_history.value).endswith(caught.value.reason)


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ({"rnak": 2}, r"no name 'rnak' \(did you mean 'rank'\?\)"),
        ({1: 2}, "the column must be a name"),
        ({"rank": "two"}, "cannot be compared"),
        ({"rank": {}}, "a dict is not a value"),
        ({"rank": b"x"}, "a bytes is not a value"),
        ({"n": float("nan")}, "is not a finite number"),
        ({"n": 10**1000}, "is too large a number"),
        ({"method": ["sam", 3]}, "cannot be compared"),
        ({"method": "\ud800"}, "a lone surrogate"),
        ([("n", "~", 3)], "'~' is not an operator"),
        ([("n", "in", 3)], "take a list"),
        ([("n", ">", 1, 2)], "neither text, nor a mapping"),
        ([("n", ">", [1])], "cannot be compared"),
        (3, "neither text, nor a mapping"),
        (b"n > 1", "neither text, nor a mapping"),
    ],
)
def test_values_that_cannot_be_compared_are_refused(filled, where, reason):
    with pytest.raises(ExpressionError, match=reason):
        flatdist.load_trials(filled.store, where=where)


def test_what_no_row_can_decide_is_refused_as_in_a_sweep_file(filled):
    text = "1/(n-55) > 0"
    with pytest.raises(ExpressionError, match="division by zero"):
        flatdist.load_trials(filled.store, where=text)
    with pytest.raises(flatdist.SweepError, match="division by zero"):
        parse_sweep(filled.sweep.source + f"\nwhere: {text}\n")
    guarded = f"{text} and n != 55"  # in either order
    assert set(flatdist.load_trials(filled.store, where=guarded)["cell_id"]) == filled.ids(
        parse_sweep(filled.sweep.source + f"\nwhere: {guarded}\n").cells
    )
