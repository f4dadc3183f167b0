"""One page of a sweep that was really run; makes the chosen outcomes of this folder importable."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from chosen import HOSTILE

from flatdist.cli import main

RUN = f"""\
name: small
description: {json.dumps(HOSTILE)}
replicates: 3
fixed: {{d_out: 4, d_in: 4, rank: 1, steps: 300, evaluations: 11, learning_rate: 0.05, depth: 2}}
axes:
  n: [5, 8, 11, 15]
  method: [label_noise_sgd, min_nuclear_norm, min_frobenius_norm]
blocks:
  - fixed: {{method: label_noise_sgd, n: 15, learning_rate: 30}}
"""


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a small sweep that was run, with a description that tries to break out, and diverged replicates."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "small.yaml").write_text(RUN)
    store = str(folder / "results")
    file = str(folder / "small.yaml")
    with np.errstate(all="ignore"):
        assert main(["sweep", file, "--store", store, "--executor", "inline", "--yes", "--no-probe"]) == 0
    assert main(["report", file, "--store", store, "--out", str(folder / "out")]) == 0
    return folder / "out" / "small.html"
