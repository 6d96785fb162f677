"""Controller calls that change volumes: create, delete, expand, modify."""

from __future__ import annotations

import grpc

from cluster.errors import InvalidArgument, OutOfRange
from cluster.identifiers import require_name
from cluster.model import AccessType, IoLimits
from cluster.volumes import CreateRequest
from csi.capability import parse_capability
from csi.controller.base import ControllerCalls
from csi.controller.requests import (
    DEFAULT_BYTES,
    misfit,
    parse_capabilities,
    parse_range,
    parse_source,
    parse_topologies,
    require,
    size_of_new,
)
from csi.rpc import csi_pb2 as pb
from csi.storage_class import (
    change_limits,
    changed_replicas,
    names_limits,
    parse_class,
    parse_limits,
)


class VolumeCalls(ControllerCalls):
    def CreateVolume(
        self, request: pb.CreateVolumeRequest, context: grpc.ServicerContext
    ) -> pb.CreateVolumeResponse:
        name = require_name(request.name)
        spec = parse_class(
            request.parameters,
            parse_capabilities(request.volume_capabilities),
            request.mutable_parameters,
            replication=self._replication,
        )
        limits = parse_limits(request.parameters, request.mutable_parameters)
        wanted = parse_range(request.capacity_range)
        source = parse_source(request)
        # A copy for which no size was asked becomes as large as what it is a copy of. That is not
        # looked up here: a repetition has to find the copy also when the source is gone by then.
        size = size_of_new(wanted, spec, 1 if source else DEFAULT_BYTES)
        volume = self._volumes.create(
            CreateRequest(
                name=name,
                spec=spec,
                limits=limits,
                required_bytes=size.required,
                limit_bytes=size.limit,
                source=source,
                requisite=parse_topologies(request.accessibility_requirements.requisite),
                preferred=parse_topologies(request.accessibility_requirements.preferred),
            )
        )
        return pb.CreateVolumeResponse(volume=self._message(volume))

    def DeleteVolume(
        self, request: pb.DeleteVolumeRequest, context: grpc.ServicerContext
    ) -> pb.DeleteVolumeResponse:
        self._volumes.delete(request.volume_id)
        return pb.DeleteVolumeResponse()

    def ControllerExpandVolume(
        self, request: pb.ControllerExpandVolumeRequest, context: grpc.ServicerContext
    ) -> pb.ControllerExpandVolumeResponse:
        require(request.volume_id, "volume_id")
        if not request.HasField("capacity_range"):
            raise InvalidArgument("capacity_range is missing")
        wanted = parse_range(request.capacity_range)
        if not wanted.required and not wanted.limit:
            raise InvalidArgument("capacity_range has neither required_bytes nor limit_bytes")
        capability = (
            parse_capability(request.volume_capability)
            if request.HasField("volume_capability")
            else None
        )
        volume = self._volumes.get(request.volume_id)
        if capability and (reason := misfit(volume, capability)):
            raise InvalidArgument(reason)
        if wanted.limit and wanted.limit < volume.size_bytes:
            raise OutOfRange(
                f"capacity_range: volume {volume.id} has {volume.size_bytes} bytes, more than"
                f" limit {wanted.limit}; volumes never shrink"
            )
        size = self._volumes.expand(volume.id, wanted.required or volume.size_bytes, wanted.limit)
        # The device grows with the logical volume, unless it is opened with a key that only the
        # node's call has; a file system grows on the node in any case.
        on_node = volume.spec.access is AccessType.MOUNT or volume.spec.encrypted
        return pb.ControllerExpandVolumeResponse(
            capacity_bytes=size, node_expansion_required=on_node
        )

    def ControllerModifyVolume(
        self, request: pb.ControllerModifyVolumeRequest, context: grpc.ServicerContext
    ) -> pb.ControllerModifyVolumeResponse:
        wanted = request.mutable_parameters
        change_limits(IoLimits(), wanted)  # all of it is right, or nothing is done
        replicas = changed_replicas(wanted, replication=self._replication)
        changes = self._changes if replicas else None
        # First: the limits have to reach all nodes, and the replica on one that is gone, or that is
        # not made yet, would keep them from it until the number of replicas is changed.
        if changes is not None:
            changes.set_replicas(request.volume_id, replicas)
        if changes is None or names_limits(wanted):
            self._volumes.modify(request.volume_id, lambda limits: change_limits(limits, wanted))
        return pb.ControllerModifyVolumeResponse()
