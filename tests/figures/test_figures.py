"""The figure commands: what they draw, what they write, and how they refuse."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image
from synthetic import figure, quickstart_like

import flatdist
from analysis import fit_thresholds
from flatdist import figures
from flatdist.errors import FitError, StoreError
from flatdist.figures import phase_diagram, sample_complexity, style
from flatdist.figures.fields import pooled
from flatdist.figures.panels import legend_above
from flatdist.figures.phase_diagram import diagram_columns
from flatdist.figures.words import text_lines, threshold_table, unfinished
from flatdist.fits.success import success_rates
from flatdist.fits.threshold import grouping
from flatdist.theory import prediction

COMMANDS = ("sample_complexity", "phase_diagram")


@pytest.fixture(scope="module")
def trials() -> pd.DataFrame:
    return quickstart_like(ranks=(1, 2), methods=("label_noise_sgd", "min_nuclear_norm"))


@pytest.mark.parametrize("name", COMMANDS)
def test_command_writes_pictures_with_their_origin(
    name: str, trials: pd.DataFrame, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(flatdist, "load_trials", lambda store, sweep, where=None: trials, raising=False)
    assert figure(name, "demo", "--store", "s", "--out", str(tmp_path)) == 0
    printed = capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{name}.{kind}" for kind in ("pdf", "png", "svg")]
    assert all(str(path) in printed for path in tmp_path.iterdir())
    assert "label_noise_sgd" in printed
    assert "n50" in printed
    with Image.open(tmp_path / f"{name}.png") as picture:
        origin = json.loads(picture.info["Description"])
        assert picture.size[0] == pytest.approx(style.COLUMN_WIDTH * style.RESOLUTION, abs=2)
    assert origin["sweep"] == "demo"
    assert origin["cells_hash"] == figures.origin("demo", trials.sample(frac=1.0, random_state=1), {})["cells_hash"]
    assert origin["settings"]["tolerance"] == 1e-2
    assert {"git_revision", "flatdist_version"} <= set(origin)
    assert origin["cells_hash"] in (tmp_path / f"{name}.svg").read_text()
    assert origin["cells_hash"].encode() in (tmp_path / f"{name}.pdf").read_bytes()


def test_equal_figures_are_equal_files(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        figure = Figure()
        figure.subplots().plot([1, 2])
        style.save_figure(figure, tmp_path / folder, "f", {"sweep": "x"})
    for kind in style.FORMATS:
        assert (tmp_path / "a" / f"f.{kind}").read_bytes() == (tmp_path / "b" / f"f.{kind}").read_bytes()


def test_sample_complexity_draws_the_predictions_where_they_are(trials: pd.DataFrame) -> None:
    assert grouping(trials) == ["method", "rank"]
    drawn = sample_complexity(trials, tolerance=1e-2)
    panels = [axes for axes in drawn.axes if axes.get_xlabel() or axes.get_ylabel()]
    assert len(panels) == 2
    verticals = [line.get_xdata()[0] for line in panels[1].lines if len(set(line.get_xdata())) == 1]
    for name in ("statdim", "rsum", "dof"):
        assert prediction(name).value(12, 12, 2) in verticals
    labels = [text.get_text() for text in drawn.legends[0].get_texts()]
    assert {"label-noise SGD", "statistical dimension", "$r(d+d')$", "$d\\,d'$"} <= set(labels)


def test_phase_diagram_has_a_panel_for_each_method_and_a_cell_for_each_n(trials: pd.DataFrame) -> None:
    assert diagram_columns(trials) == ["method", "d_out", "d_in", "rank"]
    drawn = phase_diagram(trials, tolerance=1e-2)
    panels = [axes for axes in drawn.axes if axes.get_title(loc="left")]
    assert [axes.get_title(loc="left") for axes in panels] == ["label-noise SGD", "min nuclear norm"]
    cells = [mesh.get_array().size for mesh in panels[0].collections if isinstance(mesh, QuadMesh)]
    assert cells == [trials.loc[trials["rank"] == rank, "n"].nunique() for rank in (1, 2)]


def test_success_rates_count(trials: pd.DataFrame) -> None:
    rates = success_rates(trials, ["method", "rank"], 1e-2)
    assert rates["count"].unique().tolist() == [8]
    one = trials[(trials["method"] == "label_noise_sgd") & (trials["rank"] == 2)]
    mine = rates[(rates["method"] == "label_noise_sgd") & (rates["rank"] == 2)].set_index("n")["rate"]
    assert mine.to_dict() == (one["relative_error"] < 1e-2).groupby(one["n"]).mean().to_dict()


def test_cell_edges_are_between_neighbours() -> None:
    found = style.edges(np.array([10.0, 20.0, 40.0]), logarithmic=True)
    assert found == pytest.approx([10 / 2**0.5, 10 * 2**0.5, 20 * 2**0.5, 40 * 2**0.5])
    assert style.edges(np.array([7.0]), logarithmic=True).shape == (2,)


@pytest.mark.parametrize("draw", [figures.tolerance, figures.collapse, figures.sample_complexity])
@pytest.mark.parametrize(
    "successes",
    [{40: 0, 80: 0}, {40: 6, 80: 6}, {40: 0, 80: 4}, {40: 3}],
    ids=["all fail", "all succeed", "a lapse or a threshold", "one n"],
)
def test_thresholds_that_are_not_resolved_make_a_finite_drawing_or_say_why(draw, successes: dict[int, int]) -> None:
    rows = [
        {"n": n, "replicate": replicate, "relative_error": 1e-9 if replicate < count else 1.0}
        for n, count in successes.items()
        for replicate in range(6)
    ]
    shape = {"method": "min_nuclear_norm", "d_out": 8, "d_in": 8, "rank": 1, "status": "converged"}
    trials = pd.DataFrame(rows).assign(**shape)
    if draw is not figures.sample_complexity and successes.get(80) != 4:
        with pytest.raises(FitError, match="widen the range of n"):
            draw(trials)
        return
    drawn = draw(trials)
    drawn.draw_without_rendering()
    limits = np.array([[*axes.get_xlim(), *axes.get_ylim()] for axes in drawn.axes])
    assert np.all(np.abs(limits) < 1e4)


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("case", ["one n", "all fail", "all diverged", "one replicate", "depths and shapes"])
def test_odd_data_still_make_a_figure(name: str, case: str, trials: pd.DataFrame, monkeypatch, tmp_path: Path) -> None:
    table = {
        "one n": lambda: trials[trials["n"] == trials["n"].min()],
        "all fail": lambda: trials.assign(relative_error=1.0),
        "all diverged": lambda: trials.assign(relative_error=np.nan, status="diverged"),
        "one replicate": lambda: trials[trials["replicate"] == 0],
        "depths and shapes": lambda: pd.concat(
            [
                quickstart_like((1,), ("label_noise_sgd", "min_nuclear_norm"), d_in=size, depth=depth)
                for size in (10, 12)
                for depth in (2, 3)
            ]
        ).drop_duplicates(["cell_id", "replicate"]),
    }[case]()
    monkeypatch.setattr(flatdist, "load_trials", lambda store, sweep, where=None: table, raising=False)
    assert figure(name, "demo", "--out", str(tmp_path), "--format", "svg") == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_bad_input_is_one_message_and_status_2(
    name: str, trials: pd.DataFrame, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(flatdist, "load_trials", lambda store, sweep, where=None: trials.iloc[:0], raising=False)
    assert figure(name, "demo") == 2
    assert "sweep 'demo' has no trials in store 'results'" in capsys.readouterr().err

    def missing(store: str, sweep: str, where: str | None = None) -> pd.DataFrame:
        raise StoreError("store nowhere: there is no such folder")

    monkeypatch.setattr(flatdist, "load_trials", missing, raising=False)
    assert figure(name, "demo", "--store", "nowhere") == 2
    assert capsys.readouterr().err == "error: store nowhere: there is no such folder\n"
    monkeypatch.setattr(flatdist, "load_trials", lambda store, sweep, where=None: trials, raising=False)
    assert figure(name, "demo", "--tolerance", "-1") == 2
    assert "tolerance=-1.0" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert figure(name, "demo", "--out", str(tmp_path / "file")) == 2
    assert "error:" in capsys.readouterr().err


def test_reading_and_drawing_load_no_training_libraries() -> None:
    package = Path(flatdist.__file__).parent
    rooms = [path for room in ("fits", "figures", "report") for path in (package / room).rglob("*.py")]
    modules = sorted(
        ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__") for path in rooms
    )
    assert {"flatdist.fits.threshold", "flatdist.figures.fields", "flatdist.report.watch"} <= set(modules)
    code = (
        "import sys\n"
        "class Blocked:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'ray', 'numba'): raise ImportError(name + ' is blocked')\n"
        "sys.meta_path.insert(0, Blocked())\n"
        + "".join(f"import {module}\n" for module in modules)
        + "import flatdist; flatdist.load_trials, flatdist.theory\n"
        "assert not {'torch', 'ray', 'numba'} & set(sys.modules)\n"
    )
    environment = {**os.environ, "MPLBACKEND": "agg"}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, env=environment)


@pytest.fixture(scope="module")
def sweep_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sweeps") / "q.yaml"
    path.write_text("name: my-question\nreplicates: 2\nfixed: {d_out: 3, d_in: 3, rank: 1, n: 4}\n")
    return path


def test_pictures_are_named_after_the_sweep_however_it_is_given(
    sweep_file: Path, trials: pd.DataFrame, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(flatdist, "load_trials", lambda store, sweep, where=None: trials, raising=False)
    for sweep in ("my-question", str(sweep_file)):
        assert figure("sample-complexity", sweep, "--format", "svg") == 0
    assert [path.name for path in Path("figures").iterdir()] == ["my-question"]


def test_where_reaches_the_store_and_the_picture(
    trials: pd.DataFrame, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def load(store: str, sweep: str, where: str | None = None) -> pd.DataFrame:
        asked.append(where)
        return trials.query(where)

    monkeypatch.setattr(flatdist, "load_trials", load, raising=False)
    out = ["--out", str(tmp_path), "--format", "svg"]
    assert figure("sample_complexity", "demo", "--where", "rank == 2", *out) == 0
    assert asked == ["rank == 2"]
    (stem,) = {path.stem for path in tmp_path.iterdir()}
    assert stem.startswith("sample_complexity-where-rank-2-"), "the whole sweep's picture must stay"
    assert "rank == 2" in (tmp_path / f"{stem}.svg").read_text()
    assert figure("sample_complexity", "demo", "--where", "rank != 2", *out) == 0
    assert len({path.stem for path in tmp_path.iterdir()}) == 2
    assert figure("sample_complexity", "demo", "--where", "rank == 7") == 2
    assert "with --where 'rank == 7'" in capsys.readouterr().err


def test_a_reader_that_leaves_early_sees_no_traceback() -> None:
    code = "from flatdist.figures.command import print_lines; print_lines(['line'] * 100_000)"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "line\n"
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


def test_a_script_runs_without_a_warning() -> None:
    command = [sys.executable, "-W", "error", "-m", "analysis.scaling", "--help"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert ended.stderr == ""


def test_unresolved_widths_and_unfinished_replicates_are_said(trials: pd.DataFrame) -> None:
    one = trials[(trials["method"] == "label_noise_sgd") & (trials["rank"] == 1)]
    sharp = one.assign(relative_error=lambda t: np.where(t["n"] > 30, 0, 1.0))
    first_above = sharp["n"] == sharp.loc[sharp["n"] > 30, "n"].min()
    sharp.loc[first_above & (sharp["replicate"] == 0), "relative_error"] = 1.0
    sharp["status"] = np.where(sharp["replicate"] < 3, "budget_exhausted", "converged")
    thresholds = fit_thresholds(sharp, by=["method", "rank"])
    assert not (thresholds["transition"] >= thresholds["n_spacing"]).any()
    lines = text_lines(threshold_table(thresholds, ["method", "rank"])) + unfinished(thresholds)
    assert f"< {thresholds['n_spacing'].iloc[0]:g} " in lines[1]
    assert lines[-1].startswith(f"label_noise_sgd: {3 * len(sharp) // 8} of {len(sharp)} replicates ended before")
    assert "raise `steps`" in lines[-1]
    finished = fit_thresholds(sharp.assign(status="converged"), by=["method", "rank"])
    assert unfinished(finished) == []


def test_legends_name_only_predictions_in_view(trials: pd.DataFrame) -> None:
    near = trials[(trials["rank"] == 2) & (trials["n"] > 60) & (trials["n"] < 120)]
    for drawn in (sample_complexity(near, tolerance=1e-2), phase_diagram(near, tolerance=1e-2)):
        labels = {text.get_text() for text in drawn.legends[0].get_texts()}
        assert "statistical dimension" in labels
        assert not {"$r(d+d')$", "$d\\,d'$"} & labels


def test_phase_diagram_points_to_a_threshold_beyond_its_data(trials: pd.DataFrame) -> None:
    one = trials[(trials["method"] == "label_noise_sgd") & (trials["rank"] == 1)]
    for error, marker, edge in ((1.0, ">", one["n"].max()), (0.0, "<", one["n"].min())):
        table = one.assign(relative_error=error)
        drawn = phase_diagram(table, tolerance=1e-2)
        marks = [line for line in drawn.axes[0].lines if line.get_marker() == marker]
        assert [mark.get_xdata()[0] for mark in marks] == [edge]


def test_ticks_are_plain_numbers_at_any_size() -> None:
    for low, high in ((1.2e-7, 9e-7), (1.2, 2.1), (3e8, 9e8)):
        axes = Figure().subplots()
        axes.set_yscale("log")
        style.plain_ticks(axes.yaxis, low, high)
        labels = [label.get_text() for label in axes.get_yticklabels()]
        assert len(labels) >= 2
        assert all(low * 0.96 <= float(label) <= high * 1.04 for label in labels)


def test_every_figure_is_listed_and_takes_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    from flatdist.cli import main

    assert main(["figure"]) == 0
    listed = capsys.readouterr().out
    assert all(f"{name.replace('_', '-')} " in listed for name in figures.FIGURES)
    assert figure("phase-diagram", "demo", "--x", "n") == 2
    assert "does not take --x; it takes --tolerance, --link, --view" in capsys.readouterr().err
    assert figure("fase-diagram", "demo") == 2
    assert "did you mean 'phase_diagram'?" in capsys.readouterr().err
    assert figure("heatmap") == 2
    assert "give a sweep: flatdist figure heatmap SWEEP" in capsys.readouterr().err


def test_one_panel_is_drawn_into_axes_that_are_given(trials: pd.DataFrame) -> None:
    one = trials[(trials["rank"] == 2) & (trials["method"] == "label_noise_sgd")]
    ax = Figure().subplots()
    assert sample_complexity(one, ax=ax) is ax
    assert phase_diagram(one, ax=Figure().subplots()).get_xlabel() == "measurements $n$"
    with pytest.raises(FitError, match="these rows differ in rank and make 2 panels, but ax= takes one"):
        sample_complexity(trials, ax=ax)


def test_normalised_ranks_are_drawn_to_scale(trials: pd.DataFrame) -> None:
    shapes = pd.concat([trials, quickstart_like((3,), ("label_noise_sgd",), d_out=24, d_in=24)])
    axes = phase_diagram(shapes[shapes["method"] == "label_noise_sgd"], view="normalised").axes[0]
    bands = [mesh.get_coordinates()[:, 0, 1] for mesh in axes.collections if isinstance(mesh, QuadMesh)]
    assert sorted(round(float((low + high) / 2), 4) for low, high in bands)[::2] == [0.0833, 0.1667]
    with pytest.raises(FitError, match="no view of the phase diagram is named 'sizes'"):
        phase_diagram(trials, view="sizes")


def test_lists_of_widths_are_drawn_as_their_one_width(trials: pd.DataFrame) -> None:
    one = trials[(trials["rank"] == 2) & (trials["method"] == "label_noise_sgd")]
    wide = pd.concat([one.assign(width=[[width, width]] * len(one)) for width in (8, 16)])
    axes = figures.lines(wide, "width", "relative_error").axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["8", "16"]
    assert axes.get_xticks().tolist() == [8.0, 16.0]


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda rows: figures.heatmap(rows, "d_out", "rank"), r"'d_out' has one value here \(12\).*these vary: .*rank"),
        (lambda rows: figures.heatmap(rows[rows["cell_id"] == rows["cell_id"].iloc[0]]), "the trials are of one cell"),
        (lambda rows: figures.heatmap(rows, "n", "n"), "a heat map needs two fields, and both axes are 'n'"),
        (lambda rows: figures.tolerance(rows[rows["n"] == rows["n"].min()]), "no n50 lies within the measured n"),
        (lambda rows: figures.lines(rows, "rank", "n50", agg="max"), "n50 is fitted .* has no max; leave out --agg"),
        (
            lambda rows: figures.scatter(rows.assign(at=pd.Timestamp("2026-01-01", tz="UTC")), "at"),
            "'at' is not numeric",
        ),
        (lambda rows: figures.lines(rows, "rank", log="method"), "--log method: no such axis; allowed: x, value"),
        (lambda rows: figures.lines(rows, "method", log="x"), "'method' holds text, not numbers"),
        (lambda rows: figures.lines(rows, "rank", "status"), "'status' is not numeric"),
        (lambda rows: figures.scatter(rows, "method"), "'method' is not numeric, and a scatter needs numbers"),
        (lambda rows: figures.lines(rows, "rnak"), r"'rnak' is neither a column nor arithmetic.*did you mean 'rank'"),
    ],
)
def test_a_field_that_cannot_be_drawn_is_one_message(draw, message: str, trials: pd.DataFrame) -> None:
    with pytest.raises(FitError, match=message):
        draw(trials)


def test_only_fields_that_a_group_mixes_are_pooled_over(trials: pd.DataFrame) -> None:
    assert pooled(trials, ["statdim", "method", "n"]) == [], "the statistical dimension tells the ranks apart"
    assert "pools over method" in pooled(trials, ["rank", "n"])[0]
    assert "pools over rank" in pooled(trials, ["entries", "method", "n"])[0]


@pytest.mark.parametrize(
    ("label", "grows"), [("also short", False), ("label-noise SGD, depth 3, init 0.5, noise 2", True)]
)
def test_a_legend_takes_fewer_columns_where_the_figure_is_too_narrow(label: str, grows: bool) -> None:
    figure = Figure(figsize=(4.0, 2.0), layout="constrained")
    legend_above(figure, [Line2D([], [], label=text) for text in ("short", "also short", label)])
    (legend,) = figure.legends
    assert legend.get_window_extent().width <= figure.bbox.width
    assert (figure.get_figheight() > 2.0) == grows
