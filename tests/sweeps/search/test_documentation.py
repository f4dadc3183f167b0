"""docs/searching.md and the worked example."""

from __future__ import annotations

import re
from pathlib import Path

from flatdist.sweepfile.choices import DOMAINS, SCHEDULERS, SEARCHERS
from flatdist.sweepfile.declaration import SearchKeys
from flatdist.sweeps import load_sweep, parse_sweep

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "searching.md").read_text(encoding="utf-8")


def test_examples_are_searches() -> None:
    examples = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    assert examples
    for example in examples:
        search = parse_sweep(example)
        assert search is not None
        point = {domain.field: domain.drawn(0, 0) for domain in search.domains}
        cell = search.cell(point)
        assert cell is None or cell.d_out == 20


def test_every_key_form_and_searcher_is_explained() -> None:
    for word in (*SearchKeys.names(), *DOMAINS, *SEARCHERS, *SCHEDULERS):
        assert re.search(rf"`[^`]*\b{word}\b[^`]*`", TEXT), word


def test_the_worked_example_is_small() -> None:
    sweep = load_sweep(ROOT / "sweeps" / "tune_training.yaml")
    assert {domain.field for domain in sweep.domains} == {"learning_rate", "label_noise_std", "anneal_fraction"}
    cell = sweep.cell({domain.field: domain.corners()[0] for domain in sweep.domains})
    assert cell is not None
    assert (cell.d_out, cell.d_in) == (20, 20)
    assert sweep.budget * sweep.replicates * cell.steps <= 10_000_000  # replicate-steps: minutes
