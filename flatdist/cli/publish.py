"""``flatdist export SWEEP --to …``: stored results for other experiment-tracking tools."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flatdist.cells.cell import FIELDS, Cell
from flatdist.errors import LaunchError, StoreError

if TYPE_CHECKING:
    import pandas as pd

    from flatdist.store import Store
    from flatdist.sweeps import Sweep

_KEYS = ("cell_id", "replicate", "step")


@dataclass(frozen=True)
class Run:
    """One run in another tool: a replicate, or the medians over a cell's replicates.

    Attributes:
        name: readable and unique within the sweep.
        fields: the cell's fields, as a user writes them.
        curves: one row per step: ``step``, and numbers from the history.
        results: numbers of the trials table.
    """

    name: str
    fields: Mapping[str, Any]
    curves: list[dict[str, float]]
    results: Mapping[str, float]


def runs(sweep: Sweep, store: Store, *, per: str) -> Iterator[Run]:
    """The runs of a sweep that the store has.

    Args:
        sweep: the sweep.
        store: its results.
        per: ``cell`` or ``replicate``.
    """
    keys = ["cell_id"] if per == "cell" else ["cell_id", "replicate"]
    trials = sweep.rows(store.trials([cell.cell_id for cell in sweep.cells]))
    results = _numbers(trials).drop(columns=list(FIELDS), errors="ignore").groupby(keys).median()
    cells = {cell.cell_id: cell for cell in sweep.cells}
    for key, row in results.iterrows():
        cell_id, replicate = _split(key)
        where = None if replicate is None else {"replicate": replicate}
        history = _numbers(sweep.rows(store.history([cell_id], where=where)))
        curves = history.drop(columns=["replicate"]).drop(columns=["cell_id"]).groupby("step").median().reset_index()
        yield Run(
            run_name(cells[cell_id], replicate),
            {name: value for name, value in cells[cell_id].words().items() if value is not None},
            [_finite(curve) for curve in curves.to_dict("records")],
            _finite({name: value for name, value in row.to_dict().items() if name not in _KEYS}),
        )


def _split(key: Any) -> tuple[str, int | None]:
    """The cell, and the replicate where the groups are by both."""
    return (str(key[0]), int(key[1])) if isinstance(key, tuple) else (str(key), None)


def run_name(cell: Cell, replicate: int | None) -> str:
    """A readable name that is unique within a store."""
    name = f"{cell.method}-r{cell.rank}-n{cell.n}-{cell.cell_id[:10]}"
    return name if replicate is None else f"{name}-{replicate}"


def _numbers(frame: pd.DataFrame) -> pd.DataFrame:
    numeric = frame.select_dtypes("number").columns
    return frame[[name for name in frame.columns if name in numeric or name in _KEYS]]


def _finite(row: Mapping[Any, Any]) -> dict[str, float]:
    return {str(name): value for name, value in row.items() if not math.isnan(value)}


def to_tensorboard(sweep: Sweep, found: Iterator[Run], out: Path) -> None:
    """Write one folder of event files per run; point ``tensorboard --logdir`` at ``out``."""
    from tensorboardX import SummaryWriter

    for run in found:
        folder = out / sweep.name / run.name
        shutil.rmtree(folder, ignore_errors=True)  # an earlier export's
        with SummaryWriter(str(folder)) as writer:
            for curve in run.curves:
                for name in curve.keys() - {"step"}:
                    writer.add_scalar(name, curve[name], int(curve["step"]))
            fields = {name: v if isinstance(v, (int, float, str)) else json.dumps(v) for name, v in run.fields.items()}
            writer.add_hparams(fields, dict(run.results), name="result")


def to_mlflow(sweep: Sweep, found: Iterator[Run], out: Path) -> None:
    """Write each run to the MLflow experiment named like the sweep; without MLFLOW_TRACKING_URI, to a SQLite file."""
    import mlflow
    from mlflow.entities import Metric, Param

    out.parent.mkdir(parents=True, exist_ok=True)
    client = mlflow.MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{out.absolute()}")
    known = client.get_experiment_by_name(sweep.name)
    experiment = client.create_experiment(sweep.name) if known is None else known.experiment_id
    for old in client.search_runs([experiment]) if known is not None else ():
        client.delete_run(old.info.run_id)  # an earlier export's
    for run in found:
        run_id = client.create_run(experiment, run_name=run.name).info.run_id
        metrics = [Metric(n, c[n], 0, int(c["step"])) for c in run.curves for n in c.keys() - {"step"}]
        metrics += [Metric(f"final.{name}", value, 0, 0) for name, value in run.results.items()]
        params = [Param(name, str(value)) for name, value in run.fields.items()]
        client.log_batch(run_id, params=params)
        for start in range(0, len(metrics), 1000):
            client.log_batch(run_id, metrics[start : start + 1000])
        client.set_terminated(run_id)


def to_wandb(sweep: Sweep, found: Iterator[Run], out: Path) -> None:
    """Write Weights & Biases runs, grouped by sweep; WANDB_MODE=offline only writes files into ``out``."""
    import wandb

    out.mkdir(parents=True, exist_ok=True)
    for run in found:
        settings = wandb.Settings(silent=True)
        with wandb.init(
            project=os.environ.get("WANDB_PROJECT", "flatdist"), group=sweep.name, name=run.name, id=run.name,
            config=dict(run.fields), dir=str(out), settings=settings, resume="allow",
        ) as open_run:  # fmt: skip
            for curve in run.curves:
                open_run.log({name: curve[name] for name in curve.keys() - {"step"}}, step=int(curve["step"]))
            open_run.summary.update({f"final/{name}": value for name, value in run.results.items()})


def to_optuna(sweep: Sweep, found: Iterator[Run], out: Path) -> None:
    """Write a study to a journal file for ``optuna-dashboard``: one trial per run, its value the relative error."""
    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    found_runs = [run for run in found if "relative_error" in run.results]
    values: dict[str, list[Any]] = {}
    for run in found_runs:
        for name, value in run.fields.items():
            values.setdefault(name, []).append(value if isinstance(value, (int, float, str)) else json.dumps(value))
    spaces: dict[str, BaseDistribution] = {}
    for name, taken in values.items():
        if len(set(map(str, taken))) == 1:
            continue  # a constant of the sweep
        if all(type(value) is int for value in taken):
            spaces[name] = IntDistribution(min(taken), max(taken))
        elif all(type(value) in (int, float) for value in taken):
            spaces[name] = FloatDistribution(float(min(taken)), float(max(taken)))
        else:
            spaces[name] = CategoricalDistribution(sorted(set(taken), key=str))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.unlink(missing_ok=True)
    study = optuna.create_study(
        study_name=sweep.name, storage=JournalStorage(JournalFileBackend(str(out))), direction="minimize"
    )
    for run in found_runs:
        shown = {n: v if isinstance(v, (int, float, str)) else json.dumps(v) for n, v in run.fields.items()}
        own = {name: space for name, space in spaces.items() if name in shown}
        curve = {int(c["step"]): c["population_loss"] for c in run.curves if "population_loss" in c}
        study.add_trial(
            optuna.trial.create_trial(
                value=run.results["relative_error"],
                params={name: shown[name] for name in own},
                distributions=own,
                user_attrs={"run": run.name, **dict(run.results)},
                intermediate_values=curve,
            )
        )


TOOLS: Mapping[str, tuple[Callable[[Sweep, Iterator[Run], Path], None], str, str]] = {
    "tensorboard": (to_tensorboard, "tensorboard", "tensorboardX"),
    "mlflow": (to_mlflow, "mlflow.db", "mlflow"),
    "wandb": (to_wandb, ".", "wandb"),
    "optuna": (to_optuna, "{sweep}-optuna.log", "optuna"),
}
"""Name -> what publishes there, where to by default, and the package that it needs."""


def publish(sweep: Sweep, store: Store, tool: str, per: str, out: Path | None) -> tuple[int, Path]:
    """Publish a sweep's stored results; an earlier export of the same sweep is replaced. Returns the number of runs.

    Raises:
        LaunchError: the tool's package is not installed.
        StoreError: nothing is stored, or the files cannot be written.
    """
    act, default, package = TOOLS[tool]
    path = out or Path(default.format(sweep=sweep.name))
    count = 0

    def counted() -> Iterator[Run]:
        nonlocal count
        for run in runs(sweep, store, per=per):
            count += 1
            yield run

    try:
        with _quiet():
            act(sweep, counted(), path)
    except ModuleNotFoundError as error:
        raise LaunchError(f"--to {tool} needs the package {package}: pip install {package}") from error
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error}; give another --out") from error
    if not count:
        raise StoreError(f"store {store.uri} has no results of {sweep.name!r} to publish; run the sweep first")
    return count, path


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings(action="ignore"):
        levels = {name: logging.getLogger(name).level for name in ("mlflow", "wandb", "optuna", "alembic")}
        for name in levels:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
