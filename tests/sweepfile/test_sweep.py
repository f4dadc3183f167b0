"""Sweep files: what they mean, and everything that is wrong with one, reported at once."""

from __future__ import annotations

import re
import tracemalloc
from pathlib import Path

import pytest

from flatdist.cells.cell import Cell
from flatdist.errors import SweepError
from flatdist.sweepfile import Changes
from flatdist.sweeps import Sweep, load_sweep, parse_sweep

BASE = "fixed: {d_out: 12, d_in: 10, rank: 2, n: 50}\n"


def values(sweep: Sweep, *fields: str) -> list[tuple[object, ...]]:
    return [tuple(getattr(cell, field) for field in fields) for cell in sweep.cells]


def ns(text: str) -> list[int]:
    return [cell.n for cell in parse_sweep(text).cells]


def problems(text: str, changes: Changes | None = None) -> list[str]:
    with pytest.raises(SweepError) as caught:
        parse_sweep(text, path=Path("f.yaml"), changes=changes)
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


def test_product_in_the_order_of_the_file() -> None:
    sweep = parse_sweep(
        "name: a\ndescription: two by two\nreplicates: 20\n"
        "fixed: {d_out: 12, d_in: 12}\naxes: {rank: [1, 2], n: ['2*dof', 100]}\n"
    )
    assert (sweep.name, sweep.description, sweep.replicates) == ("a", "two by two", 20)
    assert values(sweep, "rank", "n") == [(1, 46), (1, 100), (2, 88), (2, 100)]


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        ('"1.1*50"', 55),
        ("43.2", 44),
        ('"0.6*dof"', 24),
        ('"sqrt(2)*sqrt(2)*22"', 44),
        ("012", 12),
        ("1e2", 100),
        ("0.2", 1),
    ],
)
def test_n_is_rounded_up_from_exact_arithmetic(n: str, expected: int) -> None:
    assert ns(f"fixed: {{d_out: 12, d_in: 10, rank: 2, n: {n}}}\n") == [expected]


def test_expressions_resolve_in_the_order_of_their_dependencies() -> None:
    sweep = parse_sweep(
        "fixed: {n: '2*rank*d_out', rank: 'd_in//5', d_in: 'd_out-2', d_out: 12, steps: '100*n',\n"
        "  width: ['2*d_out', 'd_out']}\n"
    )
    assert values(sweep, "d_in", "rank", "n", "steps", "width") == [(10, 2, 48, 4800, (24, 12))]


def test_statdim_is_the_statistical_dimension() -> None:
    from flatdist.theory.statdim import statistical_dimension

    (count,) = ns("fixed: {d_out: 12, d_in: 12, rank: 1, n: statdim}\n")
    assert count - 1 < statistical_dimension(12, 12, 1) <= count
    assert 44 <= count <= 46


def test_number_axes() -> None:
    fixed = "fixed: {d_out: 12, d_in: 10, rank: 2}\n"
    assert ns(fixed + "axes: {n: {linspace: [10, 50, 5]}}\n") == [10, 20, 30, 40, 50]
    assert ns(fixed + "axes: {n: {linspace: [dof, '2*dof', 3]}}\n") == [40, 60, 80]
    assert ns(fixed + "axes: {n: {logspace: [1, 1000, 4]}}\n") == [1, 10, 100, 1000]
    assert ns(fixed + "axes: {n: {range: [10, 31, 10]}}\n") == [10, 20, 30]
    assert ns(fixed + "axes: {n: {range: [30, 10, -10]}}\n") == [30, 20, 10]
    assert ns(fixed + "axes: {n: {linspace: [7, 9, 1]}}\n") == [7]
    tenths = parse_sweep(BASE + "axes: {label_noise_std: {range: [0, 0.3, 0.1]}}\n")
    assert values(tenths, "label_noise_std") == [(0.0,), (0.1,), (0.2,), (0.3,)]


def test_random_axes_are_drawn_once_and_for_all() -> None:
    def drawn(form: str, count: int, seed: str = "") -> list[float]:
        axis = f"{{{form}: [0.001, 0.1, {count}]{seed}}}"
        return [cell.init_scale for cell in parse_sweep(BASE + f"axes: {{init_scale: {axis}}}\n").cells]

    uniform, logarithmic = drawn("uniform", 400), drawn("loguniform", 400)
    assert drawn("uniform", 10) == uniform[:10]
    assert drawn("uniform", 400, ", seed: 1") != uniform
    assert all(0.001 <= value <= 0.1 for value in uniform + logarithmic)
    assert sum(value < 0.01 for value in uniform) < 60  # expected 36 of 400
    assert 160 < sum(value < 0.01 for value in logarithmic) < 240
    steps = parse_sweep(BASE + "axes: {steps: {loguniform: [10, 1000, 50]}}\n")
    assert len({cell.steps for cell in steps.cells}) > 30


