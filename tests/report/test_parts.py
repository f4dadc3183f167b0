"""The parts of the page: what is missing, answers, tables, curves, and panels over other fields."""

import base64
import dataclasses
import re
import zlib

import numpy as np
import pandas as pd
import pytest
from chosen import failure, lost, make_material, recovers_from

from flatdist.figures.panels import PRIME, TIMES, plain
from flatdist.figures.words import duration, name_of, number, threshold_words
from flatdist.report import answers, tables
from flatdist.report.material import MEASURES
from flatdist.report.packing import FEWEST_STEPS, pack
from flatdist.report.page import ReportWarning, build
from flatdist.report.panels import Painter, levels
from flatdist.report.svg import Inliner

BASE = "name: small\nreplicates: 3\nfixed: {d_out: 4, d_in: 4, rank: 1, depth: 2}\n"
OVER_N = BASE + "axes: {n: [4, 6, 8, 10], method: [label_noise_sgd, min_nuclear_norm]}\n"
ONE_N = BASE + "axes: {learning_rate: [0.1, 0.2, 0.4], label_noise_std: [0.5, 1], n: [8]}\n"


def test_a_complete_sweep_has_no_banner():
    assert answers.banner(make_material(OVER_N)) == []


def test_missing_replicates_are_counted_by_method_and_cast_doubt_on_the_tolerance():
    material = make_material(
        OVER_N, lambda cell, r: None if cell.method == "label_noise_sgd" else {"relative_error": 0.0}
    )
    missing, absent = answers.banner(material)
    assert missing.startswith("12 of 24 replicates are missing (label-noise SGD 12)")
    assert "Every number below is preliminary" in missing
    assert "The store has no results of label-noise SGD yet: the tolerance 0.01" in absent
    (some,) = answers.banner(make_material(OVER_N, lambda cell, r: None if r == 2 else {"relative_error": 0.0}))
    assert some.startswith("8 of 24 replicates are missing (label-noise SGD 4, min nuclear norm 4)")


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (1.01, 1.5, "above δ"), (0.5, 0.99, "below δ"), (0.9, 1.1, "includes δ"), (0.98, 1.02, "equals δ within 3 %"),
        (1.001, 1.02, "equals δ within 3 %"), (0.0, np.inf, "includes δ"),
    ],
)  # fmt: skip
def test_an_interval_lies_above_below_or_around_delta(low, high, words):
    assert answers.place_words(low, high) == words


def test_an_answer_has_n50_its_interval_and_its_ratio():
    first, second = answers.answers(make_material(OVER_N, recovers_from(8)))
    assert (first["name"], second["name"]) == ("label-noise SGD", "min nuclear norm")
    (line,) = second["lines"]
    assert re.fullmatch(r"[\d.]+ \[[\d.]+, [\d.]+\]", line["n50"])
    assert line["ratio_low"] <= line["ratio_mid"] <= line["ratio_high"]
    assert "undecided: 1 shape measured" in second["law"]
    assert second["beware"] == ""


def test_censored_and_diverged_are_said():
    (never, _) = answers.answers(make_material(OVER_N, lambda cell, r: {"relative_error": 0.9}))
    assert never["head"] == "The measured n do not bracket n50."
    assert never["lines"][0]["n50"] == "above 10"
    assert never["lines"][0]["ratio"].startswith("> ")
    (first, _) = answers.answers(make_material(OVER_N, lambda c, r: lost(c, r) if r == 0 else recovers_from(8)(c, r)))
    assert "4 of 12 replicates diverged" in first["beware"]


def test_one_n_answers_with_the_best_configurations():
    material = make_material(ONE_N, lambda cell, r: {"relative_error": float(cell.learning_rate)})
    rows = answers.best(material)
    assert len(rows) == 6
    assert "rate 0.1" in rows[0]["name"]
    page = build(material)
    assert "no transition to locate" in page["main"]
    assert "Phase diagrams" not in page["main"]


def test_other_fields_open_with_a_heat_map_whose_tiles_are_cells():
    material = make_material(ONE_N, lambda cell, r: {"relative_error": float(cell.learning_rate)})
    (panel,) = Painter(material, Inliner()).heat_maps()["panels"]
    assert "over learning_rate and label_noise_std" in panel["svg"]
    found = [int(cell) for cell in re.findall(r'data-cell="(\d+)"', panel["svg"])]
    assert sorted(found) == list(range(6))
    assert 'data-mark="heat"' in panel["svg"]


def test_cells_sort_as_numbers_and_keep_their_whole_id():
    table = tables.cell_table(make_material(OVER_N))
    heads = [column.name for column in table["columns"]]
    assert heads[:3] == ["method", "n", "n/statdim"]
    assert heads[-2:] == ["done", "cell"]
    first = table["rows"][0]
    assert first["entries"][-1]["title"] == table["ids"][0]
    assert len(first["entries"]) == len(heads)
    assert [row["entries"][1]["text"] for row in table["rows"]] == ["4", "4", "6", "6", "8", "8", "10", "10"]


