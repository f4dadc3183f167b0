"""The sweep files that come with the repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from flatdist.sweeps import load_sweep

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("path", sorted(ROOT.glob("sweeps/**/*.yaml")), ids=lambda path: path.stem)
def test_every_sweep_file_loads_under_its_own_name(path: Path) -> None:
    sweep = load_sweep(path)
    assert sweep.name.endswith(path.stem)
    assert sweep.description
