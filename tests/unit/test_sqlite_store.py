"""What can happen to the file of the embedded store, and what is said then."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.errors import DataLoss, Refused
from cluster.sqlite_store import SqliteStore, rebuilt_store
from cluster.store import RecordKind

VOLUME = RecordKind.VOLUME

WRITE_FOR_EVER = """
import sys
from pathlib import Path
from cluster.sqlite_store import SqliteStore
from cluster.store import RecordKind

store = SqliteStore(Path(sys.argv[1]))
number = 0
while True:
    number += 1
    first = store.create(RecordKind.VOLUME, f"v{number:06}", {"n": 0})
    store.update(RecordKind.VOLUME, first.key, {"n": number}, first.revision)
    print(number, flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


def _filled(path: Path, records: int = 200) -> None:
    store = SqliteStore(path)
    for number in range(records):
        store.create(VOLUME, f"v{number:03}", {"text": f"{number:03}" * 100})
    store.close()


def _writer(path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITE_FOR_EVER, str(path)], stdout=subprocess.PIPE, text=True
    )


def test_only_its_owner_can_read_the_store(path: Path) -> None:
    store = SqliteStore(path)
    store.create(VOLUME, "v1", {})
    assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}
    store.close()


def test_a_writer_killed_in_the_middle_has_lost_nothing_that_it_was_told(path: Path) -> None:
    for _ in range(3):
        writer = _writer(path)
        assert writer.stdout is not None
        told = [writer.stdout.readline() for _ in range(40)]
        writer.send_signal(signal.SIGKILL)
        writer.stdout.close()
        writer.wait()
        store = SqliteStore(path)
        for line in told:
            assert store.get(VOLUME, f"v{int(line):06}").value == {"n": int(line)}
        for record in store.list(VOLUME)[0]:
            store.delete(VOLUME, record.key, record.revision)
        store.close()


def test_a_second_process_is_told_who_has_it(path: Path) -> None:
    writer = _writer(path)
    assert writer.stdout is not None
    writer.stdout.readline()
    with pytest.raises(Refused, match=f"in use by process {writer.pid}$"):
        SqliteStore(path)
    writer.kill()
    writer.stdout.close()
    writer.wait()
    SqliteStore(path).close()


def test_the_same_process_cannot_open_it_twice(path: Path) -> None:
    store = SqliteStore(path)
    with pytest.raises(Refused, match=str(os.getpid())):
        SqliteStore(path)
    store.close()


def test_a_lost_file_is_not_taken_for_a_new_store(path: Path) -> None:
    _filled(path)
    path.unlink()
    for _ in range(2):
        with pytest.raises(DataLoss, match="recover-store"):
            SqliteStore(path)


def test_a_first_start_that_was_killed_half_way_is_still_a_first_start(path: Path) -> None:
    path.with_name("store.db.lock").touch()
    path.with_name("store.db.new").write_bytes(b"half")
    SqliteStore(path).close()


def test_a_file_removed_under_a_running_store_takes_no_more_writes(path: Path) -> None:
    store = SqliteStore(path)
    store.create(VOLUME, "v1", {})
    path.unlink()
    with pytest.raises(DataLoss, match="recover-store"):
        store.create(VOLUME, "v2", {})
    store.close()


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _empty(path: Path) -> None:
    os.truncate(path, 0)


def _overwrite_header(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"not a database at all")


def _flip_a_bit_of_a_value(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"123123123", b"123123023"))


def _break_a_text(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"123123123", b"123\xb123123"))


def _zero_pages(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(3 * 4096)
        file.write(bytes(4 * 4096))


@pytest.mark.parametrize(
    "damage",
    [_truncate, _empty, _overwrite_header, _flip_a_bit_of_a_value, _break_a_text, _zero_pages],
)
def test_a_damaged_file_is_refused(path: Path, damage: Callable[[Path], None]) -> None:
    _filled(path)
    damage(path)
    with pytest.raises(DataLoss, match="recover-store"):
        SqliteStore(path)
    with pytest.raises(DataLoss, match="recover-store"):
        SqliteStore(path)


def test_a_store_of_another_format_is_left_alone(path: Path) -> None:
    _filled(path)
    content = bytearray(path.read_bytes())
    content[60:64] = (2).to_bytes(4, "big")  # user_version (sqlite.org/fileformat.html)
    path.write_bytes(content)
    with pytest.raises(Refused, match="format 2"):
        SqliteStore(path)


def test_a_damaged_store_is_replaced_and_kept(path: Path) -> None:
    _filled(path)
    _truncate(path)
    damaged = path.read_bytes()
    with rebuilt_store(path) as store:
        store.create(VOLUME, "v1", {"rebuilt": True})
    (kept,) = path.parent.glob("store.db.damaged-*")
    assert kept.read_bytes() == damaged
    reopened = SqliteStore(path)
    assert reopened.get(VOLUME, "v1").value == {"rebuilt": True}
    assert (path.stat().st_mode & 0o777) == 0o600
    reopened.close()


def test_a_rebuilding_that_fails_changes_nothing_and_can_be_repeated(path: Path) -> None:
    _filled(path)
    path.unlink()
    with pytest.raises(RuntimeError), rebuilt_store(path) as store:
        store.create(VOLUME, "v1", {})
        raise RuntimeError
    with pytest.raises(DataLoss):
        SqliteStore(path)
    with rebuilt_store(path) as store:
        store.create(VOLUME, "v1", {})
    SqliteStore(path).close()


def test_a_sound_store_is_not_replaced(path: Path) -> None:
    _filled(path, records=1)
    with pytest.raises(Refused, match="holds 1 record"), rebuilt_store(path):
        pass
    store = SqliteStore(path)
    assert len(store.list(VOLUME)[0]) == 1
    with pytest.raises(Refused, match="in use"), rebuilt_store(path):
        pass
    store.close()
