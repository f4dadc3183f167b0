from __future__ import annotations

import io

import pytest
from rich.console import Console

from flatdist.cells.cell import Cell
from flatdist.launch.progress.display import LiveDisplay, PlainDisplay, counts_line, diagrams, make_display
from flatdist.launch.progress.state import (
    CellTally,
    ItemFailed,
    Progress,
    RowStored,
    ShardEnded,
    ShardStarted,
    StepsTaken,
)
from flatdist.planning import Shard, WorkItem


def make_cell(n: int = 30, **fields: object) -> Cell:
    return Cell(**({"d_out": 8, "d_in": 8, "rank": 1, "n": n} | fields))  # type: ignore[arg-type]


BOOT = 1000.0  # a worker's clock is not the driver's


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def progress_of(shards: list[Shard], slots: int) -> tuple[Progress, Clock]:
    clock = Clock()
    cells = {item.cell.cell_id: item.cell for shard in shards for item in shard.items}
    wanted = sum(len(item.replicates) for shard in shards for item in shard.items)
    progress = Progress(cells, wanted, slots=slots, clock=clock)
    progress.expect(enumerate(shards))
    return progress, clock


def stored(
    shard: int, cell: Cell, replicate: int, at: float = 0.0, error: float = 1e-3, status: str = "converged"
) -> RowStored:
    return RowStored(shard, cell.cell_id, replicate, status, error, at)


@pytest.mark.parametrize("true_over_predicted", [0.25, 1.0, 4.0])
def test_time_left_is_exact_where_predicted_and_corrects_itself_elsewhere(true_over_predicted: float) -> None:
    """Two slots, eight shards of four rows; every row takes the same time, the prediction is off by a factor."""
    cells = [make_cell(n) for n in range(10, 18)]
    shards = [Shard((WorkItem(cell, (0, 1, 2, 3)),), 40.0) for cell in cells]
    progress, clock = progress_of(shards, slots=2)
    row = 10.0 * true_over_predicted

    def check() -> None:
        left = 16 * row - clock.now
        share = clock.now / (16 * row)
        scale = (true_over_predicted * share + 0.05) / (share + 0.05)
        assert progress.eta() == pytest.approx(left * scale / true_over_predicted)

    for pair in range(4):
        for slot in (0, 1):
            progress.apply(ShardStarted(2 * pair + slot, clock.now + BOOT))
        for replicate in range(4):
            clock.now += row
            for slot in (0, 1):
                progress.apply(stored(2 * pair + slot, cells[2 * pair + slot], replicate, clock.now + BOOT))
            check()
        for slot in (0, 1):
            progress.apply(ShardEnded(2 * pair + slot, clock.now + BOOT))
    assert progress.finished == 32
    assert progress.running == 0


def test_work_in_progress_counts_until_it_is_overdue() -> None:
    cells = [make_cell(10), make_cell(11)]
    progress, clock = progress_of([Shard((WorkItem(cell, (0,)),), 50.0) for cell in cells], slots=1)
    progress.apply(ShardStarted(0, 0.0))
    clock.now = 50.0
    progress.apply(stored(0, cells[0], 0, 50.0))
    progress.apply(ShardEnded(0, 50.0))
    progress.apply(ShardStarted(1, 50.0))
    clock.now = 80.0
    assert progress.eta() == pytest.approx(20.0)
    clock.now = 250.0
    assert progress.eta() == pytest.approx(40.0)


def test_one_long_shard_at_the_end_decides_the_time_left() -> None:
    cells = [make_cell(10), make_cell(11)]
    shards = [Shard((WorkItem(cell, tuple(range(10))),), 100.0) for cell in cells]
    progress, clock = progress_of(shards, slots=2)
    for shard in (0, 1):
        progress.apply(ShardStarted(shard, 0.0))
    clock.now = 100.0
    for replicate in range(10):
        progress.apply(stored(0, cells[0], replicate, 100.0))
    progress.apply(ShardEnded(0, 100.0))
    progress.apply(stored(1, cells[1], 0, 100.0))
    scale = 210.0 / 120.0  # slot-seconds spent over predicted seconds finished, 5 % of 200 s as predicted
    assert progress.eta() == pytest.approx(90 * scale)


