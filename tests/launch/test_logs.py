"""What flatdist's loggers say, where, and that they are silent by default."""

import logging
import subprocess
import sys

import pytest

from flatdist.cells.cell import Cell
from flatdist.cli import main
from flatdist.launch.worker import run_shard
from flatdist.machine import logs
from flatdist.planning.settings import Settings
from flatdist.planning.work import Shard, WorkItem
from flatdist.store import Store

CELL = Cell(d_out=4, d_in=4, rank=1, n=12, method="min_frobenius_norm")


@pytest.fixture
def unconfigured(monkeypatch):
    """The loggers as a fresh process has them."""
    logger = logging.getLogger("flatdist")
    before = list(logger.handlers), logger.level, logger.propagate
    monkeypatch.setattr(logs._Place, "pid", 0)
    monkeypatch.setattr(logs._Place, "path", None)
    yield
    for handler in logger.handlers:
        handler.close()
    logger.handlers, logger.level, logger.propagate = before[0], before[1], before[2]


def failing(cell, replicates, *_, **__):
    raise ZeroDivisionError("the numerics broke")
    yield


def run(store, **settings):
    shard = Shard((WorkItem(CELL, (0, 1)),), 1.0)
    return run_shard(shard, str(store), Settings(**settings), number=7)


def test_a_worker_writes_a_file_of_its_own_and_its_failures_name_it(tmp_path, unconfigured, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "failing", failing)
    file = tmp_path / "sweep.log"
    counts = run(tmp_path / "store", log_level="info", log_file=str(file), runner=f"{__name__}:failing")
    assert counts.failed == 2
    (own,) = tmp_path.glob("sweep.log.*")
    text = own.read_text()
    assert "shard 7 starts: 2 replicates of cells " + CELL.cell_id in text
    assert f"cell {CELL.cell_id}: replicates [0, 1] failed" in text
    assert "ZeroDivisionError: the numerics broke" in text
    assert "shard 7 ended: 0 replicates stored, 2 failed" in text
    failures = Store(str(tmp_path / "store")).failures([CELL.cell_id])
    assert all(message.startswith("the numerics broke (its worker's log: ") for message in failures["message"])
    assert all(message.endswith(f":{own})") for message in failures["message"])


def test_only_the_level_asked_for_is_written(tmp_path, unconfigured):
    file = tmp_path / "driver.log"
    logs.configure("warning", str(file))
    logging.getLogger("flatdist.launch.worker").info("hidden")
    logging.getLogger("flatdist.store.remote").warning("seen")
    assert "seen" in file.read_text()
    assert "hidden" not in file.read_text()


def test_a_folder_that_is_not_there_is_no_reason_to_stop(tmp_path, unconfigured):
    logs.configure("info", str(tmp_path / "missing" / "log"), worker=True)
    logging.getLogger("flatdist").info("to standard error")
    assert not (tmp_path / "missing").exists()


def test_silent_by_default():
    code = "import flatdist, logging; logging.getLogger('flatdist.engines').warning('nobody asked')"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (result.stdout, result.stderr) == ("", "")


def test_commands_that_run_something_take_both_options(tmp_path, unconfigured, capsys):
    file = tmp_path / "train.log"
    words = ["d_out=4", "d_in=4", "rank=1", "n=12", "method=min_frobenius_norm"]
    assert main(["train", *words, "--log-level", "info", "--log-file", str(file), "--json"]) == 0
    assert "replicate 0 converged" in file.read_text()
    sweep = tmp_path / "a.yaml"
    sweep.write_text("fixed: {d_out: 4, d_in: 4, rank: 1, n: 12}\nreplicates: 1\n")
    capsys.readouterr()
    logged = ["--log-level", "debug", "--log-file", "/scratch/a b.log", "--dry-run"]
    assert main(["submit", "slurm", str(sweep), "--store", str(tmp_path / "store"), *logged]) == 0
    assert "--log-level debug --log-file '/scratch/a b.log'" in capsys.readouterr().out
