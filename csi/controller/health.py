"""Controller calls for the health of volumes (alpha in CSI 1.13)."""

from __future__ import annotations

import grpc

from cluster.agents import Health
from csi.controller.base import ControllerCalls
from csi.controller.requests import parse_page
from csi.rpc import csi_pb2 as pb

_KINDS = {
    Health.DEGRADED: (pb.DEGRADED, "VolumeDegraded"),
    Health.INACCESSIBLE: (pb.INACCESSIBLE, "VolumeInaccessible"),
    Health.DATA_LOSS: (pb.DATA_LOSS, "VolumeDataLoss"),
    Health.UNKNOWN: (pb.UNKNOWN_VOLUME_HEALTH_TYPE, "VolumeHealthUnknown"),
}


def health_message(volume_id: str, health: Health, text: str) -> pb.VolumeHealth:
    """A healthy volume has no entries."""
    if health is Health.OK:
        return pb.VolumeHealth(volume_id=volume_id)
    status, reason = _KINDS[health]
    entry = pb.VolumeHealth.VolumeHealthEntry(status=status, reason=reason, message=text)
    return pb.VolumeHealth(volume_id=volume_id, health_statuses=[entry])


class HealthCalls(ControllerCalls):
    def ControllerGetVolumeHealth(
        self, request: pb.ControllerGetVolumeHealthRequest, context: grpc.ServicerContext
    ) -> pb.ControllerGetVolumeHealthResponse:
        health = health_message(request.volume_id, *self._volumes.health(request.volume_id))
        return pb.ControllerGetVolumeHealthResponse(volume_health=health)

    def ControllerListVolumeHealth(
        self, request: pb.ControllerListVolumeHealthRequest, context: grpc.ServicerContext
    ) -> pb.ControllerListVolumeHealthResponse:
        """Only volumes with something to report, as the specification wants.

        A page can therefore have fewer entries than were asked for and yet not be the last.
        """
        after, limit = parse_page(request.max_entries, request.starting_token)
        volumes, token = self._volumes.list(after=after, limit=limit)
        entries = [
            health_message(volume.id, health, text)
            for volume, health, text in self._volumes.ailing(volumes)
        ]
        return pb.ControllerListVolumeHealthResponse(entries=entries, next_token=token)
