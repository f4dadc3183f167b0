"""Arguments and options that several commands share, and what they mean."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from flatdist.errors import StoreError, SweepError
from flatdist.machine.logs import LEVELS, configure

if TYPE_CHECKING:
    from flatdist.store import Store
    from flatdist.sweepfile import Changes
    from flatdist.sweeps import Sweep

Command = TypeVar("Command", bound=Callable[..., Any])

PLUGINS = "flatdist.plugins"  # in the context's meta: the files given by --plugin

store_option = click.option(
    "--store", default="results", envvar="FLATDIST_STORE", show_default=True, help="Folder or URI of the results."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
where_option = click.option(
    "--where", "conditions", multiple=True, help="Only cells for which this holds, such as 'n > dof'."
)


class FiniteRange(click.FloatRange):
    """A range of finite numbers; click alone would accept nan and inf."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read a number, as click does, that is finite."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        return number


def _load_plugins(context: click.Context, parameter: click.Parameter, paths: tuple[str, ...]) -> None:
    if paths:
        from flatdist.cells.plugins import load_plugin

        for path in paths:
            load_plugin(path)
        context.meta[PLUGINS] = paths


plugin_option = click.option(
    "--plugin", "plugins", multiple=True, metavar="FILE.py", is_eager=True, expose_value=False, callback=_load_plugins,
    help="Python file of your own methods and ensembles; every worker executes it.",
)  # fmt: skip


def sweep_argument(command: Command) -> Command:
    """One SWEEP, and ``--plugin`` for the methods that it names."""
    return plugin_option(click.argument("sweep", metavar="SWEEP")(command))


def sweeps_argument(command: Command) -> Command:
    """Several of them."""
    return plugin_option(click.argument("sweeps", metavar="SWEEP...", nargs=-1, required=True)(command))


def selection_options(command: Command) -> Command:
    """``--set``, ``--where`` and ``--limit``, which select cells of the sweeps."""
    for option in (
        click.option("--limit", type=click.IntRange(min=1), help="Only the first N cells."),
        where_option,
        click.option("--set", "words", multiple=True, metavar="FIELD=VALUE", help="One value for a field, everywhere."),
    ):
        command = option(command)
    return command


def read_changes(words: Sequence[str], conditions: Sequence[str]) -> Changes:
    """What ``--set`` and ``--where`` ask for."""
    from flatdist.sweepfile import Changes
    from flatdist.sweepfile.words import read_words

    return Changes(read_words(words), tuple(conditions))


def load_sweeps(names: Sequence[str], store: str, changes: Changes | None = None) -> list[Sweep]:
    """Sweeps by file or by name in the store; all problems of all files are reported."""
    sweeps: list[Sweep] = []
    problems: list[str] = []
    for name in names:
        try:
            sweeps.append(load_sweep(name, store, changes))
        except SweepError as error:
            problems.append(str(error))
    if problems:
        raise SweepError("\n".join(problems))
    for sweep in sweeps:
        namesakes = [name for name, other in zip(names, sweeps, strict=True) if other.name == sweep.name]
        if len({other.source for other in sweeps if other.name == sweep.name}) > 1:
            raise SweepError(
                f"{' and '.join(namesakes)} are both named {sweep.name!r}; give each sweep a name of its own"
            )
    return sweeps


def load_sweep(name: str, store: str, changes: Changes | None = None) -> Sweep:
    """A sweep by file or by name.

    Raises:
        SweepError: the file cannot be used, or neither a file nor a sweep has this name.
    """
    from flatdist.sweeps import open_sweep

    return open_sweep(name, open_store(store, must_exist=False), changes)


def open_store(location: str, *, must_exist: bool = True) -> Store:
    """The store at a location.

    Raises:
        StoreError: the store is required, but no local folder has that name.
    """
    from flatdist.store import Store
    from flatdist.store.location import is_local

    store = Store(location)
    if must_exist and is_local(store.uri) and not Path(store.uri).is_dir():
        raise StoreError(f"store {location}: there is no such folder; run a sweep into it first, or give --store")
    return store


def with_log(command: click.Command) -> click.Command:
    """A command with ``--log-level`` and ``--log-file``, which take effect before it begins."""
    run = command.callback
    assert run is not None

    @functools.wraps(run)
    def logged(*arguments: Any, log_level: str | None, log_file: str | None, **options: Any) -> Any:
        configure(log_level, log_file)
        return run(*arguments, **options)

    command.callback = logged
    command.params += [
        click.Option(["--log-level"], type=click.Choice(LEVELS), envvar="FLATDIST_LOG_LEVEL",
                     help="Log what this process and its workers do; silent by default."),
        click.Option(["--log-file"], metavar="FILE", envvar="FLATDIST_LOG_FILE", help="Log to FILE, and each worker "
                     "to FILE.HOST-PID beside it; by default to standard error."),
    ]  # fmt: skip
    return command
