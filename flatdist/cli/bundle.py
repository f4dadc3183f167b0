"""``flatdist bundle`` and ``flatdist verify``: a sweep in one archive, and a check that recomputes part of it."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import random
import zipfile
from collections.abc import Mapping
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import click

from flatdist.cli.options import FILE, load_sweep, plugin_option, sweep_options
from flatdist.cli.output import writing
from flatdist.errors import CellError, StoreError, counted

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
FORMAT = 1
MOST_BYTES = 2**32  # limit of an archive's contents, so that none can fill the disk or memory
RELATIVE, ABSOLUTE = 1e-4, 1e-7  # tolerances between machines; the second in units of the mean squared label
COMPARED = ("train_loss", "population_loss", "relative_error", "nuclear_norm", "hessian_trace", "flow_time")
MACHINE = ("cpu_features", "torch_version", "flatdist_version", "git_sha", "engine", "device")
_WHEN = (1980, 1, 1, 0, 0, 0)  # of every entry, so that the same contents make the same archive


@click.command("bundle")
@sweep_options
@click.option("--figures", type=FILE, help="Folder of figures to include.  [default: figures/SWEEP]")
@click.option("--out", type=FILE, help="Archive to write.  [default: SWEEP.zip]")
def bundle_command(sweep: str, store: str, figures: Path | None, out: Path | None) -> None:
    """Write SWEEP into one archive: its file, plugins, rows, figures, versions and uncommitted changes; prints a hash.

    The hash is that of the contents: cite it, and 'flatdist verify' tells whether an archive is the one cited.
    """
    from flatdist.cells.plugins import loaded_plugins
    from flatdist.store.layout import diff_folder

    loaded, opened = load_sweep(sweep, store)
    ids = [cell.cell_id for cell in loaded.cells]
    trials = loaded.rows(opened.trials(ids))
    if trials.empty:
        raise StoreError(f"store {opened.uri} has no results of {loaded.name!r}; run the sweep first")
    versions = sorted({f"{d.metadata['Name']}=={d.version}" for d in distributions()}, key=str.lower)
    contents = {
        "sweep.yaml": loaded.source.encode(),
        "trials.parquet": trials.to_parquet(index=False),
        "history.parquet": loaded.rows(opened.history(ids)).to_parquet(index=False),
        "versions.txt": ("\n".join(versions) + "\n").encode(),
    }
    contents |= {f"plugins/{one.name}": one.source.encode() for one in loaded_plugins() if one.source}
    for info in opened.files.list(diff_folder(loaded.name)):
        contents[f"diff/{Path(info.path).name}"] = opened.files.read(info.path)
    folder = figures or Path("figures") / loaded.name
    for path in filter(Path.is_file, folder.rglob("*")):
        contents[f"figures/{path.relative_to(folder).as_posix()}"] = path.read_bytes()
    listed = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(contents.items())}
    manifest = json.dumps({"format": FORMAT, "sweep": loaded.name, "files": listed}, indent=1).encode()
    path = out or Path(f"{loaded.name}.zip")
    with writing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in [(MANIFEST, manifest), *sorted(contents.items())]:
            archive.writestr(zipfile.ZipInfo(name, _WHEN), data, zipfile.ZIP_DEFLATED)
    click.echo(f"wrote {counted(len(trials), 'replicate')} and {counted(len(contents), 'file')} to {path}")
    click.echo(f"sha256 of its contents: {hashlib.sha256(manifest).hexdigest()}")


@click.command("verify")
@click.argument("bundle", type=FILE)
@click.option("--replicates", type=click.IntRange(min=0), default=3, show_default=True, help="How many to recompute.")
@click.option("--seed", type=int, default=0, show_default=True, help="Chooses which replicates.")
@plugin_option
def verify_command(bundle: Path, replicates: int, seed: int) -> int:
    """Check a BUNDLE's hashes and compute some of its replicates again.

    On the machine, versions and engine that made them, results must agree to the bit; elsewhere the status must be
    equal, and losses within 1e-4 of their value and 1e-7 of the mean squared label. Exit status: 0 all agree, 1 not.
    """
    contents, digest = read_bundle(bundle)
    click.echo(f"{bundle}: {counted(len(contents), 'file')} as listed, sha256 of its contents: {digest}")
    import pandas as pd

    trials = pd.read_parquet(io.BytesIO(contents["trials.parquet"]))
    chosen = random.Random(seed).sample(range(len(trials)), min(replicates, len(trials)))  # noqa: S311 - no secret
    agree = True
    for row in trials.iloc[chosen].to_dict("records"):
        words, good = _compare(row)
        line = f"{row['cell_id']} replicate {row['replicate']}: {words}"
        log.log(logging.INFO if good else logging.ERROR, "%s", line)
        click.echo(line)
        agree = agree and good
    return int(not agree)


def read_bundle(path: Path) -> tuple[dict[str, bytes], str]:
    """The files of an archive by name, and the hash of its contents.

    Raises:
        StoreError: it is not a bundle, or a file is missing, too large or different from the manifest.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(info.file_size for info in archive.infolist()) > MOST_BYTES:
                raise StoreError(f"{path}: its contents have more than {MOST_BYTES:,} bytes")
            manifest = archive.read(MANIFEST)
            listed = json.loads(manifest)
            if not isinstance(listed, dict) or listed.get("format") != FORMAT:
                raise StoreError(f"{path}: has format {listed.get('format')}; this flatdist reads {FORMAT}")
            contents = {name: archive.read(name) for name in listed["files"]}
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (KeyError, TypeError, AttributeError, ValueError, zipfile.BadZipFile) as error:
        raise StoreError(f"{path}: is not a bundle of flatdist, or is damaged: {error}") from error
    for name, data in contents.items():
        if hashlib.sha256(data).hexdigest() != listed["files"][name]:
            raise StoreError(f"{path}: {name} is not what the manifest lists: the archive was changed")
    if not {"trials.parquet", "sweep.yaml"} <= contents.keys():
        raise StoreError(f"{path}: lacks the rows or the sweep file")
    return contents, hashlib.sha256(manifest).hexdigest()


