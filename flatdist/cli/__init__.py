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
from typing import Any

import click

from flatdist.cli import bundle, diff, doctor, housekeeping, inspect, report, start, submit, sweep
from flatdist.cli.options import with_log
from flatdist.cli.output import warn
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
    start.init_command, start.schema_command, sweep.plan_command, sweep.sweep_command, submit.submit_command,
    inspect.status_command, report.report_command, report.watch_command, report.figure_command, sweep.train_command,
    inspect.best_command, inspect.show_command, inspect.cells_command, inspect.failures_command, diff.diff_command,
    report.trace_command, housekeeping.export_command, housekeeping.sql_command, bundle.bundle_command,
    bundle.verify_command, housekeeping.invalidate_command, housekeeping.merge_command, housekeeping.compact_command,
    housekeeping.gc_command, doctor.doctor_command,
):  # fmt: skip
    plain = _command in (start.init_command, start.schema_command, report.trace_command)
    cli.add_command(_command if plain else with_log(_command))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    gc.set_threshold(50_000, 20, 20)  # imports alone make a million objects, none of them garbage
    with warnings.catch_warnings(), _terminated_like_interrupted():
        warnings.showwarning = _show_warning
        try:
            status = cli.main(args=arguments, prog_name="flatdist", standalone_mode=False)
        except FlatdistError as error:
            warn(f"error: {printable(error, keep=_LAYOUT)}")
            return BAD_INPUT
        except ModuleNotFoundError as error:
            extra = extra_of(error)
            if extra is None:
                raise
            warn(f"error: this needs {error.name}, which is not installed; {remedy(extra)}")
            return BAD_INPUT
        except click.ClickException as error:
            error.show()
            return BAD_INPUT
        except (click.Abort, KeyboardInterrupt):
            warn("interrupted")
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


def _show_warning(message: Warning | str, *_place: Any, **_more: Any) -> None:
    warn(f"warning: {printable(message, keep=_LAYOUT)}")  # the place in the code means nothing to the user


__all__ = ["cli", "main"]
