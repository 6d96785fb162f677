"""Who uses a device, found and ended; the end of a volume's use on a node."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from cluster.errors import Refused
from cluster.locks import Locks
from host import loop_devices
from host.command import Runner
from host.device_mapper import DeviceMapper, Target
from host.device_users import Found, UserFinder
from host.encryption import format_device, open_device
from host.filesystem import make
from host.linear_device import ensure_linear
from host.mount import bind, make_directory, make_file, mount_device, mounts_at
from host.mount_namespaces import Stack
from host.processes import is_doomed, kill, stat_of
from node_agent import eviction, targets
from node_agent.devices import Devices, stack_names
from node_agent.eviction import Evictor
from node_agent.limits import Limiter
from node_agent.logical_volumes import LogicalVolumes
from replication.record import Users
from tests.lab.stories.telling import DISK, MIB, OTHER_DISK, machine, raises, sh, wait_until

VOLUME = "v1"
FACE = f"xlss-{VOLUME}"
CGROUPS = Path("/sys/fs/cgroup")
POD = "6b3c-1"

_OPEN = "f = open('a/file', 'a')"
# Python's own mmap keeps a file descriptor.
_MAP = (
    "import ctypes; c = ctypes.CDLL(None); c.mmap.restype = ctypes.c_void_p;"
    "at = c.mmap(None, ctypes.c_size_t(4096), 1, 1, f, ctypes.c_long(0));"
    "assert ctypes.string_at(at, 1) is not None; os.close(f)"
)
_MAPPED = f"f = os.open('a/file', os.O_RDWR); {_MAP}"
_THREAD_HOLDS = (
    "import ctypes, threading; f = open('a/file', 'a');"
    "t = threading.Thread(target=lambda: (print('ready', flush=True), time.sleep(999)));"
    "t.start(); ctypes.CDLL(None).syscall(60, 0)"  # exit(2) of the first thread alone, x86-64
)


def each_way_to_use_a_file_system_is_found_and_nobody_else() -> None:
    with machine() as (runner, mapper, folder), _children() as spawn:
        _mounted(runner, mapper, folder)
        (folder / "b").mkdir()
        other = str(ensure_linear(mapper, "xlss-v2", OTHER_DISK, 64 * MIB))
        make(runner, other, "ext4", reads_zero=False)
        mount_device(runner, other, f"{folder}/b", "ext4")
        users = {
            "has a file open": spawn(_OPEN),
            "has its cwd in it": spawn("os.chdir('a/deep')"),
            "has its root in it": spawn("os.chroot('a/deep')"),
            "has a file mapped": spawn(_MAPPED),
            "has the device open": spawn(f"f = os.open('/dev/mapper/{FACE}', os.O_RDONLY)"),
        }
        strangers = [
            spawn("f = open('b/file', 'w'); os.chdir('b')"),
            spawn(f"f = os.open('{DISK}', os.O_RDONLY); g = open('outside', 'w')"),
        ]
        found = _find(mapper)
        assert _by_pid(found) == {pid: how for how, pid in users.items()}, found
        assert not any(user.doomed for user in found.users)
        for user in found.users:
            kill(user.process)
        wait_until(lambda: not _find(mapper).users)
        assert all(stat_of(pid) is not None for pid in strangers)
        sh(f"umount {folder}/a")


def a_mount_is_found_by_every_file_system_also_when_it_shows_another_number() -> None:
    for kind in ("btrfs", "xfs"):
        with machine() as (runner, mapper, folder), _children() as spawn:
            _mounted(runner, mapper, folder, kind)
            opened, mapped = spawn(_OPEN), spawn(_MAPPED)
            assert _by_pid(_find(mapper)) == {
                opened: "has a file open",
                mapped: "has a file mapped",
            }


def a_thread_is_found_whose_process_seems_to_have_ended() -> None:
    with machine() as (runner, mapper, folder), _children() as spawn:
        _mounted(runner, mapper, folder)
        pid = spawn(_THREAD_HOLDS, says_so=True)
        wait_until(lambda: (one := stat_of(pid)) is not None and one.state == "Z")
        (user,) = _find(mapper).users
        assert (user.process.pid, user.doomed) == (pid, False)
        kill(user.process)
        wait_until(lambda: not _find(mapper).users)


def a_namespace_with_a_mount_of_its_own_is_a_user_and_one_that_follows_ours_is_none() -> None:
    with machine() as (runner, mapper, folder), _children() as spawn:
        _mounted(runner, mapper, folder)
        pod = spawn("", "unshare", "-m", "--propagation", "private")
        daemon = spawn("", "unshare", "-m", "--propagation", "slave")
        inside = spawn(_OPEN, "unshare", "-m", "--propagation", "slave")
        assert _by_pid(_find(mapper)) == {
            pod: "has it mounted in a namespace of its own",
            inside: "has a file open",
        }
        for pid in (pod, inside):
            os.kill(pid, signal.SIGKILL)
        sh(f"umount {folder}/a")
        assert stat_of(daemon) is not None
        mapper.remove(FACE)


def a_raw_device_is_found_behind_a_node_of_another_name() -> None:
    with machine() as (_, mapper, folder), _children() as spawn:
        node = str(ensure_linear(mapper, FACE, DISK, 64 * MIB))
        make_file(f"{folder}/block")
        bind(node, f"{folder}/block")
        number = os.stat(node).st_rdev  # noqa: PTH116
        # A container's /dev is a tmpfs with nodes of its own.
        sh(f"mkdir {folder}/dev; mount -t tmpfs none {folder}/dev")
        os.mknod(folder / "dev/own", 0o600 | 0o060000, number)
        mapped = spawn(f"f = os.open('block', os.O_RDWR); {_MAP}")
        bound = spawn("f = os.open('block', os.O_RDWR)")
        made = spawn("f = os.open('dev/own', os.O_RDWR)")
        gone = spawn("f = os.open('dev/own', os.O_RDWR); os.unlink('dev/own')")
        assert _by_pid(_find(mapper)) == {
            mapped: "has the device mapped",
            bound: "has the device open",
            made: "has the device open",
            gone: "has the device open",
        }


def a_file_is_found_open_on_a_mount_that_no_table_shows() -> None:
    with machine() as (runner, mapper, folder), _children() as spawn:
        _mounted(runner, mapper, folder)
        pid = spawn(_OPEN)
        sh(f"umount -l {folder}/a")
        assert _by_pid(_find(mapper)) == {pid: "has a file open of a mount that is gone"}


def a_writer_that_waits_in_the_kernel_counts_as_ended_once_it_is_killed() -> None:
    with machine() as (runner, mapper, folder), _children() as spawn:
        _mounted(runner, mapper, folder)
        mapper.suspend(FACE, deadline=10, lockfs=False)
        pid = spawn(
            "f = os.open('a/file', os.O_WRONLY); print('ready', flush=True);"
            "os.write(f, b'x'); os.fsync(f)",
            says_so=True,
        )
        wait_until(lambda: (one := stat_of(pid)) is not None and one.state == "D")
        evictor, _ = _evictor(runner, mapper)
        assert evictor.users(VOLUME, frozen=True) is Users.ALIVE
        evictor.kill(VOLUME, frozen=True)
        assert evictor.users(VOLUME, frozen=True) is Users.NONE
        stat = stat_of(pid)
        assert stat is not None
        assert stat.state == "D"
        assert is_doomed(stat.process)
        # A suspended face holds back as well: nothing is unmounted, or it would hang.
        evictor.kill(VOLUME, frozen=False)
        assert len(mounts_at(f"{folder}/a")) == 1
        mapper.load(FACE, [Target(0, 320 * MIB // 512, "error", "")])
        mapper.resume(FACE, deadline=10, lockfs=False)
        assert evictor.users(VOLUME, frozen=False) is Users.ALIVE
        evictor.kill(VOLUME, frozen=False)
        assert evictor.users(VOLUME, frozen=False) is Users.NONE
        assert mounts_at(f"{folder}/a") == []
        assert mapper.find(FACE) is None


def a_pod_is_ended_with_all_its_mounts_and_starts_nothing_any_more() -> None:
    with machine() as (runner, mapper, folder), _pod() as cgroup, _children() as spawn:
        node = _mounted(runner, mapper, folder)
        make_directory(f"{folder}/published")
        bind(f"{folder}/a", f"{folder}/published")
        sh(f"mkdir {folder}/private; mount --bind {folder}/a {folder}/private")
        evictor, known = _evictor(runner, mapper)
        known.put(_target(f"{folder}/published"))
        join = f"open('{cgroup}/container/cgroup.procs', 'w').write(str(os.getpid()))"
        in_pod = [spawn(f"{join}; f = open('published/file', 'a')"), spawn(join)]
        stranger = spawn()
        assert evictor.users(VOLUME, frozen=False) is Users.ALIVE
        heard: list[str] = []
        with _listening(heard):
            evictor.kill(VOLUME, frozen=False)
        said = "\n".join(heard)
        assert VOLUME in said
        assert all(f"{pid} (python" in said for pid in in_pod), said
        assert str(stranger) not in said
        assert evictor.users(VOLUME, frozen=False) is Users.NONE
        assert known.of(VOLUME) == ()
        assert sh("grep -c /tmp/story/ /proc/self/mountinfo || true") == "0"
        assert not Path(node).exists()
        assert stat_of(stranger) is not None
        raises(
            AssertionError, lambda: sh(f"echo $$ > {cgroup}/container/cgroup.procs; (/bin/true)")
        )
        evictor.kill(VOLUME, frozen=False)


def a_raw_volume_is_taken_down_with_the_loop_device_that_kubelet_keeps() -> None:
    with machine() as (runner, mapper, folder), _children() as spawn:
        node = str(ensure_linear(mapper, FACE, DISK, 64 * MIB))
        read_only = str(
            ensure_linear(mapper, stack_names(VOLUME)[0], node, 64 * MIB, read_only=True)
        )
        for source, path in ((node, "published"), (read_only, "second"), (node, "kept")):
            make_file(f"{folder}/{path}")
            bind(source, f"{folder}/{path}")
        sh(f"modprobe loop; losetup /dev/loop0 {folder}/kept")
        pid = spawn("f = os.open('published', os.O_RDWR); g = os.open('second', os.O_RDONLY)")
        evictor, known = _evictor(runner, mapper)
        known.put(_target(f"{folder}/published", block=True))
        evictor.kill(VOLUME, frozen=False)
        assert evictor.users(VOLUME, frozen=False) is Users.NONE
        assert mapper.names("xlss-") == []
        assert loop_devices.loops_over(lambda _: True) == []
        wait_until(lambda: (one := stat_of(pid)) is None or one.exiting)


def what_cannot_be_ended_is_said_to_need_a_reboot_and_tried_again() -> None:
    with machine() as (runner, mapper, folder):
        node = _mounted(runner, mapper, folder)
        now = [0.0]
        evictor, _ = _evictor(runner, mapper, clock=lambda: now[0])
        # The kernel's own use: no process to be found.
        sh(f"umount {folder}/a; dmsetup create above --table '0 8 linear {node} 0'")
        assert "reboot" in raises(Refused, lambda: evictor.kill(VOLUME, frozen=False))
        assert evictor.users(VOLUME, frozen=False) is Users.ALIVE
        now[0] = 19.0
        raises(Refused, lambda: evictor.kill(VOLUME, frozen=False))
        now[0] = 21.0
        assert evictor.users(VOLUME, frozen=False) is Users.STUCK
        sh("dmsetup remove above")
        evictor.kill_again(VOLUME, frozen=False)
        assert evictor.users(VOLUME, frozen=False) is Users.STUCK
        now[0] = 40.0
        assert evictor.users(VOLUME, frozen=False) is Users.STUCK
        evictor.kill_again(VOLUME, frozen=False)
        assert evictor.users(VOLUME, frozen=False) is Users.NONE


def a_disk_that_hangs_below_all_of_it_is_given_up_and_taken_down_when_it_answers() -> None:
    with machine() as (runner, mapper, folder), _children() as spawn:
        lower = str(ensure_linear(mapper, "xlss-lower", DISK, 320 * MIB))
        _mounted(runner, mapper, folder, backing=lower)
        pid = spawn("f = os.open('a/file', os.O_WRONLY)")
        sh(f"echo dirty > {folder}/a/file2")
        mapper.suspend("xlss-lower", deadline=10, lockfs=False)
        eviction._UNMOUNT_SECONDS = 2.0
        evictor, _ = _evictor(runner, mapper)
        raises(Refused, lambda: evictor.kill(VOLUME, frozen=False))
        assert evictor.users(VOLUME, frozen=False) is Users.ALIVE
        wait_until(lambda: (one := stat_of(pid)) is None or is_doomed(one.process))
        mapper.resume("xlss-lower", deadline=10, lockfs=False)
        wait_until(lambda: runner.stuck == 0)
        evictor.kill(VOLUME, frozen=False)
        assert evictor.users(VOLUME, frozen=False) is Users.NONE
        assert mapper.names() == ["xlss-lower"]


def an_encrypted_volume_is_taken_down_as_a_whole() -> None:
    with machine() as (runner, mapper, folder), _children() as spawn:
        face = str(ensure_linear(mapper, FACE, DISK, 320 * MIB))
        format_device(runner, face, b"key")
        top = str(open_device(runner, mapper, face, stack_names(VOLUME)[1], b"key"))
        make(runner, top, "btrfs", reads_zero=False)
        make_directory(f"{folder}/a")
        mount_device(runner, top, f"{folder}/a", "btrfs")
        pid = spawn("f = open('a/file', 'w'); f.write('x')")
        assert _by_pid(_find(mapper)) == {pid: "has a file open"}
        evictor, _ = _evictor(runner, mapper)
        evictor.kill(VOLUME, frozen=False)
        assert evictor.users(VOLUME, frozen=False) is Users.NONE
        assert mapper.names() == []


def _serve(volume_id: str, device: str, size_bytes: int) -> None:
    """What a node has of a replicated volume that it serves: a face, mounted at /tmp/served."""
    runner = Runner()
    node = str(ensure_linear(DeviceMapper(runner), f"xlss-{volume_id}", device, size_bytes))
    make(runner, node, "ext4", reads_zero=False)
    make_directory("/tmp/served")
    mount_device(runner, node, "/tmp/served", "ext4")


def _evict(volume_id: str, *, frozen: bool, kill: bool) -> None:
    """Writes what users there are afterwards."""
    runner = Runner()
    evictor, _ = _evictor(runner, DeviceMapper(runner))
    if kill:
        evictor.kill(volume_id, frozen=frozen)
    sys.stdout.write(evictor.users(volume_id, frozen=frozen).value)


def _mounted(
    runner: Runner, mapper: DeviceMapper, folder: Path, kind: str = "ext4", backing: str = DISK
) -> str:
    """A face with a file system at ``a``, which holds ``file`` and the folder ``deep``."""
    size = 320 * MIB
    sh(f"blkdiscard -z -l {size} {backing}")
    node = str(ensure_linear(mapper, FACE, backing, size))
    make(runner, node, kind, reads_zero=False)
    make_directory(f"{folder}/a")
    mount_device(runner, node, f"{folder}/a", kind)
    sh(f"mkdir {folder}/a/deep; head -c 4096 /dev/zero > {folder}/a/file; sync")
    return node


def _evictor(
    runner: Runner, mapper: DeviceMapper, **options: object
) -> tuple[Evictor, targets.Targets]:
    sh("rm -rf /run/story-targets")
    known = targets.Targets(Path("/run/story-targets"))
    volumes = LogicalVolumes({}, lambda spec: None)
    devices = Devices(runner, mapper, volumes)
    limiter = Limiter(volumes, devices, known, CGROUPS)
    return Evictor(runner, mapper, devices, known, limiter, Locks(), CGROUPS, **options), known  # type: ignore[arg-type]


def _target(path: str, *, block: bool = False) -> targets.Target:
    return targets.Target(VOLUME, path, "SINGLE_NODE_WRITER", False, block, POD)


def _find(mapper: DeviceMapper) -> Found:
    names = stack_names(VOLUME)
    numbers = {info.device_number for name in names if (info := mapper.find(name)) is not None}
    return UserFinder().find(Stack(frozenset(numbers), frozenset(names)))


def _by_pid(found: Found) -> dict[int, str]:
    assert found.unclear == ()
    return {user.process.pid: user.how for user in found.users}


class _Spawn:
    """Starts Python programs in the story's folder, and waits until each has done its part."""

    def __init__(self) -> None:
        self.children: list[subprocess.Popen[str]] = []

    def __call__(self, code: str = "", *before: str, says_so: bool = False) -> int:
        code = f"import os, time; {code or 'pass'}"
        if not says_so:
            code += "; print('ready', flush=True); time.sleep(999)"
        argv = [*before, sys.executable, "-I", "-S", "-c", code]
        child = subprocess.Popen(argv, cwd="/tmp/story", stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        self.children.append(child)
        assert child.stdout.readline() == "ready\n"
        return child.pid


@contextlib.contextmanager
def _children() -> Iterator[_Spawn]:
    spawn = _Spawn()
    try:
        yield spawn
    finally:
        sh(f"dmsetup resume {FACE} 2>/dev/null || true")
        for child in spawn.children:
            child.kill()
            child.wait()
            assert child.stdout is not None
            child.stdout.close()


@contextlib.contextmanager
def _pod() -> Iterator[Path]:
    pod = CGROUPS / f"kubepods/pod{POD}"
    (pod / "container").mkdir(parents=True)
    sh(f"echo +pids > {CGROUPS}/kubepods/cgroup.subtree_control")
    try:
        yield pod
    finally:
        sh(f"sleep 0.2; rmdir {pod}/container {pod} {pod.parent}")


@contextlib.contextmanager
def _listening(heard: list[str]) -> Iterator[None]:
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("node_agent.eviction").addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger("node_agent.eviction").removeHandler(handler)
