"""The pages of the reference, made from the declarations that the code itself goes by."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from inspect import cleandoc, getdoc
from pathlib import Path
from typing import Any

import click
from api import TOPICS, page
from prose import code, escape, plain_text, table

from flatdist import theory
from flatdist.cells import columns
from flatdist.cells.cell import FIELDS, PROBLEM_FIELDS
from flatdist.cli import cli
from flatdist.expressions import ARITHMETIC, COMPARISONS, DERIVED, FUNCTIONS
from flatdist.methods import METHODS
from flatdist.sensing.ensembles import ENSEMBLES
from flatdist.sweepfile.choices import DOMAINS, SEARCHERS
from flatdist.sweepfile.declaration import FORMS, Boundary, FirstSuccess, SearchKeys, SweepKeys, Until

ROOT = Path(__file__).resolve().parents[2]
CHOSEN = {"boundary": Boundary.names(), "first_success": FirstSuccess.names()}


def cell_fields() -> str:
    """Every field of a cell, and the methods that it matters to."""
    rows = []
    for name, field in FIELDS.items():
        kind = field.metadata["kind"]
        required = field.default is dataclasses.MISSING
        value = None if required else field.default
        default = getattr(kind, "word", "") if value is None else json.dumps(value).strip('"')
        users = [method.name for method in METHODS.values() if name in method.fields]
        used = "all: it is part of the problem" if name in (*PROBLEM_FIELDS, "method") else code(users)
        rows.append(
            (
                f"`{name}`",
                escape(field.metadata["help"]),
                escape(kind.allowed),
                "required" if required else code([default] if default else []),
                used,
            )
        )
    return (
        "# Fields of a cell\n\nA cell is one configuration: everything but the seed. A field that does not matter to "
        "the cell's method is no part of its identity, and null in the tables.\n\n"
        + table(("field", "meaning", "allowed", "default", "matters to"), rows)
    )


def tables() -> str:
    """Every column of every table."""
    groups = {
        "trials: identity": [
            column for column in columns.TRIALS if column.name in ("cell_id", "replicate", "configuration_id")
        ],
        "trials: the cell": columns.CELL,
        "trials: results": columns.RESULTS,
        "trials: costs and provenance": (*columns.COSTS, *columns.PROVENANCE),
        "history": columns.HISTORY,
        "failures": columns.FAILURES,
        "Bookkeeping, in every file": columns.BOOKKEEPING,
    }
    text = (
        "# Columns of the tables\n\nOne row of `trials` is one replicate; `history` has its rows over the steps; "
        "`failures` one row an attempt.\n"
    )
    for heading, group in groups.items():
        rows = [(f"`{c.name}`", f"`{c.type}`", escape(c.unit), escape(c.meaning)) for c in group]
        text += f"\n## {heading}\n\n" + table(("column", "type", "unit", "meaning"), rows)
    return text


def methods() -> str:
    """Every method: what it is, where it comes from, which fields matter."""
    text = "# Methods\n\n" + table(
        ("method", "in figures", "summary"),
        [(f"[`{m.name}`](#{m.name})", escape(m.label), escape(m.summary)) for m in METHODS.values()],
    )
    for method in METHODS.values():
        text += f"\n## {method.name}\n\n{_module_text(f'flatdist.methods.{method.name}')}\n\n"
        text += f"Fields beside the problem's: {code(method.fields) or 'none'}. "
        text += f"Numerics version {method.numerics_version}.\n"
    return text


def ensembles() -> str:
    """Every ensemble of measurements."""
    text = "# Ensembles\n\n" + table(
        ("ensemble", "summary"), [(f"[`{e.name}`](#{e.name})", escape(e.summary)) for e in ENSEMBLES.values()]
    )
    for ensemble in ENSEMBLES.values():
        text += f"\n## {ensemble.name}\n\n{_module_text(f'flatdist.sensing.ensembles.{ensemble.name}')}\n"
    return text


def predictions() -> str:
    """What theory predicts, by the names that figures and sweep files use."""
    text = (
        "# Predictions\n\n`flatdist.theory` has them as objects; figures draw them, and sweep files may use some in "
        "expressions.\n"
    )
    kinds: Mapping[str, Mapping[str, Any]] = {
        "Numbers of measurements": theory.SAMPLE_COMPLEXITIES,
        "Relative errors": theory.RISK_CURVES,
    }
    for heading, group in kinds.items():
        rows = [
            (
                f"`{p.name}`",
                f"`{p.formula}`",
                escape(p.domain),
                escape(p.reference),
                "yes" if p.exact else "up to a constant",
            )
            for p in group.values()
        ]
        text += f"\n## {heading}\n\n" + table(("name", "formula", "domain", "reference", "exact"), rows)
    return text


def commands() -> str:
    """The command line, from its own declarations."""
    top = click.Context(cli, info_name="flatdist")
    text = f"# Commands\n\n{escape(getdoc(cli.callback) or '')}\n"
    for name in cli.list_commands(top):
        command = cli.commands[name]
        context = click.Context(command, parent=top, info_name=name)
        usage = " ".join(command.get_usage(context).removeprefix("Usage:").split())
        options = [option for option in command.get_params(context) if not isinstance(option, click.Argument)]
        records = [record for option in options if (record := option.get_help_record(context))]
        text += f"\n## flatdist {name}\n\n```text\n{usage}\n```\n\n{escape(cleandoc(command.help or ''))}\n\n"
        text += table(("option", "meaning"), [(f"`{spelling}`", escape(meaning)) for spelling, meaning in records])
    return text


def sweep_files() -> str:
    """The words that a sweep file may use."""
    functions = [
        (f"`{name}`", f"{low}" if low == high else f"{low} or more" if high > 2 else f"{low} or {high}")
        for name, (_, low, high) in FUNCTIONS.items()
    ]
    return "\n\n".join(
        (
            "# Words of a sweep file",
            (
                "[How to write one](../sweeps.md) says what each is for, [how to search](../searching.md) "
                "those of `search`, and [how to find a threshold](../boundary.md) those after it."
            ),
            f"## Keys\n\nOf the file: {code(SweepKeys.names())}.\n\nOf `search`: {code(SearchKeys.names())}.\n\n"
            + "\n\n".join(f"Of `{form}`: {code(keys)}." for form, keys in CHOSEN.items())
            + f"\n\nOf `replicates`: {code(Until.names())}.",
            "## Axes\n\n" + table(("form", "arguments"), [(f"`{name}`", escape(form)) for name, form in FORMS.items()]),
            "## Domains of a search\n\n"
            + table(("form", "arguments"), [(f"`{name}`", escape(form)) for name, form in DOMAINS.items()]),
            f"Searchers: {code(SEARCHERS)}.",
            "## Expressions\n\n"
            + table(("name", "value"), [(f"`{name}`", escape(meaning)) for name, meaning in DERIVED.items()]),
            "Every field of a cell is a name too.\n\n" + table(("function", "arguments"), functions),
            f"Operators: {code([*ARITHMETIC, *COMPARISONS])} and `and` `or` `not` `in`.\n",
        )
    )


def analyses() -> str:
    """The figures with their commands."""
    from flatdist.figures.command import FIGURES, options_of

    rows = [
        (f"`flatdist figure {name.replace('_', '-')} SWEEP`", escape(line), code([f"--{o}" for o in options_of(name)]))
        for name, (_, line) in FIGURES.items()
    ]
    return (
        "# Figures\n\nEvery figure is a command, a function of [flatdist.figures](api-figures.md) from a DataFrame to "
        "axes or a figure, and in a clone a script of at most 40 lines, `python analysis/NAME.py SWEEP`. "
        "[The gallery](../gallery.md) shows them.\n\n" + table(("command", "shows", "options of its own"), rows)
    )


def examples() -> str:
    """The sweep files that come with the repository, and the cluster's definition."""
    text = "# Example sweeps\n"
    for path in sorted((ROOT / "sweeps").rglob("*.yaml")):
        file = path.relative_to(ROOT).as_posix()
        text += f"\n## {file}\n\n```yaml\n{path.read_text(encoding='utf-8')}```\n"
    return text + f"\n## cluster.yaml\n\n```yaml\n{(ROOT / 'cluster.yaml').read_text(encoding='utf-8')}```\n"


def _module_text(name: str) -> str:
    return plain_text(getdoc(import_module(name)) or "")


PAGES: Mapping[str, Callable[[], str]] = {
    f"reference/{name.replace('_', '-')}.md": page
    for name, page in {
        "commands": commands,
        "sweep_files": sweep_files,
        "cell_fields": cell_fields,
        "tables": tables,
        "methods": methods,
        "ensembles": ensembles,
        "predictions": predictions,
        "figures": analyses,
        "examples": examples,
        **{f"api_{topic}": partial(page, topic) for topic in TOPICS},
    }.items()
}
"""Page -> how its text is made."""
