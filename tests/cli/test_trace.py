"""``flatdist trace``: what figures say of themselves, and that the command they name draws them again."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image, PngImagePlugin

from flatdist.cli import main
from flatdist.cli.report import shell_command
from flatdist.errors import printable
from flatdist.figures.style import FORMATS, save_figure
from flatdist.figures.tracing import file_stem, remake_command

SWEEP = (
    "name: small\ndescription: a test\nreplicates: 4\nfixed: {d_out: 4, d_in: 4}\n"
    "axes: {rank: [1, 2], n: [4, 8, 12, 16], method: [min_frobenius_norm, min_nuclear_norm]}\n"
)
ORIGIN = {"sweep": "s", "cells_hash": "0" * 16, "cells": 3, "trials": 9, "settings": {"level": 0.95}}


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sweep file and its results."""
    folder = tmp_path_factory.mktemp("swept")
    (folder / "small.yaml").write_text(SWEEP)
    words = ["sweep", str(folder / "small.yaml"), "--store", str(folder / "a store"), "--executor", "inline"]
    assert main([*words, "--display", "none", "--no-probe"]) == 0
    return folder


def picture(folder: Path, origin: dict | None = None, name: str = "f") -> list[Path]:
    figure = Figure()
    figure.subplots().plot([1, 2])
    return save_figure(figure, folder, name, ORIGIN if origin is None else origin)


