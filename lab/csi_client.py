"""CSI as the sidecars and kubelet speak it, in few words: for the demo, tests and benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import grpc

from csi.rpc import csi_pb2 as pb
from csi.rpc import csi_pb2_grpc as rpc

CALL_SECONDS = 120.0
MODES = pb.VolumeCapability.AccessMode
WRITER = MODES.SINGLE_NODE_WRITER


def mount(
    filesystem: str = "", *, flags: Sequence[str] = (), mode: MODES.Mode = WRITER, group: str = ""
) -> pb.VolumeCapability:
    """A capability for a mounted file system."""
    access = pb.VolumeCapability.MountVolume(
        fs_type=filesystem, mount_flags=flags, volume_mount_group=group
    )
    return pb.VolumeCapability(mount=access, access_mode=MODES(mode=mode))


def block(*, mode: MODES.Mode = WRITER) -> pb.VolumeCapability:
    """A capability for the raw device."""
    access = pb.VolumeCapability.BlockVolume()
    return pb.VolumeCapability(block=access, access_mode=MODES(mode=mode))


def on(node: str) -> dict[str, str]:
    """The topology that is one node."""
    return {"csi.xlss.io/node": node}


class _Client:
    def __init__(self, target: str, seconds: float = CALL_SECONDS) -> None:
        """`seconds`: the deadline of each call."""
        self.seconds = seconds
        self.channel = grpc.insecure_channel(
            target,
            options=[
                ("grpc.initial_reconnect_backoff_ms", 50),
                # For so long a connection may take to come about: nodes can be slow.
                ("grpc.min_reconnect_backoff_ms", 5000),
                ("grpc.max_reconnect_backoff_ms", 200),
                ("grpc.use_local_subchannel_pool", 1),
            ],
        )
        self.identity = rpc.IdentityStub(self.channel)

    def probe(self) -> bool:
        """Whether the plugin serves and is ready."""
        try:
            ready: bool = self.identity.Probe(pb.ProbeRequest(), timeout=10.0).ready.value
        except grpc.RpcError:
            return False
        return ready

    def close(self) -> None:
        self.channel.close()


class ControllerClient(_Client):
    """Calls of the Controller and GroupController services."""

    def __init__(self, target: str, seconds: float = CALL_SECONDS) -> None:
        super().__init__(target, seconds)
        self.stub = rpc.ControllerStub(self.channel)
        self.groups = rpc.GroupControllerStub(self.channel)

    def capacity(self, segments: Mapping[str, str], parameters: Mapping[str, str]) -> int:
        """Bytes that volumes of these parameters can still get there."""
        request = pb.GetCapacityRequest(
            accessible_topology=pb.Topology(segments=segments), parameters=parameters
        )
        answer: pb.GetCapacityResponse = self.stub.GetCapacity(request, timeout=self.seconds)
        return answer.available_capacity

    def create(
        self,
        name: str,
        size: int,
        *,
        capability: pb.VolumeCapability | None = None,
        parameters: Mapping[str, str] | None = None,
        mutable: Mapping[str, str] | None = None,
        snapshot: str = "",
        clone: str = "",
        nodes: Sequence[Mapping[str, str]] = (),
        preferred: Sequence[Mapping[str, str]] = (),
        limit: int = 0,
    ) -> pb.Volume:
        """Create a volume of at least `size` bytes; from a snapshot or a volume where named."""
        request = pb.CreateVolumeRequest(
            name=name,
            capacity_range=pb.CapacityRange(required_bytes=size, limit_bytes=limit),
            volume_capabilities=[capability or mount()],
            parameters=parameters,
            mutable_parameters=mutable,
        )
        if snapshot:
            request.volume_content_source.snapshot.snapshot_id = snapshot
        if clone:
            request.volume_content_source.volume.volume_id = clone
        for segments in nodes:
            request.accessibility_requirements.requisite.add(segments=segments)
        for segments in preferred:
            request.accessibility_requirements.preferred.add(segments=segments)
        answer: pb.CreateVolumeResponse = self.stub.CreateVolume(request, timeout=self.seconds)
        return answer.volume

    def delete(self, volume_id: str) -> None:
        self.stub.DeleteVolume(pb.DeleteVolumeRequest(volume_id=volume_id), timeout=self.seconds)

    def publish(
        self, volume_id: str, node: str, capability: pb.VolumeCapability | None = None
    ) -> Mapping[str, str]:
        request = pb.ControllerPublishVolumeRequest(
            volume_id=volume_id, node_id=node, volume_capability=capability or mount()
        )
        answer: pb.ControllerPublishVolumeResponse = self.stub.ControllerPublishVolume(
            request, timeout=self.seconds
        )
        return answer.publish_context

    def unpublish(self, volume_id: str, node: str) -> None:
        request = pb.ControllerUnpublishVolumeRequest(volume_id=volume_id, node_id=node)
        self.stub.ControllerUnpublishVolume(request, timeout=self.seconds)

    def expand(self, volume_id: str, size: int) -> pb.ControllerExpandVolumeResponse:
        request = pb.ControllerExpandVolumeRequest(
            volume_id=volume_id, capacity_range=pb.CapacityRange(required_bytes=size)
        )
        answer: pb.ControllerExpandVolumeResponse = self.stub.ControllerExpandVolume(
            request, timeout=self.seconds
        )
        return answer

    def modify(self, volume_id: str, **parameters: str) -> None:
        request = pb.ControllerModifyVolumeRequest(
            volume_id=volume_id, mutable_parameters=parameters
        )
        self.stub.ControllerModifyVolume(request, timeout=self.seconds)

    def snapshot(self, volume_id: str, name: str) -> pb.Snapshot:
        request = pb.CreateSnapshotRequest(source_volume_id=volume_id, name=name)
        answer: pb.CreateSnapshotResponse = self.stub.CreateSnapshot(request, timeout=self.seconds)
        return answer.snapshot

    def delete_snapshot(self, snapshot_id: str) -> None:
        request = pb.DeleteSnapshotRequest(snapshot_id=snapshot_id)
        self.stub.DeleteSnapshot(request, timeout=self.seconds)

    def group_snapshot(self, volume_ids: Sequence[str], name: str) -> pb.VolumeGroupSnapshot:
        """Snapshots of all these volumes at one instant."""
        request = pb.CreateVolumeGroupSnapshotRequest(source_volume_ids=volume_ids, name=name)
        answer: pb.CreateVolumeGroupSnapshotResponse = self.groups.CreateVolumeGroupSnapshot(
            request, timeout=CALL_SECONDS
        )
        return answer.group_snapshot

    def delete_group_snapshot(self, group: pb.VolumeGroupSnapshot) -> None:
        request = pb.DeleteVolumeGroupSnapshotRequest(
            group_snapshot_id=group.group_snapshot_id,
            snapshot_ids=[snapshot.snapshot_id for snapshot in group.snapshots],
        )
        self.groups.DeleteVolumeGroupSnapshot(request, timeout=CALL_SECONDS)

    def volumes(self) -> list[pb.ListVolumesResponse.Entry]:
        """All volumes."""
        answer = self.stub.ListVolumes(pb.ListVolumesRequest(), timeout=self.seconds)
        return list(answer.entries)

    def snapshots(self) -> list[pb.Snapshot]:
        """All snapshots."""
        answer = self.stub.ListSnapshots(pb.ListSnapshotsRequest(), timeout=self.seconds)
        return [entry.snapshot for entry in answer.entries]


class NodeClient(_Client):
    """Calls of the Node service."""

    def __init__(self, target: str, seconds: float = CALL_SECONDS) -> None:
        super().__init__(target, seconds)
        self.stub = rpc.NodeStub(self.channel)

    def stage(
        self,
        volume: pb.Volume,
        path: str,
        capability: pb.VolumeCapability | None = None,
        *,
        secrets: Mapping[str, str] | None = None,
    ) -> None:
        request = pb.NodeStageVolumeRequest(
            volume_id=volume.volume_id,
            staging_target_path=path,
            volume_capability=capability or mount(),
            volume_context=volume.volume_context,
            secrets=secrets,
        )
        self.stub.NodeStageVolume(request, timeout=self.seconds)

    def unstage(self, volume_id: str, path: str) -> None:
        request = pb.NodeUnstageVolumeRequest(volume_id=volume_id, staging_target_path=path)
        self.stub.NodeUnstageVolume(request, timeout=self.seconds)

    def publish(
        self,
        volume: pb.Volume,
        staging: str,
        target: str,
        capability: pb.VolumeCapability | None = None,
        *,
        readonly: bool = False,
        context: Mapping[str, str] | None = None,
    ) -> None:
        request = pb.NodePublishVolumeRequest(
            volume_id=volume.volume_id,
            staging_target_path=staging,
            target_path=target,
            volume_capability=capability or mount(),
            volume_context={**volume.volume_context, **(context or {})},
            readonly=readonly,
        )
        self.stub.NodePublishVolume(request, timeout=self.seconds)

    def unpublish(self, volume_id: str, target: str) -> None:
        request = pb.NodeUnpublishVolumeRequest(volume_id=volume_id, target_path=target)
        self.stub.NodeUnpublishVolume(request, timeout=self.seconds)

    def expand(
        self,
        volume_id: str,
        path: str,
        size: int,
        *,
        staging: str = "",
        secrets: Mapping[str, str] | None = None,
    ) -> int:
        """Grow what is in the volume; returns its size in bytes."""
        request = pb.NodeExpandVolumeRequest(
            volume_id=volume_id,
            volume_path=path,
            staging_target_path=staging,
            capacity_range=pb.CapacityRange(required_bytes=size),
            secrets=secrets,
        )
        answer: pb.NodeExpandVolumeResponse = self.stub.NodeExpandVolume(
            request, timeout=self.seconds
        )
        return answer.capacity_bytes

    def usage(self, volume_id: str, path: str) -> dict[str, pb.VolumeUsage]:
        """Usage by unit: BYTES, INODES."""
        request = pb.NodeGetVolumeStatsRequest(volume_id=volume_id, volume_path=path)
        answer = self.stub.NodeGetVolumeStats(request, timeout=self.seconds)
        return {pb.VolumeUsage.Unit.Name(usage.unit): usage for usage in answer.usage}
