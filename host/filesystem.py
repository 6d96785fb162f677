"""ext4, xfs and btrfs: make, check, measure, grow, and keep a copy apart from its source.

What a clone needs to be mounted on the same host as its source differs:

- ext4: nothing, the kernel does not care for its UUID.
- xfs: the mount option ``nouuid``; every xfs is mounted with it. Another UUID would need a clean
  log, and a copy of a volume that was not unmounted has none until it is mounted.
- btrfs: another UUID, before anything looks at it (``make_unique``): the kernel takes two devices
  with the same one for parts of one file system.

Making a file system is not atomic. All write the superblock last and flush it, but xfs shows its
signature early, with a mark that keeps the kernel from mounting it. The caller notes before
``make`` that it begins, and afterwards that it is done, and repeats it with ``anew`` in between.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from host import block_device, btrfs_superblock
from host.errors import CommandFailed, DeviceFailed, NotBlank, Refused
from host.mkfs_options import FILESYSTEMS, split_options, validate_mkfs_options
from host.signature import probe

if TYPE_CHECKING:
    import uuid
    from collections.abc import Sequence

    from host.command import Runner

__all__ = [
    "FILESYSTEMS",
    "MINIMUM_BYTES",
    "MOUNT_OPTIONS",
    "check",
    "grow",
    "is_half_made",
    "make",
    "make_unique",
    "needs_growth",
    "size_on",
    "validate_mkfs_options",
]

_MKFS_DEADLINE = 600.0
# A file system that carries the mark of an error is checked as a whole.
_CHECK_DEADLINE = 3600.0
_GROW_DEADLINE = 600.0
# What a file system may leave unused at the end of its device: resize2fs(8) drops a last block
# group that is not worth its own metadata.
_GROWTH_WORTH_WHILE = 1 << 20

MINIMUM_BYTES = {"ext4": 8 << 20, "xfs": 300 << 20, "btrfs": 256 << 20}
"""The smallest device in bytes on which each is made with its usual options and has some room.

