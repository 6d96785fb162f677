"""What the tags of a logical volume hold: the record, and what follows from its spec."""

from __future__ import annotations

from cluster.model import (
    ENCRYPTION_BYTES,
    AccessType,
    LayoutKind,
    Provision,
    Volume,
    VolumeSpec,
    snapshot_from_json,
    volume_from_json,
)
from host.lvm.model import LINEAR, Layout, Raid1, Striped
from node_agent.entries import Entry
from node_agent.labels import Kind


def record_of(entry: Entry) -> Volume:
    """The volume's record. Raises DataLoss when its tags are damaged."""
    return volume_from_json(entry.label.record)


def layout_of(spec: VolumeSpec) -> Layout:
    """How LVM is to lay it out."""
    layout = spec.layout
    if layout.kind is LayoutKind.STRIPED:
        return Striped(layout.copies, layout.stripe_bytes or Striped(layout.copies).stripe_bytes)
    if layout.kind is LayoutKind.RAID1:
        # What is wiped as a whole needs no copying from one disk to the other first.
        return Raid1(layout.copies, initial_sync=spec.access is not AccessType.BLOCK)
    return LINEAR


def overhead(spec: VolumeSpec) -> int:
    """What a logical volume has besides what the pod sees."""
    return ENCRYPTION_BYTES if spec.encrypted else 0


def shows_what_was_there(record: Volume) -> bool:
    """Whether new room has to be wiped: it is a former tenant's, and can be read unwritten.

    A file system shows nobody what it has not written, a crypt device shows noise; but replicas
    have to be the same in what nobody has written as well.
    """
    spec = record.spec
    raw = spec.access is AccessType.BLOCK and not spec.encrypted
    return spec.provision is Provision.THICK and (raw or record.replication is not None)


def volume_bytes(entry: Entry, spec: VolumeSpec) -> int:
    """What the pod sees of a logical volume."""
    return entry.usable_bytes - overhead(spec)


def spec_of(entry: Entry) -> VolumeSpec:
    """Of a volume or a snapshot. Raises DataLoss when its tags are damaged."""
    if entry.label.kind is Kind.SNAPSHOT:
        return snapshot_from_json(entry.label.record).spec
    return record_of(entry).spec
