"""What LVM knows, as values. Sizes are bytes, fractions run from 0 to 1."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Kind(StrEnum):
    """What a logical volume is made of. LVM has more kinds than we make: those are UNKNOWN."""

    LINEAR = "linear"
    STRIPED = "striped"
    RAID1 = "raid1"
    THIN = "thin"
    THIN_POOL = "thin-pool"
    COW_SNAPSHOT = "cow-snapshot"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Linear:
    """Extents wherever there is room."""


@dataclass(frozen=True)
class Striped:
    """Spread over ``stripes`` disks in turns of ``stripe_bytes`` (a power of two, from 4 KiB)."""

    stripes: int
    stripe_bytes: int = 64 << 10


@dataclass(frozen=True)
class Raid1:
    """``copies`` equal copies on as many disks.

    ``initial_sync=False`` is right only if everything is overwritten before it is read.
    """

    copies: int = 2
    initial_sync: bool = True


Layout = Linear | Striped | Raid1

LINEAR = Linear()


@dataclass(frozen=True)
class LogicalVolume:
    """One logical volume, as its metadata and the kernel have it.

    ``size_bytes``: what a reader sees; of a copy-on-write snapshot, its origin's size at the cut.
    ``allocated_bytes``: what it takes in its group or pool; of a thin volume, what it holds there.
    ``data_percent``: of a thin volume, the part of its size that it holds in the pool; of a thin
    pool or copy-on-write snapshot, the part that is used. ``health``: empty when LVM and the kernel
    report nothing, else what they say.
    """

    vg: str
    name: str
    uuid: str
    size_bytes: int
    allocated_bytes: int
    tags: frozenset[str]
    kind: Kind
    pool: str | None
    origin: str | None
    active: bool
    open: bool
    suspended: bool
    read_only: bool
    device: tuple[int, int] | None
    data_percent: float | None
    metadata_percent: float | None
    health: str

    @property
    def path(self) -> Path:
        """The device node, there while the volume is active."""
        return Path("/dev", self.vg, self.name)


@dataclass(frozen=True)
class PhysicalVolume:
    """One disk of a volume group. A missing one has no ``device``."""

    uuid: str
    device: str | None
    size_bytes: int
    free_bytes: int
    missing: bool


@dataclass(frozen=True)
class VolumeGroup:
    """``metadata_free_bytes``: room left for what LVM writes about logical volumes."""

    name: str
    uuid: str
    size_bytes: int
    free_bytes: int
    extent_bytes: int
    pv_count: int
    missing_pv_count: int
    metadata_bytes: int
    metadata_free_bytes: int
    tags: frozenset[str]


@dataclass(frozen=True)
class ThinPool:
    """``virtual_bytes``: sum of the sizes of all thin volumes and snapshots in the pool.

    ``zeroes``: a block that is written for the first time holds nothing of who had it before.
    """

    vg: str
    name: str
    size_bytes: int
    data_used: float
    metadata_bytes: int
    metadata_used: float
    chunk_bytes: int
    virtual_bytes: int
    error_when_full: bool
    zeroes: bool
    active: bool
    needs_check: bool
    health: str

    @property
    def data_used_bytes(self) -> int:
        return round(self.size_bytes * self.data_used)


@dataclass(frozen=True)
class GroupState:
    """All of one volume group, from one look."""

    volume_group: VolumeGroup
    physical_volumes: tuple[PhysicalVolume, ...]
    logical_volumes: tuple[LogicalVolume, ...]
    thin_pools: tuple[ThinPool, ...]
