"""From sweep files to sweeps: read, checked, everything wrong reported at once."""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flatdist.cells.plugins import load_plugin, loaded_plugins
from flatdist.errors import LaunchError, StoreError, SweepError
from flatdist.sweepfile.blocks import Changes, Declaration, read_declaration
from flatdist.sweepfile.choices import DOMAINS_IN_WORDS
from flatdist.sweepfile.declaration import FIRST_SUCCESS, SearchKeys
from flatdist.sweepfile.expand import Expansion, check_size, expand
from flatdist.sweepfile.problems import Problems
from flatdist.sweepfile.yamltree import Node, parse_tree, read_text
from flatdist.sweeps.grouping import maker_of, plain_groups
from flatdist.sweeps.groups import Groups
from flatdist.sweeps.metric import Metric, parse_metric
from flatdist.sweeps.search import Search
from flatdist.sweeps.sweep import Sweep

if TYPE_CHECKING:
    from flatdist.store import Store


def load_sweep(path: str | os.PathLike[str], *, changes: Changes | None = None) -> Sweep:
    """Read a sweep file and resolve its cells.

    Args:
        path: the YAML file.
        changes: fields set and conditions added on the command line.

    Raises:
        SweepError: lists every problem, one per line: file, line, key, value, what is allowed.

    Example:
        >>> from pathlib import Path
        >>> from flatdist import load_sweep
        >>> _ = Path("two.yaml").write_text("{fixed: {d_out: 6, d_in: 6, rank: 1}, axes: {n: [dof, 2*dof]}}")
        >>> [cell.n for cell in load_sweep("two.yaml").cells]
        [11, 22]
    """
    path = Path(path)
    return parse_sweep(read_text(path), path=path, changes=changes)


def parse_sweep(
    source: str, *, path: Path | None = None, name: str = "sweep", changes: Changes | None = None, lines: bool = True
) -> Sweep:
    """Read a sweep from the text of a sweep file; see :func:`load_sweep`.

    Args:
        source: the text.
        path: where it was read from, or None.
        name: its name in messages if there is no path, and its name if it gives none.
        changes: fields set and conditions added on the command line.
        lines: name lines in messages; the text of a sweep given as a dict has none that its author knows.

    Example:
        >>> sweep = parse_sweep("{fixed: {d_out: 6, d_in: 6, rank: 1}, axes: {n: [dof, 2*dof]}}")
        >>> [cell.n for cell in sweep.cells]
        [11, 22]
    """
    where = str(path) if path is not None else name
    problems = Problems(where, lines=lines)
    tree: Node = parse_tree(source, where)
    if isinstance(tree.value, dict) and "plugin" in tree.value:
        _load_plugin(tree.value["plugin"], path, problems)
    stem, changes = path.stem if path is not None else name, changes or Changes()
    declaration = read_declaration(tree, stem, changes, problems)
    common: dict[str, Any] = {
        "name": declaration.name,
        "description": declaration.description,
        "replicates": declaration.replicates,
        "source": source,
        "path": path,
        "whole": functools.partial(parse_sweep, source, path=path, name=name),
        "changes": dict(changes.fixed),
    }
    if isinstance(tree.value, dict) and "search" in tree.value:
        return _read_search(tree.value["search"], declaration, common, problems)
    check_size(declaration.blocks, problems)
    expansion = Expansion(replicates=declaration.replicates, until=declaration.until)
    for block in declaration.blocks:
        expand(block, expansion, problems, maker_of)
    _check_until(tree, declaration, expansion, problems)
    problems.raise_any()
    if not expansion.cells and not expansion.groups:
        key, line = "where", tree.keys.get("where", tree.line)
        if changes.conditions:  # it was the command line's, if the file alone has cells
            parse_sweep(source, path=path, name=name, changes=Changes(changes.fixed))
            key, line = f"--where {' and '.join(changes.conditions)!r}", 0
        problems.add(key, line, f"leaves out all {expansion.left_out:,} cells: the sweep is empty", "at least one cell")
        problems.raise_any()
    common |= {"cells": tuple(expansion.cells.values()), "left_out": expansion.left_out}
    common["repeated"] = expansion.repeated
    if expansion.until is not None or expansion.groups:
        return Groups(**common, groups=(*plain_groups(expansion), *expansion.groups.values()))
    return Sweep(**common | {"name": changed_name(declaration.name, changes.fixed)})


