"""File systems: never over what is there, grown, checked, and copies beside their sources."""

from __future__ import annotations

import functools
import subprocess
import uuid
from pathlib import Path

from host import block_device, btrfs_superblock
from host.device_mapper import DeviceMapper
from host.errors import DeviceFailed, InUse, NotBlank, Refused
from host.filesystem import (
    FILESYSTEMS,
    MINIMUM_BYTES,
    MOUNT_OPTIONS,
    check,
    grow,
    make,
    make_unique,
    needs_growth,
    size_on,
)
from host.linear_device import ensure_linear, resize_linear
from host.mount import mount_device, mounts_of, unmount
from host.resume_guard import ResumeGuard, suspended
from host.signature import probe, require_blank
from tests.lab.stories.telling import DISK, MIB, OTHER_DISK, machine, raises, sh

FACE, COPY = "xlss-v1", "xlss-v2"
SIZE = 320 * MIB


def a_file_system_is_made_of_each_kind_and_shorter_than_the_minimum_it_is_not() -> None:
    with machine() as (runner, mapper, folder):
        for kind in FILESYSTEMS:
            node = _blank_face(mapper, FACE, DISK, MINIMUM_BYTES[kind])
            make(runner, node, kind, reads_zero=False)
            found = probe(runner, node)
            assert found is not None
            assert found.kind == kind
            assert 0 <= MINIMUM_BYTES[kind] - size_on(node, kind) < MIB
            mount_device(runner, node, _point(folder, "a"), kind, MOUNT_OPTIONS[kind])
            sh(f"dd if=/dev/urandom of={folder}/a/x bs=64k count=16 conv=fsync status=none")
            unmount(runner, f"{folder}/a")
            mapper.remove(FACE)


def a_device_that_carries_anything_is_not_formatted() -> None:
    with machine() as (runner, mapper, _):
        node = _blank_face(mapper, FACE, DISK, SIZE)
        for kind in FILESYSTEMS:
            make(runner, node, kind, reads_zero=False)
            before = sh(f"blkid -p {node}")
            for other in FILESYSTEMS:
                attempt = functools.partial(make, runner, node, other, reads_zero=False)
                assert kind in raises(NotBlank, attempt)
            assert sh(f"blkid -p {node}") == before
            block_device.zero_edges(node)
        table = bytearray(512)
        table[446:462] = bytes([0, 0, 2, 0, 0x83, 0, 5, 5, 0, 8, 0, 0, 0, 80, 0, 0])
        table[510:] = b"\x55\xaa"
        _write(node, 0, bytes(table))
        assert "dos" in raises(NotBlank, lambda: make(runner, node, "xfs", reads_zero=False))
        make(runner, node, "xfs", reads_zero=False, anew=True)


def a_disk_that_holds_data_without_a_signature_is_not_blank() -> None:
    with machine() as (runner, mapper, _):
        node = _blank_face(mapper, FACE, DISK, SIZE)
        require_blank(runner, node)
        _write(node, SIZE - 4096, b"somebody's")
        assert probe(runner, node) is None
        assert "without a known signature" in raises(NotBlank, lambda: require_blank(runner, node))


def two_signatures_are_something_and_not_nothing() -> None:
    with machine() as (runner, mapper, folder):
        node = _blank_face(mapper, FACE, DISK, SIZE)
        make(runner, node, "ext4", reads_zero=False)
        sh(
            f"truncate -s 320M {folder}/i; mkfs.xfs -q {folder}/i; "
            f"dd if={folder}/i of={node} bs=512 count=1 conv=notrunc,fsync status=none"
        )
        found = probe(runner, node)
        assert found is not None
        assert found.kind == "several"


def what_cannot_be_read_is_a_failed_device_and_not_a_blank_one() -> None:
    with machine() as (runner, mapper, _):
        sectors = SIZE // 512
        for first in (0, 128, sectors - 8):
            table = (
                f"0 {first} linear {DISK} 0\n" * (first > 0)
                + f"{first} 8 error\n"
                + f"{first + 8} {sectors - first - 8} linear {DISK} 0\n" * (first < sectors - 8)
            )
            subprocess.run(["dmsetup", "create", "bad"], input=table, text=True, check=True)
            mapper.ensure_node("bad")
            raises(DeviceFailed, lambda: probe(runner, "/dev/mapper/bad"))
            raises(DeviceFailed, lambda: make(runner, "/dev/mapper/bad", "ext4", reads_zero=False))
            mapper.remove("bad")


