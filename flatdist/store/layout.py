"""Names every file of a store. No other module spells a path.

::

    trials/v1/part/<2 hex>/<part>.parquet       immutable parts; the trials part acknowledges the history part
    history/v1/part/<2 hex>/<part>.parquet
    failures/v1/part/<2 hex>/<part>.parquet
    trials/v1/segment/<segment>.parquet         compacted rows, listed by the newest manifest
    history/v1/segment/<segment>.parquet
    manifest/v1/<number>.json
    tombstones/v1/<hash>.json                   keys whose rows no longer count
    checkpoints/<cell_id>/<replicate>/<step>.npz
    sweeps/<name>/<hash>.json                   a sweep's record; order/<number>.json says which is the latest
    claims/<unit>.<attempt>.claim               work that a part of a job array has claimed
    pulses/<part>.json                          replaced every few seconds by a part that is alive
    orders/<sweep>.json                         what the part that drives an adaptive sweep wants run now
    set-aside/…                                 unreadable files, under the path they had
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

from flatdist.errors import StoreError

TABLE_NAMES = ("trials", "history", "failures")
MANIFESTS = "manifest/v1"
TOMBSTONES = "tombstones/v1"
CHECKPOINTS = "checkpoints"
SWEEPS = "sweeps"
SET_ASIDE = "set-aside"
CLAIMS = "claims"
PULSES = "pulses"

_NAME_DIGITS = 32
_SWEEP_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,127}")
_CELL_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")


def digest(content: bytes) -> str:
    """Return the name of a file that is named by its content."""
    return hashlib.sha256(content).hexdigest()[:_NAME_DIGITS]


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
    assert table in TABLE_NAMES
    return f"{table}/v1/part"


def part_path(table: str, part: str) -> str:
    """Return the path of one part of a table."""
    return f"{part_folder(table)}/{part[:2]}/{part}.parquet"


def segment_folder(table: str) -> str:
    """Return the folder of a table's compacted files."""
    assert table in TABLE_NAMES
    return f"{table}/v1/segment"


def segment_path(table: str, segment: str) -> str:
    """Return the path of one compacted file of a table."""
    return f"{segment_folder(table)}/{segment}.parquet"


def stem(path: str) -> str:
    """Return a file's name without folder and extension: the part, segment, number or step it stands for."""
    return path.rsplit("/", 1)[-1].split(".", 1)[0]


def manifest_path(number: int) -> str:
    """Return the path of the manifest with this number."""
    return f"{MANIFESTS}/{number:08d}.json"


def tombstone_path(name: str) -> str:
    """Return the path of one tombstone file."""
    return f"{TOMBSTONES}/{name}.json"


def checkpoint_folder(cell_id: str, replicate: int, generation: int) -> str:
    """Return the folder of one replicate's checkpoints; an invalidated generation's are never resumed."""
    if not _CELL_ID.fullmatch(cell_id):
        raise StoreError(f"cell_id {cell_id!r} cannot name a folder; allowed: letters, digits, - and _")
    suffix = f".{generation}" if generation else ""
    return f"{CHECKPOINTS}/{cell_id}/{int(replicate)}{suffix}"


def checkpoint_path(cell_id: str, replicate: int, generation: int, step: int) -> str:
    """Return the path of one checkpoint."""
    return f"{checkpoint_folder(cell_id, replicate, generation)}/{int(step):012d}.npz"


def sweep_folder(name: str) -> str:
    """Return the folder of a sweep's records.

    Raises:
        StoreError: the name could leave its folder or surprise a shell.
    """
    if not _SWEEP_NAME.fullmatch(name):
        raise StoreError(
            f"sweep name {name!r} cannot name a folder; allowed: letters, digits and . _ + - after a letter or digit, "
            "at most 128 of them"
        )
    return f"{SWEEPS}/{name}"


def sweep_record_path(name: str, record: str) -> str:
    """Return the path of one record of a sweep."""
    return f"{sweep_folder(name)}/{record}.json"


def sweep_order_folder(name: str) -> str:
    """Return the folder whose highest number points to a sweep's latest record."""
    return f"{sweep_folder(name)}/order"


def sweep_order_path(name: str, number: int) -> str:
    """Return the path of one numbered pointer to a sweep's record."""
    return f"{sweep_order_folder(name)}/{number:08d}.json"


def claim_path(unit: str, attempt: int) -> str:
    """Return the path of a claim to a unit of work; after a dead part's, the next attempt's."""
    return f"{CLAIMS}/{unit}.{attempt:04d}.claim"


def pulse_path(part: str) -> str:
    """Return the path of the file by which a part shows that it is alive."""
    return f"{PULSES}/{part}.json"


def order_path(name: str) -> str:
    """Return the path of what an adaptive sweep wants run now."""
    return f"orders/{sweep_folder(name).removeprefix(SWEEPS + '/')}.json"


def set_aside_path(path: str) -> str:
    """Return where an unreadable file is moved to."""
    return f"{SET_ASIDE}/{path}"
