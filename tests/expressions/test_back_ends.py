"""The exact and the Arrow back end agree on every condition, and no text, however odd, ends in a traceback."""

from __future__ import annotations

import contextlib
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flatdist.cells.cell import Cell
from flatdist.errors import CellError, FlatdistError
from flatdist.expressions import ExpressionError, conjunction, holding, parse_condition, parse_where
from flatdist.expressions.rows import Row
from flatdist.store.schema import empty, rows_to_table

NUMBERS = [
    "n",
    "rank",
    "d_out",
    "steps",
    "batch_size",
    "depth",
    "init_scale",
    "learning_rate",
    "sam_radius",
    "dof",
    "entries",
]
CONSTANTS = [
    "0",
    "1",
    "2",
    "3",
    "12",
    "50",
    "0.1",
    "1/3",
    "0.333333333333",
    "2/3",
    "0.05",
    "1e-2",
    "54.5",
    "10**20",
    "-1",
]
METHODS = ["label_noise_sgd", "sam", "min_nuclear_norm", "min_hessian_trace", "gradient_descent"]


def arithmetic() -> st.SearchStrategy[str]:
    leaves = st.sampled_from(NUMBERS + CONSTANTS)
    binary = st.sampled_from(["+", "-", "*", "/", "//"])
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.tuples(inner, binary, inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
            st.tuples(st.sampled_from(["min", "max"]), inner, inner).map(lambda t: f"{t[0]}({t[1]}, {t[2]})"),
            inner.map(lambda text: f"-{text}"),
        ),
        max_leaves=4,
    )


def conditions() -> st.SearchStrategy[str]:
    order = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])
    lists = st.lists(st.sampled_from(CONSTANTS), max_size=3).map(lambda items: f"[{', '.join(items)}]")
    membership = st.sampled_from(["in", "not in"])
    leaves = st.one_of(
        st.tuples(arithmetic(), order, arithmetic()).map(" ".join),
        st.tuples(st.sampled_from(NUMBERS), order, st.sampled_from(CONSTANTS)).map(" ".join),
        st.tuples(st.sampled_from(NUMBERS), membership, lists).map(" ".join),
        st.tuples(st.sampled_from(CONSTANTS), order, st.sampled_from(NUMBERS), order, st.sampled_from(CONSTANTS)).map(
            " ".join
        ),
        st.tuples(st.sampled_from(["width"]), order, st.sampled_from(["12", "16", "2*rank"])).map(" ".join),
        st.tuples(st.just("method"), membership, st.just("['sam', 'min_nuclear_norm']")).map(" ".join),
        st.sampled_from(
            [
                "nested",
                "learning_rate == auto",
                "learning_rate != auto",
                "batch_size == full",
                "batch_size in [full, 50]",
                "learning_rate is None",
                "depth is not None",
                "width is None",
                "method == 'sam'",
                "true",
                "width == [12, 16]",
            ]
        ),
    )
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            inner.map(lambda text: f"not ({text})"),
            st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(lambda t: f"({t[0]}) {t[1]} ({t[2]})"),
        ),
        max_leaves=4,
    )


@pytest.fixture(scope="module")
def cells() -> list[Cell]:
    rng = np.random.default_rng(0)
    found: dict[str, Cell] = {}
    while len(found) < 60:
        fields: dict[str, Any] = {
            "d_out": 12,
            "d_in": int(rng.choice([10, 12])),
            "rank": int(rng.integers(1, 4)),
            "depth": int(rng.integers(2, 5)),
            "n": int(rng.integers(1, 144)),
            "method": str(rng.choice(METHODS)),
            "nested": bool(rng.integers(2)),
            "steps": int(rng.choice([50, 100, 1000])),
            "init_scale": float(rng.choice([0.1, 1 / 3, 2 / 3, 0.5])),
            "learning_rate": [None, 0.05, 0.1, 1 / 3][rng.integers(4)],
            "batch_size": [None, 1, 12, 50][rng.integers(4)],
            "sam_radius": float(rng.choice([0.05, 1 / 3])),
            "width": [12, 16][rng.integers(2)],
        }
        try:
            cell = Cell(**fields)
        except CellError:
            continue
        found[cell.cell_id] = cell
    return list(found.values())


@pytest.fixture(scope="module")
def table(cells: list[Cell]) -> pa.Table:
    return as_table([cell.row() | {"flatdist_version": "0.2.0"} for cell in cells])


def as_table(rows: list[dict[str, Any]]) -> pa.Table:
    keys = [{"cell_id": str(i), "replicate": 0, **row} for i, row in enumerate(rows)]
    return rows_to_table("trials", keys, {"generation": [0] * len(keys), "part": [""] * len(keys)})


def selected(table: pa.Table, text: str) -> list[str]:
    """The rows that the Arrow back end selects, as a store reads them."""
    chosen = parse_where(text)
    expression = conjunction(chosen)
    kept = table if expression is None else table.filter(expression)
    return kept.filter(holding(kept, chosen)).column("cell_id").to_pylist()


