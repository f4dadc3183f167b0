"""The command line, as a user meets it: exit status, messages, and what lands in the store."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from flatdist.cells.cell import Cell
from flatdist.cli import cli, main
from flatdist.store import Store, StoreWarning
from flatdist.store.layout import segment_folder

SWEEP = (
    "name: small\ndescription: a test\nreplicates: 3\n"
    "fixed: {d_out: 4, d_in: 4, method: min_frobenius_norm}\n"
    "axes: {rank: [1, 2], n: [6, dof, entries]}\nwhere: n < 16\n"
)


@pytest.fixture
def sweep(tmp_path: Path) -> str:
    path = tmp_path / "small.yaml"
    path.write_text(SWEEP)
    return str(path)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    location = str(tmp_path / "results")
    monkeypatch.setenv("FLATDIST_STORE", location)
    return location


class Run:
    """Runs commands and keeps what they print."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys, self.said = capsys, ""

    def __call__(self, *words: str, status: int = 0) -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("default", StoreWarning)  # which the command prints
            returned = main(list(words))
        captured = self.capsys.readouterr()
        self.said = captured.err  # warnings among it
        assert returned == status, captured.err
        return captured.out if status == 0 else captured.err

    def json(self, *words: str) -> Any:
        return json.loads(self(*words, "--json"))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(capsys)


@pytest.fixture
def swept(run: Run, sweep: str, store: str) -> str:
    run("sweep", sweep, "--executor", "inline", "--display", "none", "--no-probe")
    return store


def test_every_command_has_help(run: Run) -> None:
    text = run("--help")
    for name in cli.commands:
        assert name in text
        assert "Usage: flatdist" in run(name, "--help")


def test_plan_counts_and_starts_nothing(run: Run, sweep: str, store: str) -> None:
    text = run("plan", sweep, "--no-probe")
    assert "small: a test" in text
    assert "4 cells (2 left out by where) with 3 replicates each: 0 done, 12 missing, 0 failed" in text
    plan = run.json("plan", sweep, "--no-probe")
    assert plan["replicates"] == {"total": 12, "done": 0, "missing": 12, "failed": 0, "to_run": 12}
    assert plan["seconds"]["low"] <= plan["seconds"]["mid"] <= plan["seconds"]["high"]
    assert plan["memory_bytes_per_trial"] > 0
    assert plan["left_out"] == 2
    assert not Path(store).exists()


def test_sweep_runs_what_is_missing_and_then_nothing(run: Run, sweep: str, store: str) -> None:
    words = ("sweep", sweep, "--executor", "inline", "--display", "none", "--no-probe")
    run(*words, "--limit", "1")
    assert run.json("status")["sweeps"][0]["done"] == 3
    run(*words)
    trials = Store(store).trials()
    assert len(trials) == 12
    assert "nothing to run" in run(*words)
    pd.testing.assert_frame_equal(Store(store).trials(), trials)
    count = run.json("status", "small")["sweeps"][0]
    assert (count["done"], count["missing"], count["failed"]) == (12, 0, 0)


def test_watching_a_finished_sweep_shows_it_and_ends(run: Run, sweep: str, swept: str) -> None:
    assert main(["status", sweep, "--watch"]) == 0
    assert "12/12 replicates (100%)" in run.capsys.readouterr().err


