"""What the site's build makes: links, docstrings, formulas, and a reference of everything that is declared."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from pathlib import Path

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
import api
import griffe
import images
import links
import pages
import prose
import reference


@pytest.mark.parametrize(
    ("uri", "link", "expected"),
    [
        ("tutorial.md", "sweeps.md#axes", "sweeps.md#axes"),
        ("tutorial.md", "../CONTRIBUTING.md", "contributing.md"),
        ("index.md", "docs/tutorial.md", "tutorial.md"),
        ("index.md", "docs/results/index.md", "results/index.md"),
        (
            "results/index.md",
            "../../sweeps/theorems/problems.yaml",
            "../reference/examples.md#sweepstheoremsproblemsyaml",
        ),
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


def test_plain_text_shows_its_characters_and_code_stays_code() -> None:
    given = "||M||_*^2 of :class:`Cell` and ``a*b``, <A, X>.\n\n    W <- W - eta * G"
    expected = "&#124;&#124;M&#124;&#124;&#95;&#42;^2 of `Cell` and ``a*b``, &#60;A, X>.\n\n    W <- W - eta * G"
    assert prose.plain_text(given) == expected


def test_formulas_become_mathml_and_code_keeps_its_dollars() -> None:
    page = "n of $r (d + d')$ and `$x$`\n\n$$ W_L $$\n\n```console\n$ a $b$\n```\n"
    made = prose.render_formulas(page)
    assert made.startswith("n of <math ")
    assert "<mi>d</mi>" in made
    assert '<div><math aria-label="W_L"' in made
    assert made.endswith("and `$x$`\n\n" + made.split("`$x$`\n\n")[1])
    assert "$ a $b$" in made


def test_an_unknown_formula_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\\nosuchcommand"):
        prose.render_formulas(r"$$\nosuchcommand{x}$$")


def test_what_a_page_would_fetch_is_noticed() -> None:
    fetched = conf()._FETCHED
    assert fetched.findall('<script src="https://cdn.example/x.js"></script>') == ["https://cdn.example/x.js"]
    assert fetched.findall('<link rel="stylesheet" href="//fonts.example/a.css">') == ["//fonts.example/a.css"]
    assert not fetched.findall('<a href="https://arxiv.org/abs/1">paper</a><img src="images/x.png">')


def test_the_plain_folder_has_every_page_of_the_navigation_and_its_pictures(tmp_path: Path) -> None:
    pages.write_pages(tmp_path)
    written = {path.relative_to(tmp_path).with_suffix("").as_posix() for path in tmp_path.rglob("*.md")}
    assert {name for group in conf().NAVIGATION.values() for name in group} == written - {"index"}
    assert (tmp_path / "images" / "finding.png").is_file()
    assert not list(tmp_path.rglob("*.py"))
    figures = (tmp_path / "reference" / "api-figures.md").read_text()
    assert "## figures.heatmap\n" in figures
    assert "| `x` | columns, or arithmetic" in figures  # "x, y: ..." is an entry for each
    assert "| `y` | columns, or arithmetic" in figures


def test_every_picture_of_the_gallery_has_a_command_and_is_there() -> None:
    found = images.pictures((pages.ROOT / "docs" / "gallery.md").read_text(encoding="utf-8"))
    drawn = {command.split()[0] for command in found.values()}
    assert drawn == {"phase-diagram", "sample-complexity", "heatmap", "lines", "scatter", "paired"}
    assert {path.relative_to(pages.ROOT / "docs").as_posix() for path in images.IMAGES.glob("gallery/*")} == set(found)


def conf():
    spec = importlib.util.spec_from_file_location("site_conf", Path(pages.ROOT) / "docs" / "site" / "conf.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("question", ["heat map", "momentum", "Slurm", "resume", "width", "learning rate"])
def test_how_do_i_answers(question: str) -> None:
    headings = re.findall(r"^## (.*)$", (pages.ROOT / "docs" / "how-do-i.md").read_text(), flags=re.MULTILINE)
    assert any(question in heading for heading in headings)


def test_the_reference_is_complete() -> None:
    made = {uri.removeprefix("reference/").removesuffix(".md"): page() for uri, page in reference.PAGES.items()}
    for name, field in FIELDS.items():
        assert f"| `{name}` |" in made["cell-fields"]
        if field.default is not dataclasses.MISSING and isinstance(field.default, float):
            assert f"`{field.default}`" in made["cell-fields"]
    for column in {column.name for table in TABLES.values() for column in table} | {c.name for c in BOOKKEEPING}:
        assert f"| `{column}` |" in made["tables"]
    for name in METHODS:
        assert f"## {name}\n" in made["methods"]
    for name in ENSEMBLES:
        assert f"## {name}\n" in made["ensembles"]
    for name in (*SAMPLE_COMPLEXITIES, *RISK_CURVES):
        assert f"`{name}`" in made["predictions"]
    for name, command in cli.commands.items():
        assert f"## flatdist {name}\n" in made["commands"]
        for option in (spelling for parameter in command.params for spelling in parameter.opts if "--" in spelling):
            assert option in made["commands"], f"{name} {option}"
    for name in set(flatdist.__all__) - {"__version__", "theory", "figures", "fits"}:
        assert any(f"## {name}\n" in text for uri, text in made.items() if uri.startswith("api-")), name
    for name in flatdist.theory.__all__:
        if getattr(getattr(flatdist.theory, name), "__name__", "") == name:  # a function or class, not a constant
            assert f"## theory.{name}\n" in made["api-theory"]
    assert "`flatdist figure phase-diagram SWEEP`" in made["figures"]


def test_a_docstring_that_describes_what_is_not_there_is_refused() -> None:
    package = api._package()
    function = package["load_trials"].final_target
    text = "Load.\n\nArgs:\n    nosuch: x.\n"
    broken = griffe.Function("load", parameters=function.parameters, docstring=griffe.Docstring(text))
    broken.docstring.parent = broken
    with pytest.raises(ValueError, match="nosuch"):
        api._docstring(broken)
