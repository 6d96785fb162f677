"""Encrypted volumes: made, opened, adopted, grown without the key, closed; nothing leaks."""

from __future__ import annotations

import functools
import logging
import uuid

from host import block_device
from host.command import Runner
from host.device_mapper import DeviceMapper, Target
from host.encryption import (
    HEADER_BYTES,
    close_device,
    format_device,
    open_device,
    resize_device,
)
from host.errors import AlreadyExists, HostError, InUse, Missing, NotBlank, Refused, WrongKey
from host.filesystem import grow, make, make_unique
from host.linear_device import ensure_linear, remove_if_present, resize_linear
from host.mount import make_directory, mount_device, sync, unmount
from host.resume_guard import ResumeGuard, suspended
from tests.lab.stories.telling import DISK, MIB, OTHER_DISK, machine, raises, sh

FACE, CRYPT = "xlss-v1", "xlss-crypt-v1"
KEY = b"correct horse\x00battery\nstaple\n"
SIZE = 64 * MIB


def a_volume_is_encrypted_opened_and_closed_and_each_step_may_be_repeated() -> None:
    with machine() as (runner, mapper, _):
        face = _blank_face(mapper)
        format_device(runner, face, KEY)
        raises(NotBlank, lambda: format_device(runner, face, KEY))
        for _ in range(2):
            node = open_device(runner, mapper, face, CRYPT, KEY)
        assert block_device.size_of(str(node)) == SIZE - HEADER_BYTES
        assert sh(f"blockdev --getss {node}") == "4096"
        assert f"device:  {face}" in sh(f"cryptsetup status {CRYPT}")
        node.unlink()
        open_device(runner, mapper, face, CRYPT, KEY)
        assert node.is_block_device()
        sh(f"echo secret-content | dd of={node} bs=4096 conv=notrunc,fsync status=none")
        with node.open("rb"):
            raises(InUse, lambda: close_device(mapper, CRYPT))
        for _ in range(2):
            close_device(mapper, CRYPT)
        assert not node.exists()
        assert sh(f"blockdev --flushbufs {DISK}; grep -c secret-content {DISK} || true") == "0"
        open_device(runner, mapper, face, CRYPT, KEY)
        assert sh(f"head -c 14 {node}") == "secret-content"


def a_wrong_key_opens_nothing_and_says_so() -> None:
    with machine() as (runner, mapper, _):
        face = _blank_face(mapper)
        raises(Refused, lambda: open_device(runner, mapper, face, CRYPT, KEY))
        format_device(runner, face, KEY)
        for wrong in (KEY[:-1], KEY + b"\n", b"x"):
            attempt = functools.partial(open_device, runner, mapper, face, CRYPT, wrong)
            raises(WrongKey, attempt)
        assert mapper.find(CRYPT) is None
        raises(ValueError, lambda: open_device(runner, mapper, face, CRYPT, b""))
        raises(ValueError, lambda: format_device(runner, face, b"", anew=True))
        raises(Missing, lambda: open_device(runner, mapper, "/dev/mapper/no", CRYPT, KEY))


def what_an_interrupted_attempt_has_left_is_done_again() -> None:
    with machine() as (runner, mapper, _):
        face = _blank_face(mapper)
        format_device(runner, face, KEY)
        sh(f"cryptsetup luksKillSlot -q {face} 0")  # a header without its key
        format_device(runner, face, KEY, anew=True)
        mapper.create(CRYPT, uuid="CRYPT-LUKS2-0000-" + CRYPT)  # a device without its table
        open_device(runner, mapper, face, CRYPT, KEY)
        mapper.suspend(CRYPT, deadline=10)
        open_device(runner, mapper, face, CRYPT, KEY)
        assert not mapper.info(CRYPT).suspended
        raises(InUse, lambda: format_device(runner, face, KEY, anew=True))


def a_damaged_first_header_is_mended_from_the_second() -> None:
    with machine() as (runner, mapper, _):
        face = _blank_face(mapper)
        format_device(runner, face, KEY)
        sh(f"dd if=/dev/urandom of={face} bs=4096 seek=1 count=2 conv=notrunc,fsync status=none")
        open_device(runner, mapper, face, CRYPT, KEY)


def another_device_of_that_name_is_an_error_and_its_key_is_not_told() -> None:
    with machine() as (runner, mapper, _):
        face = _blank_face(mapper)
        format_device(runner, face, KEY)
        other = str(ensure_linear(mapper, "xlss-v2", OTHER_DISK, SIZE))
        open_device(runner, mapper, face, CRYPT, KEY)
        said = raises(AlreadyExists, lambda: open_device(runner, mapper, other, CRYPT, KEY))
        table = mapper.table(CRYPT)[0].parameters
        assert table.split()[1] not in said
        raises(AlreadyExists, lambda: open_device(runner, mapper, face, "xlss-v2", KEY))
        raises(AlreadyExists, lambda: close_device(mapper, "xlss-v2"))


