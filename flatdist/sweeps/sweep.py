"""A sweep: a named set of cells and how many replicates each gets."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flatdist.cells.cell import Cell
from flatdist.cells.plugins import load_plugin, loaded_plugins
from flatdist.errors import LaunchError, StoreError, SweepError
from flatdist.sweepfile.chosen import FIRST_SUCCESS
from flatdist.sweepfile.expand import Expansion, check_size, expand
from flatdist.sweepfile.problems import Problems
from flatdist.sweepfile.schema import Changes, Declaration, read_declaration
from flatdist.sweepfile.yamltree import Node, parse_tree, read_text
from flatdist.sweeps.grouping import maker_of, plain_groups
from flatdist.sweeps.kinds import Grouped, Kind, Listed, Outlook, Rounds, Searched

if TYPE_CHECKING:
    import pandas as pd

    from flatdist.store import Store
    from flatdist.sweeps.adaptive import AdaptiveSweep
    from flatdist.sweeps.search.rounds import Stopped
    from flatdist.sweeps.search.spec import Search


@dataclass(frozen=True)
class Sweep:
    """A sweep, its expressions resolved.

    Attributes:
        name: names it in a store.
        description: one line.
        replicates: replicates of each cell, numbered from 0.
        cells: unique by ``cell_id``, in the order of the file: the last axis varies fastest.
        left_out: candidates that ``where`` excluded.
        source: the file's text.
        path: the file, or None where the sweep came as text.
        repeated: candidates that were the same cell as an earlier one, as where a field does not matter to a method.
        search: how it chooses its cells itself; None where the file lists them. A search's cells are those that a
            store has recorded (:func:`flatdist.sweeps.search.with_recorded_cells`), none straight from the file.
        stopped: cell id -> where the search stopped it early.
        adaptive: its groups, where it chooses n or the number of replicates itself; then too its cells are those that
            a store has recorded (:func:`flatdist.sweeps.adaptive.with_recorded_runs`), beside those that the file
            lists.
        asked: cell id -> numbers of its replicates, where they are not the first ``replicates``.
        changes: field -> value that ``--set`` gives every cell; the name says so where the sweep lists its cells.
    """

    name: str
    description: str
    replicates: int
    cells: tuple[Cell, ...]
    left_out: int
    source: str
    path: Path | None
    repeated: int = 0
    search: Search | None = field(default=None, compare=False)
    stopped: Mapping[str, Stopped] = field(default_factory=dict, compare=False)
    adaptive: AdaptiveSweep | None = field(default=None, compare=False)
    asked: Mapping[str, Collection[int]] = field(default_factory=dict, compare=False)
    changes: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def record(self, store: Store) -> None:
        """Note in a store what the sweep's name means from now on; of a sweep that lists its cells."""
        ids = [cell.cell_id for cell in self.cells]
        store.save_sweep(self.name, self.source, ids, self.replicates, changes=self.changes)

    def replicates_of(self, cell_id: str) -> Collection[int]:
        """The numbers of the replicates that a cell is to have."""
        return self.asked.get(cell_id, range(self.replicates))

    @property
    def asks_replicates(self) -> bool:
        """Whether it asks for replicates of its own choice, so that the store may have others of its cells."""
        return self.adaptive is not None

    def rows(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Keep only the rows this sweep requested: all rows of its cells, where it lists them."""
        if not self.asks_replicates:
            return frame
        keys = zip(frame["cell_id"], frame["replicate"], strict=True)
        own = [row for row, (cell, r) in enumerate(keys) if int(r) in self.replicates_of(str(cell))]
        return frame.iloc[own].reset_index(drop=True)

    @property
    def kind(self) -> Kind:
        """How it comes by its cells and replicates."""
        if self.search is not None:
            return Searched(self.search)
        return Listed() if self.adaptive is None else Grouped(self.adaptive)

    @property
    def chooses(self) -> bool:
        """Whether it chooses cells or replicates itself, round after round."""
        return not isinstance(self.kind, Listed)

    def recorded(self, store: Store) -> Sweep:
        """The sweep with the cells and replicates that a store has recorded for it."""
        return self.kind.recorded(self, store)

    def expected(self, store: Store) -> Sweep:
        """A recorded sweep with stand-ins for what it is expected to ask for."""
        return self.kind.expected(self, store)

    def outlook(self, store: Store) -> Outlook:
        """How far a recorded sweep is with choosing its runs."""
        return self.kind.outlook(self, store)

    def rounds(self, store: Store, limit: int | None = None) -> Rounds | None:
        """Its rounds, to be run one after the other; None for a sweep that lists its cells."""
        if not self.chooses:
            return None
        whole = parse_sweep(self.source, path=self.path, name=self.name)  # without --set and --where
        return self.kind.rounds(self, whole, store, limit)


def load_sweep(path: str | os.PathLike[str], *, changes: Changes | None = None) -> Sweep:
    """Read a sweep file and resolve its cells.

    Args:
        path: the YAML file.
        changes: fields set and conditions added on the command line.

    Raises:
        SweepError: everything that is wrong with it, one line each: file, line, key, value, what is allowed.
    """
    path = Path(path)
    return parse_sweep(read_text(path), path=path, changes=changes)


def parse_sweep(source: str, *, path: Path | None = None, name: str = "sweep", changes: Changes | None = None) -> Sweep:
    """Read a sweep from the text of a sweep file.

    Args:
        source: the text.
        path: where it was read from, or None.
        name: what messages call it where there is no path, and its name where it gives none.
        changes: fields set and conditions added on the command line.

    Raises:
        SweepError: as load_sweep.
    """
    where = str(path) if path is not None else name
    problems = Problems(where)
    tree: Node = parse_tree(source, where)
    if isinstance(tree.value, dict) and "plugin" in tree.value:
        _load_plugin(tree.value["plugin"], path, problems)
    if isinstance(tree.value, dict) and "search" in tree.value:
        return _parse_search(tree, source, path, name, changes or Changes(), problems)
    declaration = read_declaration(tree, path.stem if path is not None else name, changes or Changes(), problems)
    check_size(declaration.blocks, problems)
    expansion = Expansion({}, replicates=declaration.replicates, until=declaration.until)
    for block in declaration.blocks:
        expand(block, expansion, problems, maker_of)
    _check_until(declaration, expansion, problems)
    problems.raise_any()
    if not expansion.cells and not expansion.groups:
        _blame_empty(expansion.left_out, tree, source, path, name, changes or Changes(), problems)
    adaptive, fixed = _adaptive(expansion), dict(changes.fixed) if changes else {}
    return Sweep(
        name=declaration.name if adaptive else changed_name(declaration.name, fixed),
        description=declaration.description,
        replicates=declaration.replicates,
        cells=tuple(expansion.cells.values()),
        left_out=expansion.left_out,
        source=source,
        path=path,
        repeated=expansion.repeated,
        adaptive=adaptive,
        changes=fixed,
    )


def changed_name(name: str, fixed: Mapping[str, Any]) -> str:
    """What a sweep is called whose fields were changed by ``--set``: other cells than its own name stands for.

    >>> changed_name("quickstart", {"steps": 200, "width": [16, 16]})
    'quickstart+steps-200+width-16-16'
    """
    words = [re.sub(r"[^\w.]+", "-", f"{field}-{value}").strip("-") for field, value in fixed.items()]
    return "+".join([name, *words])[:128]


def _load_plugin(node: Node, path: Path | None, problems: Problems) -> None:
    """Run the plugin that a sweep file names, which stands beside it; a sweep from a store's record runs none."""
    allowed = "the name of a Python file in the folder of the sweep file, such as my_method.py"
    name = node.value
    if not isinstance(name, str) or Path(name).name != name or not name.endswith(".py"):
        problems.add("plugin", node.line, "expected a file's name", allowed, node.plain)
        problems.raise_any()
    if path is None:
        if not any(plugin.name == name for plugin in loaded_plugins()):
            problems.add("plugin", node.line, "is not loaded from a store's record", f"--plugin {name}", name)
            problems.raise_any()
        return
    try:
        load_plugin(path.parent / name)
    except LaunchError as error:
        problems.add("plugin", node.line, str(error), allowed, name)
        problems.raise_any()


def _check_until(declaration: Declaration, expansion: Expansion, problems: Problems) -> None:
    """Refuse replicates until an interval where it would not be one."""
    if declaration.until is None:
        return
    key, line = "replicates", declaration.line_of_replicates
    if any(cell.nested for cell in expansion.cells.values()):
        allowed = "a number, or n: {first_success: {...}}, which bisects each replicate's own threshold"
        problems.add(key, line, "until_ci takes trials to be independent, which nested problems are not", allowed)
    if any(block.chosen is not None and block.chosen.form == FIRST_SUCCESS for block in declaration.blocks):
        problems.add(key, line, "of first_success are no number", "one number for the whole file")


def _adaptive(expansion: Expansion) -> AdaptiveSweep | None:
    """The groups of a sweep, where some choose anything."""
    if expansion.until is None and not expansion.groups:
        return None
    from flatdist.sweeps.adaptive import AdaptiveSweep

    return AdaptiveSweep((*plain_groups(expansion), *expansion.groups.values()))


def _blame_empty(
    left_out: int, tree: Node, source: str, path: Path | None, name: str, changes: Changes, problems: Problems
) -> None:
    """Say which condition left nothing: the command line's, where the file by itself has cells."""
    key, line = "where", tree.keys.get("where", tree.line)
    if changes.conditions:
        parse_sweep(source, path=path, name=name, changes=Changes(changes.fixed))
        key, line = f"--where {' and '.join(changes.conditions)!r}", 0
    problems.add(key, line, f"leaves out all {left_out:,} cells: the sweep is empty", "at least one cell")
    problems.raise_any()


def _parse_search(tree: Node, source: str, path: Path | None, name: str, changes: Changes, problems: Problems) -> Sweep:
    """A sweep that chooses its cells itself."""
    from flatdist.sweeps.search.reading import read_search

    declaration = read_declaration(tree, path.stem if path is not None else name, changes, problems)
    if "blocks" in tree.value:
        problems.add("blocks", tree.keys["blocks"], "cannot be combined with search", "one file for each search")
    if declaration.until is not None:
        problems.add("replicates", declaration.line_of_replicates, "of a search are no number", "one number")
    search = read_search(tree.value["search"], declaration.blocks[0], problems)
    problems.raise_any()
    return Sweep(declaration.name, declaration.description, declaration.replicates, (), 0, source, path, 0, search)


def open_sweep(
    sweep: str | os.PathLike[str] | Mapping[str, Any] | Sweep,
    store: Store | None = None,
    changes: Changes | None = None,
) -> Sweep:
    """A sweep however it is given, with the runs that a store has recorded for it where it chooses them itself.

    Args:
        sweep: a loaded sweep, the path of a file, a file's content as a dict, or a name that the store has a record of.
        store: where to look for names and recorded runs; None for neither.
        changes: fields set and conditions added on the command line.

    Raises:
        SweepError: it cannot be used, or there is neither such a file nor such a sweep.
    """
    if isinstance(sweep, Sweep):
        loaded = sweep
    elif isinstance(sweep, Mapping):
        loaded = parse_sweep(json.dumps(sweep, default=_plain, indent=1), changes=changes)  # JSON is YAML
    elif names_a_file(sweep):
        loaded = load_sweep(sweep, changes=changes)
    else:
        try:
            if store is None:
                raise StoreError("no store was given to look for the name in")
            record = store.load_sweep(os.fspath(sweep))
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
    """What JSON does not know in a sweep given as a dict: ranges, and numpy's numbers and arrays."""
    return list(value) if isinstance(value, range) else value.tolist() if hasattr(value, "tolist") else str(value)
