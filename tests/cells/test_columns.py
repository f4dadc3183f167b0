"""The columns that readers rely on exist, each with one type, a unit and a meaning."""

from __future__ import annotations

import re

import pytest

from flatdist.cells.cell import FIELDS, Cell
from flatdist.cells.columns import BOOKKEEPING, RESULT_COLUMNS, RESULTS, TABLES, Column, column_names
from flatdist.factorization import evaluation
from flatdist.trials import trainee
from flatdist.trials.run import run_replicates
from flatdist.trials.settings import RunSettings

TYPES = r"string|bool|int32|int64|float64|list<(int32|float64)>|map<string, float64>|timestamp\[us, UTC\]"
PROMISED = {
    "trials": """cell_id replicate status train_loss train_loss_max population_loss relative_error nuclear_norm
        nuclear_norm_truth frobenius_norm spectral_norm effective_rank hessian_trace singular_values certificate
        learning_rate_final flow_time steps_run wall_seconds flatdist_version numerics_version sampling_version git_sha
        git_dirty torch_version plugins engine device cpu_features host finished_at configuration_id""",
    "history": """cell_id replicate step train_loss train_loss_max population_loss nuclear_norm hessian_trace
        learning_rate label_noise_std flow_time""",
    "failures": "cell_id replicate attempt error_type message traceback host at",
}


@pytest.mark.parametrize("table", TABLES)
def test_promised_columns_exist(table):
    assert set(PROMISED[table].split()) <= set(column_names(TABLES[table]))


def test_every_cell_field_is_a_column_of_the_type_it_declares():
    columns = {column.name: column for column in TABLES["trials"]}
    for name, field in FIELDS.items():
        assert columns[name].type == field.metadata["kind"].arrow
        assert field.metadata["help"] in columns[name].meaning
    assert columns["width"].type == "list<int32>"


@pytest.mark.parametrize("table", TABLES)
def test_columns_are_described(table):
    columns = (*TABLES[table], *BOOKKEEPING)
    assert len({column.name for column in columns}) == len(columns)
    for column in columns:
        assert re.fullmatch(TYPES, column.type)
        assert len(column.meaning) > 5
        assert (
            column.unit or column.type in ("string", "bool", "int32", "map<string, float64>") or column.name in FIELDS
        )


def test_results_are_what_two_runs_must_agree_on():
    assert {"status", "relative_error", "singular_values", "steps_run"} <= set(RESULT_COLUMNS)
    assert not {"wall_seconds", "host", "finished_at", "git_sha"} & set(RESULT_COLUMNS)


def test_a_column_is_declared_once_and_every_row_has_it(monkeypatch):
    def gap(answer):
        return answer.singular_values[0] - answer.singular_values[1]

    spread = Column("spread", "float64", "entries of M", "largest entry of the answer", answer=lambda a: a.matrix.max())
    rows = Column("rows", "int64", "1", "evaluations kept", training=lambda t: len(t.history["train_loss"]))
    declared = (*RESULTS, Column("gap", "float64", "entries of M", "between singular values", answer=gap), spread, rows)
    for module in (evaluation, trainee):
        monkeypatch.setattr(module, "RESULTS", declared)
    fields = {"d_out": 4, "d_in": 4, "rank": 1, "n": 14}
    solved = next(run_replicates(Cell(**fields, method="min_nuclear_norm"), [0])).trial
    trained = next(run_replicates(Cell(**fields, steps=40, evaluations=5), [0], RunSettings(engine="batched"))).trial
    for row in (solved, trained):
        assert row["gap"] == row["singular_values"][0] - row["singular_values"][1]
        assert 0 < row["spread"] <= row["spectral_norm"]
    assert "rows" not in solved
    assert (trained["rows"], trained["steps_run"]) == (5, 40)
