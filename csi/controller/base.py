"""What the parts of the Controller service share."""

from __future__ import annotations

from cluster.model import Volume
from cluster.snapshots import Snapshots
from cluster.volumes import Volumes
from csi.controller.answers import volume_message
from csi.rpc import csi_pb2 as pb
from csi.rpc import csi_pb2_grpc
from recovery.replica_changes import ReplicaChanges


class ControllerCalls(csi_pb2_grpc.ControllerServicer):
    """Base of each part: calls in, workflows asked, records out as messages."""

    def __init__(
        self,
        volumes: Volumes,
        snapshots: Snapshots,
        *,
        advertise_health: bool = False,
        changes: ReplicaChanges | None = None,
    ) -> None:
        """``changes``: of replicas. None where agents have no arbiter: then volumes have one each.

        ``advertise_health``: name the health calls of CSI 1.13 among the capabilities.

        They are alpha, and orchestrators built against CSI 1.12 refuse capabilities that they do
        not know. The calls are answered in any case.
        """
        self._volumes = volumes
        self._snapshots = snapshots
        self._advertise_health = advertise_health
        self._changes = changes
        self._replication = changes is not None

    def _message(self, volume: Volume) -> pb.Volume:
        return volume_message(volume, self._volumes.topology(volume))
