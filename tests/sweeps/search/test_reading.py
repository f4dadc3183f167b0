"""The ``search`` of a sweep file."""

from __future__ import annotations

import pytest

from flatdist.errors import SweepError
from flatdist.sweepfile import Changes
from flatdist.sweepfile.choices import Choice
from flatdist.sweeps import parse_sweep

FIXED = "fixed: {d_out: 4, d_in: 4, rank: 1, n: 12, steps: 100}\n"


def search(text: str, fixed: str = FIXED, changes: Changes | None = None):  # type: ignore[no-untyped-def]
    found = parse_sweep(fixed + "search: {" + text + "}\n", changes=changes)
    assert found is not None
    return found


RATE = "fields: {learning_rate: {loguniform: [1e-3, 0.1]}}"


def test_defaults() -> None:
    found = search(RATE + ", budget: 20")
    assert (found.searcher.name, found.metric.text, found.mode, found.budget) == ("random", "relative_error", "min", 20)
    assert (found.round_size, found.seed, found.early_stopping) == (8, 0, None)
    assert search(RATE + ", budget: 3").round_size == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fields: {learning_rat: {uniform: [0, 1]}}, budget: 2", r"learning_rat.*did you mean 'learning_rate'"),
        (RATE + ", budget: 2, searcher: optunna", r"search.searcher: optunna is not known \(did you mean 'optuna'\?\)"),
        (RATE + ", budget: 2, metric: relative_eror", r"search.metric.*did you mean 'relative_error'"),
        (RATE + ", budget: 2, metric: steps_to", "needs a relative error to reach"),
        (RATE + ", budgt: 2", r"budgt.*did you mean 'budget'"),
        (RATE, "search.budget: is required and missing"),
        (RATE + ", budget: 0", "search.budget: 0 is not a whole number in range"),
        (RATE + ", budget: 2, mode: least", "search.mode: least is not known; allowed: min, max"),
        ("budget: 2", "search.fields: is required and missing"),
        ("fields: {}, budget: 2", "search.fields: names no field to search"),
        ("fields: {rank: {uniform: [1, 3]}}, budget: 2", "search.fields.rank: is fixed too"),
        ("fields: {learning_rate: {logunifrm: [1, 3]}}, budget: 2", "did you mean 'loguniform'"),
        ("fields: {learning_rate: {loguniform: [0, 3]}}, budget: 2", "both greater than 0"),
        ("fields: {learning_rate: {uniform: [3, 1]}}, budget: 2", "low below high"),
        ("fields: {method: {uniform: [1, 3]}}, budget: 2", "`method` is not numeric"),
        ("fields: {method: {choice: [sam, minibatch_sdg]}}, budget: 2", "did you mean 'minibatch_sgd'"),
        ("fields: {depth: {uniform: [1, 3]}}, budget: 2", "search.fields.depth: 1 is out of range"),
        (RATE + ", budget: 2, early_stopping: {frst: 10}", "did you mean 'first'"),
        (RATE + ", budget: 2, metric: flow_time, early_stopping: {first: 10}", "flow_time is not"),
        (RATE + ", budget: 2, scheduler: ahsa", r"search.scheduler: ahsa is not known \(did you mean 'asha'\?\)"),
        (RATE + ", budget: 2, scheduler: pb2", "pb2 changes fields of a trial during its run"),
        (RATE + ", budget: 2, scheduler: asha, metric: certificate", "certificate is not reported before"),
        (RATE + ", budget: 2, scheduler: asha, early_stopping: {first: 10}", "cannot be combined with early_stopping"),
        (RATE + ", budget: 2, scheduler: bohb", "bohb needs the searcher bohb"),
        (RATE + ", budget: 2, scheduler: {asha: {grace_perod: 5}}", r"asha.grace_perod.*did you mean 'grace_period'"),
        (
            RATE + ", budget: 2, scheduler: {asha: {grace_period: 0}}",
            "asha.grace_period: 0 cannot be used; allowed: a w",
        ),
        (RATE + ", budget: 2, scheduler: [asha]", "search.scheduler: .* is not known"),
        (RATE + ", budget: 2, searcher: {hyperopt: {gamma: 2}}", "hyperopt.gamma: 2 cannot be used.*at most 1"),
        (RATE + ", budget: 2, searcher: {optuna: {sampler: tpee}}", "sampler: tpee cannot be used; allowed: tpe, gp"),
        (RATE + ", budget: 2, searcher: {optuna: 3}", "search.searcher.optuna: .* expected a mapping of options"),
    ],
)
def test_what_is_wrong_is_said(text: str, message: str) -> None:
    with pytest.raises(SweepError, match=message):
        search(text)


def test_a_searcher_and_a_scheduler_with_options() -> None:
    plain = search(RATE + ", budget: 2, searcher: hyperopt")
    found = search(RATE + ", budget: 2, searcher: {hyperopt: {gamma: 0.5}}, scheduler: {asha: {grace_period: 20}}")
    assert found.searcher == Choice("hyperopt", {"gamma": 0.5})
    assert found.scheduler == Choice("asha", {"grace_period": 20})
    assert found.longest == (100, 64)
    assert found.identity != plain.identity
    assert search(RATE + ", budget: 2, searcher: hyperopt, scheduler: median").identity == plain.identity


def test_axes_and_blocks_do_not_go_with_a_search() -> None:
    with pytest.raises(SweepError, match=r"axes.rank: cannot be combined with search"):
        search(RATE + ", budget: 2", "fixed: {d_out: 4, d_in: 4, n: 12}\naxes: {rank: [1, 2]}\n")
    with pytest.raises(SweepError, match=r"blocks: cannot be combined with search"):
        search(RATE + ", budget: 2", FIXED + "blocks: [{axes: {depth: [2, 3]}}]\n")


def test_fixed_fields_may_depend_on_searched_ones() -> None:
    found = search("fields: {rank: {choice: [1, 2]}}, budget: 2", "fixed: {d_out: 6, d_in: 6, n: 2*dof}\n")
    cell = found.cell({"rank": 2})
    assert cell is not None
    assert cell.n == 2 * 2 * (6 + 6 - 2)


def test_conditions_leave_suggestions_out() -> None:
    found = search(RATE + ", budget: 2", FIXED + "where: learning_rate > 0.01\n")
    assert found.cell({"learning_rate": 0.002}) is None
    assert found.cell({"learning_rate": 0.02}) is not None


def test_a_field_that_is_set_is_searched_no_more() -> None:
    text = "fields: {depth: {choice: [2, 3]}, learning_rate: {uniform: [0.1, 0.2]}}, budget: 2"
    found = search(text, changes=Changes({"depth": 4}))
    assert [domain.field for domain in found.domains] == ["learning_rate"]
    cell = found.cell({"learning_rate": 0.1})
    assert cell is not None
    assert cell.depth == 4


def test_identity_is_about_which_cells_are_asked_for() -> None:
    one = search(RATE + ", budget: 2")
    longer = search(RATE + ", budget: 20, round: 5, early_stopping: {first: 10}")
    assert one.identity == longer.identity
    others = [
        search(RATE + ", budget: 2, seed: 1"),
        search(RATE + ", budget: 2, metric: train_loss"),
        search(RATE.replace("0.1", "0.2") + ", budget: 2"),
        search(RATE + ", budget: 2", FIXED.replace("12", "13")),
        search(RATE + ", budget: 2", FIXED + "where: n > 1\n"),
    ]
    assert len({one.identity, *(other.identity for other in others)}) == 6
