"""Arguments and options that several commands share, and what they mean."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flatdist.errors import StoreError, SweepError
from flatdist.machine.logs import LEVELS, configure

if TYPE_CHECKING:
    from flatdist.store import Store
    from flatdist.sweepfile import Changes
    from flatdist.sweeps import Sweep

Decorator = Callable[[Any], Any]

PLUGINS = "flatdist.plugins"  # in the context's meta: the files given by --plugin
FILE = click.Path(path_type=Path)


def together(*options: Decorator) -> Decorator:
    """Several arguments and options as one, in the order in which the help lists them."""
    return lambda command: functools.reduce(lambda made, option: option(made), reversed(options), command)


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


store_option = click.option(
    "--store", default="results", envvar="FLATDIST_STORE", show_default=True, help="Folder or URI of the results."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
plugin_option = click.option(
    "--plugin", "plugins", multiple=True, metavar="FILE.py", is_eager=True, expose_value=False, callback=_load_plugins,
    help="Python file of your own methods and ensembles; every worker executes it.",
)  # fmt: skip
sweep_options = together(plugin_option, click.argument("sweep", metavar="SWEEP"), store_option)
sweeps_options = together(
    plugin_option, click.argument("sweeps", metavar="SWEEP...", nargs=-1, required=True), store_option
)
selection_options = together(
    click.option("--set", "words", multiple=True, metavar="FIELD=VALUE", help="One value for a field, everywhere."),
    click.option("--where", "conditions", multiple=True, help="Only cells for which this holds, such as 'n > dof'."),
    click.option("--limit", type=click.IntRange(min=1), help="Only the first N cells."),
)


def with_log(command: click.Command) -> click.Command:
    """A command with ``--log-level`` and ``--log-file``, which take effect before it begins."""
    run = command.callback
    assert run is not None

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


def read_changes(words: Sequence[str], conditions: Sequence[str]) -> Changes:
    """What ``--set`` and ``--where`` ask for."""
    from flatdist.sweepfile import Changes
    from flatdist.sweepfile.words import read_words

    return Changes(read_words(words), tuple(conditions))


def load_sweeps(names: Sequence[str], store: str, changes: Changes | None = None) -> tuple[list[Sweep], Store]:
    """Sweeps by file or by name in the store, and the store; all problems of all files are reported."""
    from flatdist.sweeps import open_sweep

    opened = open_store(store, must_exist=False)
    sweeps: list[Sweep] = []
    problems: list[str] = []
    for name in names:
        try:
            sweeps.append(open_sweep(name, opened, changes))
        except SweepError as error:
            problems.append(str(error))
    if problems:
        raise SweepError("\n".join(problems))
    for sweep in sweeps:
        twins = {other.source: name for name, other in zip(names, sweeps, strict=True) if other.name == sweep.name}
        if len(twins) > 1:
            files = " and ".join(twins.values())
            raise SweepError(f"{files} are both named {sweep.name!r}; give each sweep a name of its own")
    return sweeps, opened


def load_sweep(
    name: str, store: str, changes: Changes | None = None, *, must_exist: bool = True
) -> tuple[Sweep, Store]:
    """A sweep by file or by name, and the store of its results.

    Raises:
        SweepError: the file cannot be used, or neither a file nor a sweep has this name.
        StoreError: the store is required, but no local folder has that name.
    """
    (sweep,), opened = load_sweeps([name], store, changes)
    open_store(store, must_exist=must_exist)
    return sweep, opened


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
