"""``flatdist.plan`` and ``flatdist.sweep``, and what a notebook shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flatdist
from flatdist.api import MissingReplicates
from flatdist.errors import CellError, LaunchError, SweepError
from flatdist.launch.progress import display

SPEC = {
    "name": "little",
    "replicates": 2,
    "fixed": {"d_out": 4, "d_in": 4, "rank": 1, "steps": 30, "evaluations": 2},
    "axes": {"n": np.array([10, 12]), "method": ["label_noise_sgd", "min_frobenius_norm"]},
}
INLINE: dict[str, Any] = {"executor": "inline", "probe": False}


def test_a_sweep_runs_from_a_dict_and_resumes(tmp_path: Path) -> None:
    planned = flatdist.plan(SPEC, tmp_path, **INLINE)
    assert planned.to_run == 8
    assert repr(planned).splitlines()[1] == "  4 cells with 2 replicates each: 0 done, 8 missing, 0 failed"
    assert "to run: 8 replicates of 4 cells" in planned._repr_html_()
    some = flatdist.sweep(SPEC, tmp_path, where="n == 10", display="none", **INLINE)
    assert sorted(some["n"]) == [10] * 4
    trials = flatdist.sweep(SPEC, tmp_path, display="none", **INLINE)
    assert len(trials) == 8
    assert trials.equals(flatdist.load_trials(tmp_path, sweep="little"))
    assert flatdist.plan("little", tmp_path, **INLINE).to_run == 0
    loaded = flatdist.load_sweep(write(tmp_path, "again.yaml"))
    assert repr(loaded) == "Sweep('again', 4 cells, 2 replicates each)"
    assert "<th>n</th><td>10, 12</td>" in loaded._repr_html_()
    assert "<th>steps</th>" not in loaded._repr_html_()
    store = flatdist.Store(tmp_path)
    assert flatdist.sweep(loaded, store, display="none", **INLINE).equals(trials)
    assert "<th>little</th><td>4</td><td>8</td>" in store._repr_html_()
    assert flatdist.Store(tmp_path / "none")._repr_html_().endswith(": 0 replicates of 0 cells</caption></table>")


def test_a_store_of_many_sweeps_shows_some_and_counts_the_others(tmp_path: Path) -> None:
    store = flatdist.Store(tmp_path)
    for number in range(23):
        store.sweeps.save(f"s{number:02}", "", [], 1)
    shown = store._repr_html_()
    assert "<th>s19</th>" in shown
    assert "<th>and 3 more</th>" in shown
    assert "s20" not in shown


def write(folder: Path, name: str) -> Path:
    path = folder / name
    path.write_text("replicates: 2\nfixed: {d_out: 4, d_in: 4, rank: 1, steps: 30, evaluations: 2}\n"
                    "axes: {n: [10, 12], method: [label_noise_sgd, min_frobenius_norm]}\n")  # fmt: skip
    return path


def test_a_search_runs_from_python(tmp_path: Path) -> None:
    search = {"fields": {"learning_rate": {"loguniform": [0.01, 0.1]}}, "budget": 3}
    spec = {"name": "found", "replicates": 1, "fixed": SPEC["fixed"] | {"n": 12}, "search": search}  # type: ignore[operator]
    assert len(flatdist.sweep(spec, tmp_path, display="none", **INLINE)) == 3


def test_failures_are_a_warning_and_an_interrupt_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import flatdist.launch
    from flatdist.launch import LaunchResult

    monkeypatch.setattr("flatdist.launch.sweeping.launch", lambda *a, **k: LaunchResult(wanted=8, stored=5, failed=3))
    with pytest.warns(MissingReplicates, match="3 replicates of 'little' have no result"):
        flatdist.sweep(SPEC, tmp_path, **INLINE)
    stopped = LaunchResult(wanted=8, stored=5, failed=0, interrupted=True)
    monkeypatch.setattr("flatdist.launch.sweeping.launch", lambda *a, **k: stopped)
    with pytest.raises(KeyboardInterrupt):
        flatdist.sweep(SPEC, tmp_path, **INLINE)


def test_bad_input_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match=r"  sweep: fixed.deph: .*did you mean 'depth'"):  # a dict has no lines
        flatdist.sweep({**SPEC, "fixed": {"deph": 3}}, tmp_path / "s", **INLINE)
    with pytest.raises(LaunchError, match=r"no option 'limt' \(did you mean 'limit'\?\)"):
        flatdist.plan(SPEC, tmp_path / "s", limt=3, **INLINE)
    with pytest.raises(SweepError, match="'nothing' is not a file"):
        flatdist.plan("nothing", tmp_path / "s", **INLINE)


def test_a_cells_fields_may_be_expressions() -> None:
    cell = flatdist.Cell(d_out=6, d_in=6, rank=1, n="2*dof", steps="10*n", learning_rate="1/n")
    assert (cell.n, cell.steps, cell.learning_rate) == (22, 220, 0.0454545454545)
    assert cell == flatdist.Cell(d_out=6, d_in=6, rank=1, n=22, steps=220, learning_rate=1 / 22)
    with pytest.raises(CellError, match="neither a number nor the name of a field"):
        flatdist.Cell(d_out=6, d_in=6, rank=1, n="doff")
    assert flatdist.Cell(d_out=6, d_in=6, rank=1, n=22, learning_rate="auto", batch_size="full").batch_size is None


def test_replacing_fields_keeps_default_widths_the_default() -> None:
    cell = flatdist.Cell(d_out=6, d_in=4, rank=1, n=22)
    assert cell.replace(depth=4).width == (6, 6, 6)
    assert cell.replace(d_out=9).width == (9, 9)
    assert cell.replace(n="dof").n == 9
    wide = cell.replace(width=12)
    assert wide.replace(n=30).width == (12, 12)
    assert "<td>22</td>" in cell._repr_html_()
    assert "sam_radius" not in cell._repr_html_()


def test_a_notebook_gets_one_block_that_fills_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import IPython.display

    shown: list[str] = []

    class Handle:
        def update(self, block: Any) -> None:
            shown.append(block.data)

    def first(block: Any, display_id: bool) -> Handle:
        shown.append(block.data)
        return Handle()

    monkeypatch.setattr(IPython.display, "display", first)
    monkeypatch.setattr(display, "in_notebook", lambda: True)
    flatdist.sweep(SPEC, tmp_path, **INLINE)
    assert "0/8 replicates" in shown[0]
    assert "8/8 replicates (100%)" in shown[-2]
    assert "8 of 8 replicates are stored" in shown[-1]
