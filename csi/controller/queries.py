"""Controller calls that only ask: lists, single volumes, capacity, whether a volume would do."""

from __future__ import annotations

from dataclasses import replace

import grpc
from google.protobuf.wrappers_pb2 import Int64Value

from cluster.errors import InvalidArgument
from cluster.model import Volume
from csi.capability import parse_capability
from csi.controller.base import ControllerCalls
from csi.controller.requests import (
    minimum_bytes,
    misfit,
    parse_page,
    parse_topologies,
    require,
    require_complete,
)
from csi.rpc import csi_pb2 as pb
from csi.storage_class import change_limits, parse_class

_Rpc = pb.ControllerServiceCapability.RPC
_CAPABILITIES = (
    _Rpc.CREATE_DELETE_VOLUME,
    _Rpc.PUBLISH_UNPUBLISH_VOLUME,
    _Rpc.LIST_VOLUMES,
    _Rpc.GET_CAPACITY,
    _Rpc.CREATE_DELETE_SNAPSHOT,
    _Rpc.LIST_SNAPSHOTS,
    _Rpc.CLONE_VOLUME,
    _Rpc.PUBLISH_READONLY,
    _Rpc.EXPAND_VOLUME,
    _Rpc.LIST_VOLUMES_PUBLISHED_NODES,
    _Rpc.GET_VOLUME,
    _Rpc.SINGLE_NODE_MULTI_WRITER,
    _Rpc.MODIFY_VOLUME,
    _Rpc.GET_SNAPSHOT,
)
_HEALTH_CAPABILITIES = (_Rpc.GET_VOLUME_HEALTH, _Rpc.LIST_VOLUME_HEALTH)
# Put into the context by the provisioner and the attacher themselves.
_FOREIGN_CONTEXT = "storage.kubernetes.io/"


class QueryCalls(ControllerCalls):
    def ControllerGetCapabilities(
        self, request: pb.ControllerGetCapabilitiesRequest, context: grpc.ServicerContext
    ) -> pb.ControllerGetCapabilitiesResponse:
        kinds = _CAPABILITIES + (_HEALTH_CAPABILITIES if self._advertise_health else ())
        return pb.ControllerGetCapabilitiesResponse(
            capabilities=[pb.ControllerServiceCapability(rpc=_Rpc(type=kind)) for kind in kinds]
        )

    def ListVolumes(
        self, request: pb.ListVolumesRequest, context: grpc.ServicerContext
    ) -> pb.ListVolumesResponse:
        after, limit = parse_page(request.max_entries, request.starting_token)
        volumes, token = self._volumes.list(after=after, limit=limit)
        status = pb.ListVolumesResponse.VolumeStatus
        entries = [
            pb.ListVolumesResponse.Entry(
                volume=self._message(volume),
                status=status(published_node_ids=_published(volume)),
            )
            for volume in volumes
        ]
        return pb.ListVolumesResponse(entries=entries, next_token=token)

    def ControllerGetVolume(
        self, request: pb.ControllerGetVolumeRequest, context: grpc.ServicerContext
    ) -> pb.ControllerGetVolumeResponse:
        volume = self._volumes.get(request.volume_id)
        status = pb.ControllerGetVolumeResponse.VolumeStatus
        return pb.ControllerGetVolumeResponse(
            volume=self._message(volume),
            status=status(published_node_ids=_published(volume)),
        )

    def GetCapacity(
        self, request: pb.GetCapacityRequest, context: grpc.ServicerContext
    ) -> pb.GetCapacityResponse:
        capabilities = [parse_capability(message) for message in request.volume_capabilities]
        spec = parse_class(request.parameters, capabilities, replication=self._replication)
        segments = None
        if request.HasField("accessible_topology"):
            (segments,) = parse_topologies([request.accessible_topology])
        available, maximum, minimum = self._volumes.capacity(spec, segments)
        return pb.GetCapacityResponse(
            available_capacity=available,
            maximum_volume_size=Int64Value(value=maximum),
            minimum_volume_size=Int64Value(value=max(minimum, minimum_bytes(spec))),
        )

    def ValidateVolumeCapabilities(
        self, request: pb.ValidateVolumeCapabilitiesRequest, context: grpc.ServicerContext
    ) -> pb.ValidateVolumeCapabilitiesResponse:
        require(request.volume_id, "volume_id")
        require_complete(request.volume_capabilities)
        volume = self._volumes.get(request.volume_id)
        if reason := _objection(volume, request):
            return pb.ValidateVolumeCapabilitiesResponse(message=reason)
        return pb.ValidateVolumeCapabilitiesResponse(
            confirmed=pb.ValidateVolumeCapabilitiesResponse.Confirmed(
                volume_context=request.volume_context,
                volume_capabilities=request.volume_capabilities,
                parameters=request.parameters,
                mutable_parameters=request.mutable_parameters,
            )
        )


def _published(volume: Volume) -> list[str]:
    return [publication.node for publication in volume.published]


def _objection(volume: Volume, request: pb.ValidateVolumeCapabilitiesRequest) -> str:
    """Why a request to validate is not confirmed, or an empty text.

    What CreateVolume would refuse is an objection here, and no error (CSI 1.13).
    """
    if any(not key.startswith(_FOREIGN_CONTEXT) for key in request.volume_context):
        return "volume_context: volumes of this driver have none"
    try:
        capabilities = [parse_capability(message) for message in request.volume_capabilities]
        for capability in capabilities:
            if reason := misfit(volume, capability):
                return reason
        if request.parameters:
            # A class may leave the file system to the claim: then it is that of the volume.
            own = replace(capabilities[0], filesystem=volume.spec.filesystem)
            spec = parse_class(
                request.parameters, [*capabilities, own], replication=volume.spec.replicas > 1
            )
            if spec != volume.spec:
                return f"parameters differ from those with which volume {volume.id} was made"
        change_limits(volume.limits, request.mutable_parameters)
    except InvalidArgument as error:
        return str(error)
    return ""
