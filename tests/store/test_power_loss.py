"""Power loss, a full disk and a read-only disk at every file operation in turn: nothing acknowledged is lost."""

from __future__ import annotations

import contextlib
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
        self.begun: set[int] = set()
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

    def open(self, path, flags, mode=0o777, *, dir_fd=None):
        self._call()
        handle = os.open(path, flags, mode, dir_fd=dir_fd)
        self.paths[handle] = self._path(path, dir_fd)
        if flags & os.O_CREAT:
            self.unsynced.add(self.paths[handle])
            self._change(self.paths[handle], lambda made=self.paths[handle]: made.unlink(missing_ok=True))
        return handle

    def write(self, handle, data):
        self._call()
        first = handle not in self.begun
        self.begun.add(handle)
        return os.write(handle, bytes(data[: len(data) // 2] if first else data))  # a disk may take less than given

    def close(self, handle):
        os.close(handle)
        self.paths.pop(handle)
        self.begun.discard(handle)
        if self.off:
            raise PowerLoss

    def fsync(self, handle):
        self._call()
        path = self._path("", handle)
        self.unsynced.discard(path)
        self.forgettable = [(folder, undo) for folder, undo in self.forgettable if folder != path]

    def replace(self, source, target, *, src_dir_fd, dst_dir_fd):
        self._call()
        before, after = self._path(source, src_dir_fd), self._path(target, dst_dir_fd)
        self._change(after, self._restoring(after))
        if before in self.unsynced:
            self.unsynced.add(after)
        os.replace(before, after)

    def link(self, source, target, *, src_dir_fd, dst_dir_fd, follow_symlinks):
        self._call()
        after = self._path(target, dst_dir_fd)
        os.link(self._path(source, src_dir_fd), after, follow_symlinks=follow_symlinks)
        self._change(after, lambda: after.unlink(missing_ok=True))

    def unlink(self, path, *, dir_fd):
        self._call()
        gone = self._path(path, dir_fd)
        undo = self._restoring(gone)
        os.unlink(gone)
        self._change(gone, undo)

    def mkdir(self, path, *, dir_fd=None):
        self._call()
        made = self._path(path, dir_fd)
        os.mkdir(made)
        self._change(made, lambda: shutil.rmtree(made, ignore_errors=True))

    @staticmethod
    def _path(name, dir_fd) -> Path:
        return Path(name) if dir_fd is None else Path(os.readlink(f"/proc/self/fd/{dir_fd}"), name)

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
    """A life of a store in chapters; ``acknowledged`` is what its writers were told is safe."""

    def __init__(self, root: Path, machine: Machine, cells, rows) -> None:
        self.root, self.machine = root, machine
        self.cells, self.rows = cells, rows
        self.acknowledged: set[tuple[str, int]] = set()
        self.saved_sweep = False

    def chapters(self) -> list[Callable[[], None]]:
        """What happens, one after the other."""
        first, second, third, *_ = self.cells
        return [
            lambda: self.write(first, range(2)),
            lambda: self.write(second, range(1)),
            self.save_sweep,
            self.compact,
            lambda: self.write(first, range(3)),  # overlaps what is compacted
            lambda: self.invalidate(second.cell_id, 0),
            lambda: self.write(third, range(1)),
            self.compact,  # takes over, and deletes what the first compaction took over
            lambda: self.write(second, range(1)),  # the invalidated replicate again
            self.compact,
        ]

    def store(self) -> Store:
        return Store(self.root, filesystem=LocalFilesystem(str(self.root), self.machine))

    def write(self, cell, replicates) -> None:
        self.store().write(*self.rows(cell, replicates))
        self.acknowledged |= {(cell.cell_id, replicate) for replicate in replicates}

    def save_sweep(self) -> None:
        self.store().sweeps.save("s", "name: s", [self.cells[0].cell_id], 2)
        self.saved_sweep = True

    def invalidate(self, cell_id: str, replicate: int) -> None:
        self.acknowledged.discard((cell_id, replicate))
        self.store().invalidate([(cell_id, replicate)])

    def compact(self) -> None:
        self.store().compact(grace=0)

    def resumed(self, root: Path, machine: Machine) -> Story:
        """The same story in a copy of the store."""
        story = Story(root, machine, self.cells, self.rows)
        story.acknowledged, story.saved_sweep = set(self.acknowledged), self.saved_sweep
        shutil.copytree(self.root, root, copy_function=os.link)  # files are immutable, and keep their identity
        return story


def present(store: Store) -> set[tuple[str, int]]:
    return {(cell, replicate) for cell, replicates in store.done().items() for replicate in replicates}


def check(story: Story) -> None:
    after = Store(story.root)
    found = present(after)
    assert story.acknowledged <= found
    history = after.history(columns=["cell_id", "replicate", "step", "relative_error"])  # joined with trials
    assert set(zip(history["cell_id"], history["replicate"], strict=True)) == found
    assert len(history) == EVALUATIONS * len(found)
    assert (history["relative_error"] == 0.5 + history["replicate"]).all()
    assert not history.duplicated(["cell_id", "replicate", "step"]).any()
    if story.saved_sweep:
        assert after.sweeps.load("s").replicates == 2


CHAPTERS = 10


@pytest.fixture(scope="module")
def states(tmp_path_factory, cells, rows) -> list[Story]:
    """The store before each chapter, and at the end."""
    root = tmp_path_factory.mktemp("story")
    first = Story(root / "0", Machine(), cells, rows)
    first.root.mkdir()
    found = [first]
    for number in range(CHAPTERS):
        story = found[-1].resumed(root / str(number + 1), Machine())
        story.chapters()[number]()
        found.append(story)
    assert len(found) == len(first.chapters()) + 1
    return found


def calls_of(chapter: int, states: list[Story], folder: Path) -> int:
    story = states[chapter].resumed(folder / "count", Machine())
    story.chapters()[chapter]()
    return story.machine.count


@pytest.mark.parametrize("chapter", range(CHAPTERS))
@pytest.mark.parametrize("names", [True, False], ids=["names lost", "names kept"])
@pytest.mark.filterwarnings("ignore::flatdist.store.StoreWarning")
def test_power_loss_before_any_file_operation_loses_nothing_acknowledged(tmp_path, states, names, chapter):
    calls = calls_of(chapter, states, tmp_path)
    assert calls > 10
    for fails_at in [*range(0, calls, 1 if names else 3), calls]:
        story = states[chapter].resumed(tmp_path / str(fails_at), Machine(fails_at))
        # the last time the power goes right after the answer: what was acknowledged must be there
        with pytest.raises(PowerLoss) if fails_at < calls else contextlib.nullcontext():
            story.chapters()[chapter]()
        story.machine.forget(names)
        check(story)
        if fails_at % 9 == 0:  # done again, it ends as if nothing had happened
            story.machine = Machine()
            story.chapters()[chapter]()
            check(story)
            assert present(story.store()) == present(states[chapter + 1].store())


@pytest.mark.parametrize("chapter", [0, 2, 5, 7])
@pytest.mark.parametrize(
    ("error", "text"),
    [(errno.ENOSPC, "disk is full"), (errno.EROFS, "file system is read-only"), (errno.EIO, "Input/output error")],
)
@pytest.mark.filterwarnings("ignore::flatdist.store.StoreWarning")
def test_a_failing_call_is_a_clear_error_and_loses_nothing(tmp_path, states, chapter, error, text):
    """One call of the chapter fails; whoever asked is told, and everything acknowledged stays."""
    told = 0
    for fails_at in range(0, calls_of(chapter, states, tmp_path), 6):
        story = states[chapter].resumed(tmp_path / str(fails_at), Machine(fails_at, error))
        try:
            story.chapters()[chapter]()
        except StoreError as failure:
            told += 1
            assert text in str(failure)  # noqa: PT017
            assert str(story.root) in str(failure)  # noqa: PT017
        check(story)
    assert told


def test_a_writer_that_dies_leaves_no_trace_in_reads(tmp_path, states, cells):
    """Before the trials part is there, its history is not seen, and neither is a temporary file."""
    story = states[1].resumed(tmp_path / "results", Machine(22))
    with pytest.raises(PowerLoss):
        story.write(cells[1], range(1))
    left = [path for path in story.root.rglob("*.parquet") if "history" in path.parts]
    assert len(left) == 2
    assert set(Store(story.root).history()["cell_id"]) == {cells[0].cell_id}
    assert Store(story.root).gc(grace=0).files > 0
    assert len(list(story.root.rglob(".tmp-*"))) == 0
    check(story)
