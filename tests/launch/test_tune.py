"""flatdist.tune: cells as trials of a user's own Tuner."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import flatdist
from flatdist.cells.cell import Cell
from flatdist.cli import main
from flatdist.errors import CellError, SweepError
from flatdist.launch.ray.trial import _Reports
from flatdist.store import Store
from flatdist.tune import cell_of, evaluated, grid_space, param_space, trainable, trial_name

PAGE = (Path(__file__).parents[2] / "docs/tune.md").read_text(encoding="utf-8")
BASE = {"d_out": 6, "d_in": 6, "rank": 1, "n": "3*statdim", "steps": 3000, "evaluations": 33, "learning_rate": 0.05}
SEARCH = {
    "name": "little",
    "replicates": 2,
    "fixed": {"d_out": 6, "d_in": 6, "rank": 1, "n": 30, "steps": 40, "evaluations": 3, "batch_size": "full"},
    "search": {"fields": {"learning_rate": {"loguniform": [0.01, 0.1]}, "depth": {"choice": [2, 3]}}, "budget": 3},
}
with_ray = [
    pytest.mark.ray,
    pytest.mark.usefixtures("local_ray"),
    pytest.mark.filterwarnings("ignore"),  # Ray's and Optuna's own
]


def block(language: str) -> str:
    (text,) = re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    return str(text)


def results_of(cell_id: str, store: Path) -> Any:
    rows = flatdist.load_trials(store, where={"cell_id": cell_id})
    return rows.drop(columns=["wall_seconds", "finished_at", "host"]).to_dict("records")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tuner(train: Any, space: dict[str, Any], folder: Path, fail_fast: bool = False, **options: Any) -> Any:
    from ray import tune

    config = tune.TuneConfig(metric="relative_error", mode="min", reuse_actors=True, **options)
    failures = tune.FailureConfig(fail_fast=fail_fast)
    run = tune.RunConfig(storage_path=str(folder / "tune"), verbose=0, failure_config=failures)
    return tune.Tuner(train, param_space=space, tune_config=config, run_config=run)


@pytest.mark.slow
class TestWithRay:
    pytestmark = with_ray

    def test_the_pages_script_runs_and_its_curves_are_the_stores_history(self, folder: Path) -> None:
        assert len(block("python").strip().splitlines()) <= 25
        (folder / "tune.yaml").write_text(block("yaml"))
        assert main(["sweep", "tune.yaml", "--executor", "inline", "--display", "none", "--no-probe"]) == 0
        before = set(Store("results").done())
        script: dict[str, Any] = {}
        exec(compile(block("python"), "docs/tune.md", "exec"), script)
        best = script["best"]
        assert best.metrics["cell_id"] in Store("results").done()
        assert math.isclose(
            best.metrics["relative_error"],
            flatdist.load_trials("results", where={"cell_id": best.metrics["cell_id"]})["relative_error"].median(),
        )
        ended, stopped = 0, []
        for result in script["tuner"].get_results():
            cell_id = result.metrics["cell_id"]
            assert (result.metrics["step"] == 6000) == (cell_id in Store("results").done())
            if result.metrics["step"] == 6000:
                ended += cell_id not in before
                same_curves(Path(result.path), cell_id)
                assert result.checkpoint is not None
            else:
                stopped.append(cell_of({}, result.config))
        assert ended
        assert stopped
        self.goes_on_to_the_same_row(stopped[:2], folder)

    def goes_on_to_the_same_row(self, cells: list[Cell], folder: Path) -> None:
        """The checkpoints that stopped trials left lead to the bits of runs that were never stopped."""
        for cell in cells:
            checkpoint = Store("results").checkpoints.latest(cell.cell_id, 0)
            assert checkpoint is not None
            assert 0 < checkpoint[0] < 6000
        for again in tuner(trainable(None, range(2), "results"), grid_space(cells), folder).fit():
            assert again.metrics["stored"] == 2
            assert again.metrics["training_iteration"] == 65  # from the first on, though the rest alone was trained
        for cell in cells:
            assert Store("results").checkpoints.latest(cell.cell_id, 0) is None
            alone = flatdist.run_cell(cell, range(2))[0].to_dict("records")
            for stored, fresh in zip(results_of(cell.cell_id, Path("results")), alone, strict=True):
                for name in ("relative_error", "train_loss", "nuclear_norm", "hessian_trace", "flow_time", "status"):
                    assert stored[name] == fresh[name], name

    def test_a_sweep_that_lists_its_cells_is_a_grid_and_costs_nothing_twice(self, folder: Path) -> None:
        methods = ["label_noise_sgd", "min_nuclear_norm"]
        sweep = {"replicates": 1, "fixed": BASE | {"n": 30}, "axes": {"method": methods}}
        for _ in range(2):
            grid = tuner(trainable(replicates=[0], store="store"), param_space(sweep), folder).fit()
            assert grid.num_errors == 0
            metrics = {result.config["method"]: result.metrics for result in grid}
            assert {name: m["stored"] for name, m in metrics.items()} == {"label_noise_sgd": 1, "min_nuclear_norm": 1}
            assert metrics["label_noise_sgd"]["training_iteration"] == 33
            assert metrics["min_nuclear_norm"]["training_iteration"] == 1
            assert metrics["min_nuclear_norm"]["certificate"] is not None
        rows = flatdist.load_trials("store")
        assert len(rows) == 2
        assert rows["finished_at"].nunique() == 2

    def test_population_based_training_ends_with_a_message(self, folder: Path) -> None:
        from ray import tune
        from ray.tune.schedulers import PopulationBasedTraining

        pbt = PopulationBasedTraining(
            time_attr="step", perturbation_interval=100, quantile_fraction=0.5, resample_probability=1.0,
            hyperparam_mutations={"learning_rate": tune.uniform(0.01, 0.02)}, synch=False,
        )  # fmt: skip
        # so long that both trials have reported before either ends; the first message ends both
        space = BASE | {"learning_rate": tune.grid_search([0.05, 0.001]), "steps": 3_000_000, "evaluations": 1000}
        grid = tuner(trainable(replicates=[0], store="store"), space, folder, fail_fast=True, scheduler=pbt).fit()
        assert grid.errors
        assert "population-based training (pbt, pb2) changes fields during a run" in str(grid.errors[0])


def same_curves(trial: Path, cell_id: str) -> None:
    """TensorBoard's scalars are the medians of the stored history, as the 32-bit numbers that TensorBoard keeps."""
    from tensorboardX.proto.event_pb2 import Event

    curves: dict[str, list[float]] = {}
    (file,) = trial.glob("events.out.tfevents*")
    data = file.read_bytes()
    while data:  # records of a length, its checksum, that many bytes and theirs
        length = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + length])
        for value in event.summary.value:
            curves.setdefault(value.tag.removeprefix("ray/tune/"), []).append(value.simple_value)
        data = data[16 + length :]
    history = flatdist.load_history("results", where={"cell_id": cell_id})
    for name in ("train_loss", "population_loss", "nuclear_norm", "flow_time", "step"):
        stored = history.groupby("step")[name].median() if name != "step" else history["step"].drop_duplicates()
        assert np.array_equal(np.float32(curves[name]), np.float32(stored)), name