def changed_name(name: str, fixed: Mapping[str, Any]) -> str:
    """The name of a sweep with fields changed by ``--set``, whose cells differ from those of its own name.

    >>> changed_name("quickstart", {"steps": 200, "width": [16, 16]})
    'quickstart+steps-200+width-16-16'
    """
    words = [re.sub(r"[^\w.]+", "-", f"{field}-{value}").strip("-") for field, value in fixed.items()]
    return "+".join([name, *words])[:128]


def _load_plugin(node: Node, path: Path | None, problems: Problems) -> None:
    """Run the plugin that a sweep file names, from the same folder; a sweep read from a store's record runs none."""
    allowed = "the name of a Python file in the folder of the sweep file, such as my_method.py"
    name, reason = node.value, ""
    if not isinstance(name, str) or Path(name).name != name or not name.endswith(".py"):
        reason = "expected a file's name"
    elif path is not None:
        try:
            load_plugin(path.parent / name)
        except LaunchError as error:
            reason = str(error)
    elif not any(plugin.name == name for plugin in loaded_plugins()):
        reason = "is not loaded from a store's record"
        allowed = f"--plugin {name}, or the sweep's file in place of its name"
    if reason:
        problems.add("plugin", node.line, reason, allowed, node.plain)
        problems.raise_any()


def _check_until(tree: Node, declaration: Declaration, expansion: Expansion, problems: Problems) -> None:
    """Reject ``until_ci`` where its interval would not be valid."""
    if declaration.until is None:
        return
    key, line = "replicates", tree.value["replicates"].line
    if any(cell.nested for cell in expansion.cells.values()):
        allowed = "a number, or n: {first_success: {...}}, which bisects each replicate's own threshold"
        problems.add(key, line, "until_ci takes trials to be independent, which nested problems are not", allowed)
    if any(block.chosen is not None and block.chosen.value.form == FIRST_SUCCESS for block in declaration.blocks):
        problems.add(key, line, "until_ci does not apply to first_success", "one number for the whole file")


def open_sweep(
    sweep: str | os.PathLike[str] | Mapping[str, Any] | Sweep,
    store: Store | None = None,
    changes: Changes | None = None,
) -> Sweep:
    """A sweep given in any form, with the runs that a store has recorded for it if it chooses them itself.

    Args:
        sweep: a loaded sweep, the path of a file, a file's content as a dict, or the name of a sweep recorded in the
            store.
        store: where to look for names and recorded runs; None for neither.
        changes: fields set and conditions added on the command line.

    Raises:
        SweepError: it cannot be used, or neither a file nor a sweep has this name.
    """
    if isinstance(sweep, Sweep):
        loaded = sweep
    elif isinstance(sweep, Mapping):
        text = json.dumps(sweep, default=_plain, indent=1)  # JSON is valid YAML
        loaded = parse_sweep(text, changes=changes, lines=False)
    elif names_a_file(sweep):
        loaded = load_sweep(sweep, changes=changes)
    else:
        try:
            if store is None:
                raise StoreError("no store was given to look for the name in")
            record = store.sweeps.load(os.fspath(sweep))
        except StoreError as error:
            raise SweepError(f"{os.fspath(sweep)!r} is not a file, and {error}") from error
        given = changes or Changes()
        merged = Changes({**record.changes, **given.fixed}, given.conditions)
        loaded = parse_sweep(record.source, name=record.name, changes=merged)
        if record.changes:
            loaded = replace(loaded, name=changed_name(record.name, given.fixed))
    return loaded.recorded(store) if store is not None else loaded


def names_a_file(sweep: str | os.PathLike[str]) -> bool:
    """Whether a sweep is given as a file rather than as a name."""
    name = os.fspath(sweep)
    return not isinstance(sweep, str) or name.endswith((".yaml", ".yml")) or "/" in name or Path(name).is_file()


def _plain(value: Any) -> Any:
    """Convert values that JSON does not know in a sweep given as a dict: ranges, and numpy numbers and arrays."""
    return list(value) if isinstance(value, range) else value.tolist() if hasattr(value, "tolist") else str(value)


