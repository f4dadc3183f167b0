"""The JSON Schema that editors use: it accepts what runs and marks what does not; and the file to start from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from ruamel.yaml import YAML

from flatdist.cli import main
from flatdist.cli.start import schema_text
from flatdist.errors import SweepError
from flatdist.sweeps import load_sweep, parse_sweep

ROOT = Path(__file__).parents[2]
FIXED = "fixed: {d_out: 6, d_in: 6, rank: 1, n: 9}\n"


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    schema = json.loads(schema_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def content(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)


@pytest.mark.parametrize("path", sorted(ROOT.glob("sweeps/**/*.yaml")), ids=lambda path: path.stem)
def test_the_examples_name_the_schema_and_satisfy_it(path: Path, validator: Draft202012Validator) -> None:
    text = path.read_text(encoding="utf-8")
    name = text.splitlines()[0].removeprefix("# yaml-language-server: $schema=")
    assert (path.parent / name).resolve() == ROOT / "sweeps" / "schema.json"
    assert [error.message for error in validator.iter_errors(content(text))] == []


def test_the_schema_in_the_repository_is_that_of_the_code() -> None:
    """Made by: flatdist schema > sweeps/schema.json."""
    assert (ROOT / "sweeps" / "schema.json").read_text(encoding="utf-8") == schema_text()


@pytest.mark.parametrize(
    "text",
    [
        FIXED + "axis: {depth: [2]}\n",
        FIXED + "axes: {depht: [2]}\n",
        FIXED + "axes: {depth: 3}\n",
        FIXED + "axes: {depth: {linspce: [2, 3, 2]}}\n",
        FIXED + "axes: {schedule: [cosine]}\n",
        FIXED + "replicates: 0\n",
        FIXED + "replicates: {min: 2, max: 4}\n",
        FIXED + "name: a/b\n",
        "fixed: {d_out: 6, d_in: 6, rank: 1, n: {boundary: {from: 1, to: 9, budget: 10}}}\n",
        FIXED + "search: {fields: {depth: {choice: [2, 3]}}, budget: 4, searcher: optunna}\n",
    ],
)
def test_what_cannot_run_is_marked(text: str, validator: Draft202012Validator) -> None:
    assert list(validator.iter_errors(content(text)))
    with pytest.raises(SweepError):
        parse_sweep(text)


def test_a_new_sweep_file_runs_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], validator: Draft202012Validator
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init", "my first.yaml"]) == 0
    assert "flatdist plan" in capsys.readouterr().out
    sweep = load_sweep("my first.yaml")
    assert sweep.name == "my_first"
    assert len(sweep.cells) == 12
    assert not list(validator.iter_errors(content(sweep.source)))
    assert json.loads(Path("flatdist.schema.json").read_text(encoding="utf-8")) == validator.schema
    assert main(["init", "my first.yaml"]) == 2
    assert "exists; give another name" in capsys.readouterr().err
    assert main(["init", "nowhere/sweep.yaml"]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_groups_of_axes_are_defined_once_and_used_in_many_blocks() -> None:
    groups = "groups:\n  shapes: {d_out: [6, 8], d_in: [6, 10]}\n"
    blocks = """
fixed: {rank: 1, n: dof}
blocks:
  - {fixed: {method: min_nuclear_norm}, zip: [%s]}
  - {fixed: {method: min_frobenius_norm}, zip: [%s]}
"""
    written = "{d_out: [6, 8], d_in: [6, 10]}"
    assert parse_sweep(groups + blocks % ("shapes", "shapes")).cells == parse_sweep(blocks % (written, written)).cells


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("groups: {shapes: {depth: [2]}}\nzip: [shaps]\n", r"zip\[0\]: shaps is not one of .* \(did you mean 'shapes'"),
        ("zip: [shapes]\n", "names under groups"),
        ("groups: [1]\n", "groups: .* expected a mapping"),
        ("groups: {a: {stepz: [1]}}\nzip: [a]\nblocks: [{zip: [a]}]\n", r"groups.a.stepz: .*did you mean 'steps'"),
        ("groups: {a: {depth: [2, 3], steps: [1]}}\n", "groups.a: has axes of different lengths"),
    ],
)
def test_a_wrong_group_is_reported_once(text: str, message: str) -> None:
    with pytest.raises(SweepError, match=message) as caught:
        parse_sweep(FIXED + text)
    assert str(caught.value).count("groups.a") <= 1
