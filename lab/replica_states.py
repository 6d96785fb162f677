"""How a replicated volume is, read from outside of the driver: /proc/drbd and the store's file."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cluster.identifiers import key_of_id
from cluster.membership import Membership
from cluster.model import Snapshot, Volume, from_object
from lab.errors import LabError

if TYPE_CHECKING:
    from lab.deployment import Deployment
    from lab.node import Node


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
    with _database(cluster.store) as connection:
        rows = connection.execute("SELECT kind, count(*) FROM record GROUP BY kind").fetchall()
    return Counter(dict(rows))


def _stored(store: Path, kind: str, key: str) -> dict[str, Any]:
    with _database(store) as connection:
        query = "SELECT value FROM record WHERE kind = ? AND key = ?"
        row = connection.execute(query, (kind, key)).fetchone()
    if row is None:
        raise KeyError(f"the store has no {kind} {key}")
    record: dict[str, Any] = json.loads(row[0])
    return record


@contextmanager
def _database(store: Path) -> Iterator[sqlite3.Connection]:
    """A copy: the controller lets nobody else open the database."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / store.name
        while True:
            before = store.stat()
            for suffix in ("", "-wal"):
                Path(f"{copy}{suffix}").unlink(missing_ok=True)
                if (source := Path(f"{store}{suffix}")).exists():
                    shutil.copy(source, f"{copy}{suffix}")
            after = store.stat()
            if (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino):
                break  # otherwise there was a checkpoint in between
        with closing(sqlite3.connect(copy)) as connection:
            yield connection
