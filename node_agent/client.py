"""The agents over gRPC: what the workflows call, as ``cluster/agents.py`` describes it.

Every node has a channel of its own and every call a deadline, so that a node that hangs costs its
own callers that time and nobody else anything. Reads have short deadlines: they are answered from
what the agent knows or from one LVM report.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc

from cluster.agents import Inventory, PoolReport, SnapshotReport, VolumeReport
from cluster.errors import NotFound, Unavailable
from cluster.model import IoLimits, Snapshot, SourceKind, Volume, to_json
from node_agent import tls, wire
from node_agent.interceptors import Observe, ObservedChannel
from node_agent.rpc import node_agent_pb2 as pb
from node_agent.rpc import node_agent_pb2_grpc as pb_grpc

_READ_SECONDS = 10.0
_INVENTORY_SECONDS = 30.0


class GrpcAgent:
    """One node's agent (``cluster.agents.Agent``)."""

    def __init__(self, channel: ObservedChannel) -> None:
        self._stub = pb_grpc.NodeAgentStub(channel)

    def inventory(self) -> Inventory:
        answer = self._stub.GetInventory(pb.GetInventoryRequest(), timeout=_INVENTORY_SECONDS)
        return wire.inventory_from_wire(answer)

    def pools(self, *, fresh: bool) -> tuple[PoolReport, ...]:
        answer = self._stub.GetPools(pb.GetPoolsRequest(fresh=fresh), timeout=_READ_SECONDS)
        return tuple(wire.pool_from_wire(pool) for pool in answer.pools)

    def get_volume(self, volume_id: str) -> VolumeReport:
        request = pb.GetVolumeRequest(volume_id=volume_id)
        return wire.volume_from_wire(self._stub.GetVolume(request, timeout=_READ_SECONDS).volume)

    def create_volume(self, volume: Volume) -> tuple[VolumeReport, PoolReport]:
        source = volume.source
        request = pb.CreateVolumeRequest(
            volume_id=volume.id,
            size_bytes=volume.size_bytes,
            limit_bytes=volume.limit_bytes,
            record=to_json(volume),
            source_snapshot_id=source.id if source and source.kind is SourceKind.SNAPSHOT else "",
            source_volume_id=source.id if source and source.kind is SourceKind.VOLUME else "",
        )
        answer = self._stub.CreateVolume(request)
        return wire.volume_from_wire(answer.volume), wire.pool_from_wire(answer.pool)

    def delete_volume(self, volume_id: str, pool: str = "") -> None:
        request = pb.DeleteVolumeRequest(volume_id=volume_id, pool=pool)
        self._stub.DeleteVolume(request)

    def expand_volume(
        self, volume_id: str, size_bytes: int, limit_bytes: int
    ) -> tuple[int, PoolReport]:
        request = pb.ExpandVolumeRequest(
            volume_id=volume_id, size_bytes=size_bytes, limit_bytes=limit_bytes
        )
        answer = self._stub.ExpandVolume(request)
        return answer.size_bytes, wire.pool_from_wire(answer.pool)

    def update_volume(self, volume: Volume) -> PoolReport:
        request = pb.UpdateVolumeRequest(volume_id=volume.id, record=to_json(volume))
        return wire.pool_from_wire(self._stub.UpdateVolume(request).pool)

    def set_limits(self, volume_id: str, limits: IoLimits) -> None:
        request = pb.SetLimitsRequest(volume_id=volume_id, limits=wire.limits_to_wire(limits))
        self._stub.SetLimits(request)

    def suspend_volumes(self, volume_ids: Sequence[str], deadline: float) -> str:
        request = pb.SuspendVolumesRequest(
            volume_ids=volume_ids, deadline_milliseconds=round(deadline * 1000)
        )
        suspension: str = self._stub.SuspendVolumes(request).suspension
        return suspension

    def resume_volumes(self, suspension: str) -> bool:
        request = pb.ResumeVolumesRequest(suspension=suspension)
        held: bool = self._stub.ResumeVolumes(request).held
        return held

    def create_snapshots(
        self, snapshots: Sequence[Snapshot], suspension: str = ""
    ) -> tuple[SnapshotReport, ...]:
        cuts = [
            pb.Cut(snapshot_id=snapshot.id, volume_id=snapshot.volume_id, record=to_json(snapshot))
            for snapshot in snapshots
        ]
        request = pb.CreateSnapshotsRequest(cuts=cuts, suspension=suspension)
        answer = self._stub.CreateSnapshots(request)
        return tuple(wire.snapshot_from_wire(snapshot) for snapshot in answer.snapshots)

    def delete_snapshots(self, snapshot_ids: Sequence[str], pool: str = "") -> None:
        request = pb.DeleteSnapshotsRequest(snapshot_ids=snapshot_ids, pool=pool)
        self._stub.DeleteSnapshots(request)

    def verify_volume(self, volume_id: str) -> None:
        self._stub.VerifyVolume(pb.VerifyVolumeRequest(volume_id=volume_id))


