"""CITATION.cff names what is to be cited, by the keys of its format."""

from __future__ import annotations

from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]


def test_the_citation_has_what_its_format_requires() -> None:
    citation = YAML(typ="safe").load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    for key in ("message", "title", "authors"):
        assert citation[key], key
    assert citation["type"] in ("software", "dataset")
    for author in citation["authors"]:
        assert "name" in author or {"family-names", "given-names"} <= author.keys()
    for reference in citation["references"]:
        assert {"authors", "title", "type"} <= reference.keys()