def test_widths_are_numbers_lists_and_expressions() -> None:
    sweep = parse_sweep(BASE + "axes: {width: [12, [12, 16], 2*d_in, [d_out, 20]]}\n")
    assert values(sweep, "width") == [((12, 12),), ((12, 16),), ((20, 20),), ((12, 20),)]


def test_zip_advances_axes_together_in_both_spellings() -> None:
    fixed = "fixed: {d_out: 12, d_in: 10}\n"
    own = parse_sweep(fixed + "axes: {depth: [2, 3]}\nzip: [{rank: [1, 2], n: [50, 90]}]\n")
    named = parse_sweep(fixed + "axes: {depth: [2, 3], rank: [1, 2], n: [50, 90]}\nzip: [[rank, n]]\n")
    expected = [(2, 1, 50), (2, 2, 90), (3, 1, 50), (3, 2, 90)]
    assert values(own, "depth", "rank", "n") == values(named, "depth", "rank", "n") == expected


def test_where_leaves_out_counts_and_comes_before_the_checks() -> None:
    sweep = parse_sweep(
        "fixed: {d_out: 4, d_in: 4, n: dof}\naxes: {rank: [1, 2, 3, 4, 5, 6]}\nwhere: rank <= d_in and n > 7\n"
    )
    assert values(sweep, "rank") == [(2,), (3,), (4,)]
    assert sweep.left_out == 3


def test_where_sees_defaults_words_and_text() -> None:
    sweep = parse_sweep(
        BASE + "axes: {batch_size: [full, 50], learning_rate: [auto, 0.1], method: [label_noise_sgd, minibatch_sgd]}\n"
        "where: batch_size == 'full' and learning_rate == 'auto' and method != 'minibatch_sgd' and width == 12\n"
    )
    assert values(sweep, "batch_size", "learning_rate", "method") == [(None, None, "label_noise_sgd")]


def test_blocks_are_a_union_and_inherit_what_is_fixed() -> None:
    sweep = parse_sweep(
        BASE
        + "axes: {depth: [2, 3]}\nwhere: depth < 3\nblocks:\n  - axes: {depth: [2, 4]}\n  - fixed: {n: 60, depth: 5}\n"
    )
    assert values(sweep, "n", "depth") == [(50, 2), (50, 4), (60, 5)]
    assert (sweep.left_out, sweep.repeated) == (1, 1)


def test_without_axes_of_its_own_the_top_level_is_only_shared_by_the_blocks() -> None:
    sweep = parse_sweep(
        "fixed: {d_out: 12, d_in: 10, rank: 2}\nwhere: n < 70\nblocks: [{fixed: {n: 50}}, {axes: {n: [60, 70]}}]\n"
    )
    assert values(sweep, "n") == [(50,), (60,)]
    assert sweep.left_out == 1


def test_cells_that_differ_only_where_it_does_not_matter_are_one() -> None:
    sweep = parse_sweep(BASE + "axes: {learning_rate: [0.1, 0.2], method: [label_noise_sgd, min_nuclear_norm]}\n")
    assert len(sweep.cells) == 3
    assert sweep.repeated == 1
    assert len({cell.cell_id for cell in sweep.cells}) == 3


def test_the_command_line_changes_fields_and_adds_conditions() -> None:
    text = "fixed: {d_out: 12, d_in: 10}\naxes: {n: [50, 60], depth: [2, 3]}\nzip: [{rank: [1, 2], steps: [10, 20]}]\n"
    changed = parse_sweep(text, changes=Changes({"rank": 2, "n": "rank*30"}, ("steps == 20",)))
    assert values(changed, "n", "rank", "steps", "depth") == [(60, 2, 20, 2), (60, 2, 20, 3)]


