"""What importing flatdist loads, and what it must not."""

import subprocess
import sys

import pytest

HEAVY = {"torch", "ray", "numba", "pandas", "pyarrow", "matplotlib", "scipy"}


def loaded_after(statement: str) -> set[str]:
    """Top-level modules loaded by a statement in a fresh interpreter."""
    code = f"import sys\n{statement}\nprint(' '.join({{name.split('.')[0] for name in sys.modules}}))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    return set(result.stdout.split())


@pytest.mark.parametrize(
    ("statement", "forbidden"),
    [
        ("import flatdist", HEAVY | {"numpy"}),
        ("import flatdist; flatdist.Cell(d_out=2, d_in=2, rank=1, n=3).cell_id", HEAVY),
        ("import flatdist; flatdist.load_trials, flatdist.theory", {"torch", "ray", "numba"}),
    ],
    ids=["package", "cell", "reading"],
)
def test_heavy_libraries_stay_unloaded(statement, forbidden):
    assert not loaded_after(statement) & forbidden


def test_every_public_name_resolves():
    import flatdist

    for name in flatdist.__all__:
        assert getattr(flatdist, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        flatdist.nothing  # noqa: B018
