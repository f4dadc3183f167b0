"""One small store for all pages; each page runs in a copy of its folder."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which ``make demo`` has ended, with fewer replicates; the test processes of a run share it."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    folder = root / "finished"
    with (root / "finished.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "results").exists():
            _finish(folder)
    return folder


def _finish(folder: Path) -> None:
    from commands import fewer, run_flatdist

    for path in ROOT.glob("sweeps/**/*.yaml"):
        copy = folder / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(fewer(path.read_text(encoding="utf-8")), encoding="utf-8")
    for path in ROOT.glob("docs/results/*/"):  # where the results' commands write
        (folder / path.relative_to(ROOT)).mkdir(parents=True)
    shutil.copy(ROOT / "cluster.yaml", folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_flatdist(["sweep", "sweeps/quickstart.yaml"])


@pytest.fixture
def sandbox(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of that folder as the working directory; what pages register is forgotten afterwards."""
    from flatdist.cells.plugins import forget_plugins
    from flatdist.methods import METHODS
    from flatdist.sensing.ensembles import ENSEMBLES

    folder = tmp_path / "sandbox"
    shutil.copytree(finished, folder)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("FLATDIST_STORE", raising=False)
    for registry in (METHODS, ENSEMBLES):
        for name in registry:  # set to themselves, so that the registry is put back as it was
            monkeypatch.setitem(registry, name, registry[name])
    before = {id(registry): set(registry) for registry in (METHODS, ENSEMBLES)}
    yield folder
    forget_plugins()
    for registry in (METHODS, ENSEMBLES):
        for name in set(registry) - before[id(registry)]:
            del registry[name]
