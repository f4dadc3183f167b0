"""What a sweep file may leave to the sweep, and what it is told where that cannot be."""

from __future__ import annotations

import dataclasses

import pytest

from flatdist.errors import SweepError
from flatdist.sweepfile import Changes
from flatdist.sweeps import Sweep, parse_sweep
from flatdist.sweeps.rules import Boundary, FirstSuccess, Plain, Span, UntilInterval

BASE = "fixed: {d_out: 6, d_in: 8, rank: 1, method: min_nuclear_norm}\n"
BOUNDARY = "{boundary: {from: 0.5*dof, to: entries, budget: 40, precision: 0.1}}"


def groups(sweep: Sweep) -> tuple:  # type: ignore[type-arg]
    return sweep.groups


def problems(text: str, **changes: object) -> str:
    with pytest.raises(SweepError) as refused:
        parse_sweep(text, changes=Changes(**changes))  # type: ignore[arg-type]
    return str(refused.value)


def test_ends_are_expressions_over_each_group_rounded_up() -> None:
    sweep = parse_sweep("fixed: {d_in: 8, method: min_nuclear_norm}\naxes: {d_out: [6, 7], n: " + BOUNDARY + "}\n"
                        "zip: [{rank: [1, 2], steps: [9, 9]}]")  # fmt: skip
    spans = [(group.cell(20).d_out, group.cell(20).rank, group.span) for group in groups(sweep)]
    assert spans == [(6, 1, Span(7, 48)), (6, 2, Span(12, 48)), (7, 1, Span(7, 56)), (7, 2, Span(13, 56))]
    assert all(group.rule == Boundary(40, 0.1, 1e-6) for group in groups(sweep))
    assert sweep.cells == ()


def test_success_is_judged_by_the_method_unless_the_file_says_so() -> None:
    trained = parse_sweep(BASE.replace("min_nuclear_norm", "label_noise_sgd") + "axes: {n: " + BOUNDARY + "}")
    assert groups(trained)[0].rule.tolerance == 1e-2
    own = parse_sweep(BASE + "axes: {n: " + BOUNDARY.replace("budget", "tolerance: 1e-3, budget") + "}")
    assert groups(own)[0].rule.tolerance == 1e-3
    assert groups(own)[0].key != groups(parse_sweep(BASE + "axes: {n: " + BOUNDARY + "}"))[0].key


def test_a_field_declared_later_changes_a_group_only_where_it_says_something() -> None:
    """Rounds recorded before the field was declared are gone on with."""
    file = BASE + "axes: {n: " + BOUNDARY + "}"
    today = groups(parse_sweep(file))[0]
    assert today.fields["spectral_tail"] == 0.0
    assert today.fields["flow_duration"] is None, "no field of the method"
    older = dataclasses.replace(
        today, fields={k: v for k, v in today.fields.items() if k not in ("spectral_tail", "flow_duration")}
    )
    assert older.key == today.key
    assert dataclasses.replace(today, fields={**today.fields, "spectral_tail": 0.1}).key != today.key


def test_each_block_has_its_own_way_and_inherits_the_top_levels() -> None:
    sweep = parse_sweep(f"""
replicates: 5
fixed: {{d_out: 6, d_in: 8, rank: 1, method: min_nuclear_norm, n: {BOUNDARY}}}
blocks:
  - axes: {{ensemble: [gaussian, rademacher]}}
  - fixed: {{nested: true}}
    axes: {{n: {{first_success: {{from: 1, to: entries}}}}}}
  - axes: {{n: [20, 30]}}
  - fixed: {{n: 40}}
""")
    rules = [group.rule for group in groups(sweep)]
    assert rules == [Plain(5)] * 3 + [Boundary(40, 0.1, 1e-6)] * 2 + [FirstSuccess(5, 1e-6)]
    assert [cell.n for cell in sweep.cells] == [20, 30, 40]


