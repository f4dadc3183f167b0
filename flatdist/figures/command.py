"""From words to files: load sweeps' trials, draw a figure or run a script, save files with their origin."""

from __future__ import annotations

import argparse
import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

import flatdist
from flatdist.errors import FitError, FlatdistError, did_you_mean
from flatdist.figures.style import FORMATS, save_figure
from flatdist.figures.tracing import file_stem, origin, remake_command
from flatdist.figures.words import shown, text_lines
from flatdist.fits.success import missing_lines, resolve_tolerance, success_words
from flatdist.machine.files import atomic
from flatdist.results import asked_for
from flatdist.sweeps import load_sweep
from flatdist.threshold.curves import CHOICES

FIGURES: Mapping[str, tuple[str, str]] = {
    "phase_diagram": ("phase_diagram", "success over (n, rank), (n, size) or normalised axes, with the predictions"),
    "sample_complexity": ("sample_complexity", "success against n with the fitted curve, n50 and the predictions"),
    "scaling": ("scaling", "n50 against each law with verdicts, and the collapse of the transitions"),
    "ratios": ("ratios", "n50 over a prediction or over another method's n50, shape by shape"),
    "dependence": ("dependence", "n50 as a function of one numeric field of the cells (--x)"),
    "tolerance": ("dependence", "n50 as a function of the tolerance that defines success"),
    "paired": ("paired", "methods on the same problems: paired differences of success"),
    "first_success": ("ratios", "first successful n on nested problems, beside the conic prediction"),
    "training_curves": ("training_curves", "losses, nuclear norm and flatness along the training of one problem"),
    "heatmap": ("fields", "any statistic over any two fields (--x --y --value)"),
    "lines": ("fields", "any statistic over one field, a line for each value of others (--x --value --color)"),
    "scatter": ("fields", "one column against another, a point for each replicate (--x --y --color)"),
    "risk": ("risk", "relative error against n where recovery is not exact, with predicted curves"),
    "risk_steps": ("risk", "relative error against the number of steps, where labels are noisy"),
    "theorems": ("theorems", "every statement of the paper against its measurements, with verdicts"),
    "flow_limit": ("extrapolation", "label-noise SGD against the flow it follows at small learning rates"),
    "flatness_gap": ("extrapolation", "how far above the flattest trace annealed label-noise SGD ends"),
}
"""Name of a figure -> its module and one line. The module's ``make_NAME``, or ``make``, is what the command runs."""


@dataclass(frozen=True)
class Context:
    """Where a figure's rows come from.

    Attributes:
        sweeps: names or files.
        store: folder or URI of the results.
        where: filter, as text; None for all.
    """

    sweeps: Sequence[str]
    store: str
    where: str | None = None

    def history(self, columns: Sequence[str]) -> pd.DataFrame:
        """The sweeps' training histories."""
        return pd.concat([flatdist.load_history(self.store, sweep, columns=list(columns)) for sweep in self.sweeps])

    @property
    def title(self) -> str:
        """The names under which the store records the sweeps, for files and headings."""
        files = (".yaml", ".yml")
        return " ".join(load_sweep(Path(name)).name if name.endswith(files) else name for name in self.sweeps)


@dataclass(frozen=True)
class Drawn:
    """What a figure's ``make`` returns.

    Attributes:
        figures: name of the files -> figure.
        tables: title -> text table to print.
        settings: of fits and drawing, recorded in the files beside the options.
        remarks: sentences on the data.
        files: name -> table to write as CSV.
        violated: whether some statement is violated.
    """

    figures: Mapping[str, Figure]
    tables: Mapping[str, pd.DataFrame]
    settings: Mapping[str, Any]
    remarks: Sequence[str] = ()
    files: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    violated: bool = False


@dataclass(frozen=True)
class Made:
    """The outcome of a figure command: tables and remarks to print, and the paths written."""

    tables: Mapping[str, pd.DataFrame]
    remarks: Sequence[str]
    paths: Sequence[Path]
    violated: bool

    def lines(self) -> list[str]:
        """Everything as lines of text."""
        titled = len(self.tables) > 1
        blocks = [[*([f"{title}:"] * titled), *text_lines(table)] for title, table in self.tables.items()]
        blocks += [list(self.remarks), [f"wrote {path}" for path in self.paths]]
        return "\n\n".join("\n".join(block) for block in blocks if block).splitlines()


