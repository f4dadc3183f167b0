from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from flatdist.errors import LaunchError, StoreError
from flatdist.launch import Settings, launch
from flatdist.launch.interrupt import Interrupts, StopNow
from flatdist.launch.progress.display import Display
from flatdist.launch.worker import run_shard
from flatdist.planning import Shard, WorkItem
from flatdist.store import Store


def run(plan: Any, store: Path, runner: str, **settings: Any) -> tuple[Any, list[str]]:
    display = Display()
    chosen = Settings(executor="inline", runner=f"launch_fakes:{runner}", **settings)
    return launch(plan, store, settings=chosen, display=display), display.messages


def test_every_replicate_of_the_plan_is_in_the_store_afterwards(tmp_path: Path, make_cell: Any, make_plan: Any) -> None:
    cells = [make_cell(n) for n in (30, 40, 50)]
    result, messages = run(make_plan(cells, (0, 1, 2), per_shard=2), tmp_path, "canned")
    assert (result.exit_code, result.wanted, result.stored, result.failed) == (0, 9, 9, 0)
    assert Store(tmp_path).done() == {cell.cell_id: {0, 1, 2} for cell in cells}
    trials = Store(tmp_path).trials()
    assert sorted(trials["n"]) == [30] * 3 + [40] * 3 + [50] * 3
    assert len(Store(tmp_path).history()) == 18
    assert "9 of 9 replicates are stored" in messages[-1]


def test_an_exception_fails_its_replicates_and_nothing_else(tmp_path: Path, make_cell: Any, make_plan: Any) -> None:
    cells = [make_cell(n) for n in (30, 40)]
    result, messages = run(make_plan(cells, (0, 1, 2)), tmp_path, "failing")
    assert (result.exit_code, result.stored, result.failed, result.missing) == (1, 2, 4, 0)
    failures = Store(tmp_path).failures()
    assert sorted(failures["replicate"]) == [1, 1, 2, 2]
    assert set(failures["error_type"]) == {"ArithmeticError"}
    assert "no luck with n = 30" in set(failures["message"])
    assert all("raise ArithmeticError" in text for text in failures["traceback"])
    assert "--retry-failed" in messages[-1]


def test_a_sweep_whose_first_cells_fail_alike_stops_and_says_why(
    tmp_path: Path, make_cell: Any, make_plan: Any
) -> None:
    cells = [make_cell(n) for n in range(20, 40)]
    result, messages = run(make_plan(cells, (0, 1)), tmp_path, "always_failing")
    assert result.exit_code == 1
    assert (result.failed, result.missing) == (10, 30)
    assert "the first 5 cells all failed with the same error: ArithmeticError: singular matrix at n = #" in messages[-1]


def test_replicates_that_do_not_fit_into_memory_together_run_in_halves(
    tmp_path: Path, make_cell: Any, make_plan: Any
) -> None:
    result, _ = run(make_plan([make_cell()], range(9)), tmp_path, "short_of_memory")
    assert (result.stored, result.failed) == (9, 0)


def test_a_shard_started_again_leaves_out_what_is_stored(tmp_path: Path, make_cell: Any, make_plan: Any) -> None:
    settings = Settings(runner="launch_fakes:canned", launch="0" * 12)
    shard = Shard((WorkItem(make_cell(), (0, 1, 2, 3)),), 1.0)
    run(make_plan([make_cell()], (0, 2)), tmp_path, "canned")
    assert run_shard(shard, str(tmp_path), settings).stored == 2
    assert run_shard(shard, str(tmp_path), settings).stored == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stores_what_is_finished_and_says_how_to_go_on(
    tmp_path: Path, make_cell: Any, make_plan: Any, number: int
) -> None:
    plan = make_plan([make_cell(n, steps=100) for n in range(20, 60)], (0, 1), per_shard=10)
    store = Store(tmp_path)

    def interrupt_after_first_rows() -> None:
        deadline = time.monotonic() + 60
        while not store.done() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt_after_first_rows)
    thread.start()
    result, messages = run(plan, tmp_path, "sleeping", flush_seconds=0.1)
    thread.join()
    assert result.exit_code == 130
    assert 0 < result.stored < result.wanted
    assert result.stored == sum(len(replicates) for replicates in store.done().values())
    assert f"rerun the command to continue with the other {result.missing}" in messages[-1]


def test_work_that_does_not_ask_is_broken_off() -> None:
    def work() -> None:
        with Interrupts(patience=0.01):
            os.kill(os.getpid(), signal.SIGTERM)
            threading.Event().wait(30)

    with pytest.raises(StopNow):
        work()


def test_work_that_is_broken_off_in_compiled_code_has_not_failed(
    tmp_path: Path, make_cell: Any, make_plan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flatdist.launch.launching.WORK_SECONDS", 0.05)
    result, messages = run(make_plan([make_cell(30), make_cell(40)], (0, 1, 2)), tmp_path, "compiled")
    assert (result.exit_code, result.stored, result.failed, result.missing) == (130, 1, 0, 5)
    assert Store(tmp_path).failed() == {}
    assert "rerun the command to continue with the other 5" in messages[-1]


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with Interrupts():
        assert signal.getsignal(signal.SIGINT) is not before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_an_alarm_of_the_process_is_kept() -> None:
    """A caller's own deadline, such as a test's, outlives a launch and the time that an interrupt grants it."""
    heard: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: heard.append(number))
    timer = signal.setitimer(signal.ITIMER_REAL, 1000)
    try:
        with Interrupts(patience=500):
            assert signal.getitimer(signal.ITIMER_REAL)[0] > 900
        with Interrupts(patience=500):
            os.kill(os.getpid(), signal.SIGTERM)
            assert 400 < signal.getitimer(signal.ITIMER_REAL)[0] < 501
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 900
        signal.raise_signal(signal.SIGALRM)
        assert heard == [signal.SIGALRM]
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, before)


def test_bad_settings_are_named_all_at_once() -> None:
    with pytest.raises(LaunchError) as caught:
        Settings(cpus_per_trial=0, gpus_per_trial=1.5, engine="fussed", runner="nowhere")
    text = str(caught.value)
    for part in ("cpus_per_trial: 0", "gpus_per_trial: 1.5", "did you mean", "runner: 'nowhere'"):
        assert part in text


def test_unknown_executor_and_unwritable_store_start_nothing(tmp_path: Path, make_cell: Any, make_plan: Any) -> None:
    plan = make_plan([make_cell()])
    with pytest.raises(LaunchError, match="executor 'slurm' does not exist; allowed: ray, inline"):
        launch(plan, tmp_path, settings=Settings(executor="slurm"))
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(StoreError, match="file"):
        launch(plan, blocked, settings=Settings(executor="inline"), display="none")
