"""Methods and ensembles of one's own: from files and entry points, on every executor."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import flatdist
from flatdist.cells import plugins
from flatdist.cells.plugins import forget_plugins, load_entry_points, load_plugin, loaded_plugins, use_plugins
from flatdist.cli import main
from flatdist.errors import CellError, LaunchError, SweepError
from flatdist.launch.ray.cluster import versions
from flatdist.methods import METHODS
from flatdist.sensing.ensembles import ENSEMBLES
from flatdist.sweeps import load_sweep, parse_sweep

NOISE = '''"""Label-noise SGD that sees one measurement at a time."""
from flatdist.methods.base import TRAINING_FIELDS, GradientMethod

METHOD = GradientMethod(
    name="single_noise",
    numerics_version=1,
    fields=(*TRAINING_FIELDS, "label_noise_std", "schedule", "anneal_fraction"),
    summary="label-noise SGD on one drawn measurement at every step",
    label="single label noise",
    batch="one",
    label_noise=True,
)
'''
SCALED = """
from flatdist.methods.base import SolverMethod
from flatdist.sensing.ensembles.base import Ensemble
from flatdist.sensing.measurements import Dense
from flatdist.solvers.min_frobenius_norm import min_frobenius_norm

def halved(measurements, labels, return_certificate=False):
    answer, certificate = min_frobenius_norm(measurements, labels, return_certificate=True)
    return answer / 2, certificate

METHOD = SolverMethod("halved", 1, (), "half of the least Frobenius norm", "halved", solver=f"{__name__}:halved")
ENSEMBLE = Ensemble("doubled", lambda stream, indices, d_out, d_in: Dense(
    2 * stream.signs(indices, d_out * d_in).reshape(-1, d_out, d_in)), "entries of +2 or -2")