class Script:
    """One run of a script, or of a figure command.

    Attributes:
        options: of the command line.
        trials: rows of the sweeps.
        lines: printed if the script succeeds.
    """

    def __init__(
        self,
        context: Context,
        out: str | Path | None,
        command: Sequence[str],
        options: Any = None,
        formats: Sequence[str] = FORMATS,
    ) -> None:
        self.options = options
        self.trials = load(context)
        self.lines = missing_lines(self.trials)
        self._context, self._command, self._formats = context, command, formats
        self.out = Path("figures") / context.title.replace(" ", "+") if out is None else Path(out)

    def history(self, columns: Sequence[str]) -> pd.DataFrame:
        """The sweeps' training histories."""
        return self._context.history(columns)

    def show(self, table: pd.DataFrame) -> None:
        """Print a table, and the definition of success if it holds thresholds."""
        if any(str(name).startswith("n50") for name in table) and "tolerance" not in table:
            self.lines.append(success_words(resolve_tolerance(self.trials, self.options.tolerance)))
        self.lines += [*text_lines(shown(table)), ""]

    def save(self, figure: Figure, name: str, **settings: Any) -> list[Path]:
        """Write a figure in every format, with its origin in the files."""
        store, where = self._context.store, self._context.where
        about = origin(self._context.title, self.trials, settings, store=store, where=where, command=self._command)
        return self._wrote(save_figure(figure, self.out, name, about, self._formats))

    def save_table(self, table: pd.DataFrame, name: str) -> list[Path]:
        """Write a table as CSV."""
        path = self.out / f"{file_stem(name, self._context.where)}.csv"
        with atomic(path) as temporary:
            table.to_csv(temporary, index=False, float_format="%.6g")
        return self._wrote([path])

    def _wrote(self, paths: list[Path]) -> list[Path]:
        self.lines += [f"wrote {path}" for path in paths]
        return paths


def make_figure(
    name: str,
    sweeps: str | Sequence[str],
    *,
    store: str = "results",
    out: str | Path | None = None,
    where: str | None = None,
    formats: Sequence[str] = FORMATS,
    size: tuple[float, float] | None = None,
    **options: Any,
) -> Made:
    """Make a figure of a sweep and write its files; what ``flatdist figure NAME SWEEP`` does.

    Args:
        name: of the figure, one of :data:`FIGURES`.
        sweeps: one or several, by name or file; several are read as one.
        store: folder or URI of the results.
        out: folder for the files; by default ``figures/SWEEP``.
        where: filter, such as ``"rank == 2 and n > 1.5*dof"``.
        formats: of png, svg and pdf.
        size: width and height in inches; by default chosen for the panels.
        options: of the figure.

    Raises:
        FitError: the figure or option does not exist, or there are no trials.
        StoreError, SweepError: the store or a sweep cannot be read.
    """
    name = name.replace("-", "_")
    options = {key: value for key, value in options.items() if value is not None}
    allowed = options_of(name)
    for option in options:
        if option not in allowed:
            known = ", ".join(f"--{word}" for word in allowed) or "no option of its own"
            raise FitError(f"figure {name} does not take --{option}; it takes {known}")
    context = Context([sweeps] if isinstance(sweeps, str) else list(sweeps), str(store), where)
    run = Script(context, out, remake_command(name, context.sweeps, context.store, where, options), formats=formats)
    remarks = [*run.lines]
    drawn = draw(name, run.trials, context, **options)
    paths: list[Path] = []
    for stem, figure in drawn.figures.items():
        if size is not None:
            figure.set_size_inches(*size)
        paths += run.save(figure, stem, **drawn.settings)
    for stem, table in drawn.files.items():
        paths += run.save_table(table, stem)
    remarks += [success_words(drawn.settings["tolerance"])] if drawn.settings.get("tolerance") else []
    return Made(drawn.tables, [*remarks, *drawn.remarks], paths, drawn.violated)


def draw(name: str, trials: pd.DataFrame, context: Context, **options: Any) -> Drawn:
    """Draw a figure, with the tolerance of success resolved; the settings include the options it was drawn with."""
    maker = _maker_of(name)
    own = [option for option in inspect.signature(maker).parameters.values() if option.kind is not option.VAR_KEYWORD]
    settings = {option.name: options.get(option.name, option.default) for option in own[2:]}
    if "tolerance" in settings:
        settings["tolerance"] = options["tolerance"] = resolve_tolerance(trials, options.get("tolerance"))
    drawn = maker(trials, context, **options)
    return replace(drawn, settings={**settings, **drawn.settings})


