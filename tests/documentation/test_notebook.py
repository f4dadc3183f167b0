"""analysis/explore.ipynb runs from top to bottom on a small store, draws its figures, and is kept without outputs."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "analysis" / "explore.ipynb"
SWEEP = (
    "name: quickstart\ndescription: a small one\nreplicates: 3\nfixed: {d_out: 6, d_in: 6, depth: 3, steps: 1500}\n"
    "axes: {rank: [1, 2], n: [0.6*dof, 1.3*dof, 2*dof], method: [label_noise_sgd, min_nuclear_norm]}\n"
)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels' threads would spin while they wait for processors that other test processes have."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def notebook() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_is_kept_tidy(notebook: nbformat.NotebookNode) -> None:
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count is None and not cell.outputs for cell in code), "clear the outputs before a commit"
    assert all(cell.metadata == {} for cell in notebook.cells)
    kinds = [cell.cell_type for cell in notebook.cells]
    assert kinds[0] == kinds[-1] == "markdown"


def test_it_runs_and_redraws_the_main_figures(
    notebook: nbformat.NotebookNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "quickstart.yaml").write_text(SWEEP)
    (tmp_path / "analysis").mkdir()
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))  # nobody's own settings
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    client = NotebookClient(
        notebook.copy(),
        timeout=240,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path / "analysis")}},
    )
    done = client.execute()
    outputs = [output for cell in done.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.output_type in ("error", "stream")], outputs
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 4
    tables = [output.data["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    assert any("n50_low" in table for table in tables)


def test_the_first_phase_diagram_needs_nothing_but_flatdist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The notebook for Colab makes its own store; its set-up finds flatdist here already."""
    notebook = nbformat.read(NOTEBOOK.with_name("first_phase_diagram.ipynb"), as_version=4)
    test_it_is_kept_tidy(notebook)
    for cell in notebook.cells:
        cell.source = cell.source.replace('"steps": 6000', '"steps": 600').replace('"replicates": 4', '"replicates": 2')
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    client = NotebookClient(
        notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    outputs = [output for cell in client.execute().cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    shown = [output.get("data", {}) for output in outputs]
    assert any("replicates are stored" in data.get("text/html", "") for data in shown)  # the block that fills in
    assert any("image/png" in data for data in shown)
    assert (tmp_path / "results" / "trials").is_dir()
