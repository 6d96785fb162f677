"""The cluster store in one SQLite file, for one controller.

Files, for a store at ``PATH`` (all mode 0600):

| file      | content                                                                          |
|-----------|----------------------------------------------------------------------------------|
| PATH      | the database; ``application_id`` 0x786C7373 ("xlss"), ``user_version`` 1         |
| PATH-wal  | SQLite's write-ahead log                                                         |
| PATH.lock | held with flock(2) by the process that has the store open; its process id in     |
|           | decimal, padded to 20 bytes. Empty until the database has been made: when it is  |
|           | not empty, a missing database means that the store was lost.                     |

Tables: ``record(kind, key, revision, value, crc)``, and ``change(revision, kind, key, deleted,
value)`` with the newest changes, for ``watch``. ``value`` is JSON; ``crc`` is the CRC-32 of kind,
key, revision and value, because SQLite's own check does not see a flipped bit in a text. The
store's revision is the last one that AUTOINCREMENT gave out.

Journal: WAL with ``synchronous=FULL`` syncs once per commit and loses no commit at a power-off. A
rollback journal needs ``synchronous=EXTRA`` for that (sqlite.org/pragma.html#pragma_synchronous),
and took twice as long.
"""

from __future__ import annotations

import builtins
import fcntl
import json
import os
import sqlite3
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cluster.errors import AlreadyExists, Conflict, DataLoss, NotFound, Refused, Unavailable
from cluster.store import Event, JsonObject, Record, RecordKind, RevisionExpired

_APPLICATION_ID = 0x786C7373
_VERSION = 1
_LOCK_BYTES = 20
_WATCH_BATCH = 1000
_SCHEMA = f"""
BEGIN;
CREATE TABLE record (
    kind TEXT NOT NULL, key TEXT NOT NULL, revision INTEGER NOT NULL, value TEXT NOT NULL,
    crc INTEGER NOT NULL, PRIMARY KEY (kind, key)
) WITHOUT ROWID;
CREATE TABLE change (
    revision INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, key TEXT NOT NULL,
    deleted INTEGER NOT NULL, value TEXT NOT NULL
);
PRAGMA application_id = {_APPLICATION_ID};
PRAGMA user_version = {_VERSION};
COMMIT;
"""


