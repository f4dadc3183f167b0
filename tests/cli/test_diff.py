"""``flatdist diff``: sides by name, file, store, filter and revision; exit status like diff's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flatdist.cli import main
from flatdist.fits.grouping import as_value
from flatdist.store import Store

SWEEP = (
    "name: {name}\ndescription: a test\nreplicates: 8\nfixed: {{d_out: 4, d_in: 4}}\n"
    "axes: {{rank: [1, 2], n: [4, 8, 12], method: [{methods}]}}\n"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sweeps that share one method, in one store; one of them in another store too."""
    path = tmp_path_factory.mktemp("diff")
    for name, methods in (("one", "min_frobenius_norm, min_nuclear_norm"), ("two", "min_nuclear_norm")):
        (path / f"{name}.yaml").write_text(SWEEP.format(name=name, methods=methods))
    for name, store in (("one", "here"), ("two", "here"), ("one", "there")):
        words = ["sweep", str(path / f"{name}.yaml"), "--store", str(path / store), "--executor", "inline"]
        assert main([*words, "--display", "none", "--no-probe"]) == 0
    return path


@pytest.fixture
def diff(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("FLATDIST_STORE", "here")

    def run(*words: str, status: int = 0) -> str:
        capsys.readouterr()
        returned = main(["diff", *words])
        captured = capsys.readouterr()
        assert returned == status, captured.out + captured.err
        return captured.err if status == 2 else captured.out

    return run


def test_the_same_rows_in_two_stores_agree_to_the_bit(diff) -> None:
    text = diff("one", "one.yaml", "--other-store", "there")
    assert "A: one in here: 96 trials of 12 cells, revision" in text
    assert "B: one.yaml in there: 96 trials of 12 cells" in text
    assert "96 pairs of trials on the same problems: 96 agree to the bit; 12 of 12 cells in full" in text
    assert "nothing moved, of 0 comparisons that could show it" in text
    assert "cell_id" not in text


def test_sweeps_that_share_cells_list_what_only_one_has(diff) -> None:
    text = diff("one", "two")
    assert "6 cells in both, 6 only in A, 0 only in B" in text
    assert text.count("  only in A: ") == 3
    content = json.loads(diff("one", "two", "--json"))
    assert (len(content["cells"]), len(content["only_in_a"]), content["only_in_b"]) == (6, 6, [])
    assert content["pairs"] == content["identical"] == 48
    assert content["moved"] == 0
    assert content["a"]["trials"] == 96


def test_what_moved_is_status_1(diff) -> None:
    sides = ["one", "--where", "method == 'min_nuclear_norm'", "--other-where", "method == 'min_frobenius_norm'"]
    text = diff(*sides, status=1)
    assert "paired cells differ in method: min_nuclear_norm in A, min_frobenius_norm in B" in text
    content = json.loads(diff(*sides, "--json", status=1))
    first = content["changes"][0]
    assert first["moved"]
    assert (first["measure"], first["scope"]) == ("relative_error", "method")
    assert first["change"] > 1.0, "the smallest norm recovers worse"
    assert first["low"] <= first["change"] <= first["high"]
    n50 = [row for row in content["changes"] if row["measure"] == "n50"]
    assert {row["rank"] for row in n50} == {1, 2}
    assert n50[0]["pairs"] == 24
    shown = [line for line in diff(*sides, "--all", status=1).splitlines() if line.startswith(("yes ", "no ", "-  "))]
    assert len(shown) >= len(content["changes"]) - 1


def older_rows(folder: Path, scale: float) -> Path:
    """A store with the rows of ``one`` and, for one method, rows that older numerics left behind."""
    store = Store(folder / f"revised{scale}")
    store.merge(str(folder / "there"))
    rows = Store(folder / "there").trials(where="method == 'min_nuclear_norm'").to_dict("records")
    for row in rows:
        row.update(
            cell_id="0" + row["cell_id"][1:], numerics_version=row["numerics_version"] - 1, git_sha="abcdef12" * 5
        )
        row["relative_error"] = max(row["relative_error"], 1e-9) * scale
    plain = [{name: None if as_value(value) is None else value for name, value in row.items()} for row in rows]
    store.write(plain, [])
    return folder / f"revised{scale}"


def test_two_revisions_of_one_sweep(diff, folder: Path) -> None:
    store = str(older_rows(folder, 2.0))
    newest = Store(store).trials(where="method == 'min_nuclear_norm'")["numerics_version"].unique()
    assert len(newest) == 1
    for sides in (["one"], ["one", "--revision", "abcdef"], ["one.yaml", "--revision", f"v{newest[0] - 1}"]):
        text = diff(*sides, "--store", store, status=1)
        assert "48 trials of 6 cells, revision abcdef12, numerics v" in text
        assert "6 cells in both, 0 only in A, 6 only in B" in text
    rows = json.loads(diff("one", "--store", store, "--json", status=1))["changes"]
    overall = [row for row in rows if row["scope"] == "method" and row["measure"] == "relative_error"]
    assert overall[0]["change"] < 1.0
    same = diff("one", "one", "--revision", "abcdef", "--other-revision", f"v{newest[0] - 1}", "--store", store)
    assert "48 agree to the bit" in same


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["one"], "no rows of it were computed by older numerics"),
        (["one", "three"], "no sweep 'three'"),
        (["one", "two", "--other-store", "nowhere"], "no such folder"),
        (["one", "two", "--revision", "head"], "revision 'head' is none; allowed"),
        (["one", "two", "--revision", "0123abcd"], "one in here at 0123abcd: there are no such trials"),
        (["one", "two", "--where", "rank == 9"], "where rank == 9: there are no such trials"),
        (["one", "two", "--where", "rank == 1", "--other-where", "rank == 2"], "share no cell"),
        (["one", "two", "--across", "n"], "differ in n share no problem"),
        (["one", "two", "--level", "95"], "level=95"),
    ],
)
def test_bad_input_is_one_message_and_status_2(diff, words: list[str], message: str) -> None:
    error = diff(*words, status=2)
    assert message in error
    assert error.count("error:") == 1
