"""What people's commands ask a running controller, as frozen types."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from cluster.agents import Health, PoolReport, VolumeReport
from cluster.errors import Unavailable
from cluster.membership import Membership
from cluster.model import Snapshot, Volume, from_json, snapshot_from_json, volume_from_json
from csi.rpc import admin_pb2 as pb
from csi.rpc import admin_pb2_grpc
from node_agent.interceptors import ObservedChannel
from node_agent.wire import health_from_wire, pool_from_wire, volume_from_wire

DEFAULT_SOCKET = Path("/run/xlss/controller.sock")
_CALL_SECONDS = 30.0
_CHANGE_SECONDS = 300.0  # of what may have to prepare a replica first
_PAGE = 500


@dataclass(frozen=True)
class NodeStatus:
    name: str
    address: str
    trouble: str  # empty when it answered
    boot_id: str
    version: str
    topology: Mapping[str, str]
    pools: tuple[PoolReport, ...]
    stuck_commands: int
    volumes: int
    snapshots: int
    replication_trouble: str = ""  # why it takes no replicas although it is configured to


@dataclass(frozen=True)
class DifferenceStatus:
    kind: str
    node: str
    object: str
    text: str
    mended: bool


@dataclass(frozen=True)
class Status:
    version: str
    nodes: tuple[NodeStatus, ...]
    counts: Mapping[str, Mapping[str, int]]  # kind of record -> phase -> how many
    differences: tuple[DifferenceStatus, ...]
    compared_seconds_ago: float | None  # None before the first comparison
    replicated: tuple[ReplicatedStatus, ...] = ()


@dataclass(frozen=True)
class VolumeOnNode:
    node: str
    trouble: str  # empty when the node answered
    report: VolumeReport | None


@dataclass(frozen=True)
class ReplicatedStatus:
    """A replicated volume in a few words."""

    id: str
    name: str
    summary: str
    health: Health


@dataclass(frozen=True)
class ReplicationStatus:
    """``membership``: None where the store has none. ``explanation`` is a paragraph for people."""

    membership: Membership | None
    state: ReplicatedStatus
    explanation: str
    decision: str  # what the controller makes of silent nodes


class AdminClient:
    """Raises the errors of ``cluster/errors.py``."""

    def __init__(self, channel: ObservedChannel) -> None:
        self._stub = admin_pb2_grpc.AdminStub(channel)

    def status(self) -> Status:
        answer = self._stub.GetStatus(pb.GetStatusRequest())
        counts: dict[str, dict[str, int]] = {}
        for count in answer.counts:
            counts.setdefault(count.kind, {})[count.phase] = count.count
        compared = answer.compared_seconds_ago if answer.HasField("compared_seconds_ago") else None
        return Status(
            version=answer.version,
            nodes=tuple(_node(node) for node in answer.nodes),
            counts=counts,
            differences=tuple(
                DifferenceStatus(one.kind, one.node, one.object, one.text, one.mended)
                for one in answer.differences
            ),
            compared_seconds_ago=compared,
            replicated=tuple(map(_replicated, answer.replicated)),
        )

    def volumes(self) -> Iterator[tuple[Volume, ReplicatedStatus | None]]:
        """All volumes, a page at a time; with what is to be told of those that are replicated."""
        request = pb.ListVolumesRequest(limit=_PAGE)
        while True:
            page = self._stub.ListVolumes(request)
            told = {one.id: _replicated(one) for one in page.replicated}
            for volume in map(volume_from_json, page.volumes):
                yield volume, told.get(volume.id)
            if not page.next:
                return
            request.after = page.next

    def volume(
        self, name_or_id: str
    ) -> tuple[Volume, tuple[VolumeOnNode, ...], ReplicationStatus | None]:
        answer = self._stub.GetVolume(pb.GetVolumeRequest(volume=name_or_id))
        nodes = tuple(
            VolumeOnNode(
                node=one.node,
                trouble=one.trouble,
                report=volume_from_wire(one.volume) if one.HasField("volume") else None,
            )
            for one in answer.nodes
        )
        replication = None
        if answer.HasField("replication"):
            found = answer.replication
            replication = ReplicationStatus(
                from_json(Membership, found.membership) if found.membership else None,
                _replicated(found.state),
                found.explanation,
                found.decision,
            )
        return volume_from_json(answer.volume), nodes, replication

    def fail_over(self, volume: str, node: str) -> str:
        """As the next ones: returns what was done, in words."""
        return self._outcome(self._stub.FailOver(pb.FailOverRequest(volume=volume, node=node)))

    def force_primary(self, volume: str, node: str, *, accept_data_loss: bool) -> str:
        request = pb.ForcePrimaryRequest(
            volume=volume, node=node, accept_data_loss=accept_data_loss
        )
        return self._outcome(self._stub.ForcePrimary(request))

    def verify(self, volume: str) -> str:
        return self._outcome(self._stub.VerifyVolume(pb.VerifyVolumeRequest(volume=volume)))

    def set_replicas(self, volume: str, count: int) -> str:
        request = pb.SetReplicasRequest(volume=volume, count=count)
        return self._outcome(self._stub.SetReplicas(request, timeout=_CHANGE_SECONDS))

    def move_replica(self, volume: str, from_node: str, to_node: str) -> str:
        request = pb.MoveReplicaRequest(volume=volume, from_node=from_node, to_node=to_node)
        return self._outcome(self._stub.MoveReplica(request, timeout=_CHANGE_SECONDS))

    def _outcome(self, answer: Any) -> str:
        return str(answer.outcome)

    def snapshots(self, volume_id: str = "") -> Iterator[Snapshot]:
        """All snapshots, or those of one volume, a page at a time."""
        request = pb.ListSnapshotsRequest(limit=_PAGE, volume_id=volume_id)
        while True:
            page = self._stub.ListSnapshots(request)
            yield from map(snapshot_from_json, page.snapshots)
            if not page.next:
                return
            request.after = page.next


@contextmanager
def connect(socket: Path) -> Iterator[AdminClient]:
    """A client for the length of a ``with`` block; raises Unavailable without a controller."""
    if not socket.exists():
        raise Unavailable(
            f"no controller listens on {socket}: start one with `xlss controller`, "
            "or name its csi_socket with --socket"
        )
    with closing(
        ObservedChannel(
            grpc.insecure_channel(f"unix:{socket}"),
            f"the controller at {socket}",
            deadline=_CALL_SECONDS,
        )
    ) as channel:
        yield AdminClient(channel)


def _replicated(one: pb.Replicated) -> ReplicatedStatus:
    return ReplicatedStatus(one.id, one.name, one.summary, health_from_wire(one.health))


def _node(node: pb.Node) -> NodeStatus:
    return NodeStatus(
        name=node.name,
        address=node.address,
        trouble=node.trouble,
        boot_id=node.boot_id,
        version=node.version,
        topology=dict(node.topology),
        pools=tuple(pool_from_wire(pool) for pool in node.pools),
        stuck_commands=node.stuck_commands,
        volumes=node.volumes,
        snapshots=node.snapshots,
        replication_trouble=node.replication_trouble,
    )
