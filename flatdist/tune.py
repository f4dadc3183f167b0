"""Cells as Ray Tune trials, for users with a ``tune.Tuner`` of their own.

A trial's config is a cell's fields, every evaluation is a ``tune.report``, and rows reach the store before the last
report. Any scheduler that stops or pauses trials, any searcher, any logger and the ResultGrid work. Population-based
training does not: it would continue training one cell's weights under another cell's fields, and such a run is no
cell's result.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flatdist.cells.cell import FIELD_TYPES, FIELDS
from flatdist.cells.plugins import use_plugins
from flatdist.launch.ray.trial import cell_of, check_names, grid_space, run_trial, trial_name
from flatdist.planning.work import WorkItem

__all__ = ["cell_of", "evaluated", "param_space", "trainable", "trial_name"]

if TYPE_CHECKING:
    from flatdist.planning import Settings
    from flatdist.store import Store
    from flatdist.sweeps import Sweep


def trainable(
    base: Mapping[str, Any] | None = None,
    replicates: Sequence[int] = range(8),
    store: str | os.PathLike[str] = "results",
    *,
    settings: Settings | None = None,
    checkpoints: bool = True,
) -> Callable[[dict[str, Any]], None]:
    """A function trainable for ``tune.Tuner``: one trial is one cell with all its replicates.

    Every evaluation is reported, as medians over the replicates (one that has diverged counts as infinite): ``step``,
    the history's columns, ``relative_error`` = ||M - M*||_F^2 / ||M*||_F^2, ``cell_id`` and ``diverged``; the last
    report adds ``stored``, ``converged`` and the final columns, and comes once the rows are in the store. A cell that
    is already in the store is reported at once. A trial that is stopped leaves checkpoints in the store and no row;
    whoever runs its cell later continues from them, to the same row.

    Args:
        base: cell fields of every trial, as in a sweep file; a trial's config is completed with them and wins.
        replicates: numbers of the replicates.
        store: a folder that all nodes share, or the URI of an object store.
        settings: engine, device and checkpoint interval; the trial's resources set CPUs and GPUs.
        checkpoints: give Tune a checkpoint, a file that points into the store, with every report that has one. On
            several nodes Tune then needs a shared ``storage_path``.

    Raises:
        CellError: a field of ``base`` does not exist, or the replicates are not whole numbers.
        StoreError: the store's location is not valid.

    Example:
        >>> train = trainable({"d_out": 8, "d_in": 8, "rank": 1, "n": "2*statdim"}, range(2), "results")
        >>> train.__name__
        'flatdist'
    """
    from flatdist.planning import Settings
    from flatdist.store import Store
    from flatdist.trials.run import replicate_numbers

    base = dict(base or {})
    check_names(base)
    numbers = tuple(replicate_numbers(replicates))
    uri = Store(store).uri  # absolute: a relative path is the driver's
    settings = (settings or Settings()).for_workers()

    def flatdist(config: dict[str, Any]) -> None:
        use_plugins(settings.plugins)
        run_trial(WorkItem(cell_of(base, config), numbers), uri, settings, checkpoints=checkpoints)

    return flatdist


def param_space(sweep: str | os.PathLike[str] | Mapping[str, Any] | Sweep) -> dict[str, Any]:
    """The ``param_space`` of a Tuner for a sweep.

    Args:
        sweep: a sweep file, its content as a dict, or a loaded sweep.

    Returns:
        For a sweep with ``search``: its fixed fields, and Tune's domain for each searched one; the searcher has to
        learn its ``where`` from failures. For any other sweep: a grid over ``cell_id``, and every field that differs
        between its cells.

    Raises:
        SweepError: the sweep cannot be used, or chooses its runs from the store.

    Example:
        >>> search = {"fields": {"depth": {"choice": [2, 3]}}, "budget": 2}
        >>> space = param_space({"fixed": {"d_out": 6, "d_in": 6, "rank": 1, "n": 20}, "search": search})
        >>> space["depth"].categories
        [2, 3]
    """
    from flatdist.sweeps import open_sweep
    from flatdist.sweeps.searchers import tune_domain

    sweep = open_sweep(sweep)
    if sweep.searched:
        fixed = {name: _word(name, value) for name, value in sweep.fixed.items()}
        return fixed | {domain.field: tune_domain(domain, by_value=True) for domain in sweep.searched}
    return grid_space(sweep.listed())


def evaluated(
    store: str | os.PathLike[str] | Store,
    sweep: str | os.PathLike[str] | Mapping[str, Any] | Sweep,
    metric: str | None = None,
) -> dict[str, list[Any]]:
    """What a store holds for a sweep's points, in the form Tune's searchers accept: ``OptunaSearch(**evaluated(...))``.

    Args:
        store: the results.
        sweep: a sweep's name in the store, its file, its content as a dict, or a loaded sweep.
        metric: a numeric column of trials or ``steps_to=ERROR``; default: the search's, else ``relative_error``.

    Returns:
        ``points_to_evaluate``, values of the searched fields, or of those in which the sweep's cells differ; and
        ``evaluated_rewards``, for each point the median over replicates, infinite where most have diverged. Cells
        without all their replicates are left out.

    Raises:
        SweepError: the sweep or the metric does not exist.
        StoreError: the store does not exist.

    Example:
        >>> import flatdist
        >>> spec = {"name": "tiny", "replicates": 2, "axes": {"n": [5, 9]},
        ...         "fixed": {"d_out": 3, "d_in": 3, "rank": 1, "method": "min_nuclear_norm"}}
        >>> _ = flatdist.sweep(spec, "there", executor="inline", display="none", probe=False)
        >>> evaluated("there", "tiny")["points_to_evaluate"]
        [{'n': 5}, {'n': 9}]
    """
    from flatdist.store import Store
    from flatdist.sweeps import open_sweep
    from flatdist.sweeps.metric import cell_value, parse_metric

    opened = store if isinstance(store, Store) else Store(store)
    sweep = open_sweep(sweep, opened)
    chosen = sweep.ranking[0] if metric is None else parse_metric(metric)
    domains = {domain.field: domain for domain in sweep.searched}
    words = [cell.words() for cell in sweep.cells]
    fields = list(domains) or [name for name in FIELDS if len({repr(row[name]) for row in words}) > 1]
    ids = [cell.cell_id for cell in sweep.cells]
    values = chosen.values(opened, ids, guide=True) if ids else {}
    points: list[dict[str, Any]] = []
    rewards: list[float] = []
    for cell in sweep.cells:
        found = values.get(cell.cell_id, {})
        wanted = sweep.replicates_of(cell.cell_id)
        if not wanted or not set(wanted) <= found.keys():
            continue
        point = {name: cell.words()[name] for name in fields}
        if all(domain.holds(point[name]) for name, domain in domains.items()):
            points.append(point)
            rewards.append(cell_value(found, wanted, math.inf))
    return {"points_to_evaluate": points, "evaluated_rewards": rewards}


def _word(name: str, given: Any) -> Any:
    """A fixed value of a sweep file in the form of a trial's config."""
    from flatdist.expressions import Expression

    if isinstance(given, Expression):
        return given.text
    if given is None and FIELD_TYPES[name].word:
        return FIELD_TYPES[name].word
    return [_word(name, item) for item in given] if isinstance(given, tuple) else given
