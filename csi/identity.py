"""The Identity service, served by both processes (CSI 1.13, "Identity Service RPC")."""

from __future__ import annotations

from collections.abc import Callable

import grpc
from google.protobuf.wrappers_pb2 import BoolValue

from csi.rpc import csi_pb2 as pb
from csi.rpc import csi_pb2_grpc
from node_agent.version import VERSION

DRIVER_NAME = "csi.xlss.io"

_Service = pb.PluginCapability.Service
_Expansion = pb.PluginCapability.VolumeExpansion
# Of the plugin as a whole: orchestrators ask either process, and expect the same answer.
_SERVICES = (
    _Service.CONTROLLER_SERVICE,
    _Service.VOLUME_ACCESSIBILITY_CONSTRAINTS,
    _Service.GROUP_CONTROLLER_SERVICE,
)


class Identity(csi_pb2_grpc.IdentityServicer):
    def __init__(self, ready: Callable[[], bool] = lambda: True) -> None:
        """``ready`` says whether the process can work now; it must not wait for anything."""
        self._ready = ready

    def GetPluginInfo(
        self, request: pb.GetPluginInfoRequest, context: grpc.ServicerContext
    ) -> pb.GetPluginInfoResponse:
        return pb.GetPluginInfoResponse(name=DRIVER_NAME, vendor_version=VERSION)

    def GetPluginCapabilities(
        self, request: pb.GetPluginCapabilitiesRequest, context: grpc.ServicerContext
    ) -> pb.GetPluginCapabilitiesResponse:
        services = [pb.PluginCapability(service=_Service(type=kind)) for kind in _SERVICES]
        expansion = pb.PluginCapability(volume_expansion=_Expansion(type=_Expansion.ONLINE))
        return pb.GetPluginCapabilitiesResponse(capabilities=[*services, expansion])

    def Probe(self, request: pb.ProbeRequest, context: grpc.ServicerContext) -> pb.ProbeResponse:
        return pb.ProbeResponse(ready=BoolValue(value=self._ready()))
