"""Rules: what a group asks for, given what is known of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import pytest
from made_up import SCALE, share

from flatdist.sweeps.rules import (
    Boundary,
    FirstSuccess,
    Known,
    Plain,
    Rule,
    Run,
    Span,
    UntilInterval,
    is_known,
    runs_of,
)
from flatdist.threshold import interval


def play(
    rule: Rule, span: Span, succeeds: Callable[[Run], bool | None], known: Known | None = None
) -> tuple[Known, list[int]]:
    """Ask until there is nothing to ask; what is known then, and the sizes of the rounds."""
    runs = list(known.asked) if known else []
    success = dict(known.success) if known else {}
    sizes = []
    while new := rule.ask(span, Known(runs, success)):
        left = rule.left(span, Known(runs, success))
        assert 0 < left[0] <= left[1]
        assert len(new) <= left[1]
        sizes.append(len(new))
        assert not set(new) & set(runs)
        runs += new
        success |= {run: outcome for run in new if (outcome := succeeds(run)) is not None}
        assert len(sizes) < 200
    assert rule.left(span, Known(runs, success)) == (0, 0)
    return Known(runs, success), sizes


def curve(center: float, seed: int = 0) -> Callable[[Run], bool]:
    def succeeds(run: Run) -> bool:
        u = share(f"{seed} {run.n} {run.replicate}")
        return u < 1 / (1 + math.exp(-(math.log(run.n / center)) / SCALE))

    return succeeds


@pytest.mark.parametrize("seed", range(4))
def test_a_boundary_search_finds_n50_with_each_replicate_once(seed: int) -> None:
    span = Span(10, 300)
    known, sizes = play(Boundary(1000, 0.06, 1e-6), span, curve(70.0, seed))
    assert [run.replicate for run in known.asked] == list(range(len(known.asked)))
    found = interval(runs_of(known))
    assert found.half_width <= 0.06
    assert abs(math.log(found.n50 / 70)) < 0.12  # four standard errors
    assert max(sizes) <= max(8, len(known.asked) // 4 + 1)


def test_a_budget_is_never_exceeded_and_a_larger_one_goes_on() -> None:
    span, outcome = Span(10, 300), curve(70.0)
    short, _ = play(Boundary(30, 0.01, 1e-6), span, outcome)
    assert len(short.asked) == 30
    assert Boundary(30, 0.01, 1e-6).budget_spent(span, short)
    assert not Boundary(30, 0.5, 1e-6).budget_spent(span, short)
    longer, _ = play(Boundary(75, 0.01, 1e-6), span, outcome, short)
    assert len(longer.asked) == 75
    assert longer.asked[:30] == short.asked


@pytest.mark.parametrize("outcome", [True, False])
def test_a_boundary_outside_the_range_is_settled_with_few_runs(outcome: bool) -> None:
    span = Span(10, 300)
    known, _ = play(Boundary(400, 0.03, 1e-6), span, lambda run: outcome)
    assert len(known.asked) < 100
    assert interval(runs_of(known)).censored == ("left" if outcome else "right")


def test_failed_runs_are_skipped_and_count_against_the_budget() -> None:
    known, _ = play(Boundary(60, 0.01, 1e-6), Span(10, 300), lambda run: None if run.replicate % 3 else run.n > 70)
    assert len(known.asked) == 60
    assert len(known.success) == 20
    known, sizes = play(Boundary(40, 0.01, 1e-6), Span(10, 300), lambda run: None)
    assert sum(sizes) == 40


def test_only_allowed_n_are_asked_for() -> None:
    span = Span(10, 300, tuple(range(10, 301, 7)))
    known, _ = play(Boundary(100, 0.05, 1e-6), span, curve(70.0))
    assert {run.n for run in known.asked} <= set(span.values)


@pytest.mark.parametrize("span", [Span(1, 36), Span(5, 37), Span(1, 40, tuple(range(1, 41, 3)))])
def test_bisection_finds_every_first_success(span: Span) -> None:
    thresholds = [0, 1, 6, 17, 18, 19, 35, 36, 37, 99]
    rule = FirstSuccess(len(thresholds), 1e-6)
    known, sizes = play(rule, span, lambda run: run.n >= thresholds[run.replicate])
    assert len(sizes) == math.ceil(math.log2(len(span.values) + 1))
    for replicate, first in enumerate(thresholds):
        won = [run.n for run, success in known.success.items() if success and run.replicate == replicate]
        lost = [run.n for run, success in known.success.items() if not success and run.replicate == replicate]
        expected = [n for n in span.values if n >= first]
        assert min(won, default=None) == (expected[0] if expected else None)
        assert max(lost, default=None) == max((n for n in span.values if n < first), default=None)


def test_bisection_goes_on_without_a_replicate_that_failed() -> None:
    rule, span = FirstSuccess(4, 1e-6), Span(1, 63)
    known, _ = play(rule, span, lambda run: None if run.replicate == 2 else run.n >= 40)
    assert Counter(run.replicate for run in known.asked) == {0: 6, 1: 6, 2: 1, 3: 6}
    more, _ = play(FirstSuccess(6, 1e-6), span, lambda run: run.n >= 40, known)
    assert {run.replicate for run in more.asked[len(known.asked) :]} == {4, 5}


def test_replicates_of_a_grid_rise_only_where_they_help() -> None:
    span = Span(20, 160, tuple(range(20, 161, 10)))
    rule = UntilInterval(4, 40, 0.06, 1e-6)
    known, sizes = play(rule, span, curve(70.0))
    counts = Counter(run.n for run in known.asked)
    assert sizes[0] == 4 * len(span.values)
    assert all(4 <= counts[n] <= 40 for n in span.values)
    assert counts[60] + counts[70] + counts[80] > 3 * 8
    assert counts[20] == counts[150] == 4
    for n in span.values:
        assert sorted(run.replicate for run in known.asked if run.n == n) == list(range(counts[n]))
    assert is_known(span, known, 0.06)


def test_a_grid_stops_at_its_most_replicates_and_a_single_n_at_its_least() -> None:
    span = Span(60, 80, (60, 70, 80))
    known, _ = play(UntilInterval(4, 12, 0.001, 1e-6), span, curve(70.0))
    assert len(known.asked) == 36
    assert UntilInterval(4, 12, 0.001, 1e-6).budget_spent(span, known)
    _, sizes = play(UntilInterval(4, 12, 0.1, 1e-6), Span(70, 70, (70,)), curve(70.0))
    assert sizes == [4]


def test_plain_cells_are_asked_for_once() -> None:
    known, sizes = play(Plain(5), Span(9, 9), lambda run: True)
    assert sizes == [5]
    more, sizes = play(Plain(7), Span(9, 9), lambda run: True, known)
    assert sizes == [2]
    assert more.asked[5:] == [Run(9, 5), Run(9, 6)]