def test_a_config_is_checked_like_a_sweep_file() -> None:
    cell = cell_of(BASE, {"learning_rate": np.float64(0.1), "depth": np.int64(2)})
    assert (cell.learning_rate, cell.depth, cell.n) == (0.1, 2, cell_of(BASE, {}).n)
    with pytest.raises(CellError, match=r"deph: is not a cell field \(did you mean 'depth'\?\)"):
        trainable({"deph": 3})
    with pytest.raises(CellError, match="rank: 9 exceeds min"):
        cell_of(BASE, {"rank": 9, "n": 30})
    with pytest.raises(CellError, match="base changes the cells of param_space"):
        cell_of({}, {**cell.words(), "width": 6, "cell_id": "0" * 20})
    with pytest.raises(CellError, match="allowed: whole numbers"):
        trainable(BASE, ["one"])  # type: ignore[list-item]


def test_a_searchs_space_and_what_the_store_knows_of_it(tmp_path: Path) -> None:
    from ray.tune.search.sample import Categorical, Float

    space = param_space(SEARCH)
    assert isinstance(space["learning_rate"], Float)
    assert isinstance(space["depth"], Categorical)
    assert space["depth"].categories == [2, 3]
    assert {name: space[name] for name in ("n", "batch_size", "steps")} == {"n": 30, "batch_size": "full", "steps": 40}
    nothing: dict[str, list[Any]] = {"points_to_evaluate": [], "evaluated_rewards": []}
    assert evaluated(tmp_path / "store", SEARCH) == nothing
    (tmp_path / "little.json.yaml").write_text(json.dumps(SEARCH))
    options = ["--store", str(tmp_path / "store"), "--executor", "inline", "--display", "none", "--no-probe"]
    assert main(["sweep", str(tmp_path / "little.json.yaml"), *options]) == 0
    known = evaluated(tmp_path / "store", "little")
    trials = flatdist.load_trials(tmp_path / "store")
    best = trials.groupby(["learning_rate", "depth"])["relative_error"].median()
    assert len(known["points_to_evaluate"]) == 3
    for point, reward in zip(known["points_to_evaluate"], known["evaluated_rewards"], strict=True):
        assert set(point) == {"learning_rate", "depth"}
        assert reward == best[point["learning_rate"], point["depth"]]
    with pytest.raises(SweepError, match="'nothing' is not a file"):
        evaluated(tmp_path / "store", "nothing")


