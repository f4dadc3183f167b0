"""The figure command: load a sweep's trials, make the figure, write its files, print its numbers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from flatdist.errors import FitError, did_you_mean
from flatdist.figures.origin import file_stem, origin, remake_command
from flatdist.figures.style import FORMATS, save_figure
from flatdist.figures.words import text_lines
from flatdist.fits.success import missing_lines, success_words
from flatdist.machine.files import atomic

FIGURES: Mapping[str, tuple[str, str]] = {
    "phase_diagram": ("phase_diagram", "success over (n, rank), (n, size) or normalised axes, with the predictions"),
    "sample_complexity": ("sample_complexity", "success against n with the fitted curve, n50 and the predictions"),
    "scaling": ("scaling", "n50 against each law with verdicts, and the collapse of the transitions"),
    "ratios": ("ratios", "n50 over a prediction or over another method's n50, shape by shape"),
    "dependence": ("dependence", "n50 as a function of one numeric field of the cells (--x)"),
    "tolerance": ("tolerance", "n50 as a function of the tolerance that defines success"),
    "paired": ("paired", "methods on the same problems: paired differences of success"),
    "first_success": ("first_success", "first successful n on nested problems, beside the conic prediction"),
    "training_curves": ("training_curves", "losses, nuclear norm and flatness along the training of one problem"),
    "heatmap": ("fields", "any statistic over any two fields (--x --y --value)"),
    "lines": ("fields", "any statistic over one field, a line for each value of others (--x --value --color)"),
    "scatter": ("fields", "one column against another, a point for each replicate (--x --y --color)"),
    "risk": ("risk", "relative error against n where recovery is not exact, with predicted curves"),
    "risk_steps": ("risk", "relative error against the number of steps, where labels are noisy"),
    "theorems": ("theorems", "every statement of the paper against its measurements, with verdicts"),
    "flow_limit": ("flow_limit", "label-noise SGD against the flow it follows at small learning rates"),
    "flatness_gap": ("flatness_gap", "how far above the flattest trace annealed label-noise SGD ends"),
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
        import flatdist

        return pd.concat([flatdist.load_history(self.store, sweep, columns=list(columns)) for sweep in self.sweeps])

    @property
    def title(self) -> str:
        """The sweeps' own names, for files and headings."""
        return " ".join(sweep_name(sweep) for sweep in self.sweeps)


@dataclass(frozen=True)
class Drawn:
    """What a figure's ``make`` returns.

    Attributes:
        figures: name of the files -> figure.
        tables: title -> text table to print.
        settings: of fits and drawing, recorded in the files.
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
        parts = [
            [*([f"{title}:"] if len(self.tables) > 1 else []), *text_lines(table)]
            for title, table in self.tables.items()
        ]
        blocks = [*parts, list(self.remarks), [f"wrote {path}" for path in self.paths]]
        return "\n\n".join("\n".join(block) for block in blocks if block).splitlines()


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
    maker = maker_of(name)
    options = {key: value for key, value in options.items() if value is not None}
    allowed = options_of(name)
    for option in options:
        if option not in allowed:
            known = ", ".join(f"--{word}" for word in allowed) or "no option of its own"
            raise FitError(f"figure {name} does not take --{option}; it takes {known}")
    context = Context([sweeps] if isinstance(sweeps, str) else list(sweeps), str(store), where)
    trials = load(context)
    drawn: Drawn = maker(trials, context, **options)
    folder = Path("figures") / context.title.replace(" ", "+") if out is None else Path(out)
    words = remake_command(name, context.sweeps, context.store, where, options)
    about = origin(context.title, trials, drawn.settings, store=context.store, where=where, command=words)
    paths: list[Path] = []
    for stem, figure in drawn.figures.items():
        if size is not None:
            figure.set_size_inches(*size)
        paths += save_figure(figure, folder, stem, about, formats)
    for stem, table in drawn.files.items():
        paths.append(folder / f"{file_stem(stem, where)}.csv")
        with atomic(paths[-1]) as temporary:
            table.to_csv(temporary, index=False, float_format="%.6g")
    judged = [success_words(drawn.settings["tolerance"])] if drawn.settings.get("tolerance") else []
    remarks = [*missing_lines(trials), *judged, *drawn.remarks]
    return Made(drawn.tables, remarks, paths, drawn.violated)


def maker_of(name: str) -> Callable[..., Drawn]:
    """The function behind a figure command.

    Raises:
        FitError: no figure has this name.
    """
    if name not in FIGURES:
        raise FitError(f"no figure is named {name!r}{did_you_mean(name, FIGURES)}; allowed: {', '.join(FIGURES)}")
    module = import_module(f"flatdist.figures.{FIGURES[name][0]}")
    maker: Callable[..., Drawn] = getattr(module, f"make_{name}", None) or module.make
    return maker


def options_of(name: str) -> list[str]:
    """The options of a figure beyond the common ones: its maker's, or its function's if the maker takes ``**``."""
    maker = maker_of(name)
    names = list(inspect.signature(maker).parameters)[2:]
    if names == ["options"]:
        function = getattr(import_module(maker.__module__), name)
        names = [option for option in list(inspect.signature(function).parameters)[1:] if option not in ("table", "ax")]
    return names


def load(context: Context) -> pd.DataFrame:
    """The trials of the sweeps, each once.

    Raises:
        FitError: there are none.
        StoreError, SweepError: the store or a sweep cannot be read.
    """
    import flatdist
    from flatdist.results import asked_for

    parts = [flatdist.load_trials(context.store, sweep=sweep, where=context.where) for sweep in context.sweeps]
    if not any(map(len, parts)):
        raise FitError(no_trials(context))
    if len(parts) == 1:
        return parts[0]
    trials = pd.concat([part.astype(object) for part in parts if len(part)]).drop_duplicates(["cell_id", "replicate"])
    trials = trials.infer_objects().reset_index(drop=True)
    trials.attrs |= asked_for(context.store, context.sweeps, context.where)
    return trials


def no_trials(context: Context) -> str:
    """Message for an empty table."""
    sweep, store = " ".join(context.sweeps), context.store
    subject = (
        f"sweep {context.sweeps[0]!r} has" if len(context.sweeps) == 1 else f"sweeps {', '.join(context.sweeps)} have"
    )
    if context.where:
        known = f"`flatdist cells {sweep} --store {store}`"
        return f"{subject} no trials in store {store!r} with --where {context.where!r}; {known} lists what there is"
    run = f"`flatdist sweep {sweep} --store {store}`"
    return f"{subject} no trials in store {store!r}; run it first with {run}, or give another --store"


def sweep_name(sweep: str) -> str:
    """The name under which the store records a sweep, which may be given as a name or as a file.

    Raises:
        SweepError: the file cannot be read.
    """
    if not sweep.endswith((".yaml", ".yml")):
        return sweep
    from flatdist.sweeps import load_sweep

    return load_sweep(Path(sweep)).name