def _read_search(node: Node, declaration: Declaration, common: Mapping[str, Any], problems: Problems) -> Search:
    """The search of a file; the declaration has checked its keys one by one, this checks what must fit together."""
    keys, block, refused = declaration.search, declaration.blocks[0], "cannot be combined with search"
    for axis in block.axes:
        allowed = "fixed beside a search; a list of values is {choice: [...]} under search.fields"
        problems.add(axis.key, axis.line, refused, allowed)
    if block.chosen is not None:
        problems.add(block.chosen.key, block.chosen.line, refused, "one n for all cells")
    if len(declaration.blocks) > 1:
        problems.add("blocks", declaration.blocks[1].line, refused, "one file for each search")
    if declaration.until is not None:
        problems.add("replicates", node.line, "until_ci does not apply to a search", "one number")
    fields = node.value.get("fields") if isinstance(node.value, dict) else None
    lines = fields.keys if fields is not None and isinstance(fields.value, dict) else {}
    for name in lines:  # --set takes a field out of the search
        if name in block.fixed and not block.fixed[name].key.startswith("--set"):
            problems.add(
                f"search.fields.{name}", lines[name], "is fixed too", "each field once: fixed or search.fields"
            )
    if keys is None or fields is None:
        problems.raise_any()
        raise AssertionError("the declaration has said why")
    domains = [
        replace(domain, line=lines[name])
        for name in lines
        if name not in block.fixed and (domain := getattr(keys.fields, name)) is not None
    ]
    if not lines:
        allowed = f"cell fields, each with {DOMAINS_IN_WORDS}"
        problems.add("search.fields", fields.line, "names no field to search", allowed)
    elif not domains and all(name in block.fixed for name in lines):
        problems.add("search.fields", fields.line, "has no field left to search", "at least one that is not --set")
    metric = _read_metric(keys, node, problems)
    search = Search(
        **common, cells=(), left_out=0, block=block, domains=tuple(domains), searcher=keys.searcher,
        metric=metric, mode=keys.mode, budget=keys.budget, round_size=keys.round or min(keys.budget, 8), seed=keys.seed,
        early_stopping=keys.early_stopping, scheduler=keys.scheduler,
    )  # fmt: skip
    if not problems.found and not block.unusable:
        _check_corners(search, problems)
    problems.raise_any()
    return search


def _read_metric(keys: SearchKeys, node: Node, problems: Problems) -> Metric:
    """What a search looks for, known early enough for its early stopping or scheduler."""
    try:
        metric = parse_metric(keys.metric)
    except SweepError as error:
        problems.add("search.metric", node.value["metric"].line, str(error))
        problems.raise_any()
        raise
    reported = "relative_error, train_loss, population_loss, nuclear_norm, hessian_trace, steps_to=ERROR"
    if keys.early_stopping is not None and metric.rung_column is None:
        reason = f"needs a metric that the history has; {metric.text} is not"
        problems.add("search.early_stopping", node.value["early_stopping"].line, reason, reported)
    if keys.scheduler is not None:
        note = functools.partial(problems.add, "search.scheduler", node.value["scheduler"].line)
        if keys.early_stopping is not None:
            instead = "early_stopping compares the cells of a round, a scheduler decides as trials report"
            note("cannot be combined with early_stopping", f"one of the two: {instead}")
        if metric.reported is None:
            note(f"{metric.text} is not reported before a training ends", reported)
        if keys.scheduler.name == "bohb" and keys.searcher.name != "bohb":
            note("bohb needs the searcher bohb", "searcher: bohb, or another scheduler")
    return metric


def _check_corners(search: Search, problems: Problems) -> None:
    """Check the ends of every range and all options, each with the first of the others: few suggestions can fail."""
    ends = [{domain.field: domain.corners()[end] for domain in search.domains} for end in (0, -1)]
    each = [ends[0] | {domain.field: option} for domain in search.domains for option in domain.corners()]
    seen: set[tuple[str, str]] = set()
    for point in (*ends, *each):
        found = Problems(problems.name)
        search.expand(point, Expansion(), found)
        for problem in found.found:
            if (problem.key, problem.reason) not in seen:
                seen.add((problem.key, problem.reason))
                problems.found.append(problem)
