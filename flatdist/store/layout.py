"""What a store may contain: the storage reads, writes and deletes only files whose names are known here.

::

    trials/v1/part/<2 hex>/<part>-<history's digest>-<digest>.parquet    acknowledges the history it names
    history/v1/part/<2 hex>/<part>-<digest>.parquet
    failures/v1/part/<2 hex>/<part>-<digest>.parquet
    trials/v1/segment/<segment>.parquet         compacted rows, listed with their digests by the newest manifest
    history/v1/segment/<segment>.parquet
    manifest/v1/<number>.json
    index/v1/<digest>.parquet                   which rows a manifest's segments hold
    tombstones/v1/<digest>.json, -copy.json     keys whose rows no longer count, twice
    checkpoints/<cell_id>/<replicate>/<step>-<digest>.npz
    sweeps/<name>/<digest>.json                 a sweep's record; order/<number>.json says which is the latest
    sweeps/<name>/diff/<hash>.patch             what a dirty checkout that ran it had changed
    drivers/v1/<launch>-<process>.json          what a process is running, replaced every few seconds
    set-aside/...                               damaged files, under the path they had

Parts and checkpoints of release 0.1 have no digest in their names. Anything else in a store's folder is foreign and is
never read, copied or deleted.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

from flatdist.errors import StoreError

MANIFESTS = "manifest/v1"
INDEXES = "index/v1"
TOMBSTONES = "tombstones/v1"
CHECKPOINTS = "checkpoints"
SWEEPS = "sweeps"
DRIVERS = "drivers/v1"
SET_ASIDE = "set-aside"

_DIGITS = 32
_NAME = "[0-9a-f]{32}"
_SWEEP = r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,127}"
_CELL = r"[0-9A-Za-z_-]{1,64}"
_PROBE = re.compile(rf"(?:[a-z0-9]+/)*probe-{_NAME}")
_KNOWN = re.compile(
    "|".join(
        (
            rf"(?:trials|history|failures)/v1/part/(?P<hex>[0-9a-f]{{2}})/(?P=hex)[0-9a-f]{{30}}(?:-{_NAME}){{0,2}}\.parquet",
            rf"(?:trials|history)/v1/segment/{_NAME}\.parquet",
            rf"{MANIFESTS}/[0-9]{{8}}\.json",
            rf"{INDEXES}/{_NAME}\.parquet",
            rf"{TOMBSTONES}/{_NAME}(?:-copy)?\.json",
            rf"{CHECKPOINTS}/{_CELL}/[0-9]{{1,10}}(?:\.[0-9]{{1,10}})?/[0-9]{{12}}(?:-{_NAME})?\.npz",
            rf"{SWEEPS}/{_SWEEP}/{_NAME}\.json",
            rf"{SWEEPS}/{_SWEEP}/order/[0-9]{{8}}\.json",
            rf"{SWEEPS}/{_SWEEP}/diff/{_NAME}\.patch",
            rf"{DRIVERS}/[0-9a-f]{{12}}-[0-9a-f]{{12}}\.json",
        )
    )
)


def digest(content: bytes | memoryview) -> str:
    """Return the name of a file that is named by its content."""
    return hashlib.sha256(content).hexdigest()[:_DIGITS]


def is_known(path: str) -> bool:
    """Whether a path is one that a store may contain."""
    return bool(_KNOWN.fullmatch(path.removeprefix(f"{SET_ASIDE}/")) or _PROBE.fullmatch(path))


def is_probe(path: str) -> bool:
    """Whether a file was written only as a probe."""
    return bool(_PROBE.fullmatch(path))


def stated_digest(path: str) -> str | None:
    """Return the digest of a file's content if its name states it."""
    folder, _, name = path.rpartition("/")
    stem, _, kind = name.partition(".")
    if folder.startswith(SET_ASIDE):
        return None
    if "-" in stem and kind in ("parquet", "npz"):
        return stem.rpartition("-")[2]
    stem = stem.removesuffix("-copy")
    return stem if len(stem) == _DIGITS and (kind == "json" or folder == INDEXES) else None


def stem(path: str) -> str:
    """Return a file's name without folder and extension."""
    return path.rsplit("/", 1)[-1].split(".", 1)[0]


def part_name(keys: Iterable[tuple[str, int, int]]) -> str:
    """Name a part by the sorted (cell_id, replicate, generation) keys in it.

    A key that was never invalidated has generation 0, which is left out of the hash. The same shard run again thus
    takes the same name, and a shard run again because its rows were invalidated takes another.
    """
    lines = sorted(
        f"{cell_id} {replicate} {generation}" if generation else f"{cell_id} {replicate}"
        for cell_id, replicate, generation in keys
    )
    return digest("\n".join(lines).encode())


def part_folder(table: str) -> str:
    """Return the folder of a table's parts."""
    return f"{table}/v1/part"


def part_path(table: str, name: str) -> str:
    """Return the path of one part of a table, by the name of its *trials* file (or its own, for failures)."""
    name = history_name(name) if table == "history" else name
    return f"{part_folder(table)}/{name[:2]}/{name}.parquet"


def history_name(name: str) -> str:
    """Return the name of the history that a trials part acknowledges."""
    return name.rpartition("-")[0] if name.count("-") == 2 else name


def segment_folder(table: str) -> str:
    """Return the folder of a table's compacted files."""
    return f"{table}/v1/segment"


def segment_path(table: str, segment: str) -> str:
    """Return the path of one compacted file of a table."""
    return f"{segment_folder(table)}/{segment}.parquet"


def index_path(name: str) -> str:
    """Return the path of an index."""
    return f"{INDEXES}/{name}.parquet"


def manifest_path(number: int) -> str:
    """Return the path of the manifest with this number."""
    return f"{MANIFESTS}/{number:08d}.json"


def checkpoint_folder(cell_id: str, replicate: int, generation: int) -> str:
    """Return the folder of one replicate's checkpoints; an invalidated generation's are never resumed."""
    if not re.fullmatch(_CELL, cell_id):
        raise StoreError(f"cell_id {cell_id!r} cannot name a folder; allowed: letters, digits, - and _")
    return f"{CHECKPOINTS}/{cell_id}/{int(replicate)}" + (f".{generation}" if generation else "")


def sweep_folder(name: str) -> str:
    """Return the folder of a sweep's records.

    Raises:
        StoreError: the name could leave its folder or surprise a shell.
    """
    if not re.fullmatch(_SWEEP, name):
        raise StoreError(
            f"sweep name {name!r} cannot name a folder; allowed: letters, digits and . _ + - after a letter or digit, "
            "at most 128 of them"
        )
    return f"{SWEEPS}/{name}"


def order_folder(name: str) -> str:
    """Return the folder whose highest number points to a sweep's latest record."""
    return f"{sweep_folder(name)}/order"


def diff_folder(name: str) -> str:
    """Return the folder of the uncommitted changes of dirty checkouts that ran a sweep."""
    return f"{sweep_folder(name)}/diff"
