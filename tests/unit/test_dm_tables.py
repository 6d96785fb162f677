"""What goes through /dev/mapper/control, without a kernel that has it."""

from __future__ import annotations

import struct

import pytest

from host import dm_ioctl
from host.command import Runner
from host.device_mapper import DeviceMapper, major_minor
from host.errors import Missing

TARGETS = [
    (0, 2048, "linear", "98:16 0"),
    (2048, 8, "error", ""),
    (2056, 1 << 41, "thin-pool", "254:1 254:2 128 0 1 skip_block_zeroing"),
]


def answer(targets: list[tuple[int, int, str, str]]) -> dm_ioctl.Reply:
    """A reply of TABLE_STATUS: like a load, but `next` counts from the start of the data."""
    data, offset = b"", 0
    packed = dm_ioctl.pack_targets(targets)
    for _ in targets:
        (step,) = struct.unpack_from("=I", packed, offset + 20)
        record = bytearray(packed[offset : offset + step])
        offset += step
        struct.pack_into("=I", record, 20, offset)
        data += bytes(record)
    header = bytearray(312)
    struct.pack_into("=3I2II", header, 0, 4, 47, 0, 312 + len(data), 312, len(targets))
    return dm_ioctl.Reply(header + data)


def test_a_table_comes_back_as_it_was_sent() -> None:
    assert dm_ioctl.unpack_targets(answer(TARGETS)) == TARGETS


def test_targets_are_aligned_as_the_kernel_wants_them() -> None:
    packed = dm_ioctl.pack_targets(TARGETS)
    assert len(packed) % 8 == 0
    assert struct.unpack_from("=QQiI16s", packed) == (0, 2048, 0, 48, b"linear".ljust(16, b"\0"))


def test_the_numbers_are_those_of_the_header_of_linux() -> None:
    # linux/dm-ioctl.h: struct dm_ioctl has 312 bytes; DM_DEV_CREATE is _IOWR(0xfd, 3, …).
    assert dm_ioctl._HEADER.size == 312
    assert dm_ioctl._request(dm_ioctl.DEV_CREATE) == 0xC138FD03


def test_a_machine_without_device_mapper_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dm_ioctl, "CONTROL", "/dev/mapper/there-is-no-such-node")
    with pytest.raises(Missing, match="no device-mapper"):
        DeviceMapper(Runner()).names()


@pytest.mark.parametrize("name", ["", "../x", "a b", "-x", "x" * 128, "ä", "a/b", "x\n"])
def test_an_impossible_name_reaches_nothing(name: str) -> None:
    with pytest.raises(ValueError, match="not a name"):
        DeviceMapper(Runner()).node(name)


def test_device_numbers_beyond_eight_bits() -> None:
    # linux/kdev_t.h, new_encode_dev: how the ioctl gives 253:300.
    assert major_minor((253 << 8) | (300 & 0xFF) | ((300 & ~0xFF) << 12)) == "253:300"