def test_a_grid_whose_replicates_rise_keeps_its_cells() -> None:
    sweep = parse_sweep(
        "replicates: {min: 3, max: 9, until_ci: 0.05}\n" + BASE.replace("rank: 1", "steps: 10*n")
        + "axes: {rank: [1, 2], n: [20, 30, 40]}"
    )  # fmt: skip
    assert (len(sweep.cells), sweep.replicates) == (6, 3)
    assert [(group.rule, group.span.values) for group in groups(sweep)] == [
        (UntilInterval(3, 9, 0.05, 1e-6), (20, 30, 40))
    ] * 2


def test_fields_may_depend_on_n() -> None:
    fixed = "fixed: {d_out: 6, d_in: 8, rank: 1, steps: 100*n, batch_size: 'min(n, 20)'}\n"
    sweep = parse_sweep(fixed + "axes: {n: " + BOUNDARY + "}")
    assert len(groups(sweep)) == 1
    cells = [groups(sweep)[0].cell(n) for n in (8, 30)]
    assert [(cell.steps, cell.batch_size) for cell in cells] == [(800, 8), (3000, 20)]
    assert "batch_size: 3.5 is not a whole number" in problems(sweep.source.replace("'min(n, 20)'", "n/2"))


def test_conditions_on_n_restrict_it_and_others_leave_groups_out() -> None:
    text = BASE.replace("rank: 1, ", "") + "axes: {rank: [1, 2, 3], n: " + BOUNDARY + "}\n"
    sweep = parse_sweep(
        text + "where: [rank < 3, n >= 20, n % 1 == 0]" if False else text + "where: [rank < 3, n >= 20]"
    )
    assert [group.span for group in groups(sweep)] == [Span(20, 48), Span(20, 48)]
    assert sweep.left_out == 1
    holes = parse_sweep(text + "where: n != 30 and n != 31", changes=Changes(conditions=("rank == 1",)))
    assert [30 in group.span.values for group in groups(holes)] == [False]
    assert "leaves out all" in problems(text + "where: n > 1000")


def test_one_n_from_the_command_line_takes_the_choice_away() -> None:
    sweep = parse_sweep(BASE + "axes: {n: " + BOUNDARY + "}", changes=Changes({"n": 30}))
    assert not sweep.chooses
    assert [cell.n for cell in sweep.cells] == [30]


