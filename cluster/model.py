"""What the cluster store holds: volumes, snapshots and groups as frozen records.

Sizes are bytes, times are seconds since the epoch (for people: no decision rests on a clock).
Records travel as JSON objects, also in the LVM tags of the volumes that they describe, so that a
lost store can be rebuilt. A field that has its default is left out, because LVM keeps all tags of
a volume group in a metadata area of a few hundred KiB: the defaults below are part of the format.
Reading tolerates unknown keys; an unknown enum value becomes UNKNOWN.
"""

from __future__ import annotations

import functools
import json
import logging
import types
import typing
from collections.abc import Collection, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import Enum, StrEnum
from typing import Any, Self, TypeVar

from cluster.errors import DataLoss

_T = TypeVar("_T")

_log = logging.getLogger(__name__)

TOPOLOGY_NODE_KEY = "csi.xlss.io/node"  # topology segment whose value is the node's name
# What encryption takes from a logical volume: the default size of a LUKS2 header (cryptsetup(8)).
ENCRYPTION_BYTES = 16 * 1024**2


class Lenient(StrEnum):
    """An enumeration in records: a value that this version does not know is its UNKNOWN."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        _log.warning("unknown %s %r: written by a newer version?", cls.__name__, value)
        return cls.__members__.get("UNKNOWN")


class Provision(Lenient):
    THIN = "thin"
    THICK = "thick"
    UNKNOWN = "unknown"


class LayoutKind(Lenient):
    LINEAR = "linear"
    STRIPED = "striped"
    RAID1 = "raid1"
    UNKNOWN = "unknown"


class AccessType(Lenient):
    MOUNT = "mount"
    BLOCK = "block"
    UNKNOWN = "unknown"


class SourceKind(Lenient):
    SNAPSHOT = "snapshot"
    VOLUME = "volume"
    UNKNOWN = "unknown"


class Phase(Lenient):
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
class ReplicaPlace:
    """Where a replica is. ``node_id`` belongs to it for as long as it lives (DRBD 9 keeps it)."""

    node: str
    node_id: int
    address: str  # on the network that carries replication


@dataclass(frozen=True)
class Replication:
    """What the replicas of a volume have in common. Minor and port are those of the cluster."""

    minor: int
    port: int
    generation: str  # data generation that complete replicas begin with: 16 hexadecimal digits
    places: tuple[ReplicaPlace, ...]
    equal: bool = False  # all begin with the same blocks; otherwise only the first has the data

    @property
    def complete(self) -> tuple[str, ...]:
        """The nodes whose replicas begin complete."""
        nodes = tuple(place.node for place in self.places)
        return nodes if self.equal else nodes[:1]


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
    cut: str = ""  # the snapshot that was cut to make a clone of: what agents read as its source
    limit_bytes: int = 0  # the most that the request allowed; 0 is no limit
    published: tuple[Publication, ...] = ()
    leftovers: tuple[str, ...] = ()  # nodes on which half-made parts may remain
    created_at: float = 0.0
    replication: Replication | None = None  # None: one replica, and no DRBD

    @property
    def read_from(self) -> Source | None:
        """What an agent fills it from."""
        return Source(SourceKind.SNAPSHOT, self.cut) if self.cut else self.source

    def begins_equal(self, nodes: Collection[str], source: Volume | Snapshot | None) -> bool:
        """Whether replicas on those nodes have the same blocks at creation: no first sync then.

        New blocks of a thin pool read as zeros on every node. What shares its blocks with a
        snapshot has what that has, and a snapshot is the same on all its nodes.
        """
        if self.spec.provision is not Provision.THIN:
            return False
        return self.source is None or (
            isinstance(source, Snapshot)
            and source.spec.provision is Provision.THIN
            and source.spec.pool == self.spec.pool
            and set(nodes) <= set(source.nodes)
        )


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
    clone_id: str = ""  # the volume that it was cut to make, and is removed after


@dataclass(frozen=True)
class Group:
    """A group snapshot: all its members were cut at one instant."""

    id: str
    name: str
    volume_ids: tuple[str, ...]
    snapshot_ids: tuple[str, ...]
    phase: Phase
    created_at: float = 0.0


def to_object(record: object) -> dict[str, Any]:
    """The record, one of these or another frozen dataclass of plain values, as a JSON object."""
    return typing.cast(dict[str, Any], _write(record))


def to_json(record: object) -> str:
    """What ``to_object`` makes of it, as compact JSON: equal records give equal texts."""
    return json.dumps(_write(record), separators=(",", ":"), sort_keys=True)


def volume_from_object(value: Mapping[str, Any]) -> Volume:
    """Raises DataLoss when a field is missing or of another type."""
    return from_object(Volume, value)


def snapshot_from_object(value: Mapping[str, Any]) -> Snapshot:
    """Raises DataLoss when a field is missing or of another type."""
    return from_object(Snapshot, value)


def group_from_object(value: Mapping[str, Any]) -> Group:
    """Raises DataLoss when a field is missing or of another type."""
    return from_object(Group, value)


def volume_from_json(text: str) -> Volume:
    """Raises DataLoss when the text is not the JSON of a volume."""
    return from_json(Volume, text)


def snapshot_from_json(text: str) -> Snapshot:
    """Raises DataLoss when the text is not the JSON of a snapshot."""
    return from_json(Snapshot, text)


def from_object(cls: type[_T], value: object) -> _T:
    """A record of that class. Raises DataLoss when a field is missing or of another type."""
    try:
        return typing.cast(_T, _read(cls, value))
    except (TypeError, ValueError) as error:
        raise DataLoss(f"{cls.__name__.lower()} record cannot be read: {error}") from error


def from_json(cls: type[_T], text: str) -> _T:
    """A record of that class. Raises DataLoss when the text is not the JSON of one."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:  # the latter for brackets without end
        raise DataLoss(f"record is not JSON: {error}") from error
    try:
        return from_object(cls, value)
    except RecursionError as error:  # a membership has reports, which have memberships
        raise DataLoss(f"{cls.__name__.lower()} record is nested too deep") from error


