"""Controller calls that say on which node a volume may be used."""

from __future__ import annotations

import grpc

from cluster.errors import InvalidArgument
from csi.controller.base import ControllerCalls
from csi.controller.requests import misfit, require, require_capability
from csi.rpc import csi_pb2 as pb


class PublishCalls(ControllerCalls):
    def ControllerPublishVolume(
        self, request: pb.ControllerPublishVolumeRequest, context: grpc.ServicerContext
    ) -> pb.ControllerPublishVolumeResponse:
        require(request.volume_id, "volume_id")
        node = require(request.node_id, "node_id")
        capability = require_capability(
            request.volume_capability, given=request.HasField("volume_capability")
        )
        volume = self._volumes.get(request.volume_id)
        if reason := misfit(volume, capability):
            raise InvalidArgument(reason)
        self._volumes.publish(
            volume.id, node, request.readonly or capability.read_only, capability.mode
        )
        # No publish_context: the node has the volume, or it would not have been published there.
        return pb.ControllerPublishVolumeResponse()

    def ControllerUnpublishVolume(
        self, request: pb.ControllerUnpublishVolumeRequest, context: grpc.ServicerContext
    ) -> pb.ControllerUnpublishVolumeResponse:
        self._volumes.unpublish(request.volume_id, request.node_id)
        return pb.ControllerUnpublishVolumeResponse()
