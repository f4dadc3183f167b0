"""What the store says of runs: which recovered their ground truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from flatdist.sweeps.adaptive.group import Group
from flatdist.sweeps.adaptive.rules import Known, Run
from flatdist.sweeps.search.rounds import Round
from flatdist.threshold.recovery import recovered

if TYPE_CHECKING:
    from flatdist.store import Store

Key = tuple[str, int]  # cell id, replicate


class Results:
    """Errors of replicates, each read from the store once: a row never changes."""

    def __init__(self) -> None:
        self._rows: dict[Key, tuple[float | None, str | None]] = {}

    def known(self, groups: Mapping[str, Group], rounds: Sequence[Round], store: Store) -> dict[str, Known]:
        """What is known of each group, by its key."""
        asked: dict[str, list[tuple[Run, Key]]] = {key: [] for key in groups}
        for one in rounds:
            for request in one.requests:
                runs = asked.get(str(request.note.get("group")))
                if runs is not None:
                    cell = request.cell
                    runs += [(Run(cell.n, r), (cell.cell_id, r)) for r in request.replicates]
        self._read([key for runs in asked.values() for _, key in runs], store)
        return {name: self._of(groups[name], runs) for name, runs in asked.items()}

    def _of(self, group: Group, runs: Sequence[tuple[Run, Key]]) -> Known:
        tolerance = getattr(group.rule, "tolerance", None)
        if tolerance is None:
            return Known([run for run, _ in runs], {run: True for run, key in runs if key in self._rows})
        success = {run: recovered(*self._rows[key], tolerance) for run, key in runs if key in self._rows}
        return Known([run for run, _ in runs], success)

    def _read(self, keys: Sequence[Key], store: Store) -> None:
        ids = {cell_id for cell_id, replicate in keys if (cell_id, replicate) not in self._rows}
        if not ids:
            return
        frame = store.trials(sorted(ids), columns=["cell_id", "replicate", "relative_error", "status"])
        errors = frame["relative_error"].astype(float).tolist()
        statuses = frame["status"].astype(object).where(frame["status"].notna(), None).tolist()
        found = zip(frame["cell_id"].tolist(), frame["replicate"].tolist(), strict=True)
        self._rows |= dict(zip(((str(i), int(r)) for i, r in found), zip(errors, statuses, strict=True), strict=True))