def test_everything_wrong_is_reported_at_once_with_line_value_and_nearest_name() -> None:
    found = problems(
        "name: ../evil\n"
        "descripton: x\n"
        "replicates: eight\n"
        "steps: 3\n"
        "fixed:\n"
        "  d_out: 12\n"
        "  d_in: 12\n"
        "  dpeth: 3\n"
        "  evaluations: 1\n"
        "  width: 4\n"
        "  batch_size: ful\n"
        "  nested: yes\n"
        "  label_noise_std: '2*nosie'\n"
        "axes:\n"
        "  rank: [1, 13]\n"
        "  n: [0, 50]\n"
        "  method: [label_noise_sgd, min_nuclear_nrm]\n"
    )
    expected = [
        r"f.yaml:1: name: ../evil cannot name",
        "f.yaml:2: descripton: is not known here (did you mean 'description'?); allowed: name, description",
        "f.yaml:3: replicates: eight is not a whole number in range; allowed: a whole number from 1",
        "f.yaml:4: steps: is not known here (a cell field: it belongs under fixed or axes)",
        "f.yaml:8: fixed.dpeth: is not known here (did you mean 'depth'?); allowed: d_out, d_in",
        "f.yaml:9: fixed.evaluations: 1 is out of range; allowed: a whole number from 2",
        "f.yaml:10: fixed.width: 4 is smaller than min(d_out, d_in)",
        "f.yaml:11: fixed.batch_size: ful is neither a number nor the name of a field",
        "f.yaml:12: fixed.nested: yes is neither true nor false",
        "f.yaml:13: fixed.label_noise_std: 2*nosie is not an expression: character 3: there is no name 'nosie'",
        "f.yaml:15: axes.rank: 13 exceeds min(d_out, d_in)",
        "f.yaml:16: axes.n: 0 is out of range; allowed: a whole number from 1",
        "f.yaml:17: axes.method: min_nuclear_nrm is not known (did you mean 'min_nuclear_norm'?)",
    ]
    assert len(found) == len(expected)
    for line, start in zip(found, expected, strict=True):
        assert line.startswith(start)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file: is empty or not a mapping"),
        ("- 1\n", "the file: .*is empty or not a mapping"),
        ("fixed: {d_out: 12, d_in: 12, rank: 1}\n", "n: is required and missing"),
        (BASE + "axes: {depth: []}\n", "axes.depth: is an empty list"),
        (BASE + "where: n > 50\n", "leaves out all 1 cells: the sweep is empty"),
        (BASE + "where: n + 1\n", "where: 'n \\+ 1' character 3: is a number; a condition compares"),
        (BASE + "where: n > rnak\n", "did you mean 'rank'"),
        (BASE + "where: [1]\n", "where: 1 is not a condition"),
        (BASE + "axes: {rank: [1]}\n", "axes.rank: is given twice in one block"),
        (BASE + "axes: {depth: 3}\n", "axes.depth: 3 expected a list"),
        (BASE + "axes: {depth: {linspce: [2, 3, 2]}}\n", "did you mean 'linspace'"),
        (BASE + "axes: {init_scale: {uniform: [1, 2, 3], seed: x}}\n", "has the seed 'x'"),
        (BASE + "axes: {init_scale: {linspace: [1, 2, 3], seed: 1}}\n", "a seed only where it is random"),
        (BASE + "axes: {learning_rate: {logspace: [-3, -1, 3]}}\n", "the values themselves, not exponents of 10"),
        (BASE + "axes: {depth: {linspace: [2, 3]}}\n", "does not have three entries"),
        (BASE + "axes: {depth: {linspace: [2, 3, 1.5]}}\n", "count that is not a whole number"),
        (BASE + "axes: {depth: {linspace: [2, 3, 3]}}\n", "axes.depth.linspace: .* is not a whole number"),
        (BASE + "axes: {steps: {range: [2, 30, -1]}}\n", "never reaches stop"),
        (BASE + "axes: {steps: {range: [2, n, 1]}}\n", "depends on other fields"),
        (
            BASE + "axes: {method: {linspace: [1, 2, 2]}}\n",
            "numeric axes need a numeric field; `method` is not numeric",
        ),
        (BASE + "zip: {depth: [2]}\n", "zip: .*expected a list"),
        (BASE + "zip: [{depth: [2, 3], steps: [10]}]\n", "axes of different lengths: depth has 2, steps has 1"),
        (BASE + "zip: [[depth]]\n", "is not an axis of this block"),
        (BASE + "zip: [[{rank: 1}]]\n", "is not an axis of this block"),
        (BASE + "blocks: {fixed: {}}\n", "blocks: .*expected a list"),
        (BASE + "blocks: [{axis: {}}]\n", r"blocks\[0\].axis: is not known here \(did you mean 'axes'"),
        (BASE + "blocks: [{axes: {rank: [1, 11]}}]\n", r"blocks\[0\].axes.rank: 11 exceeds min\(d_out, d_in\)"),
        (
            "fixed: {d_out: twelve, d_in: 12, rank: 1, n: 5}\n",
            "fixed.d_out: twelve is neither a number nor the name of a field",
        ),
        ("fixed: {d_out: 12.5, d_in: 12, rank: 1, n: 5}\n", "fixed.d_out: 12.5 is not a whole number"),
        ("fixed: {d_out: [12], d_in: 12, rank: 1, n: 5}\n", "is a list; lists of values belong under axes"),
        ("fixed: {d_out: 12, d_in: 12, rank: 1, n: 5, steps: 0}\n", "fixed.steps: 0 is out of range"),
        ("fixed: {d_out: 12, d_in: 12, rank: 1, n: 5, init_scale: .nan}\n", "fixed.init_scale: nan is not finite"),
        ("fixed: {d_out: 12, d_in: 12, rank: 1, n: 'd_out.real'}\n", r"character 1: .* is not arithmetic"),
        ("fixed: {d_out: 12, d_in: 12, rank: 1, n: '9**9**9'}\n", "more than 2048 bits"),
        ("fixed: {d_out: 12, d_in: 12, rank: 1, n: '1/(rank-1)'}\n", "division by zero"),
        ("fixed: {d_out: 12, d_in: 12, rank: 1, n: 'n+1'}\n", "fixed.n: depends on itself: n -> n"),
        (
            "fixed: {d_out: 12, d_in: n, rank: 1, n: dof}\n",
            "depends on itself: d_in -> n -> d_in",
        ),
        ("fixed: {d_out: 12, d_in: 12, rank: 1, n: 'rank < 2'}\n", "comes out as True, which is not a number"),
        (BASE + "axes: {init_scale: ['1e200*1e200*n']}\n", "axes.init_scale: .* comes out too large"),
        (BASE + "axes: {init_scale: ['1e200*1e200']}\n", "axes.init_scale: .* comes out too large"),
        (BASE + "axes: {steps: [1e400]}\n", "axes.steps: inf is not finite"),
        (BASE + "axes: {steps: [true]}\n", "axes.steps: True is not a number"),
        (BASE + "axes: {method: [3]}\n", "axes.method: 3 is not known"),
        (BASE + "axes: {width: [[12]]}\n", r"axes.width: \[12\] has 1 entries"),
        ("name: 'a;rm -rf'\n" + BASE, "name: .* cannot name a sweep"),
        ("name: a..b\n" + BASE, "cannot name a sweep"),
        ("name: .hidden\n" + BASE, "cannot name a sweep"),
        ("name: a/b\n" + BASE, "cannot name a sweep"),
        ("name: $(id)\n" + BASE, "cannot name a sweep"),
        ("name: 12\n" + BASE, "name: 12 cannot name a sweep; allowed: text of letters"),
        ("replicates: 0\n" + BASE, "replicates: 0 is not a whole number in range"),
        ("replicates: true\n" + BASE, "replicates: True is not a whole number in range"),
    ],
)
def test_one_problem_one_message(text: str, message: str) -> None:
    (line,) = problems(text)
    assert re.search(message, line), line