def test_failures_are_grouped_and_divergences_explained():
    material = make_material(OVER_N, lambda c, r: lost(c, r) if c.method == "label_noise_sgd" else None)
    cell = material.sweep.cells[1]
    material = make_material(
        OVER_N, lambda c, r: lost(c, r) if c.method == "label_noise_sgd" else None,
        [failure(cell, 0), failure(cell, 0, 2), failure(cell, 1)],
    )  # fmt: skip
    found = tables.outcomes(material)
    (row,) = found["failures"]
    assert row["summary"] == "2 replicates of 1 cell: RuntimeError: boom"
    assert row["attempts"] == 3
    assert "beyond B / R" in found["diverged"]["rows"][0][-1]
    assert "&lt;b&gt;" in build(material)["main"], "the traceback is text"


def test_curves_come_back_to_the_resolution_of_a_screen():
    generator = np.random.default_rng(0)
    rows = [
        {"replicate": r, "step": s, **{m: 10 ** generator.uniform(-9, 2) for m in MEASURES}}
        for r in range(3) for s in (0, 5, 50, 500)
    ]  # fmt: skip
    history = pd.DataFrame(rows)
    packed = pack(history, [1] * len(history), 2)
    assert packed.index[0] is None
    at, replicates, steps = packed.index[1]
    assert (at, replicates, packed.steps[steps], packed.thinned) == (0, 3, [0, 5, 50, 500], "")
    plain_bytes = np.frombuffer(zlib.decompress(base64.b64decode(packed.deflated)), dtype="u1").astype(int)
    codes = plain_bytes[: packed.size] + 256 * plain_bytes[packed.size :]
    codes = np.cumsum(codes.reshape(len(MEASURES), 3, 4), axis=2) % 65536
    for place, measure in enumerate(MEASURES):
        low, high = packed.low[place], packed.high[place]
        logs = low + (codes[place] - 1) / 4094 * (high - low)
        expected = history.pivot_table(index="replicate", columns="step", values=measure).to_numpy()
        np.testing.assert_allclose(logs, np.log10(expected), atol=11 / 4094)


def test_too_many_values_are_thinned_and_said(monkeypatch):
    monkeypatch.setattr("flatdist.report.packing.MOST_VALUES", 4 * 2 * FEWEST_STEPS)
    rows = [{"replicate": r, "step": s, **dict.fromkeys(MEASURES, 1.0)} for r in range(4) for s in range(64)]
    packed = pack(pd.DataFrame(rows), [0] * len(rows), 1)
    assert packed.size <= 4 * 2 * FEWEST_STEPS
    assert packed.steps[0][0] == 0
    assert packed.steps[0][-1] == 63
    assert "curves show 16 of up to 64 evaluations" in packed.thinned


def test_levels_are_those_of_the_same_problem():
    found = levels(make_material(OVER_N))
    names = {line["label"] for line in found["0"]}
    assert names == {"truth", "minimum nuclear norm", "Lemma 4 at the minimum nuclear norm"}
    assert set(found) == {"0", "2", "4", "6"}, "cells that train"


def test_a_fault_of_one_part_leaves_the_others(monkeypatch):
    def broken(self):
        raise ValueError("oops")

    monkeypatch.setattr(Painter, "diagrams", broken)
    with pytest.warns(ReportWarning, match="phase diagrams: ValueError: oops"):
        page = build(make_material(OVER_N))
    assert "This part could not be made: ValueError: oops" in page["main"]
    assert "Success against n" in page["main"]


def test_words():
    assert [number(v) for v in (None, 0.0, 12345.6, 0.00012345, np.inf)] == ["-", "0", "12346", "0.000123", "∞"]
    assert [duration(v) for v in (1.5, 130, 9000)] == ["1.5 s", "2.17 min", "2.5 h"]
    assert plain("rank $r$, $d' \\times d$") == f"rank r, d{PRIME} {TIMES} d"
    assert name_of({"method": "sam", "n": 7}) == "SAM, n = 7"
    assert threshold_words({"censored": "left", "n_min": 8}) == "below 8"


def test_a_prime_is_a_prime_in_the_pages_own_font():
    drawn = Inliner().inline(lambda figure: figure.text(0.5, 0.5, "$d' \\times d$, rank $r$"), (2.0, 1.0), "a label")
    assert "\N{PRIME}" in drawn
    assert "cmsy" not in drawn.lower()
    assert ">0<" not in drawn


def test_a_live_page_redraws_only_figures_whose_rows_changed(monkeypatch):
    drawn, inliner = [], Inliner()
    monkeypatch.setattr(Inliner, "_inline", lambda self, draw, size, label, layout: drawn.append(label) or "<svg/>")
    material = make_material(OVER_N)
    build(material, inliner)
    every = len(drawn)
    build(material, inliner)
    frames = len(MEASURES)
    assert len(drawn) == every + frames, "axes for curves are drawn anew, nothing else"
    other = material.trials["method"] == "min_nuclear_norm"
    moved = material.trials.assign(relative_error=material.trials["relative_error"].mask(other, 1.0))
    drawn.clear()
    build(dataclasses.replace(material, trials=moved), inliner)
    assert any("min nuclear norm" in label for label in drawn)
    assert not any(label.startswith("Success over") and "label-noise" in label for label in drawn)


def test_marks_beyond_the_table_still_have_a_name(monkeypatch):
    monkeypatch.setattr("flatdist.report.panels.MOST_CELLS", 2)
    (panel, *_) = Painter(make_material(OVER_N), Inliner()).diagrams()["panels"]
    assert panel["svg"].count("data-cell") < panel["svg"].count('data-mark="tile"')
    assert "n = 10" in panel["svg"]
