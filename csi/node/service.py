"""The Node service: requests checked once at the edge, and passed to their parts.

Errors are raised as they come; ``node_agent/interceptors.py`` maps them to codes.
"""

from __future__ import annotations

from typing import Any

import grpc

from cluster.errors import InvalidArgument, NotFound
from cluster.identifiers import Kind, require_id
from csi.capability import Capability, parse_capability
from csi.node.health import storage_health, volume_health
from csi.node.paths import parse_path
from csi.node.publish import Publisher
from csi.node.stage import Stager
from csi.node.stats import Stats
from csi.rpc import csi_pb2 as pb
from csi.rpc import csi_pb2_grpc as pb_grpc
from node_agent.agent import NodeAgent

_Rpc = pb.NodeServiceCapability.RPC
_CAPABILITIES = (
    _Rpc.STAGE_UNSTAGE_VOLUME,
    _Rpc.GET_VOLUME_STATS,
    _Rpc.EXPAND_VOLUME,
    _Rpc.SINGLE_NODE_MULTI_WRITER,
    _Rpc.VOLUME_MOUNT_GROUP,
)
# Alpha in CSI 1.13: orchestrators that are older refuse a plugin that names them.
_HEALTH_CAPABILITIES = (_Rpc.GET_VOLUME_HEALTH, _Rpc.GET_STORAGE_HEALTH)


class NodeService(pb_grpc.NodeServicer):
    def __init__(self, agent: NodeAgent) -> None:
        self._agent = agent
        self._stager = Stager(agent)
        self._publisher = Publisher(agent)
        self._stats = Stats(agent)

    def NodeStageVolume(
        self, request: pb.NodeStageVolumeRequest, context: grpc.ServicerContext
    ) -> pb.NodeStageVolumeResponse:
        volume_id = _volume_id(request, "staging_target_path", "volume_capability")
        path = parse_path(request.staging_target_path, "staging_target_path")
        self._stager.stage(volume_id, path, _capability(request), request.secrets)
        return pb.NodeStageVolumeResponse()

    def NodeUnstageVolume(
        self, request: pb.NodeUnstageVolumeRequest, context: grpc.ServicerContext
    ) -> pb.NodeUnstageVolumeResponse:
        volume_id = _volume_id(request, "staging_target_path")
        path = parse_path(request.staging_target_path, "staging_target_path")
        self._stager.unstage(volume_id, path)
        return pb.NodeUnstageVolumeResponse()

    def NodePublishVolume(
        self, request: pb.NodePublishVolumeRequest, context: grpc.ServicerContext
    ) -> pb.NodePublishVolumeResponse:
        volume_id = _volume_id(request, "target_path", "volume_capability")
        target = parse_path(request.target_path, "target_path")
        staging = parse_path(request.staging_target_path, "staging_target_path")
        self._publisher.publish(
            volume_id,
            staging,
            target,
            _capability(request),
            readonly=request.readonly,
            context=request.volume_context,
        )
        return pb.NodePublishVolumeResponse()

    def NodeUnpublishVolume(
        self, request: pb.NodeUnpublishVolumeRequest, context: grpc.ServicerContext
    ) -> pb.NodeUnpublishVolumeResponse:
        volume_id = _volume_id(request, "target_path")
        self._publisher.unpublish(volume_id, parse_path(request.target_path, "target_path"))
        return pb.NodeUnpublishVolumeResponse()

    def NodeGetVolumeStats(
        self, request: pb.NodeGetVolumeStatsRequest, context: grpc.ServicerContext
    ) -> pb.NodeGetVolumeStatsResponse:
        volume_id = _volume_id(request, "volume_path")
        path = _volume_path(request.volume_path)
        return pb.NodeGetVolumeStatsResponse(usage=self._stats.usage(volume_id, path))

    def NodeExpandVolume(
        self, request: pb.NodeExpandVolumeRequest, context: grpc.ServicerContext
    ) -> pb.NodeExpandVolumeResponse:
        volume_id = _volume_id(request, "volume_path")
        path = _volume_path(request.volume_path)
        wanted = request.capacity_range
        if wanted.required_bytes < 0 or wanted.limit_bytes < 0:
            raise InvalidArgument("capacity_range has a negative size")
        if 0 < wanted.limit_bytes < wanted.required_bytes:
            raise InvalidArgument("capacity_range requires more than its limit")
        if request.HasField("volume_capability"):
            parse_capability(request.volume_capability)
        size = self._stats.expand(volume_id, path, wanted.required_bytes)
        return pb.NodeExpandVolumeResponse(capacity_bytes=size)

    def NodeGetVolumeHealth(
        self, request: pb.NodeGetVolumeHealthRequest, context: grpc.ServicerContext
    ) -> pb.NodeGetVolumeHealthResponse:
        volume_id = _volume_id(request)
        path = request.volume_publish_path or request.staging_target_path
        health = volume_health(self._agent, volume_id, _volume_path(path) if path else "")
        return pb.NodeGetVolumeHealthResponse(volume_health=health)

    def NodeGetStorageHealth(
        self, request: pb.NodeGetStorageHealthRequest, context: grpc.ServicerContext
    ) -> pb.NodeGetStorageHealthResponse:
        return pb.NodeGetStorageHealthResponse(backend_health=storage_health(self._agent))

    def NodeGetCapabilities(
        self, request: pb.NodeGetCapabilitiesRequest, context: grpc.ServicerContext
    ) -> pb.NodeGetCapabilitiesResponse:
        health = _HEALTH_CAPABILITIES if self._agent.config.advertise_health else ()
        return pb.NodeGetCapabilitiesResponse(
            capabilities=[
                pb.NodeServiceCapability(rpc=_Rpc(type=kind)) for kind in (*_CAPABILITIES, *health)
            ]
        )

    def NodeGetInfo(
        self, request: pb.NodeGetInfoRequest, context: grpc.ServicerContext
    ) -> pb.NodeGetInfoResponse:
        config = self._agent.config
        return pb.NodeGetInfoResponse(
            node_id=config.name,
            max_volumes_per_node=config.max_volumes,
            accessible_topology=pb.Topology(segments=config.segments),
        )


def _volume_id(request: Any, *required: str) -> str:
    """The identifier, once all required fields are there.

    A field that is missing is an invalid argument, also where the volume would not be found.
    """
    for field in ("volume_id", *required):
        given = request.HasField(field) if field == "volume_capability" else getattr(request, field)
        if not given:
            raise InvalidArgument(f"{field} is missing")
    return require_id(Kind.VOLUME, request.volume_id, "volume_id")


def _capability(
    request: pb.NodeStageVolumeRequest | pb.NodePublishVolumeRequest,
) -> Capability:
    if not request.HasField("volume_capability"):
        raise InvalidArgument("volume_capability is missing")
    return parse_capability(request.volume_capability)


def _volume_path(text: str) -> str:
    """A path at which the volume should be: what cannot be one is not found."""
    if text and not text.startswith("/"):
        raise NotFound(f"no volume is at {text[:64]!r}")
    return parse_path(text, "volume_path")
