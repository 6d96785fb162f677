"""What the cluster store holds: volumes, snapshots and groups as frozen records.

Sizes are bytes, times are seconds since the epoch (for people: no decision rests on a clock).
Records travel as JSON objects, also in the LVM tags of the volumes that they describe, so that a
lost store can be rebuilt. Reading tolerates unknown keys; an unknown enum value becomes UNKNOWN.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Self


class _Lenient(StrEnum):
    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        return cls.__members__.get("UNKNOWN")


class Provision(_Lenient):
    THIN = "thin"
    THICK = "thick"
    UNKNOWN = "unknown"


class LayoutKind(_Lenient):
    LINEAR = "linear"
    STRIPED = "striped"
    RAID1 = "raid1"
    UNKNOWN = "unknown"


class AccessType(_Lenient):
    MOUNT = "mount"
    BLOCK = "block"
    UNKNOWN = "unknown"


class SourceKind(_Lenient):
    SNAPSHOT = "snapshot"
    VOLUME = "volume"
    UNKNOWN = "unknown"


class Phase(_Lenient):
    CREATING = "creating"
    READY = "ready"
    DELETING = "deleting"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Layout:
    """How the extents of a thick volume lie on the disks of its volume group."""

    kind: LayoutKind = LayoutKind.LINEAR
    copies: int = 1  # images of a striped (stripes) or raid1 (mirrors in all) layout
    stripe_bytes: int = 0  # striped only


@dataclass(frozen=True)
class VolumeSpec:
    """What a StorageClass and the request fix for the life of a volume."""

    pool: str
    provision: Provision = Provision.THIN
    layout: Layout = Layout()
    replicas: int = 1
    access: AccessType = AccessType.MOUNT
    filesystem: str = ""  # "" for block access
    mkfs_options: tuple[str, ...] = ()
    encrypted: bool = False


@dataclass(frozen=True)
class IoLimits:
    """Limits per second of one volume; 0 is unlimited."""

    read_iops: int = 0
    write_iops: int = 0
    read_bytes: int = 0
    write_bytes: int = 0


@dataclass(frozen=True)
class Source:
    """What a volume is filled from at creation."""

    kind: SourceKind
    id: str


@dataclass(frozen=True)
class Publication:
    """One node on which a volume is published."""

    node: str
    readonly: bool
    access_mode: str  # name of the CSI access mode


@dataclass(frozen=True)
class Volume:
    id: str
    name: str
    size_bytes: int  # the size that a pod sees; a multiple of the pool's extent once READY
    spec: VolumeSpec
    phase: Phase
    nodes: tuple[str, ...] = ()  # nodes that hold a replica
    limits: IoLimits = IoLimits()
    source: Source | None = None
    limit_bytes: int = 0  # the most that the request allowed; 0 is no limit
    published: tuple[Publication, ...] = ()
    leftovers: tuple[str, ...] = ()  # nodes on which half-made parts may remain
    created_at: float = 0.0


@dataclass(frozen=True)
class Snapshot:
    id: str
    name: str
    volume_id: str
    size_bytes: int
    spec: VolumeSpec  # that of the volume, at the cut
    phase: Phase
    nodes: tuple[str, ...] = ()
    group_id: str = ""
    created_at: float = 0.0


@dataclass(frozen=True)
class Group:
    """A group snapshot: all its members were cut at one instant."""

    id: str
    name: str
    volume_ids: tuple[str, ...]
    snapshot_ids: tuple[str, ...]
    phase: Phase
    created_at: float = 0.0