def test_events_that_come_late_and_together_do_not_distort_the_time_left() -> None:
    """A worker that compiles keeps its news to itself until the shard has ended."""
    cells = [make_cell(10), make_cell(11)]
    progress, clock = progress_of([Shard((WorkItem(cell, (0,)),), 5.0) for cell in cells], slots=1)
    clock.now = 50.0
    for event in (ShardStarted(0, BOOT), stored(0, cells[0], 0, BOOT + 40), ShardEnded(0, BOOT + 40)):
        progress.apply(event)
    assert progress.eta() == pytest.approx(5.0 * 40.5 / 5.5)


def test_nothing_is_promised_before_anything_is_measured() -> None:
    progress, _ = progress_of([Shard((WorkItem(make_cell(), (0,)),), 1.0)], slots=1)
    assert progress.eta() is None
    assert "left ?" in counts_line(progress)


def test_a_row_reported_twice_counts_once() -> None:
    cell = make_cell()
    progress, _ = progress_of([Shard((WorkItem(cell, (0, 1)),), 1.0)], slots=1)
    for _ in range(2):
        progress.apply(stored(0, cell, 0))
    assert progress.finished == 1


def test_first_cells_that_fail_alike_are_noticed() -> None:
    cells = [make_cell(n) for n in range(10, 20)]
    progress, _ = progress_of([Shard((WorkItem(cell, (0,)),), 1.0) for cell in cells], slots=1)
    for shard, cell in enumerate(cells[:5]):
        assert progress.common_error(5) is None
        for _ in range(3):  # more failures of the same cell are no further evidence
            progress.apply(ItemFailed(shard, cell.cell_id, (0,), f"ValueError: singular at {cell.n}", 0.0))
    assert progress.common_error(5) == "ValueError: singular at #"


def test_failures_after_a_success_or_of_several_kinds_do_not_stop_a_sweep() -> None:
    cells = [make_cell(n) for n in range(10, 20)]
    shards = [Shard((WorkItem(cell, (0,)),), 1.0) for cell in cells]
    succeeded, _ = progress_of(shards, slots=1)
    succeeded.apply(stored(9, cells[9], 0))
    mixed, _ = progress_of(shards, slots=1)
    mixed.apply(ItemFailed(9, cells[9].cell_id, (0,), "MemoryError: ", 0.0))
    for progress in (succeeded, mixed):
        for shard, cell in enumerate(cells[:5]):
            progress.apply(ItemFailed(shard, cell.cell_id, (0,), "ValueError: singular", 0.0))
        assert progress.common_error(5) is None


def test_diagram_shows_the_share_of_successes_at_its_place() -> None:
    cells = [make_cell(n, rank=rank) for rank in (1, 2) for n in (10, 20, 30)]
    tallies = {
        cells[0].cell_id: CellTally(stored=4, successes=0),
        cells[1].cell_id: CellTally(stored=4, successes=2),
        cells[2].cell_id: CellTally(stored=4, successes=4),
        cells[5].cell_id: CellTally(stored=1, successes=1),
    }
    (diagram,) = diagrams({cell.cell_id: cell for cell in cells}, tallies)
    assert diagram.method == "label_noise_sgd"
    assert diagram.rows == (("rank 2", "··█"), ("rank 1", " ▒█"))
    assert "n = 10 … 30" in str(diagram)


