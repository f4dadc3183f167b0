"""Sections of ordinary and odd sweeps: what they say, and that none of them fails."""

import base64
import json
import math
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from chosen import failure, lost, make_material, recovers_from

from flatdist.cli import main
from flatdist.fits.threshold import fit_thresholds
from flatdist.report import cells, complexity, curves, diagrams, laws, machines, outcomes, packing, points, question
from flatdist.report.material import MEASURES
from flatdist.report.page import render
from flatdist.report.words import duration, name_of, number, plain, threshold_words
from flatdist.report.writing import SECTIONS, ReportWarning, build_section
from flatdist.store import Store
from flatdist.theory import flattest_trace, prediction

TWO_METHODS = """\
name: two
description: two methods
replicates: 4
fixed: {d_out: 4, d_in: 4, steps: 100, learning_rate: 0.1, depth: 2}
axes: {rank: [1, 2], n: [5, 8, 11, 15], method: [min_nuclear_norm, label_noise_sgd]}
"""
ODD = {
    "one method": ("name: a\nfixed: {d_out: 4, d_in: 4, rank: 1, method: min_nuclear_norm}\naxes: {n: [5, 9]}", None),
    "one n": ("name: a\nfixed: {d_out: 4, d_in: 4, rank: 1, n: 9}\naxes: {method: [min_nuclear_norm, sam]}", None),
    "one cell": ("name: a\nfixed: {d_out: 4, d_in: 4, rank: 1, n: 9, method: min_frobenius_norm}", None),
    "sizes": (
        "name: a\nfixed: {d_in: 4, rank: 1, method: min_nuclear_norm}\naxes: {d_out: [4, 6, 9], n: [5, 7, 8, 30]}",
        lambda cell, replicate: {"relative_error": 0.5},
    ),
    "all diverged": (TWO_METHODS, lost),
    "nothing done": (TWO_METHODS, lambda cell, replicate: None),
    "no error": (TWO_METHODS, lambda cell, replicate: {"relative_error": math.nan}),
    "infinite": (TWO_METHODS, lambda cell, replicate: {"relative_error": math.inf, "nuclear_norm": math.inf}),
    "search": (
        (
            "name: a\nfixed: {d_out: 4, d_in: 4, rank: 1, n: 9}\n"
            "search: {fields: {learning_rate: {loguniform: [0.01, 0.1]}}, metric: relative_error, budget: 4}"
        ),
        None,
    ),
    "many settings": (
        (
            "name: a\nfixed: {d_out: 4, d_in: 4, rank: 1, n: 9}\n"
            "axes: {learning_rate: {loguniform: [0.001, 0.1, 60]}}\nreplicates: 1"
        ),
        None,
    ),
    "many settings and n": (
        (
            "name: a\nfixed: {d_out: 4, d_in: 4, rank: 1}\n"
            "axes: {n: [5, 9], learning_rate: {loguniform: [0.001, 0.1, 60]}}\nreplicates: 1"
        ),
        None,
    ),
    "probes": (
        "name: a\nfixed: {d_out: 3, d_in: 3, rank: 1, method: theorem_probe}\naxes: {n: [4, 40], depth: [2, 3]}",
        lambda cell, replicate: {"relative_error": None},
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_sweep_has_every_section_and_a_page(name, tmp_path):
    text, outcome = ODD[name]
    material = make_material(text, tmp_path, outcome)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ReportWarning)
        sections = [build_section(section, material) for section in SECTIONS]
    assert all(section.message or section.content for section in sections)
    text = render("a", "", sections, {**dict.fromkeys(["flatdist_version", "git_revision", "git_dirty", "cells"]),
                                      "trials": 0, "cells_hash": "0", "command": []})  # fmt: skip
    assert text.count("<h2 ") == len(SECTIONS)
    assert "Traceback" not in text


def test_what_is_missing_is_said(tmp_path):
    text, _ = ODD["one n"]
    one = make_material(text, tmp_path)
    assert "one n" in build_section("diagrams", one).message
    nothing = make_material(TWO_METHODS, tmp_path, lambda cell, replicate: None)
    assert "flatdist sweep two.yaml" in build_section("question", nothing).message
    assert "no trial of this sweep is done" in build_section("complexity", nothing).message
    assert build_section("cells", nothing).content["rows"][0]["entries"][-1]["text"] == "-"
    solvers = make_material(ODD["one method"][0], tmp_path)
    assert "none of its methods trains step by step" in build_section("curves", solvers).message
    assert "No threshold is bracketed" in build_section("laws", make_material(TWO_METHODS, tmp_path, lost)).message
    assert (
        "60 configurations" in build_section("diagrams", make_material(ODD["many settings and n"][0], tmp_path)).message
    )
    probes = make_material(ODD["probes"][0], tmp_path, ODD["probes"][1])
    assert "no success to show" in build_section("diagrams", probes).message
    assert build_section("outcomes", probes).content["diverged"] == []
    table = build_section("cells", probes).content
    assert {row["entries"][table["heads"].index("done")]["text"] for row in table["rows"]} == {"8"}


def test_a_fault_in_one_section_is_reported_and_spares_the_page(tmp_path, monkeypatch):
    material = make_material(TWO_METHODS, tmp_path)

    def broken(material):
        raise ZeroDivisionError("by zero")

    monkeypatch.setitem(SECTIONS, "laws", ("Laws", broken))
    with pytest.warns(ReportWarning, match="ZeroDivisionError: by zero"):
        section = build_section("laws", material)
    assert "could not be made" in section.message


def test_points_count_replicates_and_know_their_cells(tmp_path):
    material = make_material(
        TWO_METHODS, tmp_path, lambda cell, r: {"relative_error": 1e-9 if r < 3 or cell.n > 8 else 0.5}
    )
    found = points.points_of(material)
    assert len(found) == len(material.cells) == 16
    point = next(p for p in found if p.n == 5 and p.key["method"] == "label_noise_sgd" and p.key["rank"] == 2)
    assert (point.successes, point.count, point.rate) == (3, 4, 0.75)
    z = 1.959963984540054
    middle, reach = (3 + z**2 / 2) / (4 + z**2), z / (4 + z**2) * math.sqrt(3 * 1 / 4 + z**2 / 4)
    np.testing.assert_allclose([point.low, point.high], [middle - reach, middle + reach])
    (cell,) = point.cells
    row = material.cells.iloc[cell]
    assert (row["n"], row["method"], row["rank"]) == (5, "label_noise_sgd", 2)
    assert point.shown(material.naming)["success"] == "3 of 4 (75 %)"


def test_rows_of_older_numerics_belong_to_the_cell_of_today(tmp_path):
    material = make_material(TWO_METHODS, tmp_path)
    material.trials["cell_id"] = "0" * 16
    rows = material.cell_of_trials()
    assert sorted(set(rows)) == list(range(16))


def values_of(spec, data):
    """Rows of a layer's data, written in place or once for all layers."""
    return data["values"] if "values" in data else spec["datasets"][data["name"]]


def fitted(material):
    """n50 of the first group with its interval, as the library fits it, in the page's words."""
    row = fit_thresholds(material.trials, by=["method", "rank"]).iloc[0]
    assert row["n50"] == pytest.approx(math.sqrt(40)), "between 5, where all fail, and 8, where all succeed"
    return f"{number(row['n50'])} [{number(row['n50_low'])}, {number(row['n50_high'])}]"


def test_diagrams_place_every_tile_and_describe_what_is_seen(tmp_path):
    material = make_material(TWO_METHODS, tmp_path, recovers_from(8))
    section = diagrams.build(material)
    assert len(section.charts) == 2
    spec = section.charts["diagram-0"]
    rows = [row for layer in spec["layer"] for row in values_of(spec, layer["data"])]
    tiles = [row for row in rows if "point" in row]
    assert len(tiles) == 8
    for tile in tiles:
        assert tile["left"] < tile["n"] < tile["right"]
        assert tile["rate"] == float(tile["n"] >= 8)
    summary = section.content["panels"][0]["summary"]
    assert "label-noise SGD" in summary
    assert f"rank r 1: n50 {fitted(material)}" in summary
    buttons = [tile for row in section.content["panels"][0]["rows"] for tile in row["tiles"]]
    assert {tile["point"] for tile in buttons} == {tile["point"] for tile in tiles}
    assert {path.name for path in section.pictures} == {f"phase_diagram.{kind}" for kind in ("png", "svg", "pdf")}


def test_complexity_names_thresholds_as_fitted(tmp_path):
    material = make_material(TWO_METHODS, tmp_path, recovers_from(8))
    section = complexity.build(material)
    row = section.content["thresholds"][0]
    assert (row["key"], row["n50"], row["censored"]) == (["label-noise SGD", "1"], fitted(material), "interval")
    assert row["statdim"] == number(math.sqrt(40) / prediction("statdim").value(4, 4, 1))
    assert len(section.charts) == 2, "a panel for each rank"


def test_laws_tell_their_ratio(tmp_path):
    text = "name: a\nreplicates: 6\nfixed: {d_out: 8, d_in: 8, method: min_nuclear_norm}\naxes: {rank: [1, 2], n: [%s]}"
    grid = ", ".join(f"{factor}*dof" for factor in (0.5, 1, 1.5, 2, 3))
    material = make_material(
        text % grid,
        tmp_path,
        lambda cell, r: {"relative_error": 1e-9 if cell.n >= 1.3 * cell.rank * (16 - cell.rank) else 0.5},
    )
    section = laws.build(material)
    row = next(row for row in section.content["laws"] if row["law"].startswith("degrees"))
    assert row["ratio"].startswith("1.2")
    assert row["verdict"] == "undecided"
    assert "Fewer than four" in section.message


def decoded(packed, cell):
    """Curves as the page's script reads them."""
    curve = packed.curves[cell]
    shape = (-1, curve["replicates"], len(packed.steps[curve["steps"]]))
    codes = np.frombuffer(base64.b64decode(curve["values"]), "<u2").reshape(shape).astype(float)
    low, high = (np.array(ends)[:, None, None] for ends in (packed.low, packed.high))
    return np.where(codes == 0, np.nan, 10 ** (low + (codes - 1) / 65534 * (high - low)))


def history_of(values):
    """Rows for an array (replicate, step)."""
    replicates, steps = values.shape
    index = pd.MultiIndex.from_product([range(replicates), range(0, 10 * steps, 10)], names=["replicate", "step"])
    return pd.DataFrame({"loss": values.ravel(), "norm": 3.0 * values.ravel()}, index=index).reset_index()


def test_packed_curves_are_read_back():
    values = 10 ** np.random.default_rng(0).uniform(-9, 3, (4, 20))
    values[1, 5], values[2, 7:] = 0.0, np.nan
    packed = packing.pack(history_of(values), [1] * 80, 3, ["loss", "norm"])
    assert packed.curves[0] is None
    found = decoded(packed, 1)[0]
    expected = np.where(values == 0.0, 10 ** packed.low[0], values)
    np.testing.assert_allclose(found, expected, rtol=5e-4)
    assert packed.steps == [list(range(0, 200, 10))]
    assert packed.thinned == ""


def test_too_many_curves_are_thinned_to_the_budget(monkeypatch):
    monkeypatch.setattr(packing, "MOST_VALUES", 4 * 2 * 3 * 16)
    history = pd.concat([history_of(np.ones((8, 64))) for _ in range(4)])
    packed = packing.pack(history, np.repeat(np.arange(4), 8 * 64), 4, ["loss", "norm"])
    assert sum(decoded(packed, cell).size for cell in range(4)) <= 4 * 2 * 3 * 16
    steps = packed.steps[0]
    assert (steps[0], steps[-1], len(steps)) == (0, 630, 16)
    assert (
        packed.thinned == "To keep the page small, curves show 16 of up to 64 evaluations and 3 of up to 8 replicates."
    )


def test_levels_are_theory_at_the_minimum_norm_of_the_same_problem(tmp_path):
    norms = {"min_nuclear_norm": 0.8, "label_noise_sgd": 1.5}
    material = make_material(
        TWO_METHODS, tmp_path, lambda cell, r: {"relative_error": 0.1, "nuclear_norm": norms[cell.method]}
    )
    section = curves.build(material)
    assert section.data["measures"] == list(MEASURES)
    cell = next(i for i, method in enumerate(material.cells["method"]) if method == "label_noise_sgd")
    levels = {level["label"]: level["value"] for level in section.data["levels"][str(cell)]}
    assert levels["minimum nuclear norm"] == 0.8
    assert levels["Lemma 4 at the minimum nuclear norm"] == flattest_trace(0.8, 4, 4, 2)
    assert levels["nuclear norm of the truth"] == 1.0


def test_divergence_is_explained_by_the_step_size(tmp_path):
    def diverging(rate):
        return lambda cell, r: {**lost(cell, r), "learning_rate_final": rate} if r == 0 else {"relative_error": 0.1}

    limit = 50 / flattest_trace(1.0, 4, 4, 2)
    long = outcomes.build(make_material(TWO_METHODS, tmp_path, diverging(3 * limit))).content["diverged"]
    assert long[0]["count"] == "1 of 4"
    assert long[0]["steps"] == "7"
    trained = next(row for row in long if "SGD" in row["name"])
    assert f"beyond B / R = {number(limit)}" in trained["why"]
    short = outcomes.build(make_material(TWO_METHODS, tmp_path, diverging(0.5 * limit))).content["diverged"]
    assert "is 0.5 of B / R" in next(row for row in short if "SGD" in row["name"])["why"]


def test_failures_are_grouped_and_those_made_good_are_not_listed(tmp_path):
    material = make_material(
        TWO_METHODS, tmp_path, lambda cell, r: None if cell.n == 5 and r == 1 else {"relative_error": 0.1}
    )
    first, *others = [cell for cell in material.sweep.cells if cell.n == 5]
    rows = [
        failure(first, 1),
        failure(first, 1, 2),
        failure(others[0], 1),
        failure(first, 0),
        failure(others[1], 1, 1, "other"),
    ]
    material = make_material(
        TWO_METHODS, tmp_path, lambda cell, r: None if cell.n == 5 and r == 1 else {"relative_error": 0.1}, rows
    )
    content = outcomes.build(material).content
    assert [(row["message"], row["replicates"], row["cells"], row["attempts"]) for row in content["failures"]] == [
        ("boom", 2, 2, 3), ("other", 1, 1, 1),
    ]  # fmt: skip
    assert content["recovered"] == 1
    table = cells.build(material).content
    failed = {row["id"]: row["entries"][table["heads"].index("failed")]["text"] for row in table["rows"]}
    assert failed[first.cell_id] == "1"
    assert sum(row["trouble"] for row in table["rows"]) == 4, "those with a replicate missing"


def test_machines_are_counted_apart(tmp_path):
    def outcome(cell, replicate):
        return {"relative_error": 0.1, "host": f"node{replicate % 2}", "git_dirty": replicate == 1}

    section = machines.build(make_material(TWO_METHODS, tmp_path, outcome))
    assert [(row["host"], row["trials"]) for row in section.content["rows"]] == [
        ("node0", "32"),
        ("node1", "16"),
        ("node1", "16"),
    ]
    assert "uncommitted changes" in section.message
    assert section.content["total"]["wall"] == "16 s"


def test_question_counts_what_is_done(tmp_path):
    material = make_material(TWO_METHODS, tmp_path, lambda cell, r: {"relative_error": 0.1} if r else None)
    section = question.build(material)
    assert section.content["facts"]["trials done"] == "48 of 64"
    assert "16 replicates of 64 have no result yet" in section.message
    assert section.content["source"] == TWO_METHODS


def test_words():
    assert [number(x) for x in (None, math.nan, math.inf, 12, 0.123456, 1234.5, 1e-7, 1e9)] == [
        "-", "-", "∞", "12", "0.123", "1234", "1e-07", "1e+09",
    ]  # fmt: skip
    assert [duration(x) for x in (0.5, 119, 120, 7200)] == ["0.5 s", "119 s", "2 min", "2 h"]
    assert plain("$r(d+d')$, $n_{50}$ of $d' \\times d$") == "r(d+d′), n50 of d′ × d"  # noqa: RUF001
    assert name_of({"method": "min_nuclear_norm", "rank": 2, "n": 7}) == "min nuclear norm, r = 2, n = 7"
    fit = {"n50": 10.0, "n50_low": 8.0, "n50_high": math.inf, "n_min": 5, "n_max": 20}
    words = [threshold_words({**fit, "censored": kind}) for kind in ("none", "left", "right", "unresolved")]
    assert words == ["10 [8, ∞]", "below 5", "above 20", "unresolved"]


def test_an_unknown_sweep_is_bad_input_with_the_nearest_name(tmp_path, capsys):
    store = Store(tmp_path / "results")
    material = make_material(TWO_METHODS, tmp_path)
    store.save_sweep("two", TWO_METHODS, [cell.cell_id for cell in material.sweep.cells], 4)
    assert main(["report", "twoo", "--store", store.uri]) == 2
    assert "did you mean 'two'?" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "missing.yaml"), "--store", store.uri]) == 2
    assert "missing.yaml" in capsys.readouterr().err
    assert main(["report", "two", "--store", str(tmp_path / "nowhere")]) == 2