@settings(max_examples=300, deadline=None)
@given(text=conditions())
def test_both_back_ends_select_the_same(cells: list[Cell], table: pa.Table, text: str) -> None:
    try:
        condition = parse_condition(text)
    except ExpressionError as refusal:
        with pytest.raises(ExpressionError, match=re.escape(str(refusal))):
            parse_where(text)
        return
    try:
        expected = [str(i) for i, cell in enumerate(cells) if condition.holds(Row(cell.row()))]
    except ExpressionError as refusal:  # some cell cannot be decided, as where it divides by zero
        with pytest.raises(ExpressionError, match=re.escape(refusal.reason)):
            selected(table, text)
        return
    assert selected(table, text) == expected


COLUMNS = [
    "n",
    "rank",
    "status",
    "relative_error",
    "width",
    "learning_rate",
    "batch_size",
    "singular_values",
    "nested",
    "finished_at",
    "git_dirty",
    "method",
    "quantities",
    "cell_id",
    "certificate",
    "steps_run",
    "host",
]
VALUES = [
    "0",
    "1",
    "-1",
    "1.5",
    "1e999",
    "1e-999",
    "2**63",
    "9223372036854775808",
    "9" * 20,
    "'x'",
    "''",
    "None",
    "True",
    "[]",
    "[1]",
    "['a',1]",
    "[None]",
    "nan",
    "(1,2)",
    "{}",
    "{1}",
    "b'x'",
    "'\\ud800'",
    "\ud800",
    "1j",
    "0x10",
    "0o7",
    "1_0",
    "...",
    "10**100",
    "'2020-01-01'",
    "n",
    "not n",
    "n/0",
    "1/0",
    "n*1e300*1e300",
    "n%2",
    "~n",
    "n**2",
    "n@n",
    "abs(n)",
    "min()",
    "log(n, 1)",
    "sqrt(-n)",
    "n.x",
    "n[0]",
    "lambda:0",
    'f"{n}"',
    "x:=1",
    "*n",
    "n if n else n",
    "statdim",
    "auto",
    "full",
    "\0",
    "#",
    ";",
    "\n",
    "(",
    ")",
    "'",
    "\\",
]
OPERATORS = [
    "==",
    "!=",
    "<",
    ">",
    "<=",
    ">=",
    " in ",
    " not in ",
    " is ",
    " is not ",
    "+",
    "-",
    "*",
    "/",
    "//",
    "**",
    " and ",
    " or ",
    ",",
    " ",
    "&",
    "|",
    "=",
]
PIECES = st.one_of(st.sampled_from(COLUMNS), st.sampled_from(VALUES), st.text(max_size=3))


@settings(max_examples=600, deadline=None)
@given(st.lists(st.tuples(PIECES, st.sampled_from(OPERATORS), PIECES), min_size=1, max_size=4))
def test_fuzzed_texts_select_or_are_refused(pieces: list[tuple[str, str, str]]) -> None:
    text = "".join("".join(piece) for piece in pieces)
    rows = as_table(
        [{"n": 3, "rank": 1, "width": [4], "method": "sam", "relative_error": 0.1}, {"n": 5, "method": "x"}]
    )
    with contextlib.suppress(FlatdistError):
        assert set(selected(rows, text)) <= {"0", "1"}


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(
        st.dictionaries(
            st.one_of(st.sampled_from(COLUMNS), st.text(max_size=2), st.integers()),
            st.recursive(
                st.one_of(
                    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=2), st.binary(max_size=1)
                ),
                lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=1), inner, max_size=1),
            ),
            max_size=2,
        ),
        st.lists(
            st.tuples(
                st.sampled_from(COLUMNS),
                st.sampled_from([*OPERATORS, "~"]),
                st.one_of(st.integers(), st.text(), st.none()),
            )
        ),
    )
)
def test_fuzzed_values_select_or_are_refused(where: Any) -> None:
    rows = empty("trials")
    with contextlib.suppress(FlatdistError):
        chosen = parse_where(where)
        expression = conjunction(chosen)
        kept = rows if expression is None else rows.filter(expression)
        assert len(holding(kept, chosen)) == 0


@pytest.mark.parametrize("text", ["batch_size == full", "batch_size in [full, 3] or n == 1.1*dof"])
def test_a_null_batch_of_sam_is_full_except_in_rows_of_the_first_release(text: str) -> None:
    full, one = (Cell(d_out=6, d_in=6, rank=1, n=20, method="sam", batch_size=size) for size in ("full", 9))
    new, old = {"flatdist_version": "0.2.0"}, {"flatdist_version": "0.1.0"}
    rows = [full.row() | new, one.row() | new, one.row() | old | {"batch_size": None}]
    assert selected(as_table(rows), text) == ["0"]
    assert selected(as_table(rows), f"not ({text})") == ["1", "2"]
    assert [parse_condition(text).holds(Row(row)) for row in rows] == [True, False, False]