def test_ranks_with_measurements_of_their_own_fill_their_rows() -> None:
    cells = [make_cell(n, rank=rank) for rank, sizes in ((1, (10, 20)), (2, (30, 45, 60))) for n in sizes]
    tallies = {cell.cell_id: CellTally(stored=1, successes=1) for cell in cells}
    (diagram,) = diagrams({cell.cell_id: cell for cell in cells}, tallies)
    assert diagram.rows == (("rank 2", "███"), ("rank 1", "██"))
    assert str(diagram).splitlines()[1:] == ["   rank 2 ███ n = 30 … 60", "   rank 1 ██  n = 10 … 20"]


def test_steps_taken_count_before_the_first_row_does() -> None:
    """One shard whose rows all come at the end: its steps say how far it is, and how long the rest takes."""
    cells = [make_cell(10, steps=1000), make_cell(11, steps=1000)]
    progress, clock = progress_of([Shard(tuple(WorkItem(cell, (0, 1)) for cell in cells), 10.0)], slots=1)
    progress.apply(ShardStarted(0, BOOT))
    assert progress.eta() is None
    clock.now = 6.0
    progress.apply(StepsTaken(0, 1200, BOOT + 6.0))
    assert progress.share == pytest.approx(0.3)
    assert "0/4 replicates (30%)" in counts_line(progress)
    scale = (6.0 + 0.5) / (3.0 + 0.5)
    assert progress.eta() == pytest.approx(scale * 7.0)
    progress.apply(stored(0, cells[0], 0, BOOT + 6.5))
    assert progress.share == pytest.approx(0.3)  # that row's steps are among them
    mixed, _ = progress_of([Shard((WorkItem(make_cell(method="min_nuclear_norm"), (0, 1)),), 1.0)], slots=1)
    mixed.apply(StepsTaken(0, 1, BOOT))
    assert mixed.share == 0.0  # a solver has no steps


def test_large_diagrams_stay_coarse() -> None:
    cells = [make_cell(n, d_out=100, d_in=100, rank=rank) for rank in range(1, 40) for n in range(1, 300, 3)]
    (diagram,) = diagrams({cell.cell_id: cell for cell in cells}, {})
    assert len(diagram.rows) == 12
    assert {len(characters) for _, characters in diagram.rows} == {40}


def test_plain_display_prints_lines_and_no_control_characters() -> None:
    cell = make_cell()
    progress, clock = progress_of([Shard((WorkItem(cell, (0, 1)),), 1.0)], slots=1)
    out = io.StringIO()
    display = make_display("auto", Console(file=out, width=40))
    assert isinstance(display, PlainDisplay)
    display.start(progress)
    progress.apply(ShardStarted(0, 0.0))
    clock.now = 2.0
    progress.apply(StepsTaken(0, 3000, 2.0))
    progress.apply(stored(0, cell, 0, 2.0, status="diverged"))
    display.message("[not markup] a message that is longer than the console is wide")
    display.stop(progress)
    lines = out.getvalue().splitlines()
    assert lines[0].startswith("0/2 replicates (0%)")
    assert lines[1] == "[not markup] a message that is longer than the console is wide"
    assert lines[2] == ("1/2 replicates (50%), 1 running, 1.5k replicate-steps/s, 1 diverged, elapsed 2 s, left 1.9 s")
    assert "\x1b" not in out.getvalue()


def test_live_display_shows_counts_and_a_diagram_for_each_method() -> None:
    cells = [make_cell(n, method=method) for method in ("label_noise_sgd", "min_nuclear_norm") for n in (10, 20)]
    progress, _ = progress_of([Shard((WorkItem(cell, (0,)),), 1.0) for cell in cells], slots=1)
    out = io.StringIO()
    display = make_display("auto", Console(file=out, width=100, force_terminal=True))
    assert isinstance(display, LiveDisplay)
    display.start(progress)
    progress.apply(stored(0, cells[0], 0))
    display.stop(progress)
    shown = out.getvalue()
    for text in ("1/4 replicates", "label_noise_sgd", "min_nuclear_norm", "█·"):
        assert text in shown
