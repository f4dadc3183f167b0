"""``flatdist export SWEEP --to …``: stored results for other experiment-tracking tools."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flatdist.cells.cell import FIELDS
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
        curves: step -> numbers from the history.
        results: numbers of the trials table.
    """

    name: str
    fields: Mapping[str, Any]
    curves: Mapping[int, Mapping[str, float]]
    results: Mapping[str, float]

    def scalars(self) -> dict[str, Any]:
        """The fields, lists as text."""
        return {n: v if isinstance(v, int | float | str) else json.dumps(v) for n, v in self.fields.items()}


def _runs(sweep: Sweep, store: Store, groups: Iterable[tuple[Any, pd.DataFrame]]) -> Iterator[Run]:
    """A run for each group of trials, by cell or by cell and replicate."""
    cells = {cell.cell_id: cell for cell in sweep.cells}
    for (cell_id, *replicates), group in groups:
        cell = cells[cell_id]
        where = {"replicate": int(replicates[0])} if replicates else None
        history = _numbers(sweep.rows(store.history([cell_id], where=where)))
        curves = history.drop(columns=["cell_id", "replicate"]).groupby("step").median()
        yield Run(
            "-".join([cell.method, f"r{cell.rank}", f"n{cell.n}", cell_id[:10], *map(str, replicates)]),
            {name: value for name, value in cell.words().items() if value is not None},
            {
                step: _finite(curve)
                for step, curve in zip(curves.index.tolist(), curves.to_dict("records"), strict=True)
            },
            _finite(group.drop(columns=list(_KEYS), errors="ignore").median().to_dict()),
        )


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
            for step, curve in run.curves.items():
                for name, value in curve.items():
                    writer.add_scalar(name, value, step)
            writer.add_hparams(run.scalars(), dict(run.results), name="result")


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
        metrics = [Metric(name, value, 0, step) for step, curve in run.curves.items() for name, value in curve.items()]
        metrics += [Metric(f"final.{name}", value, 0, 0) for name, value in run.results.items()]
        client.log_batch(run_id, params=[Param(name, str(value)) for name, value in run.fields.items()])
        for start in range(0, len(metrics), 1000):
            client.log_batch(run_id, metrics[start : start + 1000])
        client.set_terminated(run_id)


def to_wandb(sweep: Sweep, found: Iterator[Run], out: Path) -> None:
    """Write Weights & Biases runs, grouped by sweep; WANDB_MODE=offline only writes files into ``out``."""
    import wandb

    out.mkdir(parents=True, exist_ok=True)
    for run in found:
        with wandb.init(
            project=os.environ.get("WANDB_PROJECT", "flatdist"), group=sweep.name, name=run.name, id=run.name,
            config=dict(run.fields), dir=str(out), settings=wandb.Settings(silent=True), resume="allow",
        ) as open_run:  # fmt: skip
            for step, curve in run.curves.items():
                open_run.log(dict(curve), step=step)
            open_run.summary.update({f"final/{name}": value for name, value in run.results.items()})


def to_optuna(sweep: Sweep, found: Iterator[Run], out: Path) -> None:
    """Write a study to a journal file for ``optuna-dashboard``: one trial per run, its value the relative error."""
    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    shown = [(run, run.scalars()) for run in found if "relative_error" in run.results]
    spaces: dict[str, BaseDistribution] = {}
    for name in dict.fromkeys(name for _, fields in shown for name in fields):
        taken = [fields[name] for _, fields in shown if name in fields]
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
    storage = JournalStorage(JournalFileBackend(str(out)))
    study = optuna.create_study(study_name=sweep.name, storage=storage, direction="minimize")
    for run, fields in shown:
        own = {name: space for name, space in spaces.items() if name in fields}
        losses = {step: curve["population_loss"] for step, curve in run.curves.items() if "population_loss" in curve}
        study.add_trial(
            optuna.trial.create_trial(
                value=run.results["relative_error"],
                params={name: fields[name] for name in own},
                distributions=own,
                user_attrs={"run": run.name, **run.results},
                intermediate_values=losses,
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
    trials = sweep.rows(store.trials([cell.cell_id for cell in sweep.cells]))
    if trials.empty:
        raise StoreError(f"store {store.uri} has no results of {sweep.name!r} to publish; run the sweep first")
    keys = ["cell_id", "replicate"] if per == "replicate" else ["cell_id"]
    groups = _numbers(trials).drop(columns=list(FIELDS), errors="ignore").groupby(keys)
    try:
        with _quiet():
            act(sweep, _runs(sweep, store, groups), path)
    except ModuleNotFoundError as error:
        raise LaunchError(f"--to {tool} needs the package {package}: pip install {package}") from error
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error}; give another --out") from error
    return groups.ngroups, path


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    levels = {
        logging.getLogger(name): logging.getLogger(name).level for name in ("mlflow", "wandb", "optuna", "alembic")
    }
    with warnings.catch_warnings(action="ignore"):
        try:
            for logger in levels:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in levels.items():
                logger.setLevel(level)