"""
FIELDS: dict[str, Any] = {"d_out": 4, "d_in": 4, "rank": 1, "n": 12}
INLINE = ["--executor", "inline", "--display", "none", "--no-probe"]


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    yield
    forget_plugins()
    assert "single_noise" not in METHODS
    assert "doubled" not in ENSEMBLES


def write(folder: Path, text: str, name: str = "mine.py") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_file_defines_a_method_and_an_ensemble_and_its_content_is_identity(tmp_path: Path) -> None:
    built_in = flatdist.Cell(**FIELDS, method="min_frobenius_norm").cell_id
    path = write(tmp_path, SCALED)
    plugin = load_plugin(path)
    cell = flatdist.Cell(**FIELDS, method="halved")
    trials, _ = flatdist.run_cell(cell, range(2))
    whole, _ = flatdist.run_cell(flatdist.Cell(**FIELDS, method="min_frobenius_norm"), range(2))
    assert (trials["frobenius_norm"] * 2).tolist() == pytest.approx(whole["frobenius_norm"].tolist())
    assert set(trials["plugins"]) == {f"mine.py:{plugin.digest}"}
    assert flatdist.Cell(**FIELDS, method="min_frobenius_norm").cell_id == built_in
    doubled = flatdist.Cell(**FIELDS, method="min_frobenius_norm", ensemble="doubled")
    assert abs(flatdist.sample_problem(doubled).measurements).min() == 2
    path.write_text(SCALED.replace("answer / 2", "answer / 3"))
    load_plugin(path)  # edited: it replaces what it defined before
    again = flatdist.Cell(**FIELDS, method="halved")
    assert again.cell_id != cell.cell_id
    assert again.configuration_id == cell.configuration_id
    assert len(loaded_plugins()) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "mine.py: is empty; see docs/extending.md"),
        ("x = 1\n", "plugin mine.py: defines no method and no ensemble"),
        ("x = 1\ny = x / 0\n", "plugin mine.py line 2: ZeroDivisionError: division by zero"),
        ("def f(:\n", "plugin mine.py line 1: SyntaxError"),
        ("raise SystemExit(3)\n", "plugin mine.py line 1: SystemExit: 3"),
        (NOISE.replace("single_noise", "sam"), "flatdist already has the method 'sam'; give yours another name"),
        (SCALED.replace('"doubled"', '"gaussian"'), "flatdist already has the ensemble 'gaussian'"),
    ],
)
def test_a_plugin_that_cannot_be_used_registers_nothing(tmp_path: Path, text: str, message: str) -> None:
    before = set(METHODS), set(ENSEMBLES)
    with pytest.raises(LaunchError) as raised:
        load_plugin(write(tmp_path, text))
    assert message in str(raised.value)
    assert (set(METHODS), set(ENSEMBLES)) == before
    assert loaded_plugins() == ()


def test_auto_is_refused_where_steps_are_not_in_proportion_to_the_gradient(tmp_path: Path) -> None:
    rule = "update=UpdateRule(lambda w, g, s, rate, c: (w - rate * g / (g * g + 1e-9) ** 0.5, s), gain=None),"
    text = NOISE.replace("GradientMethod\n", "GradientMethod, UpdateRule\n", 1).replace("single_noise", "signs")
    load_plugin(write(tmp_path, text.replace("label_noise=True,", rule)))
    with pytest.raises(CellError, match=r"learning_rate: 'auto' .*proportion to the gradient, and those of signs are"):
        flatdist.Cell(**FIELDS, method="signs")
    cell = flatdist.Cell(**FIELDS, method="signs", learning_rate=1e-3, steps=20, evaluations=2)
    _, history = flatdist.run_cell(cell, range(1), engine="batched")
    assert history["train_loss"].iloc[-1] < history["train_loss"].iloc[0]
    assert flatdist.Cell(**FIELDS, method="sam").learning_rate is None


def test_two_plugins_cannot_define_one_name(tmp_path: Path) -> None:
    load_plugin(write(tmp_path, NOISE))
    with pytest.raises(LaunchError, match=r"plugin mine.py already has the method 'single_noise'"):
        load_plugin(write(tmp_path, NOISE + "# other\n", "other.py"))
    with pytest.raises(LaunchError, match=r"cannot be read: No such file"):
        load_plugin(tmp_path / "missing.py")
    (tmp_path / "binary.py").write_bytes(b"\xff\xfe")
    with pytest.raises(LaunchError, match="is not UTF-8 text"):
        load_plugin(tmp_path / "binary.py")
    assert versions()["plugin mine.py"] == loaded_plugins()[0].digest  # compared between nodes


def test_a_sweep_file_names_a_plugin_beside_it(tmp_path: Path) -> None:
    write(tmp_path, NOISE)
    text = "plugin: mine.py\nreplicates: 1\nfixed: {d_out: 4, d_in: 4, rank: 1, n: 12, method: single_noise}\n"
    path = write(tmp_path, text, "own.yaml")
    (cell,) = load_sweep(path).cells
    assert cell.method == "single_noise"
    assert parse_sweep(text).cells == (cell,)  # as from a store's record, now that it is loaded
    forget_plugins()
    with pytest.raises(SweepError, match=r"is not loaded from a store's record.*--plugin mine.py"):
        parse_sweep(text)
    for name in ("../mine.py", "/etc/passwd", "[mine.py]", "mine"):
        with pytest.raises(SweepError, match="expected a file's name"):
            load_sweep(write(tmp_path, text.replace("mine.py", name), "bad.yaml"))
    with pytest.raises(SweepError, match=r"bad.yaml:1: plugin: .*cannot be read"):
        load_sweep(write(tmp_path, text.replace("mine.py", "gone.py"), "bad.yaml"))


def test_the_command_line_takes_plugins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, "replicates: 2\nfixed: {d_out: 4, d_in: 4, rank: 1, n: 12, method: halved}\n", "own.yaml")
    plugin = write(tmp_path, SCALED)
    options = ["--store", str(tmp_path / "store"), *INLINE]
    assert main(["sweep", str(path), *options]) == 2
    assert "halved" in capsys.readouterr().err
    assert main(["sweep", str(path), *options, "--plugin", str(plugin)]) == 0
    assert set(flatdist.load_trials(tmp_path / "store")["method"]) == {"halved"}
    archive = str(tmp_path / "own.zip")
    assert (
        main(["bundle", str(path), "--store", str(tmp_path / "store"), "--out", archive, "--plugin", str(plugin)]) == 0
    )
    assert main(["verify", archive]) == 0
    forget_plugins()
    assert main(["verify", archive]) == 1
    assert "computed with mine.py:" in capsys.readouterr().out
    with zipfile.ZipFile(archive) as bundle:
        assert bundle.read("plugins/mine.py").decode() == SCALED
    for command in ("status", "failures", "best"):  # by its name, in another process
        assert main([command, "own", "--store", str(tmp_path / "store"), "--plugin", str(plugin)]) == 0
        forget_plugins()
    assert "1 of 1 cells have rows" in capsys.readouterr().out
    assert main(["submit", "slurm", str(path), "--dry-run", "--plugin", str(plugin)]) == 0
    assert f"--plugin {plugin}" in capsys.readouterr().out
    assert main(["sweep", str(path), *options, "--plugin", str(tmp_path / "none.py")]) == 2
    assert "plugin" in capsys.readouterr().err


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_file_reaches_rays_workers(tmp_path: Path) -> None:
    text = "replicates: 2\nfixed: {d_out: 4, d_in: 4, rank: 1, n: 12, steps: 50, evaluations: 2}\n"
    path = write(tmp_path, text + "axes: {method: [single_noise, sam]}\n", "own.yaml")
    options = ["--store", str(tmp_path / "store"), "--display", "none", "--no-probe"]
    assert main(["sweep", str(path), *options, "--plugin", str(write(tmp_path, NOISE))]) == 0
    trials = flatdist.load_trials(tmp_path / "store")
    assert sorted(trials["method"]) == ["sam", "sam", "single_noise", "single_noise"]
    assert set(trials["plugins"]) == {str(loaded_plugins()[0])}


def test_entry_points_are_registered_and_a_broken_one_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from flatdist.methods.base import SolverMethod

    def broken() -> Any:
        raise ImportError("no module named numbers_of_mine")

    method = SolverMethod("packaged", 1, (), "from a package", "packaged", solver="x:y")
    good = SimpleNamespace(name="packaged", module="json", value="json:METHOD", load=lambda: method, dist=None)
    bad = SimpleNamespace(name="bad", module="json", value="json:BAD", load=broken, dist=None)
    offered = SimpleNamespace(select=lambda group: [good, bad] if group == "flatdist.methods" else [])
    monkeypatch.setattr(plugins, "entry_points", lambda: offered)
    with pytest.warns(UserWarning, match=r"skipping entry point flatdist.methods:bad: no module named"):
        load_entry_points()
    assert METHODS["packaged"] is method
    assert flatdist.Cell(**FIELDS, method="packaged").numerics["method_plugin"] == loaded_plugins()[0].digest
    (plugin,) = loaded_plugins()
    use_plugins([plugin])  # as a worker on a node with the same package
    with pytest.raises(LaunchError, match="package packaged differs from the one where the sweep was started"):
        use_plugins([replace(plugin, digest="0" * 16)])
    with pytest.raises(LaunchError, match="package other is not installed; install the same version on every node"):
        use_plugins([replace(plugin, name="other", digest="0" * 16)])
