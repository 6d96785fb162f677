"""Records as messages of CSI."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from cluster.model import Group, Phase, Snapshot, SourceKind, Volume
from csi.rpc import csi_pb2 as pb


def volume_message(volume: Volume, topology: Iterable[Mapping[str, str]]) -> pb.Volume:
    """The volume as orchestrators see it.

    There is no volume_context: a node reads all that it needs from its own LVM tags, so that
    nothing of it can be changed in a PersistentVolume.
    """
    message = pb.Volume(
        capacity_bytes=volume.size_bytes,
        volume_id=volume.id,
        accessible_topology=[pb.Topology(segments=dict(segments)) for segments in topology],
    )
    source = volume.source
    if source and source.kind is SourceKind.SNAPSHOT:
        message.content_source.snapshot.snapshot_id = source.id
    elif source:
        message.content_source.volume.volume_id = source.id
    return message


def snapshot_message(snapshot: Snapshot) -> pb.Snapshot:
    return pb.Snapshot(
        size_bytes=snapshot.size_bytes,
        snapshot_id=snapshot.id,
        source_volume_id=snapshot.volume_id,
        creation_time=_timestamp(snapshot.created_at),
        ready_to_use=snapshot.phase is Phase.READY,
        group_snapshot_id=snapshot.group_id,
    )


def group_message(group: Group, snapshots: Iterable[Snapshot]) -> pb.VolumeGroupSnapshot:
    members = [snapshot_message(snapshot) for snapshot in snapshots]
    return pb.VolumeGroupSnapshot(
        group_snapshot_id=group.id,
        snapshots=members,
        creation_time=_timestamp(group.created_at),
        ready_to_use=group.phase is Phase.READY and all(each.ready_to_use for each in members),
    )


def _timestamp(seconds: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(datetime.fromtimestamp(seconds, UTC))
    return stamp
