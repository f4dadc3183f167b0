"""What was asked: the sweep, word for word, and how much of it is done."""

from __future__ import annotations

from flatdist.figures.style import method_label
from flatdist.report.material import Material, wanted_replicates
from flatdist.report.section import Section
from flatdist.report.words import counted


def build(material: Material) -> Section:
    """The section."""
    sweep = material.sweep
    wanted = sum(len(wanted_replicates(sweep, cell.cell_id)) for cell in sweep.cells)
    done = sum(
        row >= 0 and replicate in wanted_replicates(sweep, sweep.cells[row].cell_id)
        for row, replicate in zip(material.cell_of_trials(), material.trials["replicate"], strict=True)
    )
    methods = list(dict.fromkeys(method_label(cell.method) for cell in sweep.cells))
    facts = {
        "cells": f"{len(sweep.cells):,}"
        + (f" ({counted(len(sweep.stopped), 'cell')} stopped early)" if sweep.stopped else ""),
        "replicates of each": f"{sweep.replicates:,}" if not sweep.asks_replicates else "chosen as results come in",
        "trials done": f"{done:,} of {wanted:,}",
        "methods": ", ".join(methods) or "none yet",
        "fields that vary": ", ".join(material.varying) or "none",
        "store": material.request.store,
    }
    if sweep.left_out:
        facts["left out"] = f"{counted(sweep.left_out, 'candidate')}, by the sweep's conditions"
    message = ""
    if done == 0:
        message = (
            f"Nothing is done yet: `flatdist sweep {material.request.sweep} --store {material.request.store}` runs it."
        )
    elif done < wanted:
        message = f"{counted(wanted - done, 'replicate')} of {wanted:,} have no result yet; all below is of those done."
    return Section("question", "What was asked", {"facts": facts, "source": sweep.source}, message=message)
