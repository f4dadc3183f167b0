"""Expressions: exact arithmetic, and nothing but arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flatdist.expressions import ExpressionError, parse, to_value, whole_above

FIELDS: dict[str, object] = {
    "d_out": 10,
    "d_in": 14,
    "rank": 2,
    "n": 50,
    "nested": False,
    "method": "sam",
    "learning_rate": None,
}
NAMES = {name: to_value(value) for name, value in FIELDS.items()}


def value_of(text: str) -> object:
    return parse(text).evaluate(NAMES)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1.1*50", 55),
        ("0.1+0.2", Fraction(3, 10)),
        ("-2**2", -4),
        ("2**-1", Fraction(1, 2)),
        ("2**3**2", 512),
        ("7//2", 3),
        ("-7//2", -4),
        ("10-4-3", 3),
        ("2+3*4", 14),
        ("(2+3)*4", 20),
        ("min(3, 4, n)", 3),
        ("max(rank, 1)", 2),
        ("ceil(43.2)", 44),
        ("ceil(sqrt(2)*sqrt(2))", 2),
        ("floor(43.9)", 43),
        ("round(2.5)", 3),
        ("sqrt(9/16)", Fraction(3, 4)),
        ("log(8, 2)", 3),
        ("1e-3", Fraction(1, 1000)),
        ("1 < 2 < 3", True),
        ("1 < 3 < 2", False),
        ("n <= d_out*d_in and not nested", True),
        ("method == 'sam' or method == \"none\"", True),
        ("not n > 50", True),
        ("true and not false", True),
        ("method in ['label_noise_sgd', 'sam']", True),
        ("method not in ['label_noise_sgd', 'sam'] or n in [2*rank, 50]", True),
        ("not n in [49, 51] and rank not in [2]", False),
    ],
)
def test_value(text: str, expected: object) -> None:
    assert value_of(text) == expected


def test_irrational_values_are_close() -> None:
    root, logarithm = value_of("sqrt(2)"), value_of("log(n)")
    assert isinstance(root, Fraction)
    assert isinstance(logarithm, Fraction)
    assert float(root) == pytest.approx(math.sqrt(2), rel=1e-14)
    assert float(logarithm) == pytest.approx(math.log(50), rel=1e-14)


@given(st.integers(1, 10**6), st.integers(1, 400))
def test_products_of_decimals_are_never_rounded_away(hundredths: int, count: int) -> None:
    assert value_of(f"{hundredths / 100!r}*{count}") == Fraction(hundredths * count, 100)


@pytest.mark.parametrize(
    ("value", "expected"), [("43.2", 44), ("44.0000000001", 44), ("44", 44), ("43.99999999999", 44), ("44.001", 45)]
)
def test_whole_above_ignores_noise_only(value: str, expected: int) -> None:
    assert whole_above(Fraction(value)) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1/0", "division by zero"),
        ("0**-1", "division by zero"),
        ("1//(n-50)", "division by zero"),
        ("9**9**9", "more than 2048 bits"),
        ("2**1e300", "more than 2048 bits"),
        ("*".join(["1e300"] * 50), "more than 2048 bits"),
        ("sqrt(-1)", "negative"),
        ("(-8)**0.5", "negative"),
        ("log(0)", "logarithm"),
        ("log(2, 1)", "logarithm"),
        ("true + 1", "True is true or false, not a number"),
        ("16.5, 24", "character 1: 16.5 is not a whole number, and widths are"),
        ("24, 'x'", "character 5: 'x' is not a whole number"),
        ("24, learning_rate", "character 5: None is not a whole number"),
    ],
)
def test_what_cannot_be_computed_is_an_error(text: str, reason: str) -> None:
    with pytest.raises(ExpressionError, match=reason):
        value_of(text)


def test_a_missing_value_fails_comparisons_and_spreads_through_arithmetic() -> None:
    assert value_of("learning_rate < 1") is False
    assert value_of("2*learning_rate + 1 > 0") is False
    assert value_of("learning_rate != 1 and learning_rate is None") is True


def test_a_part_that_cannot_be_computed_matters_only_where_no_other_part_decides() -> None:
    for text, expected in (("rank == 3 and 1/(n-50) > 1", False), ("1/(n-50) > 1 or rank == 2", True)):
        assert value_of(text) is expected
    with pytest.raises(ExpressionError, match="division by zero"):
        value_of("1/(n-50) > 1 and rank == 2")


def test_nesting_and_length_are_limited() -> None:
    assert value_of("+".join(["1"] * 50)) == 50
    for text in ("(" * 150 + "1" + ")" * 150 + "+" + "-" * 150 + "1", "-" * 9000 + "1", "1+" * 6000 + "1"):
        with pytest.raises(ExpressionError, match=r"nested|characters long"):
            parse(text)


def test_names_are_those_looked_up() -> None:
    assert parse("min(2*rank, n) + sqrt(d_in)").names == {"rank", "n", "d_in"}
