"""``flatdist export --to``: the stored numbers arrive in the tools."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from flatdist.cli import main
from flatdist.store import Store

TEXT = """name: little
replicates: 3
fixed: {d_out: 4, d_in: 4, rank: 1, steps: 40, evaluations: 3}
axes: {n: [12, 14], learning_rate: [auto, 0.01]}
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    (folder / "little.yaml").write_text(TEXT)
    options = ["--executor", "inline", "--display", "none", "--no-probe"]
    assert main(["sweep", str(folder / "little.yaml"), "--store", str(folder / "results"), *options]) == 0
    return folder


@pytest.fixture
def store(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLATDIST_STORE", str(finished / "results"))
    return Store(finished / "results")


def test_tensorboard_has_the_stored_curves_of_every_replicate(store: Store, tmp_path: Path) -> None:
    from tensorboardX.proto.event_pb2 import Event

    for _ in range(2):  # a second export replaces the first
        assert main(["export", "little", "--to", "tensorboard", "--per", "replicate"]) == 0
    folders = list((tmp_path / "tensorboard" / "little").iterdir())
    assert len(folders) == 12
    for folder in folders:
        (file,) = folder.glob("events*")
        data, curve = file.read_bytes(), {}
        while data:
            length = int.from_bytes(data[:8], "little")
            event = Event.FromString(data[12 : 12 + length])
            for value in event.summary.value:
                if value.tag == "population_loss":
                    curve[event.step] = value.simple_value
            data = data[16 + length :]
        prefix, replicate = folder.name.split("-")[-2:]
        history = store.history(where={"replicate": int(replicate)})
        history = history[history["cell_id"].str.startswith(prefix)]
        assert list(curve) == history["step"].tolist()
        assert np.array_equal(np.float32(list(curve.values())), np.float32(history["population_loss"]))


def test_mlflow_has_one_run_a_cell(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for _ in range(2):
        assert main(["export", "little", "--to", "mlflow", "--out", str(tmp_path / "ml.db")]) == 0
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'ml.db'}")
    runs = client.search_runs([client.get_experiment_by_name("little").experiment_id])
    assert len(runs) == 4
    medians = store.trials().groupby("cell_id")["relative_error"].median()
    assert {run.data.metrics["final.relative_error"] for run in runs} == set(medians)
    assert {(run.data.params["n"], run.data.params["learning_rate"]) for run in runs} == {
        (n, rate) for n in ("12", "14") for rate in ("auto", "0.01")
    }
    steps = [metric.step for metric in client.get_metric_history(runs[0].info.run_id, "train_loss")]
    assert steps == [0, 20, 40]


@pytest.mark.slow
def test_wandb_writes_its_files_offline(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert main(["export", "little", "--to", "wandb", "--out", str(tmp_path / "out")]) == 0
    files = list((tmp_path / "out").glob("wandb/offline-run-*/run-*.wandb"))
    assert len(files) == 4
    runs = {file.parent.name.split("-", 4)[-1] for file in files}
    assert {run.split("-")[-1] for run in runs} == {cell_id[:10] for cell_id in store.done()}
    names = b"".join(file.read_bytes() for file in files)
    assert b"population_loss" in names


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_optuna_opens_the_journal(store: Store, tmp_path: Path) -> None:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    for _ in range(2):
        assert main(["export", "little", "--to", "optuna"]) == 0
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "little-optuna.log")))
    study = optuna.load_study(study_name="little", storage=storage)
    assert len(study.trials) == 4
    assert {json.dumps(trial.params, sort_keys=True) for trial in study.trials} == {
        json.dumps({"learning_rate": rate, "n": n}) for n in (12, 14) for rate in ("auto", 0.01)
    }
    assert study.best_value == store.trials().groupby("cell_id")["relative_error"].median().min()
    assert list(study.trials[0].intermediate_values) == [0, 20, 40]


def test_what_cannot_be_published_is_said(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.yaml").write_text(TEXT.replace("little", "empty").replace("[12, 14]", "[13]"))
    assert main(["export", "empty.yaml", "--to", "optuna"]) == 2
    assert "has no results of 'empty' to publish" in capsys.readouterr().err
    assert main(["export", "little", "--to", "optuna", "--csv"]) == 2
    assert "--csv, --parquet and --where are only for files" in capsys.readouterr().err