def a_mounted_device_is_not_formatted_even_anew() -> None:
    with machine() as (runner, mapper, folder):
        node = _blank_face(mapper, FACE, DISK, SIZE)
        make(runner, node, "ext4", reads_zero=False)
        mount_device(runner, node, _point(folder, "a"), "ext4")
        raises(InUse, lambda: make(runner, node, "ext4", reads_zero=False, anew=True))
        sh(f"touch {folder}/a/x; sync; umount {folder}/a; e2fsck -fn {node}")


def options_of_the_class_reach_the_file_system() -> None:
    with machine() as (runner, mapper, _):
        node = _blank_face(mapper, FACE, DISK, SIZE)
        options = ("-m1", "-E", "stride=16,stripe_width=32", "-O", "^has_journal", "-I", "512")
        make(runner, node, "ext4", options, reads_zero=True)
        shown = sh(f"dumpe2fs -h {node} 2>&1")
        for line in ("RAID stride:              16", "Inode size:	          512"):
            assert line in shown, shown
        assert "has_journal" not in shown
        make(
            runner, node, "xfs", ("-m", "reflink=0", "-d", "agcount=2"), reads_zero=True, anew=True
        )
        assert sh(f"xfs_db -r -c 'sb 0' -c 'p agcount' {node}") == "agcount = 2"
        make(runner, node, "btrfs", ("-m", "single"), reads_zero=True, anew=True)
        raises(ValueError, lambda: make(runner, node, "ext4", ("-F",), reads_zero=True))
        assert "invalid inode size 77" in raises(
            Refused,
            lambda: make(runner, node, "ext4", ("-I", "77"), reads_zero=True, anew=True),
        )


def each_kind_grows_while_it_is_mounted_and_only_when_there_is_room() -> None:
    with machine() as (runner, mapper, folder):
        for kind in FILESYSTEMS:
            node = _blank_face(mapper, FACE, DISK, SIZE)
            make(runner, node, kind, reads_zero=False)
            assert not needs_growth(node, kind)
            point = _point(folder, "a")
            mount_device(runner, node, point, kind, MOUNT_OPTIONS[kind])
            grow(runner, node, point, kind)
            resize_linear(mapper, FACE, SIZE + 200 * MIB)
            grow(runner, node, point, kind)
            grow(runner, node, point, kind)
            assert int(sh(f"stat -f -c %b {point}")) * 4096 > SIZE + 100 * MIB
            unmount(runner, point)
            assert not needs_growth(node, kind), kind
            assert size_on(node, kind) > SIZE + 198 * MIB
            resize_linear(mapper, FACE, SIZE + 204 * MIB)
            assert needs_growth(node, kind)
            mapper.remove(FACE)


def a_clean_copy_mounts_beside_its_source() -> None:
    for kind in FILESYSTEMS:
        _copy_beside_source(kind, frozen=True)


def a_copy_as_a_power_cut_leaves_it_mounts_beside_its_source_with_all_that_was_synced() -> None:
    for kind in FILESYSTEMS:
        _copy_beside_source(kind, frozen=False)