def traced(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict]:
    capsys.readouterr()
    assert main(["trace", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sample_complexity", ["--where", "rank == 2 and n > 1*rank", "--link", "probit", "--tolerance", "1e-3"]),
        ("paired", ["--out=elsewhere", "--reference", "min_frobenius_norm"]),
    ],
)
def test_the_printed_command_draws_the_same_figure(
    name: str, options: list[str], swept: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    store = str(swept / "a store")
    assert main(["figure", name, str(swept / "small.yaml"), "--store", store, *options, "--out", "first"]) == 0
    first = {path.name: path for path in Path("first").iterdir()}
    found = traced(capsys, *map(str, first.values()))
    assert len({one["command"] for one in found}) == 1
    assert all((one["sweep"], one["store"], one["figure"]) == ("small", store, name) for one in found)
    words = shlex.split(found[0]["command"])
    assert words[:3] == ["flatdist", "figure", name]
    assert main(words[1:]) == 0
    again = {path.name: path for path in Path("figures/small").iterdir()}
    assert again.keys() == first.keys()
    assert all(path.read_bytes() == first[name].read_bytes() for name, path in again.items())


def test_the_theorems_are_traced_too(swept: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["theorems", str(swept / "small.yaml"), "--store", str(swept / "a store"), "--where", "n < 16"]
    assert main(["figure", *words]) in (0, 1)
    made = sorted(Path("figures/small").glob("*.png"))
    assert made
    assert Path(f"figures/small/{file_stem('theorems', 'n < 16')}.csv").exists()
    (found,) = traced(capsys, str(made[0]))
    assert shlex.split(found["command"])[3:] == [words[1], "--where", "n < 16", "--store", words[3]]


def test_the_text_names_everything(tmp_path: Path, capsys) -> None:
    command = remake_command("paired", ["s"], "s3://bucket/results", "n > 2", {})
    origin = {**ORIGIN, "where": "n > 2", "command": command, "git_revision": "abc", "git_dirty": True}
    for path in picture(tmp_path, origin):
        assert main(["trace", str(path)]) == 0
        text = capsys.readouterr().out
        for part in ("n > 2", "level = 0.95", "0" * 16, "3, hash", "revision abc with changes"):
            assert part in text
        assert text.endswith("  flatdist figure paired s --where 'n > 2' --store s3://bucket/results\n")


def test_characters_that_a_terminal_obeys_are_escaped(tmp_path: Path, capsys) -> None:
    evil = "a\x1b]0;owned\x07\r\n\u202eb'"
    command = ["python", "-m", "analysis.paired", evil]
    for path in picture(
        tmp_path, {**ORIGIN, "sweep": evil, "where": evil, "settings": {evil: evil}, "command": command}
    ):
        assert main(["trace", str(path)]) == 0
        text = capsys.readouterr().out
        assert all(char.isprintable() or char == "\n" for char in text)
        assert "a\\x1b]0;owned\\x07\\x0d\\x0a\\u202eb'" in text
        assert "$'a\\x1b]0;owned\\x07\\x0d\\x0a\\u202eb\\''" in text
    assert printable("é ✓") == "é ✓"
    assert shell_command(["a b", "c"]) == "'a b' c"
    echoed = subprocess.run(["bash", "-c", f"printf %s {shell_command([evil])}"], capture_output=True, check=True)
    assert echoed.stdout.decode() == evil


@pytest.mark.parametrize(
    "command",
    [
        ["rm", "-rf", "/"],
        ["python", "-c", "evil"],
        ["python", "-m", "analysis.x;rm"],
        "python -m analysis.x",
        [1],
        None,
    ],
)
def test_a_command_that_is_not_flatdists_is_not_shown(command: object, tmp_path: Path, capsys) -> None:
    path = picture(tmp_path, {**ORIGIN, "command": command})[0]
    assert main(["trace", str(path)]) == 0
    assert "none is recorded, or one that is not flatdist's" in capsys.readouterr().out
    assert traced(capsys, str(path))[0]["command"] is None


def refused(capsys, path: Path) -> str:
    capsys.readouterr()
    assert main(["trace", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path}: ")
    assert error.count("\n") == 1
    assert all(char.isprintable() or char == "\n" for char in error)
    return error


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9, 0.99])
def test_a_file_cut_short_is_refused(kind: str, share: float, tmp_path: Path, capsys) -> None:
    path = next(path for path in picture(tmp_path) if path.suffix == f".{kind}")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert "truncated or damaged" in refused(capsys, path)


def test_foreign_files_are_refused(tmp_path: Path, capsys) -> None:
    assert "cannot be read: No such file" in refused(capsys, tmp_path / "missing.png")
    assert "is a folder" in refused(capsys, tmp_path)
    assert "is not an ordinary file" in refused(capsys, Path("/dev/null"))
    foreign = tmp_path / "x.png"
    for content, text in ((b"", "is empty"), (b"text", "not a PNG, SVG or PDF file"), (b"\xff\xd8\xff", "not a PNG")):
        foreign.write_bytes(content)
        assert text in refused(capsys, foreign)
    Image.new("RGB", (4, 4)).save(foreign)
    assert "does not record its origin" in refused(capsys, foreign)
    for text in ("a holiday", '{"sweep": 1}', "[1]", "[" * 100_000):
        information = PngImagePlugin.PngInfo()
        information.add_text("Description", text)
        Image.new("RGB", (4, 4)).save(foreign, pnginfo=information)
        assert "was not written by flatdist" in refused(capsys, foreign)
    figure = Figure()
    figure.subplots()
    for kind in ("svg", "pdf"):
        figure.savefig(tmp_path / f"plain.{kind}")
        assert "does not record its origin" in refused(capsys, tmp_path / f"plain.{kind}")


def test_entity_bombs_and_outside_entities_are_refused(tmp_path: Path, capsys) -> None:
    bomb = '<!DOCTYPE svg [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]><svg>&b;</svg>'
    outside = '<!DOCTYPE svg [<!ENTITY a SYSTEM "file:///etc/passwd">]><svg>&a;</svg>'
    for text in (bomb, outside):
        path = tmp_path / "bomb.svg"
        path.write_text(text)
        assert "declares entities" in refused(capsys, path)


def test_good_figures_are_shown_beside_bad_ones(tmp_path: Path, capsys) -> None:
    good = picture(tmp_path)[0]
    assert main(["trace", str(good), str(tmp_path / "no.svg")]) == 2
    captured = capsys.readouterr()
    assert "level = 0.95" in captured.out
    assert captured.err.count("error: ") == 1