def test_the_same_problem_of_many_cells_is_one_line_with_a_count() -> None:
    (line,) = problems(
        "fixed: {d_out: 12, d_in: 12, n: 50}\naxes:\n  rank: [1, 13]\n  label_noise_std: {linspace: [0, 1, 1000]}\n"
    )
    assert line.startswith(
        "f.yaml:3: axes.rank: 13 exceeds min(d_out, d_in) (1,000 of 2,000 cells, first: rank=13, label_noise_std=0)"
    )


@pytest.mark.parametrize(
    "axes",
    [
        "{n: {linspace: [1, 100, 10000000]}}",
        "{n: {range: [1, 10000000, 1]}}",
        "{n: {linspace: [1, 100, 1000]}, steps: {linspace: [1, 100, 100]}, depth: {linspace: [2, 60, 100]}}",
    ],
)
def test_ten_million_cells_are_refused_with_the_count_before_memory_is_filled(axes: str) -> None:
    tracemalloc.start()
    (line,) = problems(f"fixed: {{d_out: 12, d_in: 12, rank: 1}}\naxes: {axes}\nwhere: n < 2\n")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "10,000,000 cells" in line
    assert peak < 20 * 2**20


def test_problems_of_the_command_line_are_reported_once() -> None:
    found = problems(
        BASE + "axes: {depth: [2]}\nblocks: [{fixed: {n: 60}}]\n", Changes({"rnak": 3, "steps": 0}, ("n >",))
    )
    assert [line.split(": ")[1] for line in found] == ["--where", "--set.rnak", "--set steps"]


def test_a_file_names_the_sweep_where_it_does_not(tmp_path: Path) -> None:
    path = tmp_path / "my-sweep.yaml"
    path.write_text(BASE)
    sweep = load_sweep(path)
    assert (sweep.name, sweep.replicates, sweep.source) == ("my-sweep", 8, BASE)
    assert sweep.cells == (Cell(d_out=12, d_in=10, rank=2, n=50),)


@pytest.mark.parametrize("key", ["<until", "<given", "\\0", "", "a.b"])
@pytest.mark.parametrize(
    "text", ["{KEY: 1}\n", "fixed: {KEY: 1}\n", "groups: {KEY: {KEY: [1]}}\n", "search: {KEY: {}}\n"]
)
def test_a_strange_key_is_a_key_like_others(text: str, key: str) -> None:
    """Pydantic's own names for alternatives cannot be forged."""
    found = problems(text.replace("KEY", f'"{key}"'))
    assert any("is not known here" in line for line in found)
