"""``flatdist sql``: exactly the rows that the loaders see."""

from __future__ import annotations

from click.testing import CliRunner

from flatdist.cells.cell import Cell
from flatdist.cli import cli
from flatdist.store import Store


def test_sql_sees_the_rows_that_the_loaders_see(tmp_path):
    store = Store(tmp_path / "results")
    cells = [Cell(d_out=6, d_in=5, rank=1, n=n, steps=20) for n in (10, 20)]

    def write(cell, replicates, value):
        keys = {"cell_id": cell.cell_id, "configuration_id": cell.configuration_id}
        trials = [{**cell.row(), **keys, "replicate": r, "relative_error": value, "host": "=1+1"} for r in replicates]
        history = [{"cell_id": cell.cell_id, "replicate": r, "step": s} for r in replicates for s in range(3)]
        Store(store.uri).write(trials, history)

    write(cells[0], range(3), 1.0)
    store.compact()
    write(cells[0], range(4), 1.0)  # three of them twice
    write(cells[1], range(2), 1.0)
    store.invalidate([(cells[1].cell_id, 0)])

    def ask(query, *more, status=0):
        answer = CliRunner().invoke(cli, ["sql", query, "--store", store.uri, *more])
        assert answer.exit_code == status, answer.output
        return answer.output

    found = ask("SELECT n, count(*) AS replicates FROM trials GROUP BY ALL ORDER BY n", "--csv")
    assert found.split() == ["n,replicates", "10,4", "20,1"]
    assert ask("SELECT count(*) AS rows FROM history", "--csv").split() == ["rows", "15"]
    joined = "SELECT sum(relative_error) AS s FROM history JOIN trials USING (cell_id, replicate)"
    assert ask(joined, "--csv").split() == ["s", "15.0"]
    assert len(ask("SELECT * FROM trials", "--csv").splitlines()) == 6
    assert "'=1+1" in ask("SELECT host FROM trials", "--csv")
    assert ask("SELECT 'a' || chr(13) || '=1+1' AS text", "--csv").split() == ["text", r"a\x0d=1+1"]
    assert len(ask("FROM failures", "--csv").splitlines()) == 1
    answer = CliRunner().invoke(cli, ["sql", "SELECT nothing FROM trials", "--store", store.uri])
    assert "DuckDB" in str(answer.exception)