def test_a_report_without_results_is_made_and_its_path_printed_last(tmp_path, capsys):
    store = Store(tmp_path / "results")
    store.save_sweep("two", TWO_METHODS, ["0" * 16], 4)
    assert main(["report", "two", "--store", store.uri, "--out", str(tmp_path / "out")]) == 0
    page = Path(capsys.readouterr().out.splitlines()[-1])
    assert page == tmp_path / "out" / "two.html"
    assert "Nothing is done yet" in page.read_text()


def test_without_the_extra_the_command_says_what_to_install(tmp_path, capsys, monkeypatch):
    store = Store(tmp_path / "results")
    store.save_sweep("two", TWO_METHODS, ["0" * 16], 4)
    for name in [name for name in sys.modules if name.startswith("flatdist.report")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "altair", None)
    assert main(["report", "two", "--store", store.uri]) == 2
    assert "pip install 'flatdist[report]'" in capsys.readouterr().err


def test_an_output_folder_that_cannot_be_made_is_bad_input(tmp_path, capsys):
    store = Store(tmp_path / "results")
    store.save_sweep("two", TWO_METHODS, ["0" * 16], 4)
    (tmp_path / "file").write_text("")
    assert main(["report", "two", "--store", store.uri, "--out", str(tmp_path / "file" / "out")]) == 2
    assert "file" in capsys.readouterr().err


def test_a_tolerance_is_passed_to_the_fits(tmp_path):
    material = make_material(TWO_METHODS, tmp_path)
    assert material.tolerance == 1e-2
    assert json.dumps(material.thresholds["tolerance"].unique().tolist()) == "[0.01]"
