"""From sweep files to sweeps: read, checked, everything wrong reported at once."""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flatdist.cells.cell import FIELDS
from flatdist.cells.fields import Integer, Keyword, canonical_float
from flatdist.cells.plugins import load_plugin, loaded_plugins
from flatdist.errors import LaunchError, StoreError, SweepError, did_you_mean
from flatdist.expressions import ExpressionError, parse
from flatdist.sweepfile.blocks import Block, Changes, Declaration, read_declaration
from flatdist.sweepfile.choices import SCHEDULERS, SEARCHERS, Choice, Entry
from flatdist.sweepfile.declaration import DOMAINS, FIRST_SUCCESS
from flatdist.sweepfile.expand import Expansion, check_size, expand
from flatdist.sweepfile.problems import Problems
from flatdist.sweepfile.values import kind_of, takes_numbers
from flatdist.sweepfile.yamltree import Node, parse_tree, read_text
from flatdist.sweeps.early_stopping import EarlyStopping
from flatdist.sweeps.grouping import maker_of, plain_groups
from flatdist.sweeps.groups import Groups
from flatdist.sweeps.metric import Metric, parse_metric
from flatdist.sweeps.search import Search
from flatdist.sweeps.searchers import Domain, Point
from flatdist.sweeps.sweep import Kind, Sweep

if TYPE_CHECKING:
    from flatdist.store import Store

_FORMS_IN_WORDS = ", ".join(f"{{{form}: {arguments}}}" for form, arguments in DOMAINS.items())


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
    """Read a sweep from the text of a sweep file.

    Args:
        source: the text.
        path: where it was read from, or None.
        name: its name in messages if there is no path, and its name if it gives none.
        changes: fields set and conditions added on the command line.
        lines: name lines in messages; the text of a sweep given as a dict has none that its author knows.

    Raises:
        SweepError: as load_sweep.

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
    made = functools.partial(
        Sweep, declaration.name, declaration.description, declaration.replicates, source=source, path=path,
        whole=functools.partial(parse_sweep, source, path=path, name=name), changes=dict(changes.fixed),
    )  # fmt: skip
    if isinstance(tree.value, dict) and "search" in tree.value:
        search = _read_search(tree.value["search"], declaration, problems)
        problems.raise_any()
        assert search is not None
        return made(cells=(), left_out=0, kind=search)
    check_size(declaration.blocks, problems)
    expansion = Expansion({}, replicates=declaration.replicates, until=declaration.until)
    for block in declaration.blocks:
        expand(block, expansion, problems, maker_of)
    _check_until(tree, declaration, expansion, problems)
    problems.raise_any()
    if not expansion.cells and not expansion.groups:
        _blame_empty(expansion.left_out, tree, source, path, name, changes, problems)
    kind = Kind()
    if expansion.until is not None or expansion.groups:
        kind = Groups((*plain_groups(expansion), *expansion.groups.values()))
    cells = tuple(expansion.cells.values())
    sweep = made(cells=cells, left_out=expansion.left_out, repeated=expansion.repeated, kind=kind)
    return sweep if sweep.kind.chooses else replace(sweep, name=changed_name(sweep.name, changes.fixed))


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
    name = node.value
    if not isinstance(name, str) or Path(name).name != name or not name.endswith(".py"):
        problems.add("plugin", node.line, "expected a file's name", allowed, node.plain)
        problems.raise_any()
    if path is None:
        if not any(plugin.name == name for plugin in loaded_plugins()):
            instead = f"--plugin {name}, or the sweep's file in place of its name"
            problems.add("plugin", node.line, "is not loaded from a store's record", instead, name)
            problems.raise_any()
        return
    try:
        load_plugin(path.parent / name)
    except LaunchError as error:
        problems.add("plugin", node.line, str(error), allowed, name)
        problems.raise_any()


def _check_until(tree: Node, declaration: Declaration, expansion: Expansion, problems: Problems) -> None:
    """Reject ``until_ci`` where its interval would not be valid."""
    if declaration.until is None:
        return
    key, line = "replicates", tree.value["replicates"].line
    if any(cell.nested for cell in expansion.cells.values()):
        allowed = "a number, or n: {first_success: {...}}, which bisects each replicate's own threshold"
        problems.add(key, line, "until_ci takes trials to be independent, which nested problems are not", allowed)
    if any(block.chosen is not None and block.chosen.what.form == FIRST_SUCCESS for block in declaration.blocks):
        problems.add(key, line, "until_ci does not apply to first_success", "one number for the whole file")


def _blame_empty(
    left_out: int, tree: Node, source: str, path: Path | None, name: str, changes: Changes, problems: Problems
) -> None:
    """Report which condition excluded everything: the command line's, if the file alone has cells."""
    key, line = "where", tree.keys.get("where", tree.line)
    if changes.conditions:
        parse_sweep(source, path=path, name=name, changes=Changes(changes.fixed))
        key, line = f"--where {' and '.join(changes.conditions)!r}", 0
    problems.add(key, line, f"leaves out all {left_out:,} cells: the sweep is empty", "at least one cell")
    problems.raise_any()


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


