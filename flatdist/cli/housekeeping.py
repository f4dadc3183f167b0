"""``flatdist export``, ``sql``, ``invalidate``, ``merge``, ``compact`` and ``gc``: rows taken out and kept in order."""

from __future__ import annotations

import csv as csv_module
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flatdist.cli.options import FILE, load_sweep, open_store, store_option, sweep_options
from flatdist.cli.output import print_table, writing
from flatdist.errors import StoreError, SweepError, counted, printable
from flatdist.machine.extras import remedy

if TYPE_CHECKING:
    import pandas as pd

_MAGIC_BYTES = 10_000  # bytes read from a file, enough for a table's head
_where = click.option("--where", help="Only rows of trials for which this holds, such as \"status == 'diverged'\".")
_yes = click.option("--yes", is_flag=True, help="Do not ask.")


@click.command("export")
@sweep_options
@click.option("--csv", is_flag=True, help="Write CSV.")
@click.option("--parquet", is_flag=True, help="Write Parquet (the default).")
@click.option("--table", type=click.Choice(["trials", "history"]), default="trials", show_default=True)
@_where
@click.option("--out", type=FILE, help="File to write.  [default: SWEEP-TABLE.KIND]")
@click.option("--force", is_flag=True, help="Replace --out even if it is not an earlier export.")
@click.option("--to", type=click.Choice(["tensorboard", "mlflow", "wandb", "optuna"]), help="Publish to another tool.")
@click.option("--per", type=click.Choice(["cell", "replicate"]), default="cell", show_default=True,
              help="With --to: a run is a cell's medians, or a replicate.")  # fmt: skip
def export_command(
    sweep: str, store: str, csv: bool, parquet: bool, table: str, where: str | None, out: Path | None, force: bool,
    to: str | None, per: str,
) -> None:  # fmt: skip
    """Write SWEEP's rows into one flat file, or publish them; an earlier export of that name is replaced."""
    if to is not None and (csv or parquet or where is not None):
        raise SweepError(f"--to {to} publishes the whole sweep; --csv, --parquet and --where are only for files")
    if csv and parquet:
        raise SweepError("--csv and --parquet exclude each other: one file has one format; give one of them")
    loaded, opened = load_sweep(sweep, store)
    if to is not None:
        from flatdist.cli.publish import publish

        count, path = publish(loaded, opened, to, per, out)
        click.echo(f"published {counted(count, 'run')} to {path}")
        return
    read = opened.trials if table == "trials" else opened.history
    frame = loaded.rows(read([cell.cell_id for cell in loaded.cells], where=where))
    path = out or Path(f"{loaded.name}-{table}.{'csv' if csv else 'parquet'}")
    if not path.parent.is_dir():
        raise StoreError(f"{path}: cannot be written: {path.parent} is not a folder; give an --out in one that exists")
    if not force and not _may_replace(path):
        raise StoreError(
            f"{path} exists and is not an export of flatdist: add --force to replace it, or give another --out"
        )
    with writing(path) as temporary:
        if csv:
            _write_csv(frame, temporary)
        else:
            frame.to_parquet(temporary, index=False)
    click.echo(f"wrote {counted(len(frame), 'row')} to {path}")


def _may_replace(path: Path) -> bool:
    """Whether nothing is lost with a file: it does not exist, or is an export, known by its first columns."""
    try:
        with path.open("rb") as file:
            start = file.read(_MAGIC_BYTES)
    except FileNotFoundError:
        return True
    except OSError:  # a folder, or nothing that can be read
        return False
    if start.startswith(b"PAR1"):
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return "cell_id" in pq.read_schema(path).names
        except (pa.ArrowException, OSError):
            return False
    return b"cell_id" in start.splitlines()[0].split(b",") if start else True


def _write_csv(frame: pd.DataFrame, path: Path) -> None:
    for name in frame.columns.intersection(["width", "singular_values", "quantities"]):
        # As JSON, so that every reader can take them apart.
        plain = (value if value is None or isinstance(value, dict) else [*value] for value in frame[name])
        frame[name] = [value if value is None else json.dumps(value, default=float) for value in plain]
    for column in frame.select_dtypes(["object", "str"]):
        frame[column] = [_safe_cell(value) for value in frame[column]]
    frame.to_csv(path, index=False)


