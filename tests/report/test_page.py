"""The page as text: nothing of it comes from elsewhere, and nothing in it can be anything but text."""

import base64
import hashlib
import itertools
import json
import re
from html.parser import HTMLParser

import matplotlib as mpl
import pytest
from chosen import HOSTILE, make_material

import flatdist
from flatdist.cli import main
from flatdist.report.page import build
from flatdist.store import Store


class Elements(HTMLParser):
    """Collects elements with their attributes, and the text of scripts."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.scripts, self.texts = [], [], []
        self._in_script = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._in_script = tag == "script"
        if self._in_script:
            self.scripts.append("")

    def handle_endtag(self, tag):
        self._in_script = False

    def handle_data(self, data):
        if self._in_script:
            self.scripts[-1] += data
        else:
            self.texts.append(data)

    def of(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def parsed(page):
    return Elements(page.read_text())


def test_text_of_the_sweep_file_stays_text(parsed):
    assert len(parsed.scripts) == 2, "the data and the page's own"
    assert HOSTILE in parsed.texts, "the description, word for word"
    assert any("blocks:" in text and "</script>" in text for text in parsed.texts), "the file, word for word"
    assert not parsed.of("img")


def test_the_policy_allows_the_pages_own_script_and_style_alone(page, parsed):
    (policy,) = [meta["content"] for meta in parsed.of("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert "connect-src" not in policy
    text = page.read_text()
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    for content in (parsed.scripts[1], style):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    for _, attributes in parsed.elements:
        assert "style" not in attributes
        assert not [name for name in attributes if name.startswith("on")]


def test_nothing_is_fetched_and_no_id_occurs_twice(parsed):
    for tag, attributes in parsed.elements:
        for name in ("src", "href", "xlink:href", "data", "action"):
            value = attributes.get(name)
            assert value is None or value.startswith("#"), (tag, name, value)
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    used = [attributes["href"][1:] for attributes in parsed.of("use")]
    assert set(used) <= set(ids)


def test_tiles_are_the_cells_of_the_store_in_the_heat_maps_colours(page, parsed):
    trials = flatdist.load_trials(page.parents[1] / "results")
    trials["success"] = (trials["relative_error"] < 1e-2) & (trials["status"] != "diverged")
    style = re.search(r"<style>(.*?)</style>", page.read_text(), re.DOTALL)[1]
    ids = json.loads(parsed.scripts[0])["ids"]
    rates = trials.groupby("cell_id")["success"].mean()
    tiles = [a for _, a in parsed.elements if a.get("data-mark") == "tile"]
    assert len(tiles) == len(ids) == 13
    for tile in tiles:
        rule = re.search(rf"\.{tile['class'].split()[0]}{{([^}}]*)}}", style)[1]
        expected = mpl.colors.to_hex(mpl.colormaps["cividis"](float(rates[ids[int(tile["data-cell"])]])))
        assert f"fill:{expected}" in rule


def test_answers_and_cells_are_there_without_scripts(parsed):
    text = " ".join(parsed.texts)
    for part in ("label-noise SGD", "min nuclear norm", "n 50", "Law:", "the statistical dimension", "Training curves"):
        assert part in text
    rows = [a for tag, a in parsed.elements if tag == "tr" and "data-cell" in a]
    assert len(rows) == 13
    assert sum("data-trouble" in row for row in rows) >= 1, "the cell that diverged"
    assert not [a for _, a in parsed.elements if a.get("data-mark") == "tile" and a.get("role")], "no dead buttons"


def test_the_page_is_small(page):
    assert page.stat().st_size < 400_000


def test_figures_lie_beside_the_page_and_name_their_command(page, capsys):
    made = {path.name for path in page.parent.iterdir()}
    assert {"phase_diagram.png", "sample_complexity.svg", "scaling.pdf", "small.html"} <= made
    assert main(["trace", str(page.parent / "phase_diagram.svg")]) == 0
    assert "flatdist figure phase_diagram" in capsys.readouterr().out


def test_the_data_cannot_end_its_element(monkeypatch):
    monkeypatch.setattr("flatdist.report.page.levels", lambda material: {"0": "</script><!-- & é"})
    page = build(make_material("name: one\nfixed: {d_out: 4, d_in: 4, rank: 1, n: 9}\n"))
    data = Elements(page["html"]).scripts[0]
    assert not set("<>&") & set(data)
    assert json.loads(data)["levels"] == {"0": "</script><!-- & é"}


def test_two_thousand_trials_are_a_page_below_two_megabytes():
    text = (
        "name: many\nreplicates: 8\nfixed: {d_out: 12, d_in: 12, depth: 2}\naxes:\n  rank: [1, 2, 3, 4]\n"
        "  n: {range: [20, 144, 2]}\n  method: [min_nuclear_norm]\n"
    )
    material = make_material(text)
    assert len(material.trials) >= 1900
    page = build(material)["html"]
    assert len(page.encode()) < 2_000_000


def test_a_sweep_with_nothing_done_says_what_to_run(tmp_path, capsys):
    file = tmp_path / "empty.yaml"
    file.write_text("name: empty\nreplicates: 2\nfixed: {d_out: 3, d_in: 3, rank: 1}\naxes: {n: [4, 6]}\n")
    Store(str(tmp_path / "results")).write([], [])
    (tmp_path / "results").mkdir(exist_ok=True)
    assert main(["report", str(file), "--store", str(tmp_path / "results"), "--out", str(tmp_path)]) == 0
    text = (tmp_path / "empty.html").read_text()
    assert "4 of 4 replicates are missing (label-noise SGD 4)" in text
    assert "flatdist sweep" in text
    assert "No result yet" in text
    assert list(itertools.islice(tmp_path.glob("*.png"), 1)) == []
