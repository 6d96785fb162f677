"""What /proc says of processes, and who of them uses a device."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from host.device_users import Found, UserFinder, mapped_files, mount_number
from host.mount_namespaces import Stack, holding, parse_table
from host.processes import Process, is_doomed, kill_is_pending, parse_stat

TABLE = rb"""28 1 0:25 / / rw,relatime shared:1 - overlay overlay rw,lowerdir=/,upperdir=/mnt/up
29 28 0:6 / /dev rw,nosuid shared:2 - devtmpfs devtmpfs rw,size=4k
31 28 0:31 / /var/lib/kubelet rw shared:3 - ext4 /dev/vda1 rw
32 31 254:1 / /var/lib/kubelet/staged\040one rw shared:15 - ext4 /dev/mapper/xlss-v1 rw,discard
33 31 0:6 /mapper/xlss-v1 /var/lib/kubelet/block rw shared:2 - devtmpfs devtmpfs rw,size=4k
34 31 0:44 / /var/lib/kubelet/b rw shared:16 - btrfs /dev/mapper/xlss-crypt-v1 rw,subvol=/
35 31 254:11 / /var/lib/kubelet/other rw - ext4 /dev/mapper/xlss-v11 rw
36 31 0:6 /mapper/xlss-v11 /var/lib/kubelet/block2 rw shared:2 - devtmpfs devtmpfs rw,size=4k
"""
# A daemon's namespace, whose mounts go with those above; a pod's, whose mount is its own.
DAEMON = rb"""128 100 0:25 / / rw,relatime master:1 - overlay overlay rw
131 128 0:31 / /var/lib/kubelet rw master:3 - ext4 /dev/vda1 rw
132 131 254:1 / /var/lib/kubelet/staged\040one rw master:15 - ext4 /dev/mapper/xlss-v1 rw
"""
POD = rb"""228 200 0:77 / / rw,relatime master:40 - overlay overlay rw
232 228 254:1 / /data rw,relatime master:15 - ext4 /dev/mapper/xlss-v1 rw
233 228 0:78 / /dev rw,nosuid - tmpfs tmpfs rw
"""
STACK = Stack(
    frozenset({os.makedev(254, 1), os.makedev(254, 2)}), frozenset({"xlss-v1", "xlss-crypt-v1"})
)
MAPS = b"""55e0c0a00000-55e0c0a02000 r--p 00000000 00:19 1312  /usr/bin/cat
55e0c1f00000-55e0c1f21000 rw-p 00000000 00:00 0    [heap]
7f30a0000000-7f30a0001000 rw-s 00001000 fe:01 12   /data/with space (deleted)
00400000-00401000 r-xp 00000000 fd:1f2 7 /x
"""
STATUS = b"""Name:\tpostgres
State:\tD (disk sleep)
SigQ:\t1/2822
SigPnd:\t%s
ShdPnd:\t%s
SigBlk:\t0000000000000100
"""
NONE, KILLED = b"0000000000000000", b"0000000000000100"


def stat_line(pid: int, *, state: str = "S", flags: int = 0x400000, started: int = 77) -> bytes:
    return (
        f"{pid} (a) b (c)) {state} 1 {pid} {pid} 0 -1 {flags} 94 0 0 0 0 0 0 0 20 0 1 0 {started}"
        " 8667136 1057 18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0\n"
    ).encode()


class FakeProc:
    """A folder with what the finder reads of /proc. A file to be found by its node is /dev/null."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.add(1, space="host", table=TABLE)
        (folder / "self").symlink_to("1")
        (folder / "uptime").write_text("not a process")

    def add(
        self,
        pid: int,
        *,
        space: str = "host",
        table: bytes = TABLE,
        cwd: str = "/",
        root: str = "/",
        pending: bytes = NONE,
        files: dict[str, int] | None = None,
        maps: bytes = b"",
        flags: int = 0x400000,
    ) -> Path:
        """``files``: what is open, with the number of its mount."""
        process = self.folder / str(pid)
        for name in ("fd", "fdinfo", "ns", f"task/{pid}"):
            (process / name).mkdir(parents=True)
        for place in (process, process / "task" / str(pid)):
            (place / "stat").write_bytes(stat_line(pid, flags=flags))
            (place / "status").write_bytes(STATUS % (NONE, pending))
        (process / "ns/mnt").symlink_to(f"mnt:[{space}]")
        (process / "mountinfo").write_bytes(table)
        (process / "cwd").symlink_to(cwd)
        (process / "root").symlink_to(root)
        (process / "maps").write_bytes(maps)
        for number, (path, mount) in enumerate((files or {}).items()):
            (process / "fd" / str(number)).symlink_to(path)
            (process / "fdinfo" / str(number)).write_text(
                f"pos:\t0\nflags:\t02100000\nmnt_id:\t{mount}\nino:\t12\n"
            )
        return process

    def find(self) -> Found:
        return UserFinder(self.folder).find(STACK)


@pytest.fixture
def proc(tmp_path: Path) -> Iterator[FakeProc]:
    yield FakeProc(tmp_path)


def users(found: Found) -> dict[int, str]:
    return {user.process.pid: user.how for user in found.users}