def _read_search(node: Node, declaration: Declaration, problems: Problems) -> Search | None:
    """The search of a file; None if it cannot be run, with the reasons noted."""
    keys, block = declaration.search, declaration.blocks[0]
    for axis in block.axes:
        allowed = "fixed beside a search; a list of values is {choice: [...]} under search.fields"
        problems.add(axis.key, axis.line, "cannot be combined with search", allowed)
    if block.chosen is not None:
        problems.add(block.chosen.key, block.chosen.line, "cannot be combined with search", "one n for all cells")
    if len(declaration.blocks) > 1:
        problems.add("blocks", declaration.blocks[1].line, "cannot be combined with search", "one file for each search")
    if declaration.until is not None:
        problems.add("replicates", node.line, "until_ci does not apply to a search", "one number")
    fields = node.value.get("fields") if isinstance(node.value, dict) else None
    domains = _read_domains(fields, block, problems) if fields is not None else []
    if keys is None:  # reported with the file's other keys
        return None
    stopping = None
    try:
        metric = parse_metric(keys.metric)
    except SweepError as error:
        problems.add("search.metric", node.value["metric"].line, str(error))
        return None
    if keys.early_stopping is not None:
        stopping = EarlyStopping(keys.early_stopping.first, keys.early_stopping.factor)
        if metric.rung_column is None:
            allowed = "relative_error, train_loss, population_loss, nuclear_norm, hessian_trace, steps_to=ERROR"
            reason = f"needs a metric that the history has; {metric.text} is not"
            problems.add("search.early_stopping", node.value["early_stopping"].line, reason, allowed)
    size = keys.round or min(keys.budget, 8)
    searcher = _read_choice("searcher", node.value.get("searcher"), SEARCHERS, problems) or Choice("random")
    scheduler = _read_choice("scheduler", node.value.get("scheduler"), SCHEDULERS, problems)
    if scheduler is not None:
        _check_scheduler(scheduler, searcher, stopping, metric, node.value["scheduler"].line or node.line, problems)
    search = Search(
        block, tuple(domains), searcher, metric, keys.mode, keys.budget, size, keys.seed, declaration.replicates,
        stopping, scheduler,
    )  # fmt: skip
    if not problems.found and not block.unusable:
        _check_corners(search, problems)
    return search


def _read_choice(name: str, node: Node | None, known: Mapping[str, Entry], problems: Problems) -> Choice | None:
    """A searcher or scheduler: its name, or its name and a mapping of its options."""
    if node is None or node.value is None:
        return None
    key = f"search.{name}"
    options: Node | None = None
    chosen, line = node.value, node.line
    if isinstance(chosen, dict) and len(chosen) == 1:
        ((chosen, options),) = chosen.items()
        line = node.keys[chosen]
    usable = tuple(name for name, entry in known.items() if not entry.refusal)
    if not isinstance(chosen, str) or chosen not in known:
        hint = did_you_mean(chosen, usable) if isinstance(chosen, str) else ""
        allowed = f"{', '.join(usable)}, or {{NAME: {{option: value}}}}"
        problems.add(key, line, f"is not known{hint}", allowed, node.plain)
        return None
    entry = known[chosen]
    if entry.refusal:
        problems.add(key, line, f"{chosen} {entry.refusal}", ", ".join(usable))
        return None
    if options is None or options.value is None:
        return Choice(chosen)
    if not isinstance(options.value, dict):
        problems.add(f"{key}.{chosen}", line, "expected a mapping of options", ", ".join(entry.options), options.plain)
        return None
    for option, value in options.value.items():
        if option not in entry.options:
            problems.unknown_key(f"{key}.{chosen}", option, options.keys[option], entry.options)
        elif not entry.options[option].accepts(value.plain):
            allowed = entry.options[option].allowed
            problems.add(f"{key}.{chosen}.{option}", value.line, "cannot be used", allowed, value.plain)
    return Choice(chosen, {option: value.plain for option, value in options.value.items()})


