"""The GroupController service: snapshots of several volumes, cut at one instant."""

from __future__ import annotations

import grpc

from cluster.errors import InvalidArgument
from cluster.groups import Groups
from cluster.identifiers import require_name
from csi.controller.answers import group_message
from csi.rpc import csi_pb2 as pb
from csi.rpc import csi_pb2_grpc
from csi.storage_class import check_snapshot_class

_Rpc = pb.GroupControllerServiceCapability.RPC
# All their writes are held while they are cut.
_MOST_VOLUMES = 64


class GroupController(csi_pb2_grpc.GroupControllerServicer):
    """All calls of ``csi.v1.GroupController``."""

    def __init__(self, groups: Groups) -> None:
        self._groups = groups

    def GroupControllerGetCapabilities(
        self, request: pb.GroupControllerGetCapabilitiesRequest, context: grpc.ServicerContext
    ) -> pb.GroupControllerGetCapabilitiesResponse:
        kind = _Rpc.CREATE_DELETE_GET_VOLUME_GROUP_SNAPSHOT
        return pb.GroupControllerGetCapabilitiesResponse(
            capabilities=[pb.GroupControllerServiceCapability(rpc=_Rpc(type=kind))]
        )

    def CreateVolumeGroupSnapshot(
        self, request: pb.CreateVolumeGroupSnapshotRequest, context: grpc.ServicerContext
    ) -> pb.CreateVolumeGroupSnapshotResponse:
        name = require_name(request.name)
        sources = tuple(request.source_volume_ids)
        if len(sources) > _MOST_VOLUMES:
            raise InvalidArgument(f"source_volume_ids are more than {_MOST_VOLUMES}")
        check_snapshot_class(request.parameters)
        group, snapshots = self._groups.create(name, sources)
        return pb.CreateVolumeGroupSnapshotResponse(group_snapshot=group_message(group, snapshots))

    def DeleteVolumeGroupSnapshot(
        self, request: pb.DeleteVolumeGroupSnapshotRequest, context: grpc.ServicerContext
    ) -> pb.DeleteVolumeGroupSnapshotResponse:
        self._groups.delete(request.group_snapshot_id, tuple(request.snapshot_ids))
        return pb.DeleteVolumeGroupSnapshotResponse()

    def GetVolumeGroupSnapshot(
        self, request: pb.GetVolumeGroupSnapshotRequest, context: grpc.ServicerContext
    ) -> pb.GetVolumeGroupSnapshotResponse:
        group, snapshots = self._groups.get(request.group_snapshot_id, tuple(request.snapshot_ids))
        return pb.GetVolumeGroupSnapshotResponse(group_snapshot=group_message(group, snapshots))
