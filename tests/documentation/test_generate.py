"""What the site's build makes: links, docstrings, formulas, and a reference of everything that is declared."""

from __future__ import annotations

import dataclasses

import pytest

import flatdist
from flatdist.cells.cell import FIELDS
from flatdist.cells.columns import BOOKKEEPING, TABLES
from flatdist.cli import cli
from flatdist.methods import METHODS
from flatdist.sensing.ensembles import ENSEMBLES
from flatdist.theory import RISK_CURVES, SAMPLE_COMPLEXITIES

pytest.importorskip("latex2mathml")
pytest.importorskip("griffe")
import docstrings
import formulas
import hooks
import links
import reference


@pytest.mark.parametrize(
    ("uri", "link", "expected"),
    [
        ("tutorial.md", "sweeps.md#axes", "sweeps.md#axes"),
        ("tutorial.md", "../CONTRIBUTING.md", "contributing.md"),
        ("index.md", "docs/tutorial.md", "tutorial.md"),
        ("index.md", "docs/results/index.md", "results/index.md"),
        ("results/index.md", "../../sweeps/theorems/problems.yaml", "../reference/examples.md#theorems-problems"),
        ("reading.md", "../flatdist/cells/columns.py", "reference/tables.md"),
        ("contributing.md", "docs/extending.md", "extending.md"),
        ("index.md", "https://arxiv.org/abs/2306.13239", "https://arxiv.org/abs/2306.13239"),
    ],
)
def test_links_out_of_the_folder_lead_to_pages(uri: str, link: str, expected: str) -> None:
    assert links.rewrite_links(f"see [this]({link}).", uri) == f"see [this]({expected})."


def test_code_keeps_its_links() -> None:
    page = "```text\n[x](../CONTRIBUTING.md)\n```\n[y](../CONTRIBUTING.md)\n"
    assert links.rewrite_links(page, "store.md") == page.replace("[y](../CONTRIBUTING.md)", "[y](contributing.md)")


def test_docstrings_are_plain_text() -> None:
    given = """||M||_*^2 of :class:`Cell` and ``a*b``.

    W <- W - eta * G

Args:
    low, high: ends, <A, X> at
        both of them.

Returns:
    ||M||_F^2
"""
    expected = """&#124;&#124;M&#124;&#124;&#95;&#42;^2 of `Cell` and ``a*b``.

    W <- W - eta * G

Args:
    low: ends, &lt;A, X> at
        both of them.
    high: ends, &lt;A, X> at
        both of them.

Returns:
    &#124;&#124;M&#124;&#124;&#95;F^2"""
    assert docstrings.to_markdown(given) == expected


def test_formulas_become_mathml() -> None:
    html = formulas.render_formulas(r'<p>n of <span class="arithmatex">\(r (d + d&#39;)\)</span></p>')
    assert html.startswith("<p>n of <math ")
    assert "<mi>d</mi>" in html
    assert r"\(" not in html


def test_an_unknown_formula_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\\nosuchcommand"):
        formulas.render_formulas(r'<div class="arithmatex">\[\nosuchcommand{x}\]</div>')


def test_what_a_page_would_fetch_is_noticed() -> None:
    assert hooks.FETCHED.findall('<script src="https://cdn.example/x.js"></script>') == ["https://cdn.example/x.js"]
    assert hooks.FETCHED.findall('<link rel="stylesheet" href="//fonts.example/a.css">') == ["//fonts.example/a.css"]
    assert not hooks.FETCHED.findall('<a href="https://arxiv.org/abs/1">paper</a><img src="images/x.png">')


def test_the_reference_is_complete() -> None:
    pages = {uri.removeprefix("reference/").removesuffix(".md"): page() for uri, page in reference.PAGES.items()}
    for name, field in FIELDS.items():
        assert f"| `{name}` |" in pages["cell-fields"]
        if field.default is not dataclasses.MISSING and isinstance(field.default, float):
            assert f"`{field.default}`" in pages["cell-fields"]
    for column in {column.name for table in TABLES.values() for column in table} | {c.name for c in BOOKKEEPING}:
        assert f"| `{column}` |" in pages["tables"]
    for name in METHODS:
        assert f"## {name}\n" in pages["methods"]
    for name in ENSEMBLES:
        assert f"## {name}\n" in pages["ensembles"]
    for name in (*SAMPLE_COMPLEXITIES, *RISK_CURVES):
        assert f"`{name}`" in pages["predictions"]
    for name, command in cli.commands.items():
        assert f"## flatdist {name} " in pages["commands"]
        for option in (spelling for parameter in command.params for spelling in parameter.opts if "--" in spelling):
            assert option in pages["commands"], f"{name} {option}"
    for name in set(flatdist.__all__) - {"__version__", "theory", "figures", "fits"}:
        assert f".{name}\n" in pages["python"]
    assert "`flatdist figure phase-diagram SWEEP`" in pages["analyses"]
    assert "::: flatdist.figures.fields.heatmap\n" in pages["analyses"]
