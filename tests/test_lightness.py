"""What importing flatdist loads, and what it must not."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import flatdist

ROOT = Path(__file__).parents[1]

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
    for name in flatdist.__all__:
        assert getattr(flatdist, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        flatdist.nothing  # noqa: B018


BLOCKED = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
import flatdist
from flatdist.cli import main
assert main(["status", "little", "--store", sys.argv[1]]) == 0
assert not {{"pandas", "pyarrow.compute"}} & sys.modules.keys()  # half a second of every status
assert len(flatdist.load_trials(sys.argv[1], tolerance=0.5)["success"]) == 2
assert len(flatdist.load_history(sys.argv[1])) == 4
for command in (["cells"], ["best"], ["export", "--out", sys.argv[2]]):
    assert main([*command, "little", "--store", sys.argv[1]]) == 0
assert main(["figure", "paired", "little", "--store", sys.argv[1]]) == 2
try:
    flatdist.fit_thresholds
except ModuleNotFoundError as error:
    print(error.__notes__)
"""


def test_reading_needs_pandas_and_pyarrow_alone(tmp_path):
    from flatdist.machine.extras import EXTRAS

    sweep = {"name": "little", "replicates": 2, "fixed": {"d_out": 4, "d_in": 4, "rank": 1, "n": 12, "steps": 20,
                                                         "evaluations": 2}}  # fmt: skip
    flatdist.sweep(sweep, tmp_path / "store", executor="inline", engine="batched", display="none", probe=False)
    names = {name for packages in EXTRAS.values() for name in packages}
    command = [sys.executable, "-c", BLOCKED.format(names=names), str(tmp_path / "store"), str(tmp_path / "out.csv")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == """["in your clone of flatdist: pip install '.[figures]'"]"""
    assert "this needs matplotlib, which is not installed; in your clone of flatdist: pip install" in done.stderr


def test_uvs_lock_is_of_these_dependencies_and_names_the_public_index_alone():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    packages = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    (own,) = (one for one in packages if one["name"] == "flatdist")
    declared = {**project["optional-dependencies"], "": project["dependencies"]}
    locked = {**own["optional-dependencies"], "": own["dependencies"]}
    assert declared.keys() == locked.keys(), "run make lock"
    for extra, requirements in declared.items():
        names = (re.split(r"[><=\[;]", text)[0].lower() for text in requirements)
        wanted = {re.sub(r"[-_.]+", "-", name) for name in names} - {"flatdist"}
        assert wanted <= {one["name"] for one in locked[extra]}, f"run make lock: {extra}"
    hosts = {url.split("/")[2] for url in re.findall(r"https?://[^\"]+", (ROOT / "uv.lock").read_text())}
    assert hosts == {"pypi.org", "files.pythonhosted.org"}
    assert "file://" not in (ROOT / "uv.lock").read_text()
