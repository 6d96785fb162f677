"""Another UUID for a btrfs, in its superblock alone."""

from __future__ import annotations

import struct
import uuid

from host.btrfs_superblock import crc32c, total_bytes, with_uuid

OLD = uuid.UUID("ada3337b-2f3d-4309-b2b3-21481a906131")
NEW = uuid.UUID("0cb0c0c1-438d-4b24-8120-8fda45e05e63")
NEWER = uuid.UUID("8d09a9ef-a805-4961-80df-29d892fdef49")


def superblock() -> bytes:
    block = bytearray(4096)
    block[0x20:0x30] = OLD.bytes
    block[0x40:0x48] = b"_BHRfS_M"
    struct.pack_into("<QQ", block, 0x48, 7, 30425088)  # generation, root
    struct.pack_into("<Q", block, 0x60, 30752768)  # the log tree: what fsync has promised
    struct.pack_into("<Q", block, 0xBC, 0x361)
    struct.pack_into("<Q", block, 0xD1, 300 << 20)
    struct.pack_into("<I", block, 0, crc32c(bytes(block[32:])))
    return bytes(block)


def test_the_checksum_is_that_of_the_standard() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4


def test_the_old_uuid_stays_that_of_the_metadata_and_nothing_else_changes() -> None:
    before, after = superblock(), with_uuid(superblock(), NEW)
    assert after[0x20:0x30] == NEW.bytes
    assert after[0x23B:0x24B] == OLD.bytes
    assert struct.unpack_from("<Q", after, 0xBC) == (0x361 | 0x400,)
    assert struct.unpack_from("<I", after) == (crc32c(after[32:]),)
    changed = {*range(4), *range(0x20, 0x30), *range(0xBC, 0xC4), *range(0x23B, 0x24B)}
    assert all(before[i] == after[i] for i in range(4096) if i not in changed)
    assert total_bytes(after) == 300 << 20


def test_a_copy_of_a_copy_still_names_the_first() -> None:
    twice = with_uuid(with_uuid(superblock(), NEW), NEWER)
    assert twice[0x20:0x30] == NEWER.bytes
    assert twice[0x23B:0x24B] == OLD.bytes


def test_repeating_it_changes_nothing() -> None:
    once = with_uuid(superblock(), NEW)
    assert with_uuid(once, NEW) == once
