"""``flatdist init`` and ``schema``: a starting point for writing a sweep file."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click

from flatdist.cli.options import FILE
from flatdist.errors import SweepError

TEMPLATE = """\
# yaml-language-server: $schema={schema}
# What to run next:
#   flatdist plan {path}      cells, time and memory; starts nothing
#   flatdist sweep {path}     runs what is missing; rerun it to resume
#   flatdist report {path}    figures and a page
name: {name}
description: how many measurements each method needs at ranks 1 and 2
replicates: 8                # of each cell, numbered from 0: the number is the seed

fixed:                       # fields with one value; all others have defaults, which `flatdist train` prints
  d_out: 12
  d_in: 12
  depth: 3
  steps: 10000

axes:                        # fields with several values; the cells are their product
  rank: [1, 2]
  n: [0.8*statdim, 1.0*statdim, 1.2*statdim]     # arithmetic over the other fields: statdim, dof, entries, ...
  method: [label_noise_sgd, min_nuclear_norm]
  # init_scale: {{logspace: [0.1, 1, 5]}}           # or linspace, range, uniform, loguniform

# groups:                    # axes that advance together, defined once
#   shapes: {{d_out: [8, 12], d_in: [8, 16]}}
# zip: [shapes]              # and used here and in any block; take d_out and d_in out of `fixed` then

where: n <= entries          # cells that fail it are left out, and plan says how many

# blocks:                    # further cells; the sweep is the union
#   - fixed: {{method: min_hessian_trace, depth: 2}}
#     axes: {{rank: [1], n: [statdim]}}
"""


@click.command("init")
@click.argument("path", metavar="[FILE]", default="sweep.yaml", type=FILE)
def init_command(path: Path) -> None:
    """Write a commented sweep file to start from, and a schema with which editors check it."""
    name = re.sub(r"[^A-Za-z0-9_-]", "_", path.stem).lstrip("_-") or "sweep"
    schema = path.parent / "flatdist.schema.json"
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(TEMPLATE.format(name=name, path=path, schema=schema.name))
        schema.write_text(schema_text(), encoding="utf-8")
    except FileExistsError:
        raise SweepError(f"{path} exists; give another name: flatdist init FILE") from None
    except OSError as error:
        raise SweepError(f"{path}: cannot be written: {error.strerror or error}") from error
    click.echo(f"wrote {path} and {schema}; next: flatdist plan {path}")


@click.command("schema")
def schema_command() -> None:
    """Print the JSON Schema with which editors complete and check sweep files.

    Name it in the first line of a sweep file: # yaml-language-server: $schema=flatdist.schema.json
    """
    click.echo(schema_text(), nl=False)


def schema_text() -> str:
    """The JSON Schema of a sweep file as text."""
    from flatdist.sweepfile.declaration import json_schema

    return json.dumps(json_schema(), indent=1) + "\n"