class SqliteStore:
    """The store in the file at ``path``, made when it has never been there. Thread safe.

    Raises Refused when another process has it open, and DataLoss when it is lost or damaged.
    ``history`` is how many changes ``watch`` can look back.
    """

    def __init__(self, path: Path, *, history: int = 10_000) -> None:
        self._path = path
        self._history = history
        self._changed = threading.Condition()  # also what makes the connection thread safe
        self._closed = False
        self._lock_file = _take_lock(path)
        try:
            self._connection = self._open()
        except BaseException:
            os.close(self._lock_file)
            raise

    def _open(self) -> sqlite3.Connection:
        if not self._path.exists():
            if os.fstat(self._lock_file).st_size:
                raise _lost(self._path, "is gone")
            _make_database(self._path)
        _write_pid(self._lock_file)
        self._inode = self._path.stat().st_ino
        return _connect(self._path)

    def get(self, kind: RecordKind, key: str) -> Record:
        with self._reading() as connection:
            return self._get(connection, kind, key)

    def list(
        self, kind: RecordKind, *, after: str = "", limit: int = 0
    ) -> tuple[builtins.list[Record], int]:
        query = "SELECT * FROM record WHERE kind = ? AND key > ? ORDER BY key LIMIT ?"
        with self._reading() as connection:
            rows = connection.execute(query, (kind, after, limit or -1)).fetchall()
            return [_record(row, self._path) for row in rows], _revision(connection)

    def create(self, kind: RecordKind, key: str, value: JsonObject) -> Record:
        with self._writing() as connection:
            with suppress(NotFound):
                self._get(connection, kind, key)
                raise AlreadyExists(f"{kind} {key} is in the store already")
            return self._put(connection, kind, key, value)

    def update(self, kind: RecordKind, key: str, value: JsonObject, revision: int) -> Record:
        with self._writing() as connection:
            self._require(connection, kind, key, revision)
            return self._put(connection, kind, key, value)

    def delete(self, kind: RecordKind, key: str, revision: int) -> None:
        with self._writing() as connection:
            last = self._require(connection, kind, key, revision)
            connection.execute("DELETE FROM record WHERE kind = ? AND key = ?", (kind, key))
            self._log(connection, kind, key, json.dumps(last.value), deleted=True)

    def watch(
        self, kind: RecordKind, revision: int, *, timeout: float | None = None
    ) -> Iterator[Event]:
        last_event = time.monotonic()
        while True:
            with self._changed:
                with self._reading() as connection:
                    rows = _changes(connection, revision)
                if not rows:
                    left = None if timeout is None else last_event + timeout - time.monotonic()
                    if left is not None and left <= 0:
                        return
                    self._changed.wait(left)
            for changed, changed_kind, key, deleted, text in rows:
                revision = changed
                if changed_kind == kind:
                    yield Event(Record(kind, key, changed, json.loads(text)), bool(deleted))
                    last_event = time.monotonic()

    def close(self) -> None:
        with self._changed:
            if not self._closed:
                self._closed = True
                self._connection.close()
                os.close(self._lock_file)
                self._changed.notify_all()

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._changed, _domain_errors(self._path):
            if self._closed:
                raise Unavailable(f"the cluster store {self._path} is closed")
            yield self._connection

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._reading() as connection:
            self._require_file()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise
            self._changed.notify_all()

    def _require_file(self) -> None:
        # An unlinked file would take writes until the restart, and be gone then.
        with suppress(FileNotFoundError):
            if self._path.stat().st_ino == self._inode:
                return
        raise _lost(self._path, "was removed or replaced while in use")

    def _get(self, connection: sqlite3.Connection, kind: RecordKind, key: str) -> Record:
        query = "SELECT * FROM record WHERE kind = ? AND key = ?"
        row = connection.execute(query, (kind, key)).fetchone()
        if row is None:
            raise NotFound(f"no {kind} {key} in the store")
        return _record(row, self._path)

    def _require(
        self, connection: sqlite3.Connection, kind: RecordKind, key: str, revision: int
    ) -> Record:
        record = self._get(connection, kind, key)
        if record.revision != revision:
            raise Conflict(f"{kind} {key} is at revision {record.revision}, not {revision}")
        return record

    def _put(
        self, connection: sqlite3.Connection, kind: RecordKind, key: str, value: JsonObject
    ) -> Record:
        text = json.dumps(value, separators=(",", ":"))
        revision = self._log(connection, kind, key, text, deleted=False)
        connection.execute(
            "INSERT OR REPLACE INTO record VALUES (?, ?, ?, ?, ?)",
            (kind, key, revision, text, _crc(kind, key, revision, text)),
        )
        return Record(kind, key, revision, json.loads(text))

    def _log(
        self,
        connection: sqlite3.Connection,
        kind: RecordKind,
        key: str,
        text: str,
        *,
        deleted: bool,
    ) -> int:
        connection.execute(
            "INSERT INTO change (kind, key, deleted, value) VALUES (?, ?, ?, ?)",
            (kind, key, deleted, text),
        )
        revision = _revision(connection)
        connection.execute("DELETE FROM change WHERE revision <= ?", (revision - self._history,))
        return revision


@contextmanager
def rebuilt_store(path: Path) -> Iterator[SqliteStore]:
    """A new, empty store that takes the place of the one at ``path`` when the block ends well.

    What was there is kept beside it, as ``PATH.damaged-<seconds since the epoch>``. Raises Refused
    when the store is in use, or is sound and holds records: then there is nothing to rebuild.
    """
    lock_file = _take_lock(path)
    try:
        _require_lost_or_empty(path)
        new_path = path.with_name(path.name + ".rebuilt")
        for suffix in ("", "-wal", ".lock"):
            new_path.with_name(new_path.name + suffix).unlink(missing_ok=True)
        store = SqliteStore(new_path)
        try:
            yield store
        finally:
            store.close()  # also moves the write-ahead log into the file
        _write_pid(lock_file)
        kept = f"{path.name}.damaged-{time.time():.0f}"
        for suffix in ("-wal", ""):  # the log first: it must never meet the new file
            with suppress(FileNotFoundError):
                path.with_name(path.name + suffix).rename(path.with_name(kept + suffix))
        new_path.rename(path)
        new_path.with_name(new_path.name + ".lock").unlink()
        _sync_directory(path)
    finally:
        os.close(lock_file)


