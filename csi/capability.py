"""Volume capabilities: a loose message of CSI once, a frozen type from there on.

Sizes of the strings: CSI 1.13, "Size Limits" and the comments at ``VolumeCapability``.
"""

from __future__ import annotations

from dataclasses import dataclass

from cluster.errors import InvalidArgument
from cluster.model import AccessType
from cluster.spelling import nearest
from csi.rpc import csi_pb2 as pb
from host.mount_options import parse_mount_options

FILESYSTEMS = ("ext4", "xfs", "btrfs")
READER_MODES = frozenset({"SINGLE_NODE_READER_ONLY"})
# A volume of one node is never on several: no mode of multi-node access can be kept.
MODES_SUPPORTED = READER_MODES | {
    "SINGLE_NODE_WRITER",
    "SINGLE_NODE_SINGLE_WRITER",
    "SINGLE_NODE_MULTI_WRITER",
}

_MAX_FLAGS_BYTES = 4096
_MAX_GROUP = (1 << 32) - 2  # gid_t without -1, which means "no change" to chown(2)


@dataclass(frozen=True)
class Capability:
    access: AccessType
    mode: str  # name of the CSI access mode
    filesystem: str = ""  # "" = as the volume has it
    mount_flags: tuple[str, ...] = ()
    mount_group: int | None = None

    @property
    def read_only(self) -> bool:
        """Whether the access mode permits no writing anywhere."""
        return self.mode in READER_MODES


def parse_capability(message: pb.VolumeCapability) -> Capability:
    """Raises InvalidArgument; also for an access mode that a volume of one node cannot have."""
    mode = _mode(message)
    access = message.WhichOneof("access_type")
    if access is None:
        raise InvalidArgument("volume_capability has no access_type")
    if access == "block":
        return Capability(AccessType.BLOCK, mode)
    mount = message.mount
    if mount.fs_type and mount.fs_type not in FILESYSTEMS:
        raise InvalidArgument(
            f"file system {mount.fs_type[:64]!r} is not supported"
            + nearest(mount.fs_type[:64], FILESYSTEMS)
        )
    return Capability(
        access=AccessType.MOUNT,
        mode=mode,
        filesystem=mount.fs_type,
        mount_flags=_mount_flags(tuple(mount.mount_flags)),
        mount_group=_group(mount.volume_mount_group),
    )


def _mode(message: pb.VolumeCapability) -> str:
    if not message.HasField("access_mode"):
        raise InvalidArgument("volume_capability has no access_mode")
    number = message.access_mode.mode
    modes = pb.VolumeCapability.AccessMode.Mode
    mode = modes.Name(number) if number in modes.values() else str(number)
    if mode not in MODES_SUPPORTED:
        raise InvalidArgument(
            f"access mode {mode} is not supported: a volume is on one node at a time"
        )
    return mode


def _mount_flags(flags: tuple[str, ...]) -> tuple[str, ...]:
    if sum(len(flag) for flag in flags) > _MAX_FLAGS_BYTES:
        raise InvalidArgument(f"mount_flags are longer than {_MAX_FLAGS_BYTES} bytes")
    try:
        return parse_mount_options(flags)
    except ValueError as error:
        raise InvalidArgument(f"mount_flags: {error}") from error


def _group(text: str) -> int | None:
    if not text:
        return None
    if not text.isascii() or not text.isdecimal() or int(text[:11]) > _MAX_GROUP:
        raise InvalidArgument("volume_mount_group is no numeric group id")
    return int(text)
