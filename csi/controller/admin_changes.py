"""What people change through the admin service: the last resorts of replicated volumes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import grpc

from cluster.errors import InvalidArgument, Unsupported
from csi.rpc import admin_pb2 as pb
from csi.rpc import admin_pb2_grpc
from recovery.decisions import Decisions
from recovery.followed import Followed
from recovery.verification import Verification


class ReplicaChanges(Protocol):
    """Live changes of where a volume's replicas are. Each may be repeated."""

    def set_replicas(self, volume_id: str, count: int) -> object: ...

    def move_replica(self, volume_id: str, from_node: str, to_node: str) -> object:
        """``to_node`` "": one that placement chooses."""
        ...


@dataclass(frozen=True)
class ReplicationParts:
    """What of the controller decides about replicated volumes; it has them with an arbiter."""

    followed: Followed
    decisions: Decisions
    verification: Verification
    changes: ReplicaChanges | None = None


class AdminChanges(admin_pb2_grpc.AdminServicer):
    def __init__(self, replication: ReplicationParts | None) -> None:
        self._parts = replication

    def FailOver(
        self, request: pb.FailOverRequest, context: grpc.ServicerContext
    ) -> pb.FailOverResponse:
        _require(request.node, "node")
        volume_id = self._volume_id(request.volume)
        return pb.FailOverResponse(
            outcome=self._replication_parts().decisions.fail_over(volume_id, request.node)
        )

    def ForcePrimary(
        self, request: pb.ForcePrimaryRequest, context: grpc.ServicerContext
    ) -> pb.ForcePrimaryResponse:
        _require(request.node, "node")
        volume_id = self._volume_id(request.volume)
        outcome = self._replication_parts().decisions.force_primary(
            volume_id, request.node, accept_data_loss=request.accept_data_loss
        )
        return pb.ForcePrimaryResponse(outcome=outcome)

    def VerifyVolume(
        self, request: pb.VerifyVolumeRequest, context: grpc.ServicerContext
    ) -> pb.VerifyVolumeResponse:
        volume_id = self._volume_id(request.volume)
        node = self._replication_parts().verification.verify(volume_id)
        return pb.VerifyVolumeResponse(outcome=f"{node} compares its replica with the other one")

    def SetReplicas(
        self, request: pb.SetReplicasRequest, context: grpc.ServicerContext
    ) -> pb.SetReplicasResponse:
        if request.count not in (1, 2):
            raise InvalidArgument("count: a volume has 1 or 2 replicas")
        volume_id = self._volume_id(request.volume)
        self._changes().set_replicas(volume_id, request.count)
        return pb.SetReplicasResponse(outcome=f"the volume is to have {request.count}")

    def MoveReplica(
        self, request: pb.MoveReplicaRequest, context: grpc.ServicerContext
    ) -> pb.MoveReplicaResponse:
        _require(request.from_node, "from_node")
        volume_id = self._volume_id(request.volume)
        self._changes().move_replica(volume_id, request.from_node, request.to_node)
        return pb.MoveReplicaResponse(outcome=f"the replica moves away from {request.from_node}")

    def _volume_id(self, name_or_id: str) -> str:
        """Raises NotFound."""
        raise NotImplementedError

    def _word(self, volume_id: str) -> str:
        """What the controller makes of silent nodes."""
        return "" if self._parts is None else self._parts.followed.word(volume_id)

    def _replication_parts(self) -> ReplicationParts:
        if self._parts is None:
            raise Unsupported("this controller has no arbiter_listen, and so no replicated volumes")
        return self._parts

    def _changes(self) -> ReplicaChanges:
        changes = self._replication_parts().changes
        if changes is None:
            raise Unsupported("this controller cannot change where replicas are")
        return changes


def _require(value: str, field: str) -> None:
    if not value:
        raise InvalidArgument(f"{field} is needed")