def _require_lost_or_empty(path: Path) -> None:
    if not path.exists():
        return
    try:
        connection = _connect(path)
    except DataLoss:
        return
    with _domain_errors(path):
        (count,) = connection.execute("SELECT count(*) FROM record").fetchone()
        connection.close()
    if count:
        raise Refused(f"the cluster store {path} is sound and holds {count} records")


def _take_lock(path: Path) -> int:
    """The file descriptor of the lock file, locked. Raises Refused when another one holds it."""
    lock_file = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.pread(lock_file, _LOCK_BYTES, 0).decode(errors="replace").strip()
        os.close(lock_file)
        raise Refused(f"the cluster store {path} is in use by process {pid or 'unknown'}") from None
    return lock_file


def _write_pid(lock_file: int) -> None:
    os.pwrite(lock_file, str(os.getpid()).ljust(_LOCK_BYTES).encode(), 0)
    os.fsync(lock_file)


def _make_database(path: Path) -> None:
    """Under another name first, so that a crash leaves no half-made store behind."""
    new_path = path.with_name(path.name + ".new")
    new_path.unlink(missing_ok=True)
    os.close(os.open(new_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    with _domain_errors(path):
        connection = sqlite3.connect(new_path, isolation_level=None)
        try:
            connection.execute("PRAGMA synchronous = EXTRA")
            connection.executescript(_SCHEMA)
        finally:
            connection.close()
    new_path.rename(path)
    _sync_directory(path)


def _sync_directory(path: Path) -> None:
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _connect(path: Path) -> sqlite3.Connection:
    """Open and check it. Raises DataLoss when it is not sound."""
    with _domain_errors(path):
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            # A damaged text must get as far as its checksum.
            connection.text_factory = lambda raw: raw.decode(errors="replace")
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            # First, because an empty file would become a database by the next statement.
            _check_identity(connection, path)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise _lost(path, f"is damaged ({verdict})")
            for row in connection.execute("SELECT * FROM record"):
                _record(row, path)
        except BaseException:
            connection.close()
            raise
        return connection


def _check_identity(connection: sqlite3.Connection, path: Path) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    if application != _APPLICATION_ID:
        raise _lost(path, "is not a cluster store")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version != _VERSION:
        raise Refused(f"the cluster store {path} has format {version}, not {_VERSION}")


@contextmanager
def _domain_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorname", "").startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
            raise _lost(path, f"is damaged ({error})") from error
        if isinstance(error, sqlite3.OperationalError):
            raise Unavailable(f"the cluster store {path}: {error}") from error
        raise


def _lost(path: Path, what: str) -> DataLoss:
    return DataLoss(
        f"the cluster store {path} {what}: run `xlss recover-store` to rebuild it from the nodes"
    )


def _revision(connection: sqlite3.Connection) -> int:
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'change'").fetchone()
    return int(row[0]) if row else 0


def _changes(connection: sqlite3.Connection, after: int) -> list[tuple[Any, ...]]:
    newest = _revision(connection)
    (oldest,) = connection.execute("SELECT min(revision) FROM change").fetchone()
    if not (oldest or newest + 1) - 1 <= after <= newest:
        raise RevisionExpired(f"changes after revision {after} are not known: list again")
    query = "SELECT * FROM change WHERE revision > ? ORDER BY revision LIMIT ?"
    return connection.execute(query, (after, _WATCH_BATCH)).fetchall()


def _record(row: tuple[Any, ...], path: Path) -> Record:
    kind, key, revision, text, crc = row
    if crc != _crc(kind, key, revision, text):
        raise _lost(path, f"is damaged (checksum of {kind} {key})")
    return Record(RecordKind(kind), key, revision, json.loads(text))


def _crc(kind: str, key: str, revision: int, text: str) -> int:
    return zlib.crc32(f"{kind}\0{key}\0{revision}\0{text}".encode())
