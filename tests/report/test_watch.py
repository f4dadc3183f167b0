"""The live page: loopback, a token, the host checked, read-only, filling in as rows land."""

import json
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from flatdist.cli import main
from flatdist.report.watch import Watch

SWEEP = (
    "name: live\nreplicates: 2\nfixed: {d_out: 3, d_in: 3, rank: 1, method: min_nuclear_norm}\naxes: {n: [4, 6, 9]}\n"
)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("live")
    (folder / "live.yaml").write_text(SWEEP)
    run(folder, "--limit", "1")
    return folder


def run(folder: Path, *options: str) -> None:
    words = ["sweep", str(folder / "live.yaml"), "--store", str(folder / "results"), "--executor", "inline", "--yes"]
    assert main([*words, "--display", "none", "--no-probe", *options]) == 0


@pytest.fixture
def watch(swept):
    file, store = str(swept / "live.yaml"), str(swept / "results")
    watch = Watch(file, store)
    thread = threading.Thread(target=watch.serve)
    thread.start()
    yield watch
    watch.close()
    thread.join(timeout=60)
    assert not thread.is_alive()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(watch.address, timeout=5)


def ask(address: str, **headers: str):
    with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=60) as answer:
        return answer.headers, answer.read().decode()


def test_rows_appear_as_they_land(watch, swept):
    watch.refresh()
    headers, page = ask(watch.address)
    assert headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "connect-src 'self'" in page
    assert "4 of 6 replicates are missing" in page
    version = json.loads(ask(watch.address + "news?since=0")[1])["version"]
    assert "main" not in json.loads(ask(f"{watch.address}news?since={version}")[1])
    run(swept)
    watch.refresh()
    news = json.loads(ask(f"{watch.address}news?since={version}")[1])
    assert news["version"] > version
    assert "are missing" not in news["main"]
    assert news["state"].startswith("Live: 6 replicates so far")


@pytest.mark.parametrize("path", ["", "x/", "../results", "{token}x/", "{token}/other", "{token}/news/x"])
def test_without_the_token_and_beyond_the_page_there_is_nothing(watch, path):
    root, token = watch.address[:-1].rsplit("/", 1)
    with pytest.raises(urllib.error.HTTPError) as caught:
        ask(f"{root}/{path.format(token=token)}")
    assert caught.value.code == 404
    caught.value.close()


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example:80", ""])
def test_other_hosts_names_are_refused(watch, host):
    with pytest.raises(urllib.error.HTTPError) as caught:
        ask(watch.address, Host=host)
    assert caught.value.code == 404
    caught.value.close()


def test_it_listens_on_loopback_alone_and_changes_nothing(watch):
    assert watch.address.startswith("http://127.0.0.1:")
    assert len(watch.address.rstrip("/").rsplit("/", 1)[1]) >= 22, "128 bits"
    for method in ("POST", "PUT", "DELETE"):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(urllib.request.Request(watch.address, data=b"x", method=method), timeout=60)
        assert caught.value.code == 501
        caught.value.close()


def test_once_writes_the_page_and_no_figures(swept, tmp_path, capsys):
    words = ["watch", str(swept / "live.yaml"), "--store", str(swept / "results"), "--once", "--out", str(tmp_path)]
    assert main(words) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "live.html")
    assert [path.name for path in tmp_path.iterdir()] == ["live.html"]
    assert "data-version" not in (tmp_path / "live.html").read_text().split("<head>")[0]
