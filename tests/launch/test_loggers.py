"""Tune's logger callbacks, switched on by name."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from flatdist import load_history
from flatdist.cli import main
from flatdist.errors import LaunchError
from flatdist.launch.ray.tune import LOGGERS, check_loggers

TEXT = "replicates: 2\nfixed: {d_out: 4, d_in: 4, rank: 1, n: 12, steps: 20, evaluations: 2}\naxes: {depth: [2, 3]}\n"


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_command_line_switches_loggers_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(TEXT)
    options = ["--store", str(tmp_path / "store"), "--no-probe", "--display", "plain", "--trials", "cells"]
    logs = ["--logger", "csv", "--logger", "json", "--log-folder", str(tmp_path / "logs")]
    assert main(["sweep", str(path), *options, *logs]) == 0
    assert "the loggers' files are in" in capsys.readouterr().err
    tables = list((tmp_path / "logs").glob("*/*/progress.csv"))
    lines = [json.loads(line) for file in tmp_path.glob("logs/*/*/result.json") for line in file.open()]
    assert tables
    assert sum(len(list(csv.DictReader(file.open()))) for file in tables) == len(lines)
    assert {line["config"]["depth"] for line in lines} == {2, 3}
    for depth in (2, 3):  # each trial's lines are its cell's history, under its cell's own fields
        cell = [line for line in lines if line["config"]["depth"] == depth]
        assert [line["step"] for line in cell] == [0, 20]
        history = load_history(tmp_path / "store", where={"cell_id": cell[0]["cell_id"]})
        assert [line["train_loss"] for line in cell] == history.groupby("step")["train_loss"].median().tolist()
        assert cell[-1]["stored"] == 2
    assert not [file for file in (tmp_path / "logs").rglob("*") if file.suffix == ".pkl"]


def test_packs_of_cells_have_no_curves_to_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(TEXT)
    assert main(["sweep", str(path), "--store", str(tmp_path / "store"), "--logger", "csv"]) == 2
    assert "add --trials cells, or publish the stored results" in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


def test_an_unknown_logger_is_named_with_the_nearest() -> None:
    with pytest.raises(LaunchError, match=r"logger 'tensorbord' does not exist \(did you mean 'tensorboard'\?\)"):
        check_loggers(["tensorbord"], "cells")
    assert {"tensorboard", "csv", "json", "mlflow", "wandb"} == set(LOGGERS)
