"""Devices of the device-mapper: made, completed, resized, swapped, removed; suspended and not left
so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from host.device_mapper import DeviceMapper, Target, device_number
from host.errors import (
    AlreadyExists,
    CommandFailed,
    CommandStuck,
    InTransition,
    InUse,
    Missing,
    Refused,
)
from host.linear_device import ensure_linear, remove_if_present, resize_linear, swap_linear
from host.resume_guard import ResumeGuard, suspended
from tests.lab.stories.telling import DISK, MIB, OTHER_DISK, machine, raises, sh, wait_until

FACE = "xlss-v1"


def a_face_is_there_when_it_is_made_and_gone_when_it_is_removed() -> None:
    with machine() as (_, mapper, _):
        node = ensure_linear(mapper, FACE, DISK, 64 * MIB)
        assert sh(f"blockdev --getsize64 {node}") == str(64 * MIB)
        assert device_number(node) == mapper.info(FACE).device_number
        assert mapper.names("xlss-") == [FACE]
        assert mapper.info(FACE).ours
        assert mapper.info(FACE).open_count == 0
        remove_if_present(mapper, FACE)
        remove_if_present(mapper, FACE)
        assert not node.exists()
        assert mapper.names() == []
        raises(Missing, lambda: mapper.info(FACE))


def a_half_made_face_is_completed() -> None:
    with machine() as (_, mapper, _):
        mapper.create(FACE)
        ensure_linear(mapper, FACE, DISK, 64 * MIB)
        remove_if_present(mapper, FACE)
        mapper.create(FACE)
        mapper.load(FACE, [Target(0, 8, "error", "")])
        node = ensure_linear(mapper, FACE, DISK, 64 * MIB)
        assert mapper.table(FACE) == (Target(0, 64 * MIB // 512, "linear", "98:16 0"),)
        mapper.load(FACE, [Target(0, 8, "error", "")])
        mapper.suspend(FACE, deadline=10)
        node.unlink()
        ensure_linear(mapper, FACE, DISK, 64 * MIB)
        info = mapper.info(FACE)
        assert not info.suspended
        assert not info.inactive_table
        assert device_number(node) == info.device_number


def a_stale_node_of_another_device_is_replaced() -> None:
    with machine() as (_, mapper, _):
        node = mapper.node(FACE)
        os.mknod(node, 0o600 | 0o060000, os.makedev(98, 32))
        ensure_linear(mapper, FACE, DISK, 64 * MIB)
        assert device_number(node) == mapper.info(FACE).device_number


def a_wrong_device_of_that_name_is_an_error_and_stays() -> None:
    with machine() as (_, mapper, _):
        ensure_linear(mapper, FACE, DISK, 64 * MIB)
        assert "98:16" in raises(
            AlreadyExists, lambda: ensure_linear(mapper, FACE, OTHER_DISK, 64 * MIB)
        )
        raises(AlreadyExists, lambda: ensure_linear(mapper, FACE, DISK, 32 * MIB))
        raises(AlreadyExists, lambda: ensure_linear(mapper, FACE, DISK, 64 * MIB, read_only=True))
        mapper.create("foreign", uuid="LVM-abc")
        raises(AlreadyExists, lambda: ensure_linear(mapper, "foreign", DISK, 64 * MIB))
        raises(AlreadyExists, lambda: remove_if_present(mapper, "foreign"))
        raises(Missing, lambda: ensure_linear(mapper, "xlss-v2", "/dev/nothing", 64 * MIB))
        assert mapper.find("xlss-v2") is None
        raises(ValueError, lambda: ensure_linear(mapper, "../x", DISK, 64 * MIB))


def a_read_only_face_cannot_be_written() -> None:
    with machine() as (_, mapper, _):
        node = ensure_linear(mapper, FACE, DISK, 64 * MIB, read_only=True)
        assert sh(f"blockdev --getro {node}") == "1"
        raises(PermissionError, lambda: node.write_bytes(b"x"))


def an_open_face_is_not_removed_but_one_opened_in_passing_is() -> None:
    with machine() as (_, mapper, _):
        node = ensure_linear(mapper, FACE, DISK, 64 * MIB)
        passing = subprocess.Popen(["sleep", "0.5"], stdin=node.open("rb"))
        assert mapper.info(FACE).open_count >= 1
        staying = os.open(node, os.O_RDONLY)
        raises(InUse, lambda: remove_if_present(mapper, FACE))
        passing.wait()
        assert node.exists()
        os.close(staying)
        remove_if_present(mapper, FACE)
        assert not node.exists()


def a_face_grows_and_moves_under_a_mounted_file_system() -> None:
    with machine() as (runner, mapper, folder):
        node = ensure_linear(mapper, FACE, DISK, 64 * MIB)
        sh(f"mkfs.ext4 -q {node}; mkdir {folder}/m; mount {node} {folder}/m")
        writer = _in_background(
            f"while echo x >> {folder}/m/log; do dd if=/dev/zero of={folder}/m/big bs=64k count=9"
            " conv=fsync status=none; done"
        )
        try:
            resize_linear(mapper, FACE, 128 * MIB)
            resize_linear(mapper, FACE, 128 * MIB)
            assert sh(f"blockdev --getsize64 {node}") == str(128 * MIB)
            assert "cannot shrink" in raises(Refused, lambda: resize_linear(mapper, FACE, MIB))
            raises(Refused, lambda: resize_linear(mapper, FACE, 1 << 50))
            sh(f"resize2fs {node}")
            ensure_linear(mapper, "xlss-v2", DISK, 128 * MIB)
            with suspended(ResumeGuard(runner, [FACE], seconds=30)):
                sh(f"dd if={DISK} of={OTHER_DISK} bs=1M count=128 iflag=direct oflag=direct")
                mapper.load(FACE, [Target(0, 128 * MIB // 512, "linear", "98:32 0")])
            assert mapper.table(FACE)[0].parameters == "98:32 0"
            swap_linear(mapper, FACE, OTHER_DISK)
            assert writer.poll() is None
        finally:
            os.killpg(writer.pid, signal.SIGKILL)
            writer.wait()
        assert int(sh(f"umount {folder}/m; e2fsck -fn {node} >&2; echo 1")) == 1


def a_table_longer_than_its_device_does_not_leave_the_face_suspended() -> None:
    with machine() as (_, mapper, _):
        node = ensure_linear(mapper, FACE, DISK, 64 * MIB)
        ensure_linear(mapper, "xlss-short", OTHER_DISK, 32 * MIB)
        raises(Refused, lambda: swap_linear(mapper, FACE, "/dev/mapper/xlss-short"))
        too_long = [Target(0, 1 << 40, "linear", "98:32 0")]
        raises(CommandFailed, lambda: mapper.swap(FACE, too_long, deadline=10))
        info = mapper.info(FACE)
        assert not info.suspended
        assert not info.inactive_table
        sh(f"dd if={node} of=/dev/null bs=4k count=1 iflag=direct")


def what_hangs_is_given_up_at_its_deadline_and_works_later() -> None:
    with machine() as (runner, mapper, _):
        ensure_linear(mapper, "low", DISK, 64 * MIB)
        node = ensure_linear(mapper, FACE, "/dev/mapper/low", 64 * MIB)
        ensure_linear(mapper, "xlss-v2", OTHER_DISK, 64 * MIB)
        mapper.suspend("low", deadline=10)
        writer = subprocess.Popen(
            ["dd", "if=/dev/zero", f"of={node}", "bs=4k", "count=1", "oflag=direct"],
            stderr=subprocess.DEVNULL,
        )
        wait_until(
            lambda: sh(f"cat /sys/dev/block/{mapper.info(FACE).major_minor}/inflight")[-1] != "0"
        )
        raises(CommandStuck, lambda: mapper.suspend(FACE, deadline=0.5))
        raises(CommandStuck, lambda: swap_linear(mapper, FACE, OTHER_DISK, deadline=0.5))
        guard = ResumeGuard(runner, ["xlss-v2", FACE], seconds=1)
        runner.answered(FACE)
        raises(CommandStuck, guard.suspend)
        assert not guard.release()
        for name in (FACE, "xlss-v2"):
            info = mapper.info(name)
            assert not info.suspended
            assert not info.inactive_table
        mapper.resume("low", deadline=10)
        assert writer.wait() == 0
        runner.answered(FACE)
        swap_linear(mapper, FACE, OTHER_DISK, deadline=10)
        assert runner.stuck == 0


def the_status_is_that_of_the_target() -> None:
    with machine() as (_, mapper, _):
        ensure_linear(mapper, FACE, DISK, 64 * MIB)
        assert [target.kind for target in mapper.status(FACE)] == ["linear"]
        raises(Missing, lambda: mapper.load(FACE, [Target(0, 8, "linear", "250:250 0")]))


def many_devices_are_listed_whatever_the_length_of_the_answer() -> None:
    with machine() as (_, mapper, _):
        names = [f"xlss-{number:060d}" for number in range(100)]
        for name in names:
            ensure_linear(mapper, name, DISK, MIB)
        assert mapper.names("xlss-") == names
        table = [Target(8 * n, 8, "linear", f"98:16 {8 * n}") for n in range(500)]
        mapper.swap(names[0], table, deadline=10)
        assert mapper.table(names[0]) == tuple(table)
        for name in names:
            remove_if_present(mapper, name)


def other_threads_go_on_while_one_waits_in_the_kernel() -> None:
    with machine() as (_, mapper, _):
        ensure_linear(mapper, "low", DISK, 64 * MIB)
        ensure_linear(mapper, FACE, "/dev/mapper/low", 64 * MIB)
        mapper.suspend("low", deadline=10)
        writer = subprocess.Popen(
            ["dd", "if=/dev/zero", "of=/dev/mapper/" + FACE, "bs=4k", "count=1", "oflag=direct"],
            stderr=subprocess.DEVNULL,
        )
        wait_until(
            lambda: sh(f"cat /sys/dev/block/{mapper.info(FACE).major_minor}/inflight")[-1] != "0"
        )
        mapper.load(FACE, [Target(0, 8, "error", "")])
        waiting = threading.Thread(target=lambda: mapper.activate(FACE))
        waiting.start()
        time.sleep(0.3)
        assert waiting.is_alive()
        mapper.resume("low", deadline=10)
        waiting.join(30)
        assert not waiting.is_alive()
        writer.wait()


def a_cut_holds_all_devices_and_says_so() -> None:
    with machine() as (runner, mapper, folder):
        names = _two_mounted_faces(mapper, folder)
        with suspended(ResumeGuard(runner, names, seconds=30)) as cut:
            assert all(mapper.info(name).suspended for name in names)
            late = _in_background(f"echo late > {folder}/1/late; sync {folder}/1/late")
            time.sleep(0.3)
            assert late.poll() is None
        assert cut.held
        assert late.wait() == 0
        assert not any(mapper.info(name).suspended for name in names)
        assert sh("pgrep -fc '[r]esume_guard_process' || true") == "0"


def a_cut_that_lasts_too_long_is_ended_and_not_valid() -> None:
    with machine() as (runner, mapper, folder):
        names = _two_mounted_faces(mapper, folder)
        guard = ResumeGuard(runner, names, seconds=2)
        guard.suspend()
        wait_until(lambda: not any(mapper.info(name).suspended for name in names))
        assert not guard.release()
        assert not guard.release()


def a_cut_into_which_somebody_else_resumes_is_not_valid() -> None:
    with machine() as (runner, mapper, folder):
        names = _two_mounted_faces(mapper, folder)
        with suspended(ResumeGuard(runner, names, seconds=30)) as cut:
            sh(f"dmsetup resume {names[0]}")
        assert not cut.held
        assert not any(mapper.info(name).suspended for name in names)


def a_cut_of_what_somebody_else_has_suspended_leaves_it_to_him() -> None:
    with machine() as (runner, mapper, folder):
        names = _two_mounted_faces(mapper, folder)
        mapper.suspend(names[1], deadline=10)
        guard = ResumeGuard(runner, names, seconds=30)
        assert names[1] in raises(InTransition, guard.suspend)
        assert not guard.release()
        assert [mapper.info(name).suspended for name in names] == [False, True]


def a_cut_with_a_device_that_is_not_there_leaves_none_suspended() -> None:
    with machine() as (runner, mapper, folder):
        names = _two_mounted_faces(mapper, folder)
        guard = ResumeGuard(runner, [*names, "xlss-none"], seconds=30)
        assert "xlss-none" in raises(Missing, guard.suspend)
        assert not any(mapper.info(name).suspended for name in names)


_AGENT = """
import sys, time
from pathlib import Path
from host.command import Runner
from host.resume_guard import ResumeGuard
cgroup = Path(sys.argv[1]) if len(sys.argv) > 1 else None
ResumeGuard(Runner(), ["xlss-v1", "xlss-v2"], seconds=100, cgroup=cgroup).suspend()
print("suspended", flush=True)
time.sleep(100)
"""


def when_the_agent_is_killed_all_is_resumed() -> None:
    with machine() as (_, mapper, folder):
        names = _two_mounted_faces(mapper, folder)
        agent = subprocess.Popen([sys.executable, "-c", _AGENT], stdout=subprocess.PIPE)
        assert agent.stdout is not None
        assert agent.stdout.readline() == b"suspended\n"
        assert all(mapper.info(name).suspended for name in names)
        agent.kill()
        agent.wait()
        wait_until(lambda: not any(mapper.info(name).suspended for name in names), 5)
        wait_until(lambda: sh("pgrep -fc '[r]esume_guard_process' || true") == "0")


def a_guard_with_a_cgroup_of_its_own_outlives_the_container_of_the_agent() -> None:
    container, refuge = Path("/sys/fs/cgroup/container"), Path("/sys/fs/cgroup/refuge")
    container.mkdir()
    refuge.mkdir()
    with machine() as (_, mapper, folder):
        names = _two_mounted_faces(mapper, folder)
        agent = subprocess.Popen(
            [
                *("bash", "-c", f'echo $$ > {container}/cgroup.procs; exec "$@"', "-"),
                *(sys.executable, "-c", _AGENT, str(refuge)),
            ],
            stdout=subprocess.PIPE,
        )
        assert agent.stdout is not None
        assert agent.stdout.readline() == b"suspended\n"
        (container / "cgroup.kill").write_text("1")
        agent.wait()
        wait_until(lambda: not any(mapper.info(name).suspended for name in names), 5)
    wait_until(lambda: not (refuge / "cgroup.procs").read_text())
    container.rmdir()
    refuge.rmdir()


def when_the_guard_is_killed_the_agent_resumes() -> None:
    with machine() as (runner, mapper, folder):
        names = _two_mounted_faces(mapper, folder)
        guard = ResumeGuard(runner, names, seconds=100)
        guard.suspend()
        sh("pkill -KILL -f '[r]esume_guard_process'")
        assert not guard.release()
        assert not any(mapper.info(name).suspended for name in names)


def what_an_earlier_life_left_suspended_is_resumed_at_the_start() -> None:
    with machine() as (_, mapper, folder):
        names = _two_mounted_faces(mapper, folder)
        mapper.suspend(names[0], deadline=10)
        mapper.load(names[0], [Target(0, 8, "error", "")])
        mapper.create("xlss-foreign", uuid="LVM-abc")
        mapper.load("xlss-foreign", [Target(0, 8, "error", "")])
        mapper.activate("xlss-foreign")
        mapper.suspend("xlss-foreign", deadline=10)
        assert mapper.resume_all("xlss-", deadline=10) == [names[0]]
        assert mapper.table(names[0])[0].kind == "linear"
        assert mapper.info("xlss-foreign").suspended
        sh(f"echo on > {folder}/1/on; sync {folder}/1/on")


def _two_mounted_faces(mapper: DeviceMapper, folder: Path) -> list[str]:
    names = []
    for number, disk in ((1, DISK), (2, OTHER_DISK)):
        name = f"xlss-v{number}"
        node = ensure_linear(mapper, name, disk, 64 * MIB)
        sh(f"mkfs.ext4 -q {node}; mkdir {folder}/{number}; mount {node} {folder}/{number}")
        names.append(name)
    return names


def _in_background(script: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["bash", "-c", script], start_new_session=True)
