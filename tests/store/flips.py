"""Damage every kind of file of a store at random, and see that no reader is misled and that a run mends it.

Flips one bit, cuts a file short, or lets two files change places. Every reader then returns exactly the undamaged rows,
or names a damaged file; and once what counts as missing has run again, the tables equal those before to the bit.

    python tests/store/flips.py --count 2000

prints how many of each, and ends with status 0 if all of this holds.
"""

from __future__ import annotations

import argparse
import math
import random
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

KINDS = ("flip", "flip", "flip", "cut", "swap")
CELLS, REPLICATES = 4, 3


def rows(cell: int, replicates: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What a run of some replicates writes, the same at every run."""
    name = f"cell{cell:016d}"
    trials = [
        {"cell_id": name, "configuration_id": name, "replicate": r, "status": "converged", "n": 10 + cell,
         "relative_error": 0.1 * r + cell, "numerics_version": 1, "sampling_version": 1, "method": "label_noise_sgd",
         "singular_values": [1.0, 0.5 / (1 + r)], "width": [3, 4]}
        for r in replicates
    ]  # fmt: skip
    steps = [
        {"cell_id": name, "replicate": r, "step": 10 * s, "train_loss": 1.0 / (1 + s), "population_loss": r + 0.25 * s}
        for r in replicates
        for s in range(6)
    ]
    return trials, steps


def build(folder: Path) -> None:
    """A store with files of every kind: segments, parts new and taken over, tombstones, records, checkpoints."""
    import numpy as np

    from flatdist.store import Store

    store = Store(folder)
    for cell in range(2):
        store.write(*rows(cell, range(REPLICATES)))
    store.compact(grace=0)
    store.compact(grace=0)
    store.write(*rows(2, range(REPLICATES)))
    store.invalidate([("cell" + "0" * 16, 1)])
    store = Store(folder)
    store.write(*rows(0, [1]))
    store.compact(grace=0)
    store.write(*rows(3, range(REPLICATES)))
    store.sweeps.save("s", "name: s", ["a"], 2)
    store.sweeps.save("s", "name: s2", ["a", "b"], 2)
    store.write_failures([{"cell_id": "x", "replicate": 0, "error_type": "ValueError", "message": "no"}])
    for step in (10, 20):
        store.checkpoints.save("x", 0, step, {"layer_0": np.arange(12.0).reshape(3, 4) + step})


def readers(folder: Path) -> dict[str, Callable[[], Any]]:
    """What is asked of a store, each by an object of its own."""
    from flatdist.store import Store

    def checkpoint() -> Any:
        found = Store(folder).checkpoints.latest("x", 0)
        return found and (found[0], {name: array.tolist() for name, array in found[1].items()})

    return {
        "done": lambda: Store(folder).done(),
        "trials": lambda: Store(folder).trials().to_dict("list"),
        "some": lambda: (
            Store(folder).trials(where="n > 10", columns=["cell_id", "n", "relative_error"]).to_dict("list")
        ),
        "history": lambda: Store(folder).history().to_dict("list"),
        "steps": lambda: Store(folder).history(where="step > 20", columns=["step", "train_loss"]).to_dict("list"),
        "failures": lambda: Store(folder).failures().to_dict("list"),
        "record": lambda: Store(folder).sweeps.load("s").source,
        "checkpoint": checkpoint,
    }


def ask(read: Callable[[], Any]) -> tuple[str, str]:
    """What a reader answers, as text, and everything that it says."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            answer, refusal = repr(read()), ""
        except OSError as error:  # StoreError is one
            answer, refusal = "", f"{type(error).__name__}: {error}"
    return answer, " ".join([*(str(warning.message) for warning in caught), refusal])


def damage(folder: Path, kind: str, chance: random.Random) -> list[str]:
    """Damage one file, or two; returns their names."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    groups: dict[str, list[Path]] = {}
    for path in files:
        groups.setdefault(str(path.relative_to(folder)).split("/part/")[0].rsplit("/", 1)[0], []).append(path)
    group = groups[chance.choice(sorted(groups))]
    victim = chance.choice(group)
    data = bytearray(victim.read_bytes())
    if kind == "swap":
        other = chance.choice([path for path in files if path.suffix == victim.suffix])
        victim.write_bytes(other.read_bytes())
        other.write_bytes(data)
        return [victim.name, other.name]
    if kind == "cut":
        victim.write_bytes(data[: chance.randrange(len(data))])
    else:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        victim.write_bytes(data)
    return [victim.name]


def mend(folder: Path) -> None:
    """What ``flatdist sweep`` does: look at every byte, and run what is missing."""
    from flatdist.store import Store

    store = Store(folder)
    done = store.done(thorough=True)
    for cell in range(CELLS):
        missing = [r for r in range(REPLICATES) if r not in done.get(f"cell{cell:016d}", ())]
        if missing:
            store.write(*rows(cell, missing))


def run(count: int, seed: int, seconds: float = math.inf) -> tuple[Counter[str], list[str]]:
    """Damage a store ``count`` times, each time anew; returns how often what happened, and what was wrong."""
    end = time.monotonic() + seconds
    chance = random.Random(seed)
    outcomes: Counter[str] = Counter()
    wrong: list[str] = []
    memory = "/dev/shm"  # where there is one: nothing is asked of the disk here
    with tempfile.TemporaryDirectory(
        prefix="flatdist-flips-", dir=memory if Path(memory).is_dir() else None
    ) as scratch:
        intact, folder = Path(scratch, "intact"), Path(scratch, "store")
        build(intact)
        wanted = {name: ask(read)[0] for name, read in readers(intact).items()}
        for number in range(count):
            if time.monotonic() > end:
                break
            shutil.copytree(intact, folder)
            kind = chance.choice(KINDS)
            names = damage(folder, kind, chance)
            for name, read in readers(folder).items():
                if name == "done":  # it sets damage aside: asked last
                    continue
                answer, said = ask(read)
                named = any(one in said for one in names)
                outcomes[f"{kind}: {'named' if named else 'exact'}"] += 1
                if not named and answer != wanted[name]:
                    wrong.append(f"{number}: {kind} of {names}: {name} is misled: {said or 'silent'}")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    mend(folder)
                    found = {name: ask(read)[0] for name, read in readers(folder).items()}
                    tables = ("done", "trials", "some", "history", "steps")
                    differ = [name for name in tables if found[name] != wanted[name]]
                    wrong += [f"{number}: {kind} of {names}: {name} differs after the run" for name in differ]
                    outcomes["mended"] += 1
                except OSError as error:
                    wrong.append(f"{number}: {kind} of {names}: not mended: {error}")
            shutil.rmtree(folder)
    return outcomes, wrong


def main() -> int:
    """Run the script; returns its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop after so long")
    options = parser.parse_args()
    outcomes, wrong = run(options.count, options.seed, options.seconds)
    for outcome, count in sorted(outcomes.items()):
        print(f"{count:6d}  {outcome}")
    print(f"{len(wrong)} wrong")
    for text in wrong[:50]:
        print(text)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
