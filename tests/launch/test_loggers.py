"""Tune's logger callbacks, switched on by name."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from flatdist.cli import main
from flatdist.errors import LaunchError
from flatdist.launch.ray.loggers import LOGGERS, tune_loggers

TEXT = "replicates: 2\nfixed: {d_out: 4, d_in: 4, rank: 1, n: 12, steps: 20, evaluations: 2}\naxes: {depth: [2, 3]}\n"


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_command_line_switches_loggers_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(TEXT)
    options = ["--store", str(tmp_path / "store"), "--no-probe", "--display", "plain", "--engine", "batched"]
    logs = ["--logger", "csv", "--logger", "json", "--log-folder", str(tmp_path / "logs")]
    assert main(["sweep", str(path), *options, *logs]) == 0
    assert "the loggers' files are in" in capsys.readouterr().err
    tables = list((tmp_path / "logs").glob("*/*/progress.csv"))
    lines = [json.loads(line) for file in tmp_path.glob("logs/*/*/result.json") for line in file.open()]
    assert tables
    assert sum(len(list(csv.DictReader(file.open()))) for file in tables) == len(lines)
    keys = {(line["cell_id"], line["replicate"]) for line in lines if "cell_id" in line}
    assert len(keys) == 4
    assert not [file for file in (tmp_path / "logs").rglob("*") if file.suffix == ".pkl"]


def test_an_unknown_logger_is_named_with_the_nearest() -> None:
    with pytest.raises(LaunchError, match=r"logger 'tensorbord' does not exist \(did you mean 'tensorboard'\?\)"):
        tune_loggers(["tensorbord"])
    assert {"tensorboard", "csv", "json", "mlflow", "wandb"} == set(LOGGERS)
