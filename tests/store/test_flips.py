"""The short version of ``tests/store/flips.py``: 60 random flips, cuts and swaps in files of every kind."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest


@pytest.mark.slow
def test_no_reader_is_misled_and_a_run_mends_what_is_damaged():
    spec = importlib.util.spec_from_file_location("flips", Path(__file__).with_name("flips.py"))
    assert spec is not None
    assert spec.loader is not None
    flips = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(flips)
    outcomes, wrong = flips.run(60, seed=1)
    assert wrong == []
    assert outcomes["mended"] == 60
    assert sum(count for name, count in outcomes.items() if name.endswith("named")) > 30
