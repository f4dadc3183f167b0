"""How many small changes of a room's code its tests notice: mutmut on a random sample of mutants.

``python -m benchmarks.mutants threshold --count 150`` copies the repository to a scratch folder, lets mutmut 3 write
all mutants of ``flatdist/threshold/`` there, and runs the tests of that room alone against a sample. It prints each
survivor as a diff, then one line of counts. A mutant that runs into mutmut's limit of time counts as killed.

mutmut is not among the requirements: ``pip install mutmut==3.8.1``.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = {
    "threshold": ["tests/threshold", "tests/fits/test_threshold.py"],
    "store": ["tests/store"],
    "planning": ["tests/planning"],
}


def copy_repository(folder: Path, room: str, tests: list[str]) -> None:
    """The tracked files as they are now, with mutmut's settings for one room."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    beside = [path.name for path in folder.iterdir() if path.name not in ("flatdist", "tests", "pyproject.toml")]
    settings = {
        "source_paths": ["flatdist"],
        "only_mutate": [f"flatdist/{room}/*"],
        "also_copy": beside,
        "pytest_add_cli_args": ["-p", "no:cacheprovider", "-m", "not slow"],
        "pytest_add_cli_args_test_selection": tests,
    }
    with (folder / "pyproject.toml").open("a", encoding="utf-8") as file:
        file.write("\n[tool.mutmut]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items()))


def mutmut(folder: Path, *words: str) -> str:
    """What mutmut prints."""
    command = [sys.executable, "-m", "mutmut", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout


def outcomes(folder: Path) -> dict[str, str]:
    """Mutant -> killed, survived, timeout, no tests, not checked, ..."""
    lines = [line.strip().partition(": ") for line in mutmut(folder, "results", "--all", "true").splitlines()]
    return {name: outcome for name, _, outcome in lines if "__mutmut_" in name}


def main() -> int:
    """Sample, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("room", choices=TESTS)
    parser.add_argument("--count", type=int, default=150, help="mutants in the sample")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--jobs", type=int, default=1, help="mutants tried side by side")
    parser.add_argument("--tests", nargs="*", help="run these in place of the room's tests")
    parser.add_argument("--names", nargs="*", help="try these mutants in place of a sample")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        copy_repository(folder, options.room, options.tests or TESTS[options.room])
        said = mutmut(folder, "run", "none")  # writes all mutants and times the tests, then finds none of that name
        names = sorted(outcomes(folder))
        if not names:
            print(said)
            return 1
        chosen = options.names or random.Random(options.seed).sample(names, min(options.count, len(names)))
        said = mutmut(folder, "run", "--max-children", str(options.jobs), *chosen)
        found = outcomes(folder)
        if any(found[name] == "not checked" for name in chosen):
            print(said)
            return 1
        for name in sorted(chosen):
            if found[name] not in ("killed", "timeout"):
                print(f"{found[name]}: {name}\n{mutmut(folder, 'show', name)}", flush=True)
    counts = Counter(found[name] for name in chosen)
    print(f"{options.room}: {len(chosen)} of {len(names)} mutants, seed {options.seed}: {dict(counts)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
