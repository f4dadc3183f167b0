"""README's example of reading results: what it prints, on made-up results of README's own sweep."""

from __future__ import annotations

import contextlib
import io

import pandas as pd
import pytest
from blocks import ROOT, blocks_of

import flatdist
from flatdist.store import Store
from flatdist.store.schema import rows_to_frame
from flatdist.sweeps import parse_sweep


def test_the_example_keeps_every_method_and_pools_nothing_but_replicates(
    tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = blocks_of(ROOT / "README.md")
    sweep = parse_sweep(next(block.text for block in blocks if block.text.startswith("name: my-question")))
    code = next(block.text for block in blocks if "load_trials" in block.text).split("history =")[0]
    rows = [
        {
            **cell.row(), "cell_id": cell.cell_id, "configuration_id": cell.configuration_id, "replicate": replicate,
            "status": "converged", "relative_error": 1e-9 if replicate < 2 * (cell.row()["depth"] or 1) else 0.5,
            "numerics_version": 1, "sampling_version": 1, "finished_at": pd.Timestamp("2026-01-02", tz="UTC"),
        }
        for cell in sweep.cells for replicate in range(sweep.replicates)
    ]  # fmt: skip
    store = Store(str(tmp_path / "results"))
    store.write(rows, [])
    sweep.record(store)
    monkeypatch.chdir(tmp_path)
    printed = io.StringIO()
    names: dict[str, object] = {}
    with contextlib.redirect_stdout(printed):
        exec(code, names)
    trials = names["trials"]
    assert isinstance(trials, pd.DataFrame)
    assert len(trials) == len(rows) == len(rows_to_frame("trials", rows))
    groups = trials.groupby(["method", "depth", "rank", "n"])["success"].agg(["mean", "size"])
    assert len(groups) == len(sweep.cells)
    assert set(groups["size"]) == {sweep.replicates}
    shares = groups["mean"].groupby(["method", "depth"]).first().to_dict()
    assert shares == {
        ("label_noise_sgd", 2): 0.5, ("label_noise_sgd", 3): 0.75, ("min_nuclear_norm", "none"): 0.25
    }  # fmt: skip
    for word in ("label_noise_sgd", "min_nuclear_norm", "none", "0.25", "0.75"):
        assert word in printed.getvalue()
    assert flatdist.load_trials(store)["depth"].isna().any()  # what a null in the key would have dropped
