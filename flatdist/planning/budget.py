"""``--budget``: refuse a plan that takes too long, or cut it down to the part that fits, whole cells first."""

from __future__ import annotations

import dataclasses
import random
import re

from flatdist.errors import SweepError
from flatdist.planning.forecast import duration
from flatdist.planning.plan import SHARD_SECONDS, START_SECONDS, Plan, assemble
from flatdist.planning.work import WorkItem

_UNITS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(s|min|m|h|d)")


def parse_duration(text: str) -> float:
    """Seconds of ``90s``, ``30m``, ``1.5h``, ``1h30m`` or ``2d``.

    Raises:
        SweepError: it cannot be read.
    """
    compact = text.replace(" ", "")
    parts = _PART.findall(compact)
    if not parts or "".join(number + unit for number, unit in parts) != compact or compact.startswith("0s"):
        raise SweepError(f"cannot read {text!r} as a duration; allowed: 90s, 30m, 1.5h, 1h30m, 2d")
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if seconds <= 0:
        raise SweepError(f"a budget must be longer than 0 (got {text!r}); allowed: 90s, 30m, 1.5h, 1h30m, 2d")
    return seconds


def keep_within(plan: Plan, seconds: float, *, fit: bool) -> Plan:
    """The plan itself where it fits the budget, else the part of it that does.

    Args:
        plan: everything that is to be run.
        seconds: wall time that may be spent.
        fit: cut the plan down; otherwise one that does not fit is refused.

    Raises:
        SweepError: it does not fit, with the prediction and what to do; or not even one replicate would.
    """
    if plan.time.mid <= seconds:
        return plan
    if not fit:
        raise SweepError(
            f"the budget is {duration(seconds)} and this would take {plan.time} on {plan.slots} slots; "
            "raise --budget, add --fit to run the part that fits, or take fewer cells with --where or --limit"
        )
    executor, forecast = plan.settings.executor, plan.forecast
    left = (seconds - START_SECONDS[executor]) * plan.slots
    order = list(plan.items)
    random.Random(plan.settings.seed).shuffle(order)  # noqa: S311 - an order, not a secret
    chosen: list[WorkItem] = []
    rest: list[WorkItem] = []
    for item in order:
        needed = forecast.item_seconds(item) + SHARD_SECONDS[executor]
        if needed <= left:
            chosen.append(item)
            left -= needed
        else:
            rest.append(item)
    for item in rest:  # what is left of the time goes to single replicates of further cells
        count = int(left // (forecast.item_seconds(item) / len(item.replicates)))
        if count > 0:
            part = dataclasses.replace(item, replicates=item.replicates[:count])
            chosen.append(part)
            left -= forecast.item_seconds(part)
    if not chosen:
        raise SweepError(
            f"a single replicate already exceeds the {duration(seconds)} budget; everything takes {plan.time}"
        )
    position = {cell.cell_id: index for index, cell in enumerate(plan.cells)}
    chosen.sort(key=lambda item: position[item.cell.cell_id])
    cells = {cell.cell_id: cell for cell in plan.cells}
    counts = (plan.done, plan.failed)
    return assemble(plan.sweeps, cells, plan.wanted, counts, chosen, forecast, plan.settings)