@click.command("sql")
@click.argument("query")
@store_option
@click.option("--csv", is_flag=True, help="Print CSV.")
def sql_command(query: str, store: str, csv: bool) -> None:
    """Run a DuckDB QUERY over the tables trials, history and failures.

    They hold exactly the rows that load_trials and load_history see: each replicate once, without what was invalidated
    or superseded by newer numerics. Only the tables and columns that the query names are read.
    """
    try:
        import duckdb
    except ImportError as error:
        raise StoreError(f"flatdist sql needs DuckDB; {remedy('sql')}") from error
    from flatdist.store.reading import HISTORY_NAMES, TRIAL_NAMES
    from flatdist.store.schema import plain

    opened = open_store(store)
    words = {word.lower() for word in re.findall(r"\w+", query)}
    bare = re.sub(r"count\s*\(\s*\*\s*\)", "", query, flags=re.IGNORECASE)
    everything = "*" in bare or "select" not in words or bool(words & {"columns", "natural", "describe", "summarize"})
    connection = duckdb.connect()
    for name, known in (("trials", TRIAL_NAMES), ("history", HISTORY_NAMES), ("failures", ())):
        if name in words:
            wanted = [column for column in known if column in words] or ["cell_id", "replicate"]
            columns = None if everything or name == "failures" else wanted
            connection.register(name, plain(opened.table(name, columns=columns)))
    try:
        answer = connection.sql(query)
        if answer is None:
            return
        head, found = answer.columns, answer.fetchall()
    except duckdb.Error as error:
        raise StoreError(f"DuckDB: {error}") from error
    if csv:
        csv_module.writer(sys.stdout).writerows([head, *([_safe_cell(value) for value in row] for row in found)])
    else:
        print_table(head, found)


def _safe_cell(value: Any) -> Any:
    """Text that a spreadsheet would take for a formula, quoted as it advises: by an apostrophe before it.

    Control characters are escaped: a lone carriage return begins another row, which could begin with a formula.
    """
    if not isinstance(value, str):
        return value
    text = printable(value, keep="\n\t")
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t")) else text


@click.command("invalidate")
@sweep_options
@_where
@click.option("--failed", is_flag=True, help="Only failures, so that they are tried again.")
@_yes
def invalidate_command(sweep: str, store: str, where: str | None, failed: bool, yes: bool) -> None:
    """Void results of SWEEP, so that they run again; nothing is deleted.

    Without --where every result and failure of the sweep is voided.
    """
    loaded, opened = load_sweep(sweep, store)
    ids = [cell.cell_id for cell in loaded.cells]
    keys = set()
    if where is None or failed:
        keys |= {(cell, replicate) for cell, replicates in opened.failed(ids).items() for replicate in replicates}
    if not failed:
        frame = loaded.rows(opened.trials(ids, where=where, columns=["cell_id", "replicate"]))
        keys |= set(zip(frame["cell_id"].astype(str), frame["replicate"].astype(int), strict=True))
    if not keys:
        click.echo("nothing to void")
        return
    _confirm(f"Void {counted(len(keys), 'replicate')} of {counted(len({cell for cell, _ in keys}), 'cell')}?", yes)
    click.echo(f"voided {counted(opened.invalidate(keys), 'replicate')}; the next sweep runs them again")


@click.command("merge")
@click.argument("other", metavar="STORE")
@store_option
def merge_command(other: str, store: str) -> None:
    """Copy the results, failures and sweeps of another STORE into this one; repeating it changes nothing."""
    merged = open_store(store, must_exist=False).merge(open_store(other))
    click.echo(f"merged {counted(merged.replicates, 'replicate')} and {counted(len(merged.sweeps), 'sweep')}")
    if merged.sweeps_kept:
        click.echo(f"kept this store's version of {', '.join(merged.sweeps_kept)}")


@click.command("compact")
@store_option
def compact_command(store: str) -> None:
    """Combine many small files into a few; safe while sweeps are running."""
    done = open_store(store).compact()
    click.echo(f"combined {counted(done.parts, 'file')} into {done.segments}, deleted {done.deleted}")


@click.command("gc")
@store_option
@_yes
def gc_command(store: str, yes: bool) -> None:
    """Delete rows of old numerics that newer ones replace, and files that are no longer needed."""
    opened = open_store(store)
    _confirm(f"Drop rows of old numerics from {opened.uri}?", yes)
    collected = opened.gc()
    click.echo(f"dropped {counted(collected.rows, 'row')} and {counted(collected.files, 'file')}")


def _confirm(question: str, yes: bool) -> None:
    if not yes and not sys.stdin.isatty():
        raise SweepError(f"{question} There is no terminal to answer on: add --yes")
    if not yes:
        click.confirm(question, abort=True, err=True)
