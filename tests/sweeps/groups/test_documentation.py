"""docs/boundary.md and the worked example."""

from __future__ import annotations

import re
from pathlib import Path

from flatdist.sweepfile.declaration import Boundary as BoundaryKeys
from flatdist.sweepfile.declaration import ChosenN, Until
from flatdist.sweepfile.declaration import FirstSuccess as FirstSuccessKeys
from flatdist.sweeps import load_sweep, parse_sweep
from flatdist.sweeps.rules import Boundary, FirstSuccess, Known, UntilInterval

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "boundary.md").read_text(encoding="utf-8")


def test_examples_do_what_the_text_says() -> None:
    edges, grid = (parse_sweep(example) for example in re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL))
    assert [type(group.rule) for group in edges.choosing] == [Boundary, Boundary, FirstSuccess]
    assert [type(group.rule) for group in grid.choosing] == [UntilInterval]
    assert "the file above has three" in TEXT


def test_every_key_is_explained() -> None:
    for word in (*ChosenN.names(), *BoundaryKeys.names(), *FirstSuccessKeys.names(), *Until.names()):
        assert re.search(rf"`[^`]*\b{word}\b[^`]*`", TEXT), word


def test_the_worked_example_is_small() -> None:
    sweep = load_sweep(ROOT / "sweeps" / "boundary_small.yaml")
    most = {type(group.rule): group.rule.left(group.span, Known())[1] for group in sweep.choosing}
    assert most[Boundary] <= 200
    assert most[FirstSuccess] <= 24 * 7
    trained = [group.cell(40) for group in sweep.choosing if group.cell(40).method == "label_noise_sgd"]
    assert sum(100 * cell.steps for cell in trained) <= 2_000_000  # replicate-steps: seconds
