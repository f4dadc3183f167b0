"""Power loss, a full disk and a read-only disk at every file operation in turn: nothing acknowledged is lost."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from flatdist.errors import StoreError
from flatdist.store import Store
from flatdist.store.filesystem import LocalFilesystem, SystemCalls

EVALUATIONS = 3


class PowerLoss(BaseException):
    """The machine is off: nothing that runs afterwards does anything."""


class Machine(SystemCalls):
    """System calls that remember what a disk may forget: unsynced bytes, unsynced names.

    Args:
        fails_at: number of the call before which the power goes, or which fails with ``error``.
        error: an errno instead of a power loss.
    """

    def __init__(self, fails_at: int | None = None, error: int | None = None) -> None:
        self.count = 0
        self.fails_at = fails_at
        self.error = error
        self.off = False
        self.paths: dict[int, Path] = {}
        self.unsynced: set[Path] = set()
        self.forgettable: list[tuple[Path, Callable[[], None]]] = []  # folder, how its change is undone

    def _call(self) -> None:
        if self.off:
            raise PowerLoss
        if self.count == self.fails_at:
            self.count += 1
            if self.error is not None:
                raise OSError(self.error, os.strerror(self.error))
            self.off = True
            raise PowerLoss
        self.count += 1

    def open(self, path, flags, mode=0o777):
        self._call()
        handle = os.open(path, flags, mode)
        self.paths[handle] = Path(path)
        if flags & os.O_CREAT:
            self.unsynced.add(Path(path))
            self._change(Path(path), lambda: Path(path).unlink(missing_ok=True))
        return handle

    def write(self, handle, data):
        self._call()
        return os.write(handle, bytes(data[: max(1, len(data) // 2)]))  # a disk may take less than it is given

    def close(self, handle):
        os.close(handle)
        self.paths.pop(handle)
        if self.off:
            raise PowerLoss

    def fsync(self, handle):
        self._call()
        path = self.paths[handle]
        self.unsynced.discard(path)
        self.forgettable = [(folder, undo) for folder, undo in self.forgettable if folder != path]

    def replace(self, source, target):
        self._call()
        self._change(Path(target), self._restoring(Path(target)))
        if Path(source) in self.unsynced:
            self.unsynced.add(Path(target))
        os.replace(source, target)

    def link(self, source, target):
        self._call()
        os.link(source, target)
        self._change(Path(target), lambda: Path(target).unlink(missing_ok=True))

    def unlink(self, path):
        self._call()
        undo = self._restoring(Path(path))
        os.unlink(path)
        self._change(Path(path), undo)

    def mkdir(self, path):
        self._call()
        os.mkdir(path)
        self._change(Path(path), lambda: shutil.rmtree(path, ignore_errors=True))

    def _change(self, path: Path, undo: Callable[[], None]) -> None:
        self.forgettable.append((path.parent, undo))

    @staticmethod
    def _restoring(path: Path) -> Callable[[], None]:
        before = path.read_bytes() if path.exists() else None

        def undo() -> None:
            if before is None:
                path.unlink(missing_ok=True)
            elif path.parent.is_dir():
                path.write_bytes(before)

        return undo

    def forget(self, names: bool) -> None:
        """What a disk without power does to unsynced bytes and, if asked, to unsynced names."""
        for path in self.unsynced:
            if path.exists():
                path.write_bytes(path.read_bytes()[:7])
        for _, undo in reversed(self.forgettable) if names else ():
            undo()


class Story:
    """A life of a store with everything in it; ``acknowledged`` is what its writers were told is safe."""

    def __init__(self, root: Path, machine: Machine, cells, rows) -> None:
        self.store = Store(root, filesystem=LocalFilesystem(str(root), machine))
        self.cells, self.rows = cells, rows
        self.acknowledged: set[tuple[str, int]] = set()
        self.maybe: set[tuple[str, int]] = set()  # being invalidated when the power went
        self.saved_sweep = False

    def write(self, cell, replicates) -> None:
        self.store.write(*self.rows(cell, replicates))
        self.acknowledged |= {(cell.cell_id, replicate) for replicate in replicates}

    def run(self) -> None:
        first, second, third, *_ = self.cells
        self.write(first, range(2))
        self.write(second, range(1))
        self.store.save_sweep("s", "name: s", [first.cell_id], 2)
        self.saved_sweep = True
        self.store.compact(grace=0)
        self.write(third, range(1))
        self.maybe = {(second.cell_id, 0)}
        self.acknowledged -= self.maybe
        self.store.invalidate(self.maybe)
        self.maybe = set()
        self.write(first, range(3))  # overlaps what is compacted
        self.store.compact(grace=0)
        self.write(second, range(1))  # the invalidated replicate again
        self.store.compact(grace=0)


def present(store: Store) -> set[tuple[str, int]]:
    return {(cell, replicate) for cell, replicates in store.done().items() for replicate in replicates}


def check(root: Path, story: Story) -> None:
    after = Store(root)
    found = present(after)
    assert story.acknowledged <= found
    trials, history = after.trials(), after.history()
    assert not trials.duplicated(["cell_id", "replicate"]).any()
    assert set(zip(trials["cell_id"], trials["replicate"], strict=True)) == found
    assert len(history) == EVALUATIONS * len(trials)
    assert not history.duplicated(["cell_id", "replicate", "step"]).any()
    if story.saved_sweep:
        assert after.load_sweep("s").replicates == 2


@pytest.fixture(scope="module")
def calls(tmp_path_factory, cells, rows) -> int:
    """How many system calls the whole story takes."""
    machine = Machine()
    Story(tmp_path_factory.mktemp("whole") / "results", machine, cells, rows).run()
    assert machine.count > 200
    return machine.count


STRIDES = 4  # the calls are dealt out to this many tests, so that workers share them


@pytest.mark.parametrize("offset", range(STRIDES))
@pytest.mark.parametrize("names", [True, False], ids=["names lost", "names kept"])
@pytest.mark.filterwarnings("ignore::flatdist.store.StoreWarning")
def test_power_loss_before_any_file_operation_loses_nothing_acknowledged(tmp_path, cells, rows, calls, names, offset):
    whole = {(cells[0].cell_id, 0), (cells[0].cell_id, 1), (cells[0].cell_id, 2)}
    whole |= {(cells[1].cell_id, 0), (cells[2].cell_id, 0)}
    for fails_at in range(offset, calls, STRIDES):
        root = tmp_path / str(fails_at) / "results"
        root.parent.mkdir()
        machine = Machine(fails_at)
        story = Story(root, machine, cells, rows)
        with pytest.raises(PowerLoss):
            story.run()
        machine.forget(names)
        if root.exists():
            check(root, story)
        again = Story(root, Machine(), cells, rows)
        again.run()
        check(root, again)
        assert present(again.store) == whole


@pytest.mark.parametrize(
    ("error", "text"),
    [(errno.ENOSPC, "disk is full"), (errno.EROFS, "file system is read-only"), (errno.EIO, "Input/output error")],
)
@pytest.mark.filterwarnings("ignore::flatdist.store.StoreWarning")
def test_a_failing_call_is_a_clear_error_and_loses_nothing(tmp_path, cells, rows, calls, error, text):
    """Once in the whole story a call fails; whoever asked is told, and everything acknowledged stays."""
    for fails_at in range(0, calls, 7):
        root = tmp_path / str(fails_at) / "results"
        root.parent.mkdir()
        story = Story(root, Machine(fails_at, error), cells, rows)
        try:
            story.run()
        except StoreError as failure:
            assert text in str(failure)  # noqa: PT017
            assert str(root) in str(failure)  # noqa: PT017
        check(root, story)


def test_a_writer_that_dies_leaves_no_trace_in_reads(tmp_path, cells, rows):
    """Before the trials part is there, its history is not seen, and neither is a temporary file."""
    root = tmp_path / "results"
    machine = Machine()
    story = Story(root, machine, cells, rows)
    story.write(cells[0], range(1))
    machine.fails_at = machine.count + 12
    with pytest.raises(PowerLoss):
        story.write(cells[1], range(1))
    assert list(root.rglob(".tmp-*")) or list(root.rglob("history/v1/part/*/*"))
    assert set(Store(root).history()["cell_id"]) == {cells[0].cell_id}
    assert Store(root).gc(grace=0).files > 0
    assert not list(root.rglob(".tmp-*"))
