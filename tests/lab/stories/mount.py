"""Mounts: repeated, refused, read-only from the beginning, unmounted; files given to a group."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

import host.mount
from host.command import Runner
from host.device_mapper import DeviceMapper, Target
from host.errors import CommandStuck, DeviceFailed, InUse, Missing, NotBlank, Refused
from host.filesystem import make
from host.linear_device import ensure_linear
from host.mount import (
    Mount,
    bind,
    canonical,
    make_directory,
    make_file,
    mount_device,
    mounts_at,
    mounts_of,
    remove_target,
    sync,
    unmount,
    usage,
)
from host.ownership import apply_group
from tests.lab.stories.telling import DISK, MIB, OTHER_DISK, machine, raises, sh

FACE = "xlss-v1"


def a_mount_is_there_once_however_often_it_is_asked_for() -> None:
    with machine() as (runner, mapper, folder):
        node = _formatted(runner, mapper, "ext4")
        point = f"{folder}/with space and\ttab"
        for _ in range(3):
            make_directory(point)
            mount_device(runner, node, point, "ext4", ["noatime,nodiratime", "nosuid"])
        (mount,) = mounts_at(canonical(point))
        assert {"noatime", "nosuid", "rw"} <= mount.options
        assert mount.source == node
        assert mounts_of(Path(node).stat().st_rdev) == [mount]
        raises(InUse, lambda: mount_device(runner, node, point, "ext4", read_only=True))
        raises(InUse, lambda: remove_target(point))
        other = str(ensure_linear(mapper, "xlss-v2", OTHER_DISK, 64 * MIB))
        raises(InUse, lambda: mount_device(runner, other, point, "ext4"))
        for _ in range(2):
            unmount(runner, point)
            remove_target(point)
        assert not Path(point).exists()
        raises(Missing, lambda: mount_device(runner, "/dev/mapper/nothing", point, "ext4"))
        raises(Missing, lambda: mount_device(runner, node, f"{folder}/nothing", "ext4"))


def btrfs_is_found_by_its_device_although_it_shows_another_number() -> None:
    with machine() as (runner, mapper, folder):
        node = _formatted(runner, mapper, "btrfs")
        make_directory(f"{folder}/a")
        for _ in range(2):
            mount_device(runner, node, f"{folder}/a", "btrfs", read_only=True)
        (mount,) = mounts_of(Path(node).stat().st_rdev)
        assert mount.read_only


def options_that_the_kernel_does_not_know_are_refused_in_its_words() -> None:
    with machine() as (runner, mapper, folder):
        for kind in ("ext4", "xfs", "btrfs"):
            node = _formatted(runner, mapper, kind)
            make_directory(f"{folder}/a")
            said = raises(
                Refused,
                lambda: mount_device(runner, node, f"{folder}/a", kind, ["noatime", "nosuch=1"]),  # noqa: B023
            )
            assert kind == "btrfs" or "nosuch" in said, said
            raises(ValueError, lambda: mount_device(runner, node, f"{folder}/a", kind, ["loop"]))  # noqa: B023
            good = {
                "ext4": ["data=ordered", "noinit_itable", "discard", "lazytime", "nodev"],
                "xfs": ["logbsize=256k", "allocsize=1m", "noexec", "inode64"],
                "btrfs": ["compress=zstd:1", "noatime", "ssd", "space_cache=v2"],
            }[kind]
            mount_device(runner, node, f"{folder}/a", kind, good)
            unmount(runner, f"{folder}/a")
            mapper.remove(FACE)


def a_device_without_the_file_system_says_so() -> None:
    with machine() as (runner, mapper, folder):
        node = str(ensure_linear(mapper, FACE, DISK, 64 * MIB))
        make_directory(f"{folder}/a")
        raises(DeviceFailed, lambda: mount_device(runner, node, f"{folder}/a", "ext4"))
        assert mounts_at(f"{folder}/a") == []


def a_read_only_bind_is_never_writable() -> None:
    with machine() as (runner, mapper, folder):
        node = _formatted(runner, mapper, "ext4")
        stage, target, second = (f"{folder}/{name}" for name in ("stage", "target", "second"))
        for point in (stage, target, second):
            make_directory(point)
        raises(Refused, lambda: bind(stage, target))
        mount_device(runner, node, stage, "ext4")
        seen_writable: list[Mount] = []
        watching = threading.Event()

        def watch() -> None:
            while not watching.is_set():
                seen_writable.extend(m for m in mounts_at(target) if "rw" in m.options)

        watcher = threading.Thread(target=watch)
        watcher.start()
        for _ in range(30):
            bind(stage, target, read_only=True)
            bind(stage, target, read_only=True)
            unmount(runner, target)
        bind(stage, target, read_only=True)
        watching.set()
        watcher.join()
        assert not seen_writable
        bind(stage, second)
        sh(f"echo 1 > {second}/x; cat {target}/x; ! echo 2 > {target}/x")
        raises(InUse, lambda: bind(stage, target))
        raises(InUse, lambda: bind(stage, second, read_only=True))
        assert len(mounts_of(Path(node).stat().st_rdev)) == 3
        for point in (second, target, stage):
            unmount(runner, point)
            remove_target(point)


def a_block_device_is_published_as_a_file() -> None:
    with machine() as (runner, mapper, folder):
        node = str(ensure_linear(mapper, FACE, DISK, 64 * MIB))
        target = f"{folder}/block"
        for _ in range(2):
            make_file(target)
            bind(node, target)
        assert Path(target).stat().st_rdev == Path(node).stat().st_rdev
        sh(f"echo content | dd of={target} conv=notrunc,fsync status=none")
        assert sh(f"blockdev --flushbufs {DISK}; head -c7 {DISK}") == "content"
        for _ in range(2):
            unmount(runner, target)
            remove_target(target)
        assert Path(node).is_block_device()
        raises(Missing, lambda: bind("/dev/mapper/nothing", node))


def what_is_stacked_is_unmounted_to_the_last() -> None:
    with machine() as (runner, mapper, folder):
        node = _formatted(runner, mapper, "ext4")
        point = f"{folder}/a"
        make_directory(point)
        sh(f"mount {node} {point}; mount --bind {point} {point}; mount -t tmpfs none {point}")
        assert len(mounts_at(point)) >= 3
        unmount(runner, point)
        assert mounts_at(point) == []


def an_open_file_keeps_a_mount_and_says_that_it_is_in_use() -> None:
    with machine() as (runner, mapper, folder):
        node = _formatted(runner, mapper, "ext4")
        point = f"{folder}/a"
        make_directory(point)
        mount_device(runner, node, point, "ext4")
        with Path(point, "x").open("w"):
            raises(InUse, lambda: unmount(runner, point))
            unmount(runner, point, lazy=True)
            assert mounts_at(point) == []


def nothing_that_holds_anything_is_removed() -> None:
    with machine() as (_, _, folder):
        (folder / "full").mkdir()
        (folder / "full" / "file").write_text("somebody's")
        raises(NotBlank, lambda: remove_target(f"{folder}/full"))
        raises(NotBlank, lambda: remove_target(f"{folder}/full/file"))
        (folder / "link").symlink_to(folder / "full")
        raises(NotBlank, lambda: remove_target(f"{folder}/link"))
        raises(Refused, lambda: make_directory(f"{folder}/link"))
        raises(Refused, lambda: make_file(f"{folder}/full"))
        raises(Missing, lambda: make_directory(f"{folder}/none/none"))
        assert (folder / "full" / "file").read_text() == "somebody's"


def a_mount_is_found_through_links_in_its_path() -> None:
    with machine() as (runner, mapper, folder):
        node = _formatted(runner, mapper, "ext4")
        (folder / "real").mkdir()
        (folder / "kubelet").symlink_to(folder / "real")
        point = f"{folder}/kubelet/a"
        for _ in range(2):
            make_directory(point)
            mount_device(runner, node, point, "ext4")
        assert canonical(point) == f"{folder}/real/a"
        assert len(mounts_at(canonical(point))) == 1
        unmount(runner, point)
        assert mounts_at(canonical(point)) == []


def usage_counts_bytes_and_inodes_and_does_not_hang() -> None:
    with machine() as (runner, mapper, folder):
        node = _formatted(runner, mapper, "ext4")
        point = f"{folder}/a"
        raises(Missing, lambda: usage(runner, point))
        make_directory(point)
        raises(Missing, lambda: usage(runner, point))
        mount_device(runner, node, point, "ext4")
        before = usage(runner, point)
        sh(f"dd if=/dev/zero of={point}/x bs=1M count=10 status=none")
        sync(runner, point, deadline=30)
        after = usage(runner, point)
        assert 9 * MIB < after.used_bytes - before.used_bytes < 11 * MIB
        assert after.inodes_used == before.inodes_used + 1
        assert after.inodes == after.inodes_used + after.inodes_free
        assert after.total_bytes >= after.used_bytes + after.available_bytes
        # The disk goes away under the mount.
        sectors = mapper.table(FACE)[0].sectors
        mapper.swap(FACE, [Target(0, sectors, "error", "")], deadline=10)
        subprocess.run(["touch", f"{point}/y"], check=False, capture_output=True)
        usage(runner, point)
        unmount(runner, point)


def a_mount_of_a_dead_device_is_given_up_and_other_volumes_go_on() -> None:
    with machine() as (runner, mapper, folder):
        node = _formatted(runner, mapper, "ext4")
        other = str(ensure_linear(mapper, "xlss-v2", OTHER_DISK, 64 * MIB))
        make(runner, other, "ext4", reads_zero=False)
        make_directory(f"{folder}/a")
        make_directory(f"{folder}/b")
        mapper.suspend(FACE, deadline=10, lockfs=False)
        host.mount._MOUNT_DEADLINE = 1.0
        raises(CommandStuck, lambda: mount_device(runner, node, f"{folder}/a", "ext4"))
        mount_device(runner, other, f"{folder}/b", "ext4")
        mapper.resume(FACE, deadline=10)
        # What was stuck may have come through meanwhile; either way it ends well.
        sh(f"for i in $(seq 100); do pgrep -f '[m]ount.*{node}' || exit 0; sleep 0.1; done")
        host.mount._MOUNT_DEADLINE = 60.0
        mount_device(runner, node, f"{folder}/a", "ext4")
        assert len(mounts_at(f"{folder}/a")) == 1


def all_files_go_to_a_group_once_and_links_lead_nowhere() -> None:
    with machine() as (runner, mapper, folder):
        node = _formatted(runner, mapper, "ext4")
        point = folder / "a"
        make_directory(str(point))
        mount_device(runner, node, str(point), "ext4")
        outside = folder / "outside"
        outside.write_text("root's")
        outside.chmod(0o600)
        (point / "d").mkdir(mode=0o700)
        (point / "d" / "script").write_text("#!")
        (point / "d" / "script").chmod(0o700)
        (point / "d" / "to-file").symlink_to(outside)
        (point / "to-directory").symlink_to(folder)
        os.mkfifo(point / "fifo", 0o600)
        assert apply_group(runner, str(point), 4711)
        assert sh(f"find {point} ! -gid 4711") == ""
        assert (point.stat().st_mode & 0o7770) == 0o2770
        assert ((point / "d").stat().st_mode & 0o7777) == 0o2770
        assert ((point / "d" / "script").stat().st_mode & 0o7777) == 0o760
        assert (outside.stat().st_mode & 0o7777, outside.stat().st_gid) == (0o600, 0)
        assert folder.stat().st_gid == 0
        (point / "new").write_text("")
        os.chown(point / "new", 0, 0)
        assert not apply_group(runner, str(point), 4711)
        assert (point / "new").stat().st_gid == 0
        assert apply_group(runner, str(point), 4712)
        assert sh(f"find {point} ! -gid 4712") == ""
        unmount(runner, str(point))
        mount_device(runner, node, str(point), "ext4", read_only=True)
        raises(Refused, lambda: apply_group(runner, str(point), 1))


def _formatted(runner: Runner, mapper: DeviceMapper, kind: str) -> str:
    size = 320 * MIB
    sh(f"blkdiscard -z -l {size} {DISK}")
    node = str(ensure_linear(mapper, FACE, DISK, size))
    make(runner, node, kind, reads_zero=False)
    return node
