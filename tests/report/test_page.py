"""The page as text: nothing of it comes from elsewhere, and nothing in it can be anything but text."""

import base64
import hashlib
import itertools
import json
import re
from html.parser import HTMLParser

import pytest
from conftest import HOSTILE

from flatdist.cli import main
from flatdist.report.page import embedded, render
from flatdist.report.section import Section
from flatdist.store import Store

ORIGIN = {
    "flatdist_version": "0", "git_revision": None, "git_dirty": None, "cells": 1, "cells_hash": "0", "trials": 1,
    "command": ["flatdist"],
}  # fmt: skip


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
    assert len(parsed.scripts) == 3, "the data, the library and the page's own"
    assert HOSTILE in parsed.texts, "the description, word for word"
    assert any("blocks:" in text and "</script>" in text for text in parsed.texts), "the file, word for word"
    assert not any(name.startswith("on") for _, attributes in parsed.elements for name in attributes)
    assert "49" not in "".join(text for text in parsed.texts if "window.hacked" in text)


def test_a_name_and_data_cannot_break_out_either():
    section = Section("outcomes", HOSTILE, message=HOSTILE, data={HOSTILE: HOSTILE})
    found = Elements(render(HOSTILE, HOSTILE, [section], {**ORIGIN, "command": [HOSTILE]}))
    assert len(found.scripts) == 3
    assert json.loads(found.scripts[0])["data"]["outcomes"] == {HOSTILE: HOSTILE}
    assert not found.of("img")


def test_embedded_json_has_no_markup_and_no_number_that_json_lacks():
    text = embedded({"a": [float("nan"), float("inf"), 0.1 + 0.2], "b": "</script><!-- & \u2028"})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"a": [None, None, 0.3], "b": "</script><!-- & \u2028"}


def test_only_the_pages_own_scripts_may_run(parsed):
    (policy,) = (meta["content"] for meta in parsed.of("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in parsed.scripts[1:]]
    assert rules["script-src"] == "'unsafe-eval' " + " ".join(f"'sha256-{digest}'" for digest in hashes)


def test_nothing_is_loaded_from_elsewhere(parsed):
    links = [attributes["href"] for attributes in parsed.of("a")]
    assert all(link.startswith("#") or link == "https://vega.github.io" for link in links)
    assert all(image["src"].startswith("data:") and image["alt"] for image in parsed.of("img"))
    assert not parsed.of("link")
    assert not parsed.of("iframe")


def test_the_outline_is_in_order_and_tables_are_described(parsed):
    levels = [int(tag[1]) for tag, _ in parsed.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert len(parsed.of("caption")) == len(parsed.of("table")) >= 5
    assert all(head.get("scope") in ("row", "col") for head in parsed.of("th"))
    assert all(place["aria-label"] for place in parsed.of("div") if "data-chart" in place)
    targets = {attributes["id"] for _, attributes in parsed.elements if "id" in attributes}
    assert {link["href"][1:] for link in parsed.of("a") if link["href"].startswith("#")} <= targets


def test_every_chart_has_a_place_and_every_place_a_chart(parsed):
    charts = json.loads(parsed.scripts[0])["charts"]
    places = [place["data-chart"] for place in parsed.of("div") if "data-chart" in place]
    assert sorted(places) == sorted(charts)


def test_the_page_is_small_and_tells_divergences(parsed, page):
    assert page.stat().st_size < 2_500_000
    text = " ".join(parsed.texts)
    assert "is beyond B / R" in text
    assert "3 of 3" in text


def test_the_page_says_how_it_is_made_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = Store("results")
    store.save_sweep("none", "name: none\nfixed: {d_out: 4, d_in: 4, rank: 1, n: 9, method: min_nuclear_norm}", [], 1)
    words = ["report", "none", "--store", "results", "--tolerance", "0.5", "--link", "probit"]
    assert main([*words, "--out", "out"]) == 0
    page = Elements((tmp_path / "out" / "none.html").read_text())
    (origin,) = (json.loads(meta["content"]) for meta in page.of("meta") if meta.get("name") == "flatdist:origin")
    assert origin["command"] == ["flatdist", *words]
    assert origin["settings"] == {"tolerance": 0.5, "link": "probit"}
    assert origin["store"] == "results", "as it was given: where a folder lies on this machine says nothing to others"
    assert str(tmp_path) not in "".join(page.texts)