def _compare(row: Mapping[Any, Any]) -> tuple[str, bool]:
    """The result of recomputing a replicate, in words, and whether it agrees."""
    from flatdist.cells.cell import Cell
    from flatdist.cells.problems import sample_problem
    from flatdist.trials.run import run_replicates
    from flatdist.trials.settings import RunSettings

    try:
        cell = Cell.from_row(row)
    except CellError as error:
        plugins = _value(row, "plugins")
        own = f"\n  computed with {plugins}: extract and read it, then --plugin" if plugins else ""
        return f"cannot be computed here: {error}{own}", False
    if cell.cell_id != row["cell_id"]:
        return f"comes from other numerics than this flatdist's ({cell.numerics}); install the bundle's version", False
    replicate, engine = int(row["replicate"]), row["engine"] if cell.spec.takes_steps else "auto"
    (outcome,) = run_replicates(cell, [replicate], RunSettings(engine=engine, device=row["device"] or "cpu"))
    again = outcome.trial
    same_machine = all(_value(again, name) == _value(row, name) for name in MACHINE)
    if again["status"] != row["status"]:
        return f"ended {again['status']} here and {row['status']} in the bundle", False
    square = float((sample_problem(cell, replicate).labels ** 2).mean())
    tolerances = {}
    for column in COMPARED:
        new, old = _value(again, column), _value(row, column)
        if new == old:
            continue
        if same_machine or new is None or old is None:
            return f"{column} is {new!r} here and {old!r} in the bundle", False
        tolerances[column] = abs(new - old) / (RELATIVE * abs(old) + ABSOLUTE * square)
    worst = max(tolerances, key=tolerances.__getitem__, default="")
    if worst and tolerances[worst] > 1:
        apart = f"{tolerances[worst]:.1f} tolerances apart"
        return f"{worst} is {again[worst]!r} here and {row[worst]!r} in the bundle: {apart}", False
    return f"agrees {'to the bit' if same_machine else 'within the tolerance between machines'}", True


def _value(row: Mapping[Any, Any], name: str) -> Any:
    """An entry of a row, None for every kind of null."""
    value = row.get(name)
    return None if isinstance(value, float) and math.isnan(value) else value