def _check_scheduler(
    scheduler: Choice, searcher: Choice, stopping: EarlyStopping | None, metric: Metric, line: int, problems: Problems
) -> None:
    """Reject a scheduler that has nothing to compare, or that does not fit the searcher or the rounds."""
    key = "search.scheduler"
    if stopping is not None:
        allowed = "one of the two: early_stopping compares the cells of a round, a scheduler decides as trials report"
        problems.add(key, line, "cannot be combined with early_stopping", allowed)
    if metric.reported is None:
        allowed = "relative_error, train_loss, population_loss, nuclear_norm, hessian_trace, steps_to=ERROR"
        problems.add(key, line, f"{metric.text} is not reported before a training ends", allowed)
    if scheduler.name == "bohb" and searcher.name != "bohb":
        problems.add(key, line, "bohb needs the searcher bohb", "searcher: bohb, or another scheduler")


def _read_domains(fields: Node, block: Block, problems: Problems) -> list[Domain]:
    entries = fields.value if isinstance(fields.value, dict) else {}
    if not entries:
        allowed = f"cell fields, each with {_FORMS_IN_WORDS}"
        problems.add("search.fields", fields.line, "names no field to search", allowed)
        return []
    domains = []
    for name, value in entries.items():
        key, line = f"search.fields.{name}", fields.keys[name]
        if name in block.fixed and not block.fixed[name].key.startswith("--set"):
            problems.add(key, line, "is fixed too", "each field once: fixed or search.fields")
        elif name in FIELDS and name not in block.fixed:  # --set takes a field out of the search
            domain = _read_domain(name, key, value, problems)
            domains += [domain] if domain is not None else []
    if not domains and all(name in block.fixed for name in entries):
        problems.add("search.fields", fields.line, "has no field left to search", "at least one that is not --set")
    return domains


def _read_domain(name: str, key: str, node: Node, problems: Problems) -> Domain | None:
    forms = list(node.value) if isinstance(node.value, dict) else []
    for form in forms:
        if form not in DOMAINS:
            problems.unknown_key(key, form, node.keys[form], DOMAINS)
            return None
    if len(forms) != 1:
        problems.add(key, node.line, "is not exactly one form", _FORMS_IN_WORDS, node.plain)
        return None
    form, arguments = forms[0], node.value[forms[0]].plain
    if form == "choice":
        if not isinstance(arguments, list) or not arguments:
            problems.add(key, node.line, "expected a list of values", DOMAINS[form], arguments)
            return None
        unique = [option for index, option in enumerate(arguments) if option not in arguments[:index]]
        return Domain(name, form, options=tuple(unique), key=key, line=node.line)
    return _read_range(Domain(name, form, key=key, line=node.line), arguments, problems)


def _read_range(domain: Domain, arguments: Any, problems: Problems) -> Domain | None:
    name, form = domain.field, domain.form
    if not takes_numbers(name) or name == "width":
        reason = f"ranges need a numeric field; `{name}` is not numeric"
        problems.add(domain.key, domain.line, reason, "{choice: [...]}", arguments)
        return None
    if not isinstance(arguments, list) or len(arguments) != 2:
        problems.add(domain.key, domain.line, "does not have two entries", DOMAINS[form], arguments)
        return None
    low, high = (_constant(part) for part in arguments)
    if low is None or high is None or low >= high or (form == "loguniform" and low <= 0):
        more = ", both greater than 0" if form == "loguniform" else ""
        allowed = f"[low, high]: two constants, low below high{more}"
        problems.add(domain.key, domain.line, "is not a range", allowed, arguments)
        return None
    kind = kind_of(name)
    whole = isinstance(kind.otherwise if isinstance(kind, Keyword) else kind, Integer)
    return replace(domain, low=canonical_float(low), high=canonical_float(high), whole=whole)


def _constant(part: Any) -> float | None:
    if isinstance(part, bool) or not isinstance(part, (int, float, str)):
        return None
    try:
        value = parse(part if isinstance(part, str) else repr(part), {}).evaluate({})
        return float(value) if isinstance(value, Fraction) else None
    except (ExpressionError, OverflowError):
        return None


def _check_corners(search: Search, problems: Problems) -> None:
    """Check the ends of every range and all options, each with the first of the others: few suggestions can fail."""
    seen: set[tuple[str, str]] = set()
    for point in _corners(search.domains):
        found = Problems(problems.name)
        search.expand(point, Expansion({}), found)
        for problem in found.found:
            if (problem.key, problem.reason) not in seen:
                seen.add((problem.key, problem.reason))
                problems.found.append(problem)


def _corners(domains: tuple[Domain, ...]) -> Iterator[Point]:
    for end in (0, -1):
        yield {domain.field: domain.corners()[end] for domain in domains}
    for domain in domains:
        for option in domain.corners():
            yield {other.field: other.corners()[0] for other in domains} | {domain.field: option}
