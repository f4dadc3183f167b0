"""``flatdist bundle`` and ``flatdist verify``: a sweep in one archive, and a check that recomputes part of it."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import random
import zipfile
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flatdist.cli.options import load_sweep, open_store, plugin_option, store_option, sweep_argument
from flatdist.errors import CellError, StoreError, counted
from flatdist.machine.files import atomic

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
FORMAT = 1
MOST_BYTES = 2**32  # limit of an archive's contents, so that none can fill the disk or memory
RELATIVE, ABSOLUTE = 1e-4, 1e-7  # tolerances between machines; the second in units of the mean squared label
COMPARED = ("train_loss", "population_loss", "relative_error", "nuclear_norm", "hessian_trace", "flow_time")
MACHINE = ("cpu_features", "torch_version", "flatdist_version", "git_sha", "engine", "device")
_WHEN = (1980, 1, 1, 0, 0, 0)  # of every entry, so that the same contents make the same archive


@click.command("bundle")
@sweep_argument
@store_option
@click.option(
    "--figures", type=click.Path(path_type=Path), help="Folder of figures to include.  [default: figures/SWEEP]"
)
@click.option("--out", type=click.Path(path_type=Path), help="Archive to write.  [default: SWEEP.zip]")
def bundle_command(sweep: str, store: str, figures: Path | None, out: Path | None) -> None:
    """Write SWEEP into one archive: its file, plugins, rows, figures, versions and uncommitted changes; prints a hash.

    The hash is that of the contents: cite it, and 'flatdist verify' tells whether an archive is the one cited.
    """
    from flatdist.cells.plugins import loaded_plugins
    from flatdist.store.layout import diff_folder

    loaded, opened = load_sweep(sweep, store), open_store(store)
    ids = [cell.cell_id for cell in loaded.cells]
    trials = loaded.rows(opened.trials(ids))
    if trials.empty:
        raise StoreError(f"store {opened.uri} has no results of {loaded.name!r}; run the sweep first")
    contents = {"sweep.yaml": loaded.source.encode(), "trials.parquet": _parquet(trials)}
    contents["history.parquet"] = _parquet(loaded.rows(opened.history(ids)))
    contents |= {f"plugins/{one.name}": one.source.encode() for one in loaded_plugins() if one.source}
    versions = sorted({f"{d.metadata['Name']}=={d.version}" for d in distributions()}, key=str.lower)
    contents["versions.txt"] = ("\n".join(versions) + "\n").encode()
    for info in opened.files.list(diff_folder(loaded.name)):
        contents[f"diff/{Path(info.path).name}"] = opened.files.read(info.path)
    folder = figures or Path("figures") / loaded.name
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        if path.is_file():
            contents[f"figures/{path.relative_to(folder).as_posix()}"] = path.read_bytes()
    listed = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(contents.items())}
    manifest = json.dumps({"format": FORMAT, "sweep": loaded.name, "files": listed}, indent=1).encode()
    path = out or Path(f"{loaded.name}.zip")
    try:
        with atomic(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in [(MANIFEST, manifest), *sorted(contents.items())]:
                archive.writestr(zipfile.ZipInfo(name, _WHEN), data, zipfile.ZIP_DEFLATED)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error.strerror or error}; give another --out") from error
    click.echo(f"wrote {counted(len(trials), 'replicate')} and {counted(len(contents), 'file')} to {path}")
    click.echo(f"sha256 of its contents: {hashlib.sha256(manifest).hexdigest()}")


def _parquet(frame: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    return buffer.getvalue()


@click.command("verify")
@click.argument("bundle", type=click.Path(path_type=Path))
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
    records = trials.iloc[chosen].to_dict("records")
    results = [_compare({str(name): value for name, value in record.items()}) for record in records]
    for line, good in results:
        log.log(logging.INFO if good else logging.ERROR, "%s", line)
        click.echo(line)
    return 0 if all(good for _, good in results) else 1


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


def _compare(row: dict[str, Any]) -> tuple[str, bool]:
    """The result of recomputing a replicate, in words, and whether it agrees."""
    from flatdist.cells.cell import Cell
    from flatdist.cells.problems import sample_problem
    from flatdist.trials.run import run_replicates
    from flatdist.trials.settings import RunSettings

    name = f"{row['cell_id']} replicate {row['replicate']}"
    try:
        cell = Cell.from_row(row)
    except CellError as error:
        plugins = row.get("plugins")
        own = (
            ""
            if _is_null(plugins) or not plugins
            else f"\n  computed with {plugins}: extract and read it, then --plugin"
        )
        return f"{name}: cannot be computed here: {error}{own}", False
    if cell.cell_id != row["cell_id"]:
        return (
            f"{name}: comes from other numerics than this flatdist's ({cell.numerics}); install the bundle's version",
            False,
        )
    engine = row["engine"] if cell.spec.takes_steps else "auto"
    (outcome,) = run_replicates(
        cell, [int(row["replicate"])], RunSettings(engine=engine, device=row["device"] or "cpu")
    )
    again = outcome.trial
    same_machine = all(_same(again.get(what), row.get(what)) for what in MACHINE)
    if again["status"] != row["status"]:
        return f"{name}: ended {again['status']} here and {row['status']} in the bundle", False
    square = float((sample_problem(cell, int(row["replicate"])).labels ** 2).mean())
    worst, where = 0.0, ""
    for column in COMPARED:
        old, new = row.get(column), again.get(column)
        if _same(old, new):
            continue
        if same_machine or _is_null(old) or _is_null(new):
            return f"{name}: {column} is {new!r} here and {old!r} in the bundle", False
        allowed = RELATIVE * abs(float(old)) + ABSOLUTE * square  # type: ignore[arg-type]
        if (share := abs(float(new) - float(old)) / allowed) > worst:  # type: ignore[arg-type]
            worst, where = share, column
    if worst > 1:
        return (
            f"{name}: {where} is {again[where]!r} here and {row[where]!r} in the bundle: {worst:.1f} tolerances apart",
            False,
        )
    return f"{name}: agrees {'to the bit' if same_machine else 'within the tolerance between machines'}", True


def _is_null(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _same(one: Any, other: Any) -> bool:
    return (_is_null(one) and _is_null(other)) or one == other