def test_a_name_with_parentheses_does_not_shift_the_fields() -> None:
    stat = parse_stat(stat_line(7, state="D"))
    assert stat.process == Process(7, 77, "a) b (c)")
    assert (stat.state, stat.kernel_thread, stat.exiting) == ("D", False, False)
    assert parse_stat(stat_line(2, flags=0x208040)).kernel_thread
    assert parse_stat(stat_line(9, flags=0x40000C)).exiting
    assert parse_stat(stat_line(9, state="Z")).exiting
    with pytest.raises(ValueError, match="stat"):
        parse_stat(b"7 (cut o")


@pytest.mark.parametrize(
    ("thread", "process", "pending"),
    [
        (NONE, NONE, False),
        (KILLED, NONE, True),
        (NONE, KILLED, True),
        (b"0000000000004000", b"0000000000000200", False),  # SIGTERM, SIGUSR1
        (NONE, b"0000000000004100", True),
    ],
)
def test_a_pending_kill_is_told_from_other_signals_and_from_blocked_ones(
    thread: bytes, process: bytes, pending: bool
) -> None:
    assert kill_is_pending(STATUS % (thread, process)) is pending


def test_a_process_is_doomed_when_all_its_threads_are(proc: FakeProc) -> None:
    second = proc.add(50, pending=KILLED) / "task/51"
    process = Process(50, 77, "x")
    assert is_doomed(process, proc.folder)
    second.mkdir()
    (second / "stat").write_bytes(stat_line(51))
    (second / "status").write_bytes(STATUS % (NONE, NONE))
    assert not is_doomed(process, proc.folder)
    (second / "stat").write_bytes(stat_line(51, flags=0x400004))
    assert is_doomed(process, proc.folder)
    assert is_doomed(Process(99, 77, "gone"), proc.folder)


def test_a_later_process_of_the_same_number_is_another(proc: FakeProc) -> None:
    proc.add(50)
    assert not is_doomed(Process(50, 77, "x"), proc.folder)
    assert is_doomed(Process(50, 76, "x"), proc.folder)


def test_the_lines_of_a_table_with_their_groups() -> None:
    lines = parse_table(POD)
    assert [(line.mount.mount_id, line.parent, set(line.groups)) for line in lines] == [
        (228, 200, {40}),
        (232, 228, {15}),
        (233, 228, set()),
    ]
    assert [line.mount.mount_id for line in parse_table(TABLE) if STACK.shown_by(line.mount)] == [
        *(32, 33, 34)
    ]


def test_a_path_belongs_to_the_innermost_mount_and_not_to_one_of_a_similar_name() -> None:
    table = parse_table(TABLE)

    def mount_of(path: str) -> int:
        line = holding(table, path)
        return line.mount.mount_id if line is not None else 0

    assert mount_of("/var/lib/kubelet/staged one/x") == 32
    assert mount_of("/var/lib/kubelet/staged one") == 32
    assert mount_of("/var/lib/kubelet/staged one two") == 31
    assert mount_of("/etc") == 28
    assert holding([], "/etc") is None


def test_the_lines_of_maps() -> None:
    assert list(mapped_files(MAPS)) == [
        ("55e0c0a00000-55e0c0a02000", "0:25"),
        ("7f30a0000000-7f30a0001000", "254:1"),
        ("400000-401000", "253:498"),
    ]
    assert mount_number(b"pos:\t0\nflags:\t0100002\nmnt_id:\t1032\nino:\t5\n") == 1032
    assert mount_number(b"pos:\t0\n") == 0


def test_each_user_is_found_and_nobody_else(proc: FakeProc) -> None:
    proc.add(40, files={"/gone": 32})
    proc.add(41, cwd="/var/lib/kubelet/staged one/deep (deleted)")
    proc.add(42, root="/var/lib/kubelet/staged one/deep", table=b"")
    proc.add(43, maps=MAPS)
    proc.add(44, files={"/x": 34}, pending=KILLED)
    proc.add(60, files={"/x": 35, "/y": 36, "/dev/null": 29, "pipe:[5]": 12}, cwd="/var/lib")
    proc.add(61, flags=0x208040, files={"/x": 32})
    (proc.add(62) / "mountinfo").unlink()
    found = proc.find()
    assert users(found) == {
        40: "has a file open",
        41: "has its cwd in it",
        42: "has its root in it",
        43: "has a file mapped",
        44: "has a file open",
    }
    assert [process.pid for process in found.living] == [40, 41, 42, 43]
    assert found.unclear == ()


def test_a_mount_of_its_own_makes_a_user_and_one_that_goes_with_ours_does_not(
    proc: FakeProc,
) -> None:
    proc.add(70, space="daemon", table=DAEMON)
    proc.add(71, space="pod", table=POD)
    proc.add(72, space="pod", table=POD)
    assert users(proc.find()) == dict.fromkeys((71, 72), "has it mounted in a namespace of its own")


def test_whoever_cannot_be_looked_at_is_said_and_the_others_are_still_found(
    proc: FakeProc, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("host.device_users._HANGING_SECONDS", 0.3)
    maps = proc.add(80) / "maps"
    maps.unlink()
    os.mkfifo(maps)
    proc.add(81, maps=MAPS)
    finder = UserFinder(proc.folder)
    try:
        for _ in range(2):
            found = finder.find(STACK)
            assert [process.pid for process in found.unclear] == [80]
            assert users(found) == {81: "has a file mapped"}
        (proc.folder / "80/task/80/status").write_bytes(STATUS % (NONE, KILLED))
        assert finder.find(STACK).unclear == ()
    finally:
        maps.write_bytes(b"")  # lets the reader go