A btrfs below 256 MiB could not grow: the kernel resizes to no smaller size (btrfs_ioctl_resize).
"""

MOUNT_OPTIONS: dict[str, tuple[str, ...]] = {"ext4": (), "xfs": ("nouuid",), "btrfs": ()}
"""What every mount of such a file system is given besides what the volume asks for."""


@dataclass(frozen=True)
class _Superblock:
    """Where the size stands: ``offset`` of the superblock in bytes, its magic, and how to read."""

    offset: int
    magic_at: int
    magic: bytes


_XFS_IN_PROGRESS = 126  # sb_inprogress, a byte

_SUPERBLOCKS = {
    "ext4": _Superblock(1024, 56, b"\x53\xef"),
    "xfs": _Superblock(0, 0, b"XFSB"),
    "btrfs": _Superblock(btrfs_superblock.PRIMARY, 64, btrfs_superblock.MAGIC),
}


def make(
    runner: Runner,
    device: str,
    filesystem: str,
    options: Sequence[str] = (),
    *,
    reads_zero: bool,
    anew: bool = False,
) -> None:
    """Make a file system on ``device``. On return it is on the disk, whatever happens then.

    ``reads_zero``: the whole device is known to read as zeros, as a fresh thin volume of a pool
    that zeroes new blocks does; ext4 then writes (and allocates) no empty inode tables, now or
    later. Nothing is discarded. ``anew`` wipes first what an interrupted attempt has left.

    Raises ``NotBlank`` where the device carries anything, ``InUse`` where it is mounted,
    ``ValueError`` for options that are not for a class, ``Refused`` for what mkfs does not accept.
    """
    validate_mkfs_options(filesystem, options)
    if anew:
        probe(runner, device)  # by a child: the first touch of a disk that may hang
        block_device.zero_edges(device)
    found = probe(runner, device)
    if found is not None:
        raise NotBlank(f"{device} is not formatted with {filesystem}: it carries {found}")
    argv = [f"mkfs.{filesystem}", "-q", *_mkfs_options(filesystem, options, reads_zero), device]
    try:
        runner.run(argv, deadline=_MKFS_DEADLINE, resource=device)
    except CommandFailed as error:
        # mkfs.xfs follows its complaint with a page of usage.
        said = "; ".join(error.stderr.strip().splitlines()[:3])
        raise Refused(f"mkfs.{filesystem} does not format {device}: {said}") from error


def is_half_made(device: str, filesystem: str) -> bool:
    """Whether ``device``, which carries its signature, cannot be mounted: mkfs was interrupted.

    ext4 and btrfs show their signature once they are whole.
    """
    return filesystem == "xfs" and block_device.read(device, 0, 4096)[_XFS_IN_PROGRESS] == 1


def check(runner: Runner, device: str, filesystem: str) -> None:
    """Make sure before a mount that the file system can be mounted; mend what is harmless.

    ext4: ``e2fsck -p``, which replays the journal, and looks closer only where an error was noted.
    The others check and replay when they are mounted. Raises ``DeviceFailed`` with the words of the
    checker where a person has to decide. The device is not mounted.
    """
    if filesystem != "ext4":
        return
    argv = ["e2fsck", "-p", device]
    # e2fsck(8): 1 corrected, 2 corrected and "reboot" (of a root file system), 4 left uncorrected.
    result = runner.run(argv, deadline=_CHECK_DEADLINE, resource=device, ok=(0, 1, 2, 3, 4, 8, 12))
    if result.exit_code & ~3:
        said = (result.stdout + result.stderr).decode("utf-8", "replace").strip()
        raise DeviceFailed(f"the ext4 on {device} needs a person with e2fsck: {said[-800:]}")


def size_on(device: str, filesystem: str) -> int:
    """How many bytes of ``device`` the unmounted file system takes for its own.

    Raises ``Refused`` where no such file system is there, ``DeviceFailed``.
    """
    place = _SUPERBLOCKS[filesystem]
    block = block_device.read(device, place.offset - place.offset % 4096, 4096)
    block = block[place.offset % 4096 :]
    if not block[place.magic_at :].startswith(place.magic):
        raise Refused(f"there is no {filesystem} on {device}")
    if filesystem == "ext4":
        low: int = struct.unpack_from("<I", block, 4)[0]
        shift: int = struct.unpack_from("<I", block, 24)[0]
        wide = struct.unpack_from("<I", block, 96)[0] & 0x80  # INCOMPAT_64BIT
        high: int = struct.unpack_from("<I", block, 0x150)[0] if wide else 0
        return (high << 32 | low) << (10 + shift)
    if filesystem == "xfs":
        size, blocks = struct.unpack_from(">IQ", block, 4)
        return int(size * blocks)
    return btrfs_superblock.total_bytes(block)


def needs_growth(device: str, filesystem: str) -> bool:
    """Whether ``device`` has become longer than its file system, as the disk has its superblock."""
    return block_device.size_of(device) - size_on(device, filesystem) >= _GROWTH_WORTH_WHILE


def grow(runner: Runner, device: str, mountpoint: str, filesystem: str) -> None:
    """Grow the mounted file system to the end of ``device``. Does nothing where it is there."""
    argv = {
        "ext4": ["resize2fs", device],
        "xfs": ["xfs_growfs", "-d", mountpoint],
        "btrfs": ["btrfs", "filesystem", "resize", "max", mountpoint],
    }[filesystem]
    runner.run(argv, deadline=_GROW_DEADLINE, resource=device)


def make_unique(device: str, filesystem: str, new_uuid: uuid.UUID) -> None:
    """Make a copy mountable beside its source, before its first mount. May be repeated.

    The copy may be as a power cut would have left it. Raises ``InUse`` while it is mounted,
    ``Refused`` for a btrfs with other checksums than crc32c.
    """
    if filesystem == "btrfs":
        btrfs_superblock.change_uuid(device, new_uuid)


def _mkfs_options(filesystem: str, options: Sequence[str], reads_zero: bool) -> list[str]:
    if filesystem in ("xfs", "btrfs"):
        return ["-K", *options]
    # mke2fs takes the last -E only; the class's keys come last in it, and win.
    extended = ["nodiscard"]
    if reads_zero:
        extended.append("assume_storage_prezeroed=1")
    rest: list[str] = []
    for option, value in split_options(filesystem, options):
        if option == "-E" and value is not None:
            extended.append(value)
        else:
            rest += [option] if value is None else [option, value]
    if "-m" not in rest:
        rest = ["-m", "0", *rest]  # blocks kept for root are of no use to a pod's volume
    return ["-E", ",".join(extended), *rest]