def test_an_interrupt_is_status_130(run: Run, sweep: str, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("flatdist.launch.plan_sweeps", interrupted)
    assert run("plan", sweep, status=130).strip() == "interrupted"


def test_a_sweep_is_known_by_name_without_its_file(run: Run, sweep: str, swept: str) -> None:
    Path(sweep).unlink()
    assert run.json("plan", "small", "--no-probe")["replicates"]["done"] == 12
    assert len(run.json("cells", "small")) == 4


def test_several_sweeps_run_as_one(run: Run, sweep: str, store: str, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(SWEEP.replace("small", "other").replace("replicates: 3", "replicates: 5").replace("[1, 2]", "[2]"))
    plan = run.json("plan", sweep, str(other), "--no-probe")
    assert [count["name"] for count in plan["sweeps"]] == ["small", "other"]
    assert plan["replicates"]["total"] == 2 * 3 + 2 * 5
    run("sweep", sweep, str(other), "--executor", "inline", "--display", "none", "--no-probe")
    assert len(Store(store).trials()) == 16
    assert run("status").splitlines()[1].split()[:4] == ["other", "2", "10", "10"]


def test_set_and_where_choose_other_cells_and_leave_the_record(run: Run, sweep: str, swept: str) -> None:
    words = ("sweep", sweep, "--executor", "inline", "--display", "none", "--no-probe")
    run(*words, "--set", "rank=3", "--set", "n=2*rank", "--where", "rank == 3")
    trials = Store(swept).trials(where="rank == 3")
    assert set(trials["n"]) == {6}
    assert len(Store(swept).sweeps.load("small").cell_ids) == 4
    assert len(run.json("cells", sweep, "--where", "n == 6")) == 2


def test_cells_and_show(run: Run, sweep: str, swept: str) -> None:
    cells = run.json("cells", sweep)
    assert [(cell["rank"], cell["n"], cell["done"]) for cell in cells] == [(1, 6, 3), (1, 7, 3), (2, 6, 3), (2, 12, 3)]
    assert run("cells", sweep).splitlines()[0].split() == ["cell_id", "rank", "n", "done", "failed"]
    expected = Cell(d_out=4, d_in=4, rank=1, n=6, method="min_frobenius_norm")
    assert cells[0]["cell_id"] == expected.cell_id
    shown = run.json("show", expected.cell_id[:8])
    assert shown["cell_id"] == expected.cell_id
    assert shown["fields"]["n"] == 6
    assert len(shown["trials"]) == 3
    assert "relative_error" in run("show", expected.cell_id)
    assert "is in none of the 4 cells" in run("show", "ffffffffff", status=2)
    assert "fewer than 4 digits" in run("show", expected.cell_id[:2], status=2)


def test_failures_are_listed_and_retried_only_when_asked(
    run: Run, sweep: str, swept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = Cell(d_out=4, d_in=4, rank=1, n=6, method="min_frobenius_norm")
    Store(swept).invalidate([(cell.cell_id, 1)])
    failure = {
        "cell_id": cell.cell_id,
        "replicate": 1,
        "attempt": 1,
        "error_type": "LinAlgError",
        "message": "singular",
    }
    failure |= {"traceback": "Traceback\n  line 1\nLinAlgError: singular", "host": "h\x1b[2J"}
    Store(swept).write_failures([failure])
    text = run("failures", sweep)
    assert "1 replicates of 1 cells failed: LinAlgError: singular" in text
    assert "    LinAlgError: singular" in text
    assert r"on h\x1b[2J at" in text
    assert run.json("status")["sweeps"][0]["failed"] == 1
    words = ("sweep", sweep, "--executor", "inline", "--display", "none", "--no-probe")
    assert "LinAlgError: singular" in run(*words, status=1)
    assert len(Store(swept).trials()) == 11
    run(*words, "--retry-failed")
    assert len(Store(swept).trials()) == 12
    assert "no replicate has failed" in run("failures", sweep)


def test_invalidate_runs_chosen_results_again(run: Run, sweep: str, swept: str) -> None:
    before = Store(swept).trials()
    worst = float(before["relative_error"].max())
    assert "add --yes" in run("invalidate", sweep, "--where", f"relative_error >= {worst}", status=2)
    assert "voided 1 replicate;" in run("invalidate", sweep, "--where", f"relative_error >= {worst}", "--yes")
    assert run.json("plan", sweep, "--no-probe")["replicates"]["missing"] == 1
    run("sweep", sweep, "--executor", "inline", "--display", "none", "--no-probe")
    after = Store(swept).trials()
    pd.testing.assert_series_equal(after["relative_error"], before["relative_error"])
    assert "nothing to void" in run("invalidate", sweep, "--where", "relative_error < 0", "--yes")


def test_export_writes_one_flat_file(run: Run, sweep: str, swept: str, tmp_path: Path) -> None:
    for kind in ("csv", "parquet"):
        out = tmp_path / f"flat.{kind}"
        assert "wrote 12 rows" in run("export", sweep, f"--{kind}", "--out", str(out))
        frame = pd.read_csv(out) if kind == "csv" else pd.read_parquet(out)
        assert frame["relative_error"].tolist() == pytest.approx(Store(swept).trials()["relative_error"].tolist())
    values = [json.loads(text) for text in pd.read_csv(tmp_path / "flat.csv")["singular_values"]]
    assert all(len(one) == 4 for one in values)
    assert "cannot be written" in run("export", sweep, "--out", str(tmp_path / "missing" / "x.csv"), status=2)


def test_export_replaces_exports_only(run: Run, sweep: str, swept: str, tmp_path: Path) -> None:
    notes = tmp_path / "notes.csv"
    notes.write_text("my notes, of years\n")
    assert "is not an export of flatdist: add --force" in run("export", sweep, "--csv", "--out", str(notes), status=2)
    assert notes.read_text() == "my notes, of years\n"
    run("export", sweep, "--csv", "--out", str(notes), "--force")
    assert "wrote 12 rows" in run("export", sweep, "--parquet", "--out", str(notes))  # over the export
    assert "wrote 12 rows" in run("export", sweep, "--csv", "--out", str(notes))
    assert "exclude each other" in run("export", sweep, "--csv", "--parquet", status=2)
    below = str(notes / "x.csv")
    assert "is not a folder; give an --out in one that exists" in run("export", sweep, "--out", below, status=2)


def test_a_damaged_segment_is_named_and_replaced(run: Run, sweep: str, swept: str, tmp_path: Path) -> None:
    run("compact")
    (segment,) = Path(swept).glob(f"{segment_folder('trials')}/*.parquet")
    segment.write_bytes(b"rubbish")
    assert "wrote 0 rows" in run("export", sweep, "--out", str(tmp_path / "none.parquet"))
    assert re.search(f"damaged and left out; 'flatdist sweep' .*{segment.name}", run.said)
    run("plan", sweep)  # the files that it took over are still there
    assert "set aside: 0 replicates count as missing" in run.said
    assert (Path(swept) / "set-aside" / segment.relative_to(swept)).read_bytes() == b"rubbish"
    assert "wrote 12 rows" in run("export", sweep, "--out", str(tmp_path / "all.parquet"))


def test_merge_compact_and_gc(run: Run, sweep: str, swept: str, tmp_path: Path) -> None:
    other = str(tmp_path / "other")
    assert "merged 12 replicates and 1 sweep\n" in run("merge", swept, "--store", other)
    assert run.json("status", "--store", other)["sweeps"][0]["done"] == 12
    run("compact", "--store", other)
    assert "add --yes" in run("gc", "--store", other, status=2)
    assert "dropped 0 rows" in run("gc", "--store", other, "--yes")
    pd.testing.assert_frame_equal(Store(other).trials(), Store(swept).trials())
    assert "there is no such folder" in run("merge", str(tmp_path / "nothing"), status=2)


def test_train_runs_one_cell_and_stores_only_when_asked(run: Run, store: str) -> None:
    words = ("train", "d_out=4", "d_in=4", "rank=1", "n=dof+1", "method=min_frobenius_norm", "--replicates", "2")
    result = run.json(*words)
    assert [trial["n"] for trial in result["trials"]] == [8, 8]
    assert result["cell_id"] == Cell(d_out=4, d_in=4, rank=1, n=8, method="min_frobenius_norm").cell_id
    assert not Path(store).exists()
    assert "relative_error" in run(*words, "--store", store)
    assert len(Store(store).trials()) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train"], "d_out: is required and missing; allowed: a whole number from 1"),
        (["train", "d_out=4", "d_in=4", "rank=1", "n=8", "depth=three"], "three' is neither a number nor the name of"),
        (["train", "d_out=4", "d_in=4", "rank=1", "n=8", "rank=2"], "'rank=2': rank is given twice"),
        (["train", "d_out=4", "d_in=4", "rank=5", "n=3"], r"rank: 5 exceeds min(d_out, d_in)"),
        (["train", "d_otu=4"], "did you mean 'd_out'"),
        (["train", "rank"], "is not of the form field=value"),
        (["train", "d_out=4", "d_in=4", "rank=1", "n=n+1"], "n: depends on itself"),
        (["train", "d_out=4", "d_in=4", "rank=1", "n=2*rnak"], "did you mean 'rank'"),
        (["train", "d_out=[4"], "is not valid YAML"),
        (["plan", "missing.yaml"], "missing.yaml: does not exist"),
        (["plan", "missing"], "'missing' is not a file, and store"),
        (["plan"], "Missing argument 'SWEEP...'"),
        (["plna"], "No such command 'plna'"),
        (["plan", "SWEEP", "--budget", "soon"], "cannot read 'soon' as a duration"),
        (["plan", "SWEEP", "--budget", "1s", "--no-probe"], "add --fit"),
        (["plan", "SWEEP", "--fit"], "--fit needs --budget"),
        (["plan", "SWEEP", "--set", "rnak=2"], "did you mean 'rank'"),
        (["plan", "SWEEP", "--set", "rank=9"], "--set rank: 9 exceeds min(d_out, d_in)"),
        (["plan", "SWEEP", "--where", "rank >"], "--where: "),
        (
            ["plan", "SWEEP", "--where", "rank > 7"],
            "yaml: --where 'rank > 7': leaves out all 6 cells: the sweep is empty",
        ),
        (["plan", "SWEEP", "--engine", "fuesd"], "did you mean 'fused'"),
        (["plan", "SWEEP", "--device", "tpu"], "device 'tpu' does not exist"),
        (["plan", "SWEEP", "--cpus-per-trial", "10000"], "--cpus-per-trial 10000: this machine has"),
        (["sweep", "SWEEP", "--cpus-per-trial", "10000"], "--cpus-per-trial 10000: this machine has"),
        (["sweep", "SWEEP", "--logger", "csvv"], "logger 'csvv' does not exist (did you mean 'csv'?)"),
        (["plan", "SWEEP", "--limit", "0"], "0 is not in the range"),
        (
            ["sweep", "SWEEP", "--store", "/proc/nothing", "--executor", "inline"],
            "store /proc/nothing: cannot write a test file: a folder of",
        ),
        (["sweep", "SWEEP", "--store", "s3://key:secret@bucket/x"], "credentials"),
        (["status", "--store", "nowhere"], "there is no such folder"),
        (["show", "abcdef", "--store", "nowhere"], "there is no such folder"),
        (["cells", "SWEEP", "--where", "n.real > 1"], "is not arithmetic"),
    ],
)
def test_bad_input_is_one_message_and_status_2(
    run: Run, sweep: str, store: str, words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    text = run(*(sweep if word == "SWEEP" else word for word in words), status=2)
    assert message in text
    assert "Traceback" not in text
    assert "secret" not in text
    assert not Path(store).exists()


def test_auto_and_full_are_shown_by_their_words(run: Run, store: str, tmp_path: Path) -> None:
    words = ("train", "d_out=3", "d_in=3", "rank=1", "n=6", "steps=20", "evaluations=2", "batch_size=full")
    text = run(*words, "--engine", "batched", "method=minibatch_sgd")
    assert "learning_rate=auto" in text
    assert "batch_size=full" in text
    path = tmp_path / "both.yaml"
    axes = "axes: {method: [minibatch_sgd, min_frobenius_norm], learning_rate: [auto, 0.1]}\n"
    path.write_text("fixed: {d_out: 3, d_in: 3, rank: 1, n: 6}\n" + axes)
    head, *lines = (line.split() for line in run("cells", str(path)).splitlines()[:-1])
    assert [line[head.index("learning_rate")] for line in lines] == ["auto", "0.1", "-"]


@pytest.mark.parametrize(("option", "value"), [("--engine", "foo"), ("--device", "tpu")])
@pytest.mark.parametrize("method", ["label_noise_sgd", "min_frobenius_norm"])
def test_train_prints_nothing_before_it_refuses(
    run: Run, capsys: pytest.CaptureFixture[str], option: str, value: str, method: str
) -> None:
    assert main(["train", "d_out=4", "d_in=4", "rank=1", "n=8", f"method={method}", option, value]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert value in printed.err


@pytest.mark.parametrize("option", ["--cpus-per-trial", "--gpus-per-trial", "--checkpoint-seconds"])
@pytest.mark.parametrize("value", ["nan", "inf", "-1"])
def test_numbers_that_are_none_are_refused(
    sweep: str, store: str, capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    assert main(["sweep", sweep, "--store", store, "--executor", "inline", option, value]) == 2
    assert value in capsys.readouterr().err


def test_a_diverged_cell_says_what_to_try(run: Run) -> None:
    words = ("train", "d_out=3", "d_in=3", "rank=1", "n=6", "steps=50", "evaluations=2", "learning_rate=50")
    assert "try a smaller learning_rate" in run(*words, "--engine", "batched")


def test_a_rank_too_large_for_statdim_is_one_problem(run: Run, sweep: str, store: str, tmp_path: Path) -> None:
    path = tmp_path / "cone.yaml"
    path.write_text("fixed: {d_out: 4, d_in: 4, rank: 1}\naxes: {n: [0.6*statdim, statdim]}\n")
    text = run("plan", str(path), "--set", "rank=9", status=2)
    assert "a problem:" in text
    assert "--set rank: 9 exceeds min(d_out, d_in)" in text
    text = run("train", "d_out=4", "d_in=4", "rank=9", "n=statdim", status=2)
    assert len(text.splitlines()) == 2
    assert "rank: 9 exceeds min(d_out, d_in)" in text


@pytest.mark.parametrize("asked", ["--device cuda", "--gpus-per-trial 1"])
@pytest.mark.parametrize("command", ["plan", "sweep"])
def test_a_device_that_is_absent_is_refused_before_ray_starts(
    run: Run, sweep: str, store: str, command: str, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flatdist.planning.settings.cuda_devices", tuple)
    monkeypatch.setattr(
        "flatdist.launch.ray.cluster.ClusterSession.__enter__", lambda _: pytest.fail("Ray was started")
    )
    text = run(command, sweep, *asked.split(), status=2)
    assert f"{asked}: torch sees no CUDA device on this machine" in text


def test_all_problems_of_all_files_are_reported_before_anything_starts(
    run: Run, sweep: str, store: str, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(SWEEP.replace("rank: [1, 2]", "rank: [1, 9]").replace("replicates: 3", "replicates: 0"))
    text = run("sweep", sweep, str(bad), "nowhere.yaml", "--executor", "inline", status=2)
    assert f"{bad}:3: replicates: 0" in text
    assert f"{bad}:5: axes.rank: 9 exceeds" in text
    assert "nowhere.yaml: does not exist" in text
    assert not Path(store).exists()


def test_a_long_run_is_confirmed_only_where_somebody_is_there_to_ask(
    run: Run, sweep: str, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flatdist.cli import sweep as module

    monkeypatch.setattr(module, "LONG_SECONDS", 0.0)
    run("sweep", sweep, "--executor", "inline", "--display", "none", "--no-probe")
    assert len(Store(store).trials()) == 12


HOSTILE = {
    "aliases": "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 90)),
    "nesting": "fixed: " + "[" * 90_000,
    "tag": "fixed: !!python/object/apply:os.system ['touch PWNED']\n",
    "cells": "fixed: {d_out: 12, d_in: 12, rank: 1}\naxes: {n: {linspace: [1, 100, 10000000]}}\n",
    "product": "fixed: {d_out: 12, d_in: 12, rank: 1}\naxes:\n"
    + "".join(f"  {name}: {{linspace: [1, 100, 1000]}}\n" for name in ("n", "steps", "label_noise_std")),
    "power": "fixed: {d_out: 12, d_in: 12, rank: 1, n: '9**9**9**9'}\n",
    "digits": f"fixed: {{d_out: 12, d_in: 12, rank: 1, n: {'9' * 50_000}}}\n",
    "attributes": 'fixed: {d_out: 12, d_in: 12, rank: 1, n: "(1).__class__.__bases__[0].__subclasses__()"}\n',
    "call": "fixed: {d_out: 12, d_in: 12, rank: 1, n: \"__import__('os').system('touch PWNED')\"}\n",
    "brackets": f'fixed: {{d_out: 12, d_in: 12, rank: 1, n: "{"(" * 40_000}1"}}\n',
    "name": "name: ../../PWNED\nfixed: {d_out: 4, d_in: 4, rank: 1, n: 5}\n",
    "shell": "name: $(touch PWNED)\nfixed: {d_out: 4, d_in: 4, rank: 1, n: 5}\n",
    "long": "# " + "x" * 5_000_000,
}


_MEASURED = (
    "import sys; from pathlib import Path; from flatdist.cli import main; status = main(sys.argv[1:]); "
    "peak = [line for line in Path('/proc/self/status').read_text().splitlines() if line.startswith('VmHWM')]; "
    "print(peak[0].split()[1]); sys.exit(status)"
)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_refused_within_500_mb(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "hostile.yaml"
    path.write_text(HOSTILE[kind])
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, "plan", str(path), "--no-probe"],
        cwd=tmp_path,
        env=os.environ | {"FLATDIST_STORE": str(tmp_path / "results")},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr) < 5000
    assert int(done.stdout) < 500 * 1024  # KiB
    assert not list(tmp_path.rglob("*PWNED*"))


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from flatdist.cli import main; main(['--help']); main(['plan', 'missing.yaml']); "
        "heavy = {'torch', 'ray', 'pandas', 'numba', 'pyarrow', 'scipy', 'matplotlib'} & set(sys.modules); "
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


def test_two_sweeps_of_one_name_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, n in (("a", 10), ("b", 11)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "s.yaml").write_text(f"name: twin\nfixed: {{d_out: 4, d_in: 4, rank: 1, n: {n}}}\n")
    files = [str(tmp_path / folder / "s.yaml") for folder in "ab"]
    assert main(["plan", *files, "--store", str(tmp_path / "store"), "--no-probe"]) == 2
    assert "are both named 'twin'; give each sweep a name of its own" in capsys.readouterr().err
    assert main(["plan", files[0], files[0], "--store", str(tmp_path / "store"), "--no-probe"]) == 0


def test_a_failure_that_stands_is_told_by_the_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import flatdist.trials.run

    real = flatdist.trials.run.run_replicates

    def broken(cell: Any, *arguments: Any, **options: Any) -> Any:
        if cell.n == 10:
            raise RuntimeError("broken numerics")
        return real(cell, *arguments, **options)

    monkeypatch.setattr(flatdist.trials.run, "run_replicates", broken)
    path = tmp_path / "s.yaml"
    command = ["sweep", str(path), "--store", str(tmp_path / "store"), "--executor", "inline", "--yes", "--no-probe"]
    text = "name: s\nreplicates: 1\nfixed: {d_out: 4, d_in: 4, rank: 1, steps: 5}\naxes: {n: [%s]}\n"
    path.write_text(text % "10")
    assert main(command) == 1
    path.write_text(text % "10, 11")
    assert main(command) == 1, "n = 11 was computed now, and n = 10 still has no result"


def test_sigterm_before_anything_is_launched_is_130(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("name: s\nfixed: {d_out: 4, d_in: 4, rank: 1, n: 10}\n")
    code = (
        "import os, signal, sys; import flatdist.sweeps as sweeps; from flatdist.cli import main\n"
        "sweeps.open_sweep = lambda *a, **k: os.kill(os.getpid(), signal.SIGTERM)\n"
        f"sys.exit(main(['plan', {str(path)!r}, '--no-probe']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