def neither_log_nor_errors_nor_command_lines_hold_the_key() -> None:
    with machine() as (runner, mapper, _):
        heard: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
        logging.getLogger().addHandler(handler)
        logging.getLogger().setLevel(logging.DEBUG)
        secret = b"averysecretkey"
        face = _blank_face(mapper)
        format_device(runner, face, secret)
        open_device(runner, mapper, face, CRYPT, secret)
        volume_key = mapper.table(CRYPT)[0].parameters.split()[1]
        try:
            mapper.load(CRYPT, [Target(0, 8, "crypt", f"nonsense {volume_key} 0 98:16 0")])
        except HostError as error:
            heard.append(str(error))
        close_device(mapper, CRYPT)
        for key in (secret + b"2", b""):
            try:
                open_device(runner, mapper, face, CRYPT, key)
            except (HostError, ValueError) as error:
                heard.append(str(error))
        assert any("cryptsetup" in line for line in heard)
        assert not any(secret.decode() in line or volume_key in line for line in heard)


def an_encrypted_volume_grows_without_its_key_while_it_is_mounted() -> None:
    with machine() as (runner, mapper, folder):
        face = _blank_face(mapper)
        format_device(runner, face, KEY)
        node = str(open_device(runner, mapper, face, CRYPT, KEY))
        make(runner, node, "ext4", reads_zero=False)
        point = f"{folder}/a"
        make_directory(point)
        mount_device(runner, node, point, "ext4")
        sh(f"echo before > {point}/x")
        resize_linear(mapper, FACE, 2 * SIZE)
        for _ in range(2):
            resize_device(runner, CRYPT)
            grow(runner, node, point, "ext4")
        assert block_device.size_of(node) == 2 * SIZE - HEADER_BYTES
        assert int(sh(f"stat -f -c %b {point}")) > 1.5 * SIZE / 4096
        unmount(runner, point)
        assert sh(f"e2fsck -fn {node} >/dev/null 2>&1; echo $?") == "0"


def what_was_left_without_a_table_does_not_keep_the_volume_from_growing() -> None:
    with machine() as (runner, mapper, _):
        face = _blank_face(mapper)
        format_device(runner, face, KEY)
        mapper.create(CRYPT, uuid="CRYPT-LUKS2-0-killed")  # right before its table was loaded
        resize_linear(mapper, FACE, 2 * SIZE)
        resize_device(runner, CRYPT)
        node = str(open_device(runner, mapper, face, CRYPT, KEY))
        assert block_device.size_of(node) == 2 * SIZE - HEADER_BYTES


def a_cut_above_the_crypt_device_gives_a_copy_that_mounts_beside_it() -> None:
    with machine() as (runner, mapper, folder):
        size = 192 * MIB
        face = _blank_face(mapper, size)
        format_device(runner, face, KEY)
        node = str(open_device(runner, mapper, face, CRYPT, KEY))
        make(runner, node, "btrfs", reads_zero=False, anew=True)
        for point in (f"{folder}/a", f"{folder}/b"):
            make_directory(point)
        mount_device(runner, node, f"{folder}/a", "btrfs")
        sh(f"dd if=/dev/urandom of={folder}/a/x bs=1M count=4 status=none")
        sync(runner, f"{folder}/a", deadline=60)
        with suspended(ResumeGuard(runner, [CRYPT], seconds=60)) as cut:
            sh(f"dd if={DISK} of={OTHER_DISK} bs=1M count=192 iflag=direct oflag=direct")
        assert cut.held
        copy = str(ensure_linear(mapper, "xlss-v2", OTHER_DISK, size))
        opened = str(open_device(runner, mapper, copy, "xlss-crypt-v2", KEY))
        make_unique(opened, "btrfs", uuid.uuid4())
        mount_device(runner, opened, f"{folder}/b", "btrfs")
        sh(f"cmp {folder}/a/x {folder}/b/x")


def _a_face_and_its_crypt_device_are_left_open() -> None:
    runner = Runner()
    mapper = DeviceMapper(runner)
    face = _blank_face(mapper)
    format_device(runner, face, KEY)
    node = str(open_device(runner, mapper, face, CRYPT, KEY))
    make(runner, node, "ext4", reads_zero=False)
    resize_linear(mapper, FACE, 2 * SIZE)
    resize_device(runner, CRYPT)


def _a_face_and_its_crypt_device_are_closed() -> None:
    mapper = DeviceMapper(Runner())
    close_device(mapper, CRYPT)
    remove_if_present(mapper, FACE)
    assert mapper.names() == []


def _blank_face(mapper: DeviceMapper, size: int = SIZE) -> str:
    sh(f"blkdiscard -z -l {size} {DISK}")
    return str(ensure_linear(mapper, FACE, DISK, size))
