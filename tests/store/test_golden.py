"""A store that release 0.1.0 wrote reads as it did then, by every loader and command, before and after compaction."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from flatdist import load_history, load_trials
from flatdist.cli import cli
from flatdist.store import Store

GOLDEN = Path(__file__).parents[1] / "golden" / "store-0.1.0"


@pytest.fixture(params=["as it was", "compacted", "merged"])
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    shutil.copytree(GOLDEN, tmp_path / "golden")
    store = Store(tmp_path / "golden" / "results")
    if request.param == "compacted":
        store.compact(grace=0)
        assert Store(store.uri).compact(grace=0).number == 3
        assert all(segment.seals for segment in store._catalog.view().snapshot.manifest.segments)
    if request.param == "merged":
        other = Store(tmp_path / "golden" / "other")
        assert other.merge(store).replicates == 9
        assert all("-" in info.path for info in other.files.list("trials/v1/part"))
        return other
    return store


@pytest.fixture(scope="module")
def expected() -> dict:
    return json.loads((GOLDEN / "expected.json").read_text())


def plain(value):
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(one) for one in value]
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    if value is None or value != value:
        return None
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    return float(value) if isinstance(value, (float, np.floating)) else str(value)


def assert_same(frame, wanted):
    assert {*wanted} <= {*frame.columns}
    for name, values in wanted.items():
        assert [plain(value) for value in frame[name]] == values, name


def test_loaders_return_the_rows_of_then(old, expected):
    assert_same(load_trials(old.uri, all_numerics=True), expected["trials"])
    assert_same(load_history(old.uri), expected["history"])
    assert_same(old.failures(), expected["failures"])
    few = load_history(old.uri, sweep="first", where="n == 8 and step > 10", columns=["n", "step", "train_loss"])
    wanted = [
        loss
        for cell, step, loss in zip(
            *(expected["history"][name] for name in ("cell_id", "step", "train_loss")), strict=True
        )
        if step > 10 and expected["trials"]["n"][expected["trials"]["cell_id"].index(cell)] == 8
    ]
    assert few["train_loss"].tolist() == wanted


def test_what_is_done_and_failed_is_what_was(old, expected):
    assert {cell: sorted(replicates) for cell, replicates in old.done(thorough=True).items()} == expected["done"]
    failed = {cell: {int(r): n for r, n in counts.items()} for cell, counts in expected["failed"].items()}
    assert old.failed() == failed


def test_commands_answer_as_then(old, expected, monkeypatch):
    monkeypatch.chdir(Path(old.uri).parent)
    runner = CliRunner()

    def run(*arguments):
        answer = runner.invoke(cli, [*arguments, "--store", old.uri], catch_exceptions=False)
        assert answer.exit_code == 0, answer.output
        return answer.output

    for name in ("first", "second"):
        found = json.loads(run("status", name, "--json"))["sweeps"][0]
        assert {key: found[key] for key in expected["status"][name]} == expected["status"][name]
        assert (
            json.loads(run("plan", f"{name}.yaml", "--json"))["replicates"]["done"] == expected["status"][name]["done"]
        )
        run("cells", name)
        run("failures", name)
    run("show", expected["trials"]["cell_id"][0])
    run("export", "first", "--out", "out.parquet")
    assert "nothing" in run("invalidate", "first", "--where", "n > 1000", "--yes")
    run("compact")
    run("gc", "--yes")
    assert_same(load_trials(old.uri, all_numerics=True), expected["trials"])


def test_the_checkpoint_is_resumed(expected, tmp_path):
    shutil.copytree(GOLDEN, tmp_path / "golden")
    saved = expected["checkpoint"]
    step, arrays = Store(tmp_path / "golden" / "results").checkpoints.latest(saved["cell_id"], 0)
    assert step == saved["step"]
    for number, digest in enumerate(saved["layers"]):
        assert hashlib.sha256(arrays[f"layer_{number}"].tobytes()).hexdigest() == digest
