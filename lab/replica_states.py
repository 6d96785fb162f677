"""How a replicated volume is, read from outside of the driver: /proc/drbd and the store's file."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cluster.identifiers import key_of_id
from cluster.membership import Membership
from cluster.model import Snapshot, Volume, from_object
from lab.errors import LabError

if TYPE_CHECKING:
    from lab.deployment import Deployment
    from lab.node import Node


# The time of a file's last change is that of the kernel's last tick: 10 ms at the most.
_CLOCK_TICK_NS = 20_000_000


class DrbdState(NamedTuple):
    """One line of /proc/drbd (DRBD 8.4, drbd_proc.c), in the kernel's words."""

    connection: str
    role: str
    peer_role: str
    disk: str
    peer_disk: str
    flags: str

    @property
    def frozen(self) -> bool:
        return self.flags.startswith("s")

    @property
    def in_sync(self) -> bool:
        return (self.connection, self.disk, self.peer_disk) == ("Connected", "UpToDate", "UpToDate")


def proc_drbd(node: Node) -> str:
    """What DRBD says of all devices; "" where the module is not loaded."""
    try:
        return node.get("/proc/drbd").decode()
    except LabError as error:
        if "No such file" not in str(error):
            raise
        return ""


def drbd_state(node: Node, minor: int) -> DrbdState | None:
    """None where the kernel has no such device."""
    # Behind the disks is the protocol's letter, or a second space.
    line = rf"^ *{minor}: cs:(\S+) ro:(\S+)/(\S+) ds:(\S+)/(\S+) . (\S+)"
    found = re.search(line, proc_drbd(node), re.MULTILINE)
    return DrbdState(*found.groups()) if found else None


def stored_volume(cluster: Deployment, volume_id: str) -> Volume:
    """Raises KeyError."""
    return from_object(Volume, _stored(cluster.store, "volume", key_of_id(volume_id)))


def stored_snapshot(cluster: Deployment, snapshot_id: str) -> Snapshot:
    """Raises KeyError."""
    return from_object(Snapshot, _stored(cluster.store, "snapshot", key_of_id(snapshot_id)))


def membership(cluster: Deployment, volume_id: str) -> Membership:
    """Raises KeyError, as for a volume that is not replicated."""
    return from_object(Membership, _stored(cluster.store, "membership", volume_id))


def stored(cluster: Deployment) -> Counter[str]:
    """How many records of each kind the store holds."""
    return Counter(kind for kind, _ in _records(cluster.store))


def _stored(store: Path, kind: str, key: str) -> dict[str, Any]:
    if (value := _records(store).get((kind, key))) is None:
        raise KeyError(f"the store has no {kind} {key}")
    record: dict[str, Any] = json.loads(value)
    return record


def _records(store: Path) -> Mapping[tuple[str, str], str]:
    """By kind and key. Who waits for something asks often, and seldom is anything else there."""
    version = _version(store)
    last_changed = max(file.changed_ns for file in version)
    settled = time.time_ns() - last_changed > _CLOCK_TICK_NS
    return _kept_records(store, version) if settled else _read_records(store)


class _File(NamedTuple):
    inode: int
    size: int
    changed_ns: int


def _version(store: Path) -> tuple[_File, ...]:
    files = (path.stat() for path in _files(store) if path == store or path.exists())
    return tuple(_File(file.st_ino, file.st_size, file.st_mtime_ns) for file in files)


def _files(store: Path) -> tuple[Path, Path]:
    return store, store.with_name(f"{store.name}-wal")


@lru_cache(maxsize=1)
def _kept_records(store: Path, version: tuple[_File, ...]) -> Mapping[tuple[str, str], str]:
    del version  # the files may be newer by now
    return _read_records(store)


def _read_records(store: Path) -> Mapping[tuple[str, str], str]:
    """Of a copy: the controller lets nobody else open the database."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / store.name
        while True:
            before = _version(store)[0]
            for source, target in zip(_files(store), _files(copy), strict=True):
                target.unlink(missing_ok=True)
                if source.exists():
                    shutil.copy(source, target)
            if _version(store)[0] == before:
                break  # otherwise there was a checkpoint in between
        with closing(sqlite3.connect(copy)) as connection:
            rows = connection.execute("SELECT kind, key, value FROM record")
            return {(kind, key): value for kind, key, value in rows}
