"""Controller calls for single snapshots."""

from __future__ import annotations

import grpc

from cluster.errors import InvalidArgument
from cluster.identifiers import require_name
from csi.controller.answers import snapshot_message
from csi.controller.base import ControllerCalls
from csi.controller.requests import parse_page, require
from csi.rpc import csi_pb2 as pb
from csi.storage_class import check_snapshot_class


class SnapshotCalls(ControllerCalls):
    def CreateSnapshot(
        self, request: pb.CreateSnapshotRequest, context: grpc.ServicerContext
    ) -> pb.CreateSnapshotResponse:
        name = require_name(request.name)
        require(request.source_volume_id, "source_volume_id")
        check_snapshot_class(request.parameters)
        if request.HasField("accessibility_requirements"):
            raise InvalidArgument(
                "accessibility_requirements: a snapshot is where its volume is, and the driver"
                " does not have the capability SNAPSHOT_ACCESSIBILITY_CONSTRAINTS"
            )
        snapshot = self._snapshots.create(name, request.source_volume_id)
        return pb.CreateSnapshotResponse(snapshot=snapshot_message(snapshot))

    def DeleteSnapshot(
        self, request: pb.DeleteSnapshotRequest, context: grpc.ServicerContext
    ) -> pb.DeleteSnapshotResponse:
        self._snapshots.delete(request.snapshot_id)
        return pb.DeleteSnapshotResponse()

    def ListSnapshots(
        self, request: pb.ListSnapshotsRequest, context: grpc.ServicerContext
    ) -> pb.ListSnapshotsResponse:
        after, limit = parse_page(request.max_entries, request.starting_token)
        snapshots, token = self._snapshots.list(
            after=after,
            limit=limit,
            volume_id=request.source_volume_id,
            snapshot_id=request.snapshot_id,
        )
        entries = [
            pb.ListSnapshotsResponse.Entry(snapshot=snapshot_message(snapshot))
            for snapshot in snapshots
        ]
        return pb.ListSnapshotsResponse(entries=entries, next_token=token)

    def GetSnapshot(
        self, request: pb.GetSnapshotRequest, context: grpc.ServicerContext
    ) -> pb.GetSnapshotResponse:
        snapshot = self._snapshots.get(request.snapshot_id)
        return pb.GetSnapshotResponse(snapshot=snapshot_message(snapshot))