def _write(value: Any) -> Any:
    if is_dataclass(value):
        return {
            field.name: _write(content)
            for field in fields(value)
            if (content := getattr(value, field.name)) != field.default
        }
    if isinstance(value, tuple):
        return [_write(item) for item in value]
    return value.value if isinstance(value, Enum) else value


@functools.cache
def _field_types(cls: type) -> dict[str, tuple[Any, bool]]:
    """Type of each field, and whether it must be there."""
    hints = typing.get_type_hints(cls)
    return {field.name: (hints[field.name], field.default is MISSING) for field in fields(cls)}


def _read(kind: Any, value: object) -> Any:
    origin = typing.get_origin(kind)
    if origin is types.UnionType:  # X | None
        inner = next(option for option in typing.get_args(kind) if option is not types.NoneType)
        return None if value is None else _read(inner, value)
    if origin is tuple:
        return tuple(
            _read(typing.get_args(kind)[0], item) for item in _expect((list, tuple), value)
        )
    if is_dataclass(kind):
        return _read_fields(typing.cast(type, kind), _expect(Mapping, value))
    if issubclass(kind, Enum):
        return kind(value)
    if kind is float:
        return float(_expect((int, float), value))
    return _expect(kind, value)


def _read_fields(cls: type, value: Mapping[str, Any]) -> Any:
    found = {}
    for name, (kind, required) in _field_types(cls).items():
        if name in value:
            found[name] = _read(kind, value[name])
        elif required:
            raise ValueError(f"{name} is missing")
    return cls(**found)


def _expect(kind: Any, value: Any) -> Any:
    # bool is an int in Python, but not in a record.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{value!r} is not of the expected type")
    return value
