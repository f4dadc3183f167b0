"""The command ``flatdist``.

Exit status: 0 success, 1 some replicates failed or are missing, 2 bad input, 130 interrupted. Expected errors are
messages on stderr, never tracebacks. Commands import heavy libraries only when they run.
"""

from __future__ import annotations

import contextlib
import gc
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

import click

from flatdist.cli.best import best_command
from flatdist.cli.bundle import bundle_command, verify_command
from flatdist.cli.diff import diff_command
from flatdist.cli.doctor import doctor_command
from flatdist.cli.housekeeping import (
    compact_command,
    export_command,
    gc_command,
    invalidate_command,
    merge_command,
    sql_command,
)
from flatdist.cli.inspect import cells_command, failures_command, show_command
from flatdist.cli.options import with_log
from flatdist.cli.plan import plan_command
from flatdist.cli.report import figure_command, report_command, watch_command
from flatdist.cli.start import init_command, schema_command
from flatdist.cli.status import status_command
from flatdist.cli.submit import submit_command
from flatdist.cli.sweep import sweep_command
from flatdist.cli.trace import trace_command
from flatdist.cli.train import train_command
from flatdist.errors import FlatdistError, printable
from flatdist.machine.extras import extra_of, remedy

BAD_INPUT = 2
INTERRUPTED = 130
_LAYOUT = "\n\t"  # what a message may hold besides printable characters


class _InOrder(click.Group):
    """Lists its commands in the order in which they are usually needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_InOrder, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="flatdist", prog_name="flatdist", message="%(prog)s %(version)s")
def cli() -> None:
    """How many linear measurements does a deep matrix factorization's flattest solution need?

    SWEEP is a sweep file (YAML) or the name of a sweep that the store has a record of. Results live in a store, a
    folder or a URI such as s3://bucket/folder: --store, else $FLATDIST_STORE, else results/.
    """


for _command in (
    init_command,
    schema_command,
    plan_command,
    sweep_command,
    submit_command,
    status_command,
    report_command,
    watch_command,
    figure_command,
    train_command,
    best_command,
    show_command,
    cells_command,
    failures_command,
    diff_command,
    trace_command,
    export_command,
    sql_command,
    bundle_command,
    verify_command,
    invalidate_command,
    merge_command,
    compact_command,
    gc_command,
    doctor_command,
):
    cli.add_command(_command if _command in (init_command, schema_command, trace_command) else with_log(_command))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    gc.set_threshold(50_000, 20, 20)  # imports alone make a million objects, none of them garbage
    with warnings.catch_warnings(), _terminated_like_interrupted():
        warnings.showwarning = _show_warning
        try:
            status = cli.main(args=arguments, prog_name="flatdist", standalone_mode=False)
        except FlatdistError as error:
            click.echo(f"error: {printable(error, keep=_LAYOUT)}", err=True)
            return BAD_INPUT
        except ModuleNotFoundError as error:
            extra = extra_of(error)
            if extra is None:
                raise
            click.echo(f"error: this needs {error.name}, which is not installed; {remedy(extra)}", err=True)
            return BAD_INPUT
        except click.ClickException as error:
            error.show()
            return BAD_INPUT
        except (click.Abort, KeyboardInterrupt):
            click.echo("interrupted", err=True)
            return INTERRUPTED
    return status if isinstance(status, int) else 0


@contextlib.contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM ends a command like Ctrl-C, with a status of its own, also before a launch watches for it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> Any:
    del category, filename, lineno, file, line  # the place in the code means nothing to the user
    click.echo(f"warning: {printable(message, keep=_LAYOUT)}", err=True)


__all__ = ["cli", "main"]
