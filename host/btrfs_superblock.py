"""The superblock of btrfs, as far as giving a copy another UUID needs it.

``btrfstune -m`` would do the same with a transaction of its own. On a copy that was not unmounted
this leaves a log tree (what fsync has promised) that belongs to an older transaction, and the file
system cannot be mounted any more. So the superblocks are rewritten, and nothing else: their fsid
becomes the new one, the old one is kept as the ``metadata_uuid``, which all other blocks carry, and
an incompat flag says so (Linux 5.0). Layout: linux/btrfs_tree.h, struct btrfs_super_block.

All numbers are little endian. Offsets into the superblock, in bytes:

| at    | what                                                             |
|-------|------------------------------------------------------------------|
| 0     | checksum over the rest, 32 bytes; crc32c takes 4, the rest is 0  |
| 0x20  | fsid, 16 bytes                                                   |
| 0x30  | own address on the device, 8 bytes                               |
| 0x40  | magic, 8 bytes                                                   |
| 0x88  | number of devices, 8 bytes                                       |
| 0xbc  | incompat flags, 8 bytes; bit 10 is METADATA_UUID                 |
| 0xc4  | checksum type, 2 bytes; 0 is crc32c                              |
| 0xd1  | size of this device, 8 bytes                                     |
| 0x23b | metadata_uuid, 16 bytes                                          |
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from host import block_device
from host.errors import Refused

if TYPE_CHECKING:
    import uuid

PRIMARY = 64 << 10
MAGIC = b"_BHRfS_M"
_MIRRORS = (64 << 20, 256 << 30)
_LENGTH = 4096

_FSID = 0x20
_ADDRESS = 0x30
_MAGIC = 0x40
_DEVICES = 0x88
_INCOMPAT = 0xBC
_CHECKSUM_TYPE = 0xC4
_DEVICE_SIZE = 0xD1
_METADATA_UUID = 0x23B
_METADATA_UUID_FLAG = 1 << 10


def total_bytes(block: bytes) -> int:
    """The size in bytes that the file system believes its device has."""
    return int(struct.unpack_from("<Q", block, _DEVICE_SIZE)[0])


def change_uuid(device: str, new: uuid.UUID) -> None:
    """Give the btrfs on ``device`` the UUID ``new``; nothing to do where it has it.

    Raises ``InUse`` while the device is mounted or open otherwise, ``Refused`` for a superblock
    that is damaged, of several devices or with another checksum than crc32c, ``DeviceFailed``.
    """
    size = block_device.size_of(device)
    primary = block_device.read(device, PRIMARY, _LENGTH)
    _require_changeable(device, primary)
    if primary[_FSID : _FSID + 16] == new.bytes:
        return
    # The kernel reads the primary one only: written last, it decides.
    changed = []
    for address in reversed((PRIMARY, *_MIRRORS)):
        if address + _LENGTH > size:
            continue
        block = block_device.read(device, address, _LENGTH)
        if _is_superblock(block, address):
            changed.append((address, with_uuid(block, new)))
    block_device.write_exclusively(device, changed)


def with_uuid(block: bytes, new: uuid.UUID) -> bytes:
    """The same superblock with another UUID and the right checksum."""
    changed = bytearray(block)
    flags = struct.unpack_from("<Q", block, _INCOMPAT)[0]
    if not flags & _METADATA_UUID_FLAG:
        changed[_METADATA_UUID : _METADATA_UUID + 16] = block[_FSID : _FSID + 16]
        struct.pack_into("<Q", changed, _INCOMPAT, flags | _METADATA_UUID_FLAG)
    changed[_FSID : _FSID + 16] = new.bytes
    changed[:32] = struct.pack("<I", crc32c(bytes(changed[32:]))) + bytes(28)
    return bytes(changed)


def crc32c(data: bytes) -> int:
    """The Castagnoli checksum (RFC 3720, B.4); a superblock is too short for a table to matter."""
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


def _is_superblock(block: bytes, address: int) -> bool:
    stored: int = struct.unpack_from("<I", block)[0]
    return (
        block[_MAGIC : _MAGIC + 8] == MAGIC
        and struct.unpack_from("<Q", block, _ADDRESS)[0] == address
        and stored == crc32c(block[32:])
    )


def _require_changeable(device: str, block: bytes) -> None:
    if block[_MAGIC : _MAGIC + 8] != MAGIC:
        raise Refused(f"there is no btrfs on {device}")
    if struct.unpack_from("<H", block, _CHECKSUM_TYPE)[0] != 0:
        raise Refused(f"the btrfs on {device} has checksums of another kind than crc32c")
    if struct.unpack_from("<Q", block, _DEVICES)[0] != 1:
        raise Refused(f"the btrfs on {device} has more than one device")
    if not _is_superblock(block, PRIMARY):
        raise Refused(f"the superblock of the btrfs on {device} is damaged")