def test_a_grid_gives_every_cell_its_own_fields() -> None:
    cells = [cell_of(BASE, {"depth": 2}), cell_of(BASE, {"depth": 3, "width": [6, 7]})]
    space = grid_space(cells)
    assert space["cell_id"] == {"grid_search": [cell.cell_id for cell in cells]}
    for cell in cells:
        config = {name: v.func({"cell_id": cell.cell_id}) if hasattr(v, "func") else v for name, v in space.items()}
        assert cell_of({}, {**config, "cell_id": cell.cell_id}) == cell


def test_names_tell_trials_apart() -> None:
    trial = SimpleNamespace(config={"method": "sam", "n": "3*statdim", "rank": 2}, trial_id="abcdef_00001")
    assert trial_name(trial) == "sam-r2-n3_statdim-abcdef_00001"


def test_steps_are_reported_once_all_replicates_have_got_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A diverged replicate counts as infinite, whenever its last rows arrive."""
    import ray.tune

    told: list[dict[str, Any]] = []
    monkeypatch.setattr(ray.tune, "report", lambda metrics, **others: told.append(metrics))
    cell = Cell(d_out=4, d_in=4, rank=1, n=10, steps=40, evaluations=5)
    reports = _Reports(cell, [0, 1, 2], -1, None)

    def rows(*steps: int) -> list[dict[str, Any]]:
        return [{"step": step, "population_loss": step / 100, "hessian_trace": None} for step in steps]

    reports.on_history(0, rows(0, 10, 20))
    reports.on_history(1, rows(0, 10))
    assert told == []
    reports.on_history(2, rows(0, 10, 20))
    assert [m["step"] for m in told] == [0, 10]
    reports.on_diverged(1)
    assert [m["step"] for m in told] == [0, 10, 20]
    assert told[-1]["diverged"] == 1
    assert told[-1]["relative_error"] == 0.2  # of 0.2, 0.2 and infinity
    assert "hessian_trace" not in told[-1]
    reports.on_history(0, rows(30, 40))
    reports.on_diverged(2)
    assert told[-1]["step"] == 30
    assert told[-1]["relative_error"] == math.inf
