"""docs/sweeps.md: every example does what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flatdist.cells.cell import FIELDS
from flatdist.errors import SweepError
from flatdist.expressions import DERIVED, FUNCTIONS
from flatdist.sweepfile.declaration import FORMS, SweepKeys
from flatdist.sweeps import parse_sweep

TEXT = (Path(__file__).parents[2] / "docs" / "sweeps.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES)
def test_example(example: str) -> None:
    claim = example.splitlines()[0].removeprefix("# ").split(", since ")[0]
    if claim.startswith("refused: "):
        with pytest.raises(SweepError, match=re.escape(claim.removeprefix("refused: "))):
            parse_sweep(example, path=Path("f.yaml"))
        return
    sweep = parse_sweep(example)
    left_out = f", {sweep.left_out} left out" if sweep.left_out else ""
    assert f"{len(sweep.cells)} cells{left_out}" == claim


def test_every_key_name_and_function_is_mentioned() -> None:
    required = [name for name in ("d_out", "d_in", "rank", "n") if name in FIELDS]
    for word in (*SweepKeys.names(), *DERIVED, *FUNCTIONS, *FORMS, *required):
        assert re.search(rf"`[^`]*\b{word}\b[^`]*`", TEXT) or f"{word}:" in TEXT, word