def options_of(name: str) -> list[str]:
    """The options of a figure beyond the common ones: its maker's, or its function's if the maker takes ``**``.

    Raises:
        FitError: no figure has this name.
    """
    maker = _maker_of(name)
    names = list(inspect.signature(maker).parameters)[2:]
    if names == ["options"]:
        function = getattr(import_module(maker.__module__), name)
        names = [option for option in list(inspect.signature(function).parameters)[1:] if option not in ("table", "ax")]
    return names


def _maker_of(name: str) -> Callable[..., Drawn]:
    if name not in FIGURES:
        raise FitError(f"no figure is named {name!r}{did_you_mean(name, FIGURES)}; allowed: {', '.join(FIGURES)}")
    module = import_module(f"flatdist.figures.{FIGURES[name][0]}")
    maker: Callable[..., Drawn] = getattr(module, f"make_{name}", None) or module.make
    return maker


def load(context: Context) -> pd.DataFrame:
    """The trials of the sweeps, each once.

    Raises:
        FitError: there are none.
        StoreError, SweepError: the store or a sweep cannot be read.
    """
    sweeps, store, where = context.sweeps, context.store, context.where
    parts = [flatdist.load_trials(store, sweep=sweep, where=where) for sweep in sweeps]
    if not any(map(len, parts)):
        subject = f"sweep {sweeps[0]!r} has" if len(sweeps) == 1 else f"sweeps {', '.join(sweeps)} have"
        words = f"{' '.join(sweeps)} --store {store}`"
        advice = (
            f" with --where {where!r}; `flatdist cells {words} lists what there is"
            if where
            else f"; run it first with `flatdist sweep {words}, or give another --store"
        )
        raise FitError(f"{subject} no trials in store {store!r}{advice}")
    if len(parts) == 1:
        return parts[0]
    trials = pd.concat([part.astype(object) for part in parts if len(part)]).drop_duplicates(["cell_id", "replicate"])
    trials = trials.infer_objects().reset_index(drop=True)
    trials.attrs |= asked_for(store, sweeps, where)
    return trials


def run_script(main: Callable[[Script], int | None], description: str | None, **options: Any) -> int:
    """Parse the command line, load the trials, run ``main``, and print what it says.

    Args:
        main: from the script's run to its exit status, None for 0.
        description: the script's docstring.
        options: further options and their defaults; a type declares an option without a default.

    Returns:
        Exit status: what ``main`` returns, or 2 for bad input, with one message.
    """
    name = Path(sys.argv[0]).stem
    parser = argparse.ArgumentParser(prog=f"python -m analysis.{name}", description=(description or "").split("\n")[0])
    parser.add_argument("sweeps", metavar="SWEEP", nargs="+", help="name of a sweep in the store, or its YAML file")
    parser.add_argument("--store", default="results", help="folder or URI of the results (default: results)")
    parser.add_argument("--out", type=Path, help="folder for the files (default: figures/SWEEP)")
    parser.add_argument("--where", metavar="TEXT", help='only trials for which this holds, such as "rank == 2"')
    parser.add_argument("--tolerance", type=float, help="success is a relative error below this (default: by method)")
    parser.add_argument("--link", choices=CHOICES, default="auto", help="success curve on log n (default: auto)")
    for option, default in options.items():
        kind, value = (default, None) if isinstance(default, type) else (type(default), default)
        parser.add_argument(f"--{option}", type=kind, default=value, help=f"default: {value}")
    chosen = parser.parse_args()
    given = {option: getattr(chosen, option) for option in ("tolerance", *options)}
    _, _, _, *words = remake_command(name, chosen.sweeps, chosen.store, chosen.where, given)
    context = Context(chosen.sweeps, chosen.store, chosen.where)
    try:
        script = Script(context, chosen.out, ["python", "-m", f"analysis.{name}", *words], chosen)
        status = main(script)
    except (FlatdistError, OSError) as error:
        where = "" if isinstance(error, FlatdistError) else f"{error.filename or chosen.out}: "
        print(f"error: {where}{getattr(error, 'strerror', None) or error}", file=sys.stderr)
        return 2
    print_lines(script.lines)
    return status or 0


def print_lines(lines: Sequence[str]) -> None:
    """Print to a reader that may leave early, as ``head`` does."""
    try:
        print("\n".join(lines))
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes standard output once more as it exits; that must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def folders(description: str | None, default: str) -> tuple[Path, Path]:
    """The command line of a script that draws from committed CSVs: the folder with them, and the one to write to."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path(default))
    parser.add_argument("--out", type=Path, help="folder of the figures; by default that of the CSVs")
    options = parser.parse_args()
    return options.folder, options.out or options.folder