def _copy_beside_source(kind: str, *, frozen: bool) -> None:
    with machine() as (runner, mapper, folder):
        source = _blank_face(mapper, FACE, DISK, SIZE)
        make(runner, source, kind, reads_zero=False)
        first, second, third = (_point(folder, name) for name in "abc")
        mount_device(runner, source, first, kind, MOUNT_OPTIONS[kind])
        sh(f"dd if=/dev/urandom of={first}/one bs=1M count=3 status=none; sync -f {first}")
        sh(f"dd if=/dev/urandom of={first}/two bs=64k count=3 conv=fsync status=none")
        sums = sh(f"cd {first}; md5sum one two")
        if frozen:
            sh(f"dd if=/dev/urandom of={first}/three bs=1M count=3 status=none")
            with suspended(ResumeGuard(runner, [FACE], seconds=60)) as cut:
                _copy_disk()
            assert cut.held
        else:
            _copy_disk()
        copy = str(ensure_linear(mapper, COPY, OTHER_DISK, SIZE))
        new = uuid.uuid4()
        for _ in range(2):
            make_unique(copy, kind, new)
        check(runner, copy, kind)
        mount_device(runner, copy, second, kind, MOUNT_OPTIONS[kind])
        assert sh(f"cd {second}; md5sum one two") == sums, kind
        if frozen and kind != "btrfs":  # which is not frozen by its device
            sh(f"cmp {first}/three {second}/three")
        sh(f"echo source > {first}/mine; echo copy > {second}/mine; sync; sync")
        if kind == "btrfs":
            raises(InUse, lambda: make_unique(copy, kind, uuid.uuid4()))
        assert len(mounts_of(_block_number(copy))) == 1
        # And both once more, in the other order, with a copy of the copy.
        unmount(runner, first)
        unmount(runner, second)
        assert sh(f"dd if={copy} of={source} bs=1M oflag=direct status=none; echo 1") == "1"
        make_unique(source, kind, uuid.uuid4())
        mount_device(runner, copy, second, kind, MOUNT_OPTIONS[kind])
        mount_device(runner, source, third, kind, MOUNT_OPTIONS[kind])
        assert sh(f"cat {second}/mine {third}/mine") == "copy\ncopy"
        for point in (second, third):
            unmount(runner, point)
        sh(
            {"ext4": "e2fsck -fn", "xfs": "xfs_repair -n", "btrfs": "btrfs check"}[kind]
            + f" {copy}"
        )


def a_uuid_half_changed_is_changed_fully_the_next_time() -> None:
    with machine() as (runner, mapper, folder):
        node = _blank_face(mapper, FACE, DISK, SIZE)
        make(runner, node, "btrfs", reads_zero=False)
        new = uuid.uuid4()
        mirror = 64 * MIB
        changed = btrfs_superblock.with_uuid(block_device.read(node, mirror, 4096), new)
        block_device.write_exclusively(node, [(mirror, changed)])
        make_unique(node, "btrfs", new)
        dumped = sh(f"btrfs inspect-internal dump-super -a {node}")
        assert dumped.count(f"fsid			{new}") == 2, dumped
        assert "DON'T MATCH" not in dumped
        sh(f"btrfs check {node}")
        mount_device(runner, node, _point(folder, "a"), "btrfs")


def a_damaged_ext4_needs_a_person_and_a_dirty_one_does_not() -> None:
    with machine() as (runner, mapper, folder):
        node = _blank_face(mapper, FACE, DISK, SIZE)
        make(runner, node, "ext4", reads_zero=False)
        mount_device(runner, node, _point(folder, "a"), "ext4")
        sh(f"for i in $(seq 200); do echo $i > {folder}/a/$i; done; sync")
        _copy_disk()
        copy = str(ensure_linear(mapper, COPY, OTHER_DISK, SIZE))
        check(runner, copy, "ext4")
        assert sh(f"dumpe2fs -h {copy} 2>&1 | grep -c needs_recovery || true") == "0"
        sh(f"debugfs -w -R 'clri <2>' {copy} 2>&1; tune2fs -E force_fsck {copy} 2>&1")
        assert "person" in raises(DeviceFailed, lambda: check(runner, copy, "ext4"))


def another_file_system_than_expected_has_no_size() -> None:
    with machine() as (runner, mapper, _):
        node = _blank_face(mapper, FACE, DISK, SIZE)
        make(runner, node, "xfs", reads_zero=False)
        raises(Refused, lambda: size_on(node, "ext4"))
        raises(Refused, lambda: make_unique(node, "btrfs", uuid.uuid4()))


def _blank_face(mapper: DeviceMapper, name: str, disk: str, size: int) -> str:
    sh(f"blkdiscard -z -l {size} {disk}")
    return str(ensure_linear(mapper, name, disk, size))


def _copy_disk() -> None:
    sh(
        f"dd if={DISK} of={OTHER_DISK} bs=1M count={SIZE // MIB} iflag=direct oflag=direct"
        " status=none"
    )


def _point(folder: Path, name: str) -> str:
    (folder / name).mkdir(exist_ok=True)
    return str(folder / name)


def _write(node: str, offset: int, data: bytes) -> None:
    with Path(node).open("r+b") as file:
        file.seek(offset)
        file.write(data)


def _block_number(node: str) -> int:
    return Path(node).stat().st_rdev