def test_the_same_group_twice_counts_once_and_two_ranges_are_refused() -> None:
    twice = BASE + "blocks: [{axes: {n: " + BOUNDARY + "}}, {axes: {n: " + BOUNDARY + ", depth: [2, 3]}}]"
    sweep = parse_sweep(twice)
    assert len(groups(sweep)) == 1  # depth means nothing to this method
    assert sweep.repeated == 2
    assert "with a different range" in problems(twice.replace("budget: 40", "budget: 41", 1))


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("{boundary: {from: entries, to: dof, budget: 9, precision: 0.1}}", "goes from n = 48 to 13; allowed: from"),
        ("{boundary: {from: 1, to: 40, budget: 0, precision: 0.1}}", "budget: 0 is not a whole number in range"),
        ("{boundary: {from: 1, to: 40, budget: 2.5, precision: 0.1}}", "budget: 2.5 is not a whole number in range"),
        ("{boundary: {from: 1, to: 40, budget: 9, precision: 3}}", "precision: 3 is not a precision"),
        ("{boundary: {from: 1, to: 40, budget: 9, precision: 0}}", "precision: 0 is not a precision"),
        ("{boundary: {from: 1, to: 40, budget: 9}}", "precision: is required and missing"),
        ("{boundary: {to: 40, budget: 9, precision: 0.1}}", "from: is required and missing"),
        ("{boundary: {from: 1, to: 2*n, budget: 9, precision: 0.1}}", "to: 2*n depends on n"),
        ("{boundary: {from: 1, to: 2*entires, budget: 9, precision: 0.1}}", "did you mean 'entries'"),
        ("{boundary: {from: 0, to: 40, budget: 9, precision: 0.1}}", "from: 0 is out of range"),
        ("{boundary: {from: 5/(rank-1), to: 40, budget: 9, precision: 0.1}}", "division by zero"),
        ("{boundary: {from: 1, to: 40, budgets: 9, precision: 0.1}}", "did you mean 'budget'"),
        ("{boundary: {from: 1, to: 40, budget: 9, precision: 0.1, tolerance: -1}}", "-1 is not a relative error"),
        ("{boundary: 3}", "expected a mapping"),
        ("{bondary: {from: 1, to: 40, budget: 9, precision: 0.1}}", "did you mean 'boundary'"),
        ("{boundary: {}, first_success: {}}", "is not exactly one form"),
        ("{first_success: {from: 1, to: 40}}", "nested: true"),
        ("{boundary: {from: 1, to: 2e9, budget: 9, precision: 0.1}}", "too many to choose from; allowed: at most"),
        ("{first_success: {from: 1, to: 40, budget: 3}}", "budget: is not known here"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("place", ["axes", "fixed"])
def test_what_is_wrong_is_said(entry: str, reason: str, place: str) -> None:
    text = BASE + f"axes: {{n: {entry}}}" if place == "axes" else BASE.replace("rank: 1", f"rank: 1, n: {entry}")
    assert reason in problems(text)


@pytest.mark.parametrize(
    ("replicates", "reason"),
    [
        ("{min: 8, max: 4, until_ci: 0.1}", "has min 8 above max 4"),
        ("{min: 8, until_ci: 0.1}", "replicates.max: is required and missing"),
        ("{min: 8, max: 16}", "until_ci: is required and missing"),
        ("{min: 8, max: 16, until: 0.1}", "did you mean 'until_ci'"),
        ("{min: 8, max: 16, until_ci: 5}", "until_ci: 5 is not a precision"),
        ("many", "or {min: 8, max: 64, until_ci: 0.05}"),
    ],
)
def test_what_is_wrong_with_replicates_is_said(replicates: str, reason: str) -> None:
    assert reason in problems(f"replicates: {replicates}\n" + BASE + "axes: {n: [20, 30]}")


def test_everything_is_said_at_once() -> None:
    found = problems(
        "replicates: {min: 0, max: 4, until_ci: 0.1}\n" + BASE.replace("rank: 1", "rank: 9, sam_radius: -1")
        + "axes: {n: {boundary: {from: 1, to: 40, budget: -1, precision: 7}}}"
    )  # fmt: skip
    for part in ("replicates.min: 0", "sam_radius: -1", "budget: -1", "precision: 7"):
        assert part in found
    found = problems(BASE.replace("rank: 1", "rank: 9") + "axes: {n: " + BOUNDARY.replace("entries", "dof/0") + "}")
    assert "exceeds min(d_out, d_in)" in found
    assert "division by zero" in found


def test_what_does_not_go_together_is_refused() -> None:
    nested = "replicates: {min: 2, max: 4, until_ci: 0.1}\n" + BASE.replace("rank: 1", "rank: 1, nested: true")
    assert "nested problems are not" in problems(nested + "axes: {n: [20, 30]}")
    first = nested + "axes: {n: {first_success: {from: 1, to: 40}}}"
    assert "until_ci does not apply to first_success" in problems(first)
    assert "cannot advance with others" in problems(BASE + "zip: [{n: " + BOUNDARY + ", depth: [2, 3]}]")
    assert "given twice" in problems(BASE.replace("rank: 1", "rank: 1, n: 30") + "axes: {n: " + BOUNDARY + "}")
    search = "search: {fields: {sam_radius: {uniform: [0, 1]}}, budget: 3}\n"
    assert "cannot be combined with search" in problems(BASE.replace("rank: 1", f"rank: 1, n: {BOUNDARY}") + search)
    assert "until_ci does not apply to a search" in problems(
        "replicates: {min: 2, max: 4, until_ci: 0.1}\n" + BASE.replace("rank: 1", "rank: 1, n: 30") + search
    )
