"""Sweeps that choose their cells or replicates on the command line: their forecast, their lines, their rounds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from flatdist.cli.searching import run_search, search_line
from flatdist.errors import SweepError

if TYPE_CHECKING:
    from flatdist.cli.driving import Launching
    from flatdist.planning import Plan
    from flatdist.store import Store
    from flatdist.sweeps import Sweep
    from flatdist.sweeps.adaptive import GroupStrategy
    from flatdist.sweeps.adaptive.recorded import GroupState
    from flatdist.sweeps.search import Round


@dataclasses.dataclass(frozen=True)
class Forecast:
    """Sweeps as a plan takes them.

    Attributes:
        sweeps: with stand-ins for the cells and runs that are yet to be asked for.
        loaded: as the store has them.
        states: by the sweep's name, how far its groups are.
    """

    sweeps: list[Sweep]
    loaded: list[Sweep]
    states: Mapping[str, list[GroupState]]

    def lines(self, plan: Plan) -> list[str]:
        """What a plan says of the sweeps that choose their runs."""
        lines = []
        for sweep in self.loaded:
            if sweep.search is not None:
                lines.append(search_line(sweep))
            elif sweep.name in self.states:
                lines.append(_group_line(sweep, self.states[sweep.name], plan))
        return lines

    def as_json(self) -> list[dict[str, Any]]:
        """The groups of the sweeps as data."""
        return [{"sweep": name, **count_groups(states)} for name, states in self.states.items()]


def forecast(sweeps: Sequence[Sweep], store: Store) -> Forecast:
    """The sweeps with what is expected of those that choose their runs."""
    from flatdist.sweeps.search import with_stand_ins as with_suggestions

    taken: list[Sweep] = []
    states: dict[str, list[GroupState]] = {}
    for sweep in sweeps:
        if sweep.search is not None:
            taken.append(with_suggestions(sweep))
        elif sweep.adaptive is not None:
            from flatdist.sweeps.adaptive import group_states, with_stand_ins

            states[sweep.name] = group_states(sweep, store)
            taken.append(with_stand_ins(sweep, states[sweep.name]))
        else:
            taken.append(sweep)
    return Forecast(taken, list(sweeps), states)


def count_groups(states: Sequence[GroupState]) -> dict[str, Any]:
    """How many groups there are and are finished, their runs, and the widest interval of the others."""
    looking = [state for state in states if state.known.success and state.group.rule.precision is not None]
    open_widths = [state.width for state in looking if not state.is_finished]
    return {
        "groups": len(states),
        "finished": sum(state.is_finished for state in states),
        "asked": sum(len(state.known.asked) for state in states),
        "expected": sum(state.expected for state in states),
        "at_most": sum(state.most for state in states),
        "widest": max(open_widths, default=None),
    }


def _group_line(sweep: Sweep, states: Sequence[GroupState], plan: Plan) -> str:
    counts = count_groups(states)
    text = f"groups: {sweep.name}: {counts['finished']:,} of {counts['groups']:,} finished"
    text += f", {counts['asked']:,} runs asked for so far"
    if counts["widest"] is not None:
        text += f", widest interval +-{counts['widest']:.1%}"
    if not counts["at_most"]:
        return text
    if counts["at_most"] == counts["expected"]:
        return f"{text}; the other {counts['at_most']:,} are forecast at stand-ins for the n that will be chosen"
    from flatdist.planning import duration

    more = sum(_seconds(state, plan) for state in states)
    text += f"; about {counts['expected']:,} more are expected, at stand-ins for the n that will be chosen"
    return f"{text}, at most {counts['at_most']:,}, which would take {duration(plan.time.mid + more / plan.slots)}"


def _seconds(state: GroupState, plan: Plan) -> float:
    """Predicted seconds of the runs beyond the expected ones."""
    if state.most == state.expected:
        return 0.0
    values = state.group.span.values
    cell = state.group.cell(values[len(values) // 2])
    return (state.most - state.expected) * plan.forecast.replicate(cell).seconds


def run_adaptive(sweep: Sweep, launching: Launching) -> int:
    """Run a sweep that chooses its runs, round after round, until nothing is left to ask; returns the exit status."""
    if sweep.search is not None:
        return run_search(sweep, launching)
    from flatdist.cli.options import open_store
    from flatdist.launch.rounds import Driver
    from flatdist.sweeps.adaptive import GroupStrategy
    from flatdist.sweeps.search import RoundLog

    adaptive = sweep.adaptive
    assert adaptive is not None
    opened = open_store(launching.store, must_exist=False)
    log = RoundLog(
        opened, sweep.name, sweep.source, None, adaptive.identity, keep=launching.record, current=adaptive.current
    )
    log.save()
    strategy = GroupStrategy(adaptive)
    driver = Driver(
        strategy, log, opened, launching.runner(sweep),
        retry_failed=launching.retry_failed, tell=click.echo, describe=strategy.describe, limit=launching.limit,
    )  # fmt: skip
    status = launching.finish(driver)
    if status == 1:
        launching.tell_failures(list({request.cell.cell_id: None for request in log.requests()}))
    _tell_outcome(sweep.name, strategy, log.rounds, opened)
    return status


def _tell_outcome(name: str, strategy: GroupStrategy, rounds: Sequence[Round], store: Store) -> None:
    known = strategy.known(rounds, store)
    groups = strategy.sweep.choosing
    finished = [group for group in groups if not group.rule.ask(group.span, known[group.key])]
    runs = sum(len(one.success) for one in known.values())
    text = f"{name}: {len(finished):,} of {len(groups):,} groups finished with {runs:,} runs"
    spent = sum(group.rule.is_spent(group.span, known[group.key]) for group in finished)
    if spent:
        text += f"; {spent:,} of them spent their runs before reaching the precision"
    click.echo(text)


def check_options(sweeps: Sequence[Sweep], options: dict[str, Any]) -> None:
    """Refuse options that make no sense for a sweep that chooses its runs.

    Raises:
        SweepError: with what to do instead.
    """
    if options["fit"] and any(sweep.chooses for sweep in sweeps):
        raise SweepError("--fit cannot cut a search short, since its cells are not known yet; use --limit N")