class GrpcAgents:
    """All configured nodes (``cluster.agents.Agents``)."""

    def __init__(
        self,
        nodes: Mapping[str, str],
        tls_directory: Path,
        *,
        call_seconds: float,
        observe: Observe | None = None,
    ) -> None:
        """``nodes`` has an address for each name: ``host:port``, or ``unix:<path>`` without TLS.

        ``call_seconds`` is the deadline of calls that change something. Nothing is connected yet.
        """
        self._silent: Callable[[str], None] = lambda node: None
        self._nodes = {
            name: _Node(
                name,
                address,
                tls_directory,
                deadline=call_seconds,
                observe=observe,
                silent=functools.partial(self._tell, name),
            )
            for name, address in nodes.items()
        }

    def tell_of_silence(self, silent: Callable[[str], None]) -> None:
        """``silent`` gets the node of each call that its agent has not answered."""
        self._silent = silent

    def _tell(self, node: str) -> None:
        self._silent(node)

    def names(self) -> tuple[str, ...]:
        return tuple(self._nodes)

    def agent(self, node: str) -> GrpcAgent:
        """Raises NotFound, and Unavailable while our certificates cannot be read."""
        found = self._nodes.get(node)
        if found is None:
            raise NotFound(f"node {node[:64]!r} is not among the configured ones")
        return found.agent()

    def close(self) -> None:
        for node in self._nodes.values():
            node.close()


class _Node:
    """The channel to one node, made at first use and anew when our certificate was renewed."""

    def __init__(self, name: str, address: str, directory: Path, **options: Any) -> None:
        """``options`` are those of its ``ObservedChannel``."""
        self._name = name
        self._address = address
        self._directory = directory
        self._options = options
        self._mutex = threading.Lock()
        self._channel: ObservedChannel | None = None
        self._agent: GrpcAgent | None = None
        self._version: tuple[int, ...] = ()
        self._closed = False

    def agent(self) -> GrpcAgent:
        encrypted = not self._address.startswith("unix:")
        with self._mutex:
            if self._closed:  # whoever goes on now must not hold up the end of the process
                raise Unavailable(f"node {self._name}: the connection was closed")
            version = tls.version(self._directory) if encrypted else ()
            if self._agent is None or version != self._version:
                channel = ObservedChannel(
                    self._connect(encrypted), f"node {self._name}", **self._options
                )
                # The former channel is closed when its last call has ended and let go of it.
                self._channel, self._version = channel, version
                self._agent = GrpcAgent(channel)
            return self._agent

    def _connect(self, encrypted: bool) -> grpc.Channel:
        if not encrypted:
            return grpc.insecure_channel(self._address, options=tls.AGENT_CHANNEL_OPTIONS)
        try:
            return tls.agent_channel(self._address, self._name, self._directory)
        except tls.TlsFilesError as error:
            raise Unavailable(f"cannot call node {self._name}: {error}") from error

    def close(self) -> None:
        with self._mutex:
            if self._channel is not None:
                self._channel.close()
            self._channel = self._agent = None
            self._closed = True
