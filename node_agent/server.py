"""The agent's gRPC service: messages in, calls of the local agent, messages out.

Errors are raised as they come; ``node_agent/interceptors.py`` maps them to codes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import grpc

from cluster.errors import DataLoss, InvalidArgument, OutOfRange
from cluster.model import Snapshot, Volume, snapshot_from_json, volume_from_json
from node_agent import tls, wire
from node_agent.agent import NodeAgent
from node_agent.config import NodeConfig
from node_agent.interceptors import Observe, ServerInterceptor
from node_agent.rpc import node_agent_pb2 as pb
from node_agent.rpc import node_agent_pb2_grpc as pb_grpc

# Time that an answer needs to reach the caller before its deadline.
_ANSWER_SECONDS = 0.5
# A call that waits for a copy or a wipe holds a worker; who repeats it finds it further on.
_LONGEST_WAIT_SECONDS = 5.0
# Many wait for LVM, which takes one command a group at a time; few work at the same moment.
_MAX_WORKERS = 32
_MAX_RECORD_BYTES = 64 << 10
# No node has more, and LVM cannot even read a size of 16 EiB and above.
_MAX_BYTES = 1 << 60

_Record = TypeVar("_Record", Volume, Snapshot)


class AgentServer:
    """Serves the agent: over mutual TLS for the controller only, or on a socket for root only."""

    def __init__(
        self, agent: NodeAgent, config: NodeConfig, *, observe: Observe | None = None
    ) -> None:
        """Raises TlsFilesError, OSError when the address is taken."""
        encrypted = not config.listen.startswith("unix:")
        self._pool = ThreadPoolExecutor(_MAX_WORKERS, thread_name_prefix="agent")
        interceptor = ServerInterceptor(
            authorize=tls.require_peer(tls.CONTROLLER) if encrypted else None,
            string_limit=_MAX_RECORD_BYTES,
            observe=observe,
        )
        self._server = grpc.server(
            self._pool, interceptors=[interceptor], options=tls.AGENT_SERVER_OPTIONS
        )
        pb_grpc.add_NodeAgentServicer_to_server(NodeAgentService(agent), self._server)
        self._bind(config, encrypted)
        self._server.start()

    def _bind(self, config: NodeConfig, encrypted: bool) -> None:
        if not encrypted:
            Path(config.listen.removeprefix("unix:")).unlink(missing_ok=True)
        # The mode of a socket has to be right from the moment of its creation, which is gRPC's own.
        former = os.umask(0o177)
        try:
            if encrypted:
                credentials = tls.server_credentials(config.tls_directory)
                self._server.add_secure_port(config.listen, credentials)
            else:
                self._server.add_insecure_port(config.listen)
        except RuntimeError as error:
            raise OSError(f"{config.listen} cannot be served: {error}") from error
        finally:
            os.umask(former)

    def stop(self, grace: float) -> None:
        """Take no more calls, let those under way end for ``grace`` seconds, then cancel them."""
        self._server.stop(grace).wait()
        self._pool.shutdown(wait=False, cancel_futures=True)


class NodeAgentService(pb_grpc.NodeAgentServicer):
    def __init__(self, agent: NodeAgent) -> None:
        self._agent = agent

    def GetInventory(
        self, request: pb.GetInventoryRequest, context: grpc.ServicerContext
    ) -> pb.Inventory:
        return wire.inventory_to_wire(self._agent.inventory())

    def GetPools(
        self, request: pb.GetPoolsRequest, context: grpc.ServicerContext
    ) -> pb.GetPoolsResponse:
        return pb.GetPoolsResponse(pools=self._pools(fresh=request.fresh))

    def GetVolume(
        self, request: pb.GetVolumeRequest, context: grpc.ServicerContext
    ) -> pb.GetVolumeResponse:
        volume = self._agent.get_volume(request.volume_id)
        return pb.GetVolumeResponse(volume=wire.volume_to_wire(volume))

    def CreateVolume(
        self, request: pb.CreateVolumeRequest, context: grpc.ServicerContext
    ) -> pb.CreateVolumeResponse:
        volume, pool = self._agent.create_volume(_volume(request), wait=_wait(context))
        return pb.CreateVolumeResponse(
            volume=wire.volume_to_wire(volume), pool=wire.pool_to_wire(pool)
        )

    def DeleteVolume(
        self, request: pb.DeleteVolumeRequest, context: grpc.ServicerContext
    ) -> pb.DeleteVolumeResponse:
        self._agent.delete_volume(request.volume_id, request.pool)
        return pb.DeleteVolumeResponse(pools=self._pools())

    def ExpandVolume(
        self, request: pb.ExpandVolumeRequest, context: grpc.ServicerContext
    ) -> pb.ExpandVolumeResponse:
        size_bytes, pool = self._agent.expand_volume(
            request.volume_id,
            _possible(request.size_bytes),
            request.limit_bytes,
            wait=_wait(context),
        )
        return pb.ExpandVolumeResponse(size_bytes=size_bytes, pool=wire.pool_to_wire(pool))

    def UpdateVolume(
        self, request: pb.UpdateVolumeRequest, context: grpc.ServicerContext
    ) -> pb.UpdateVolumeResponse:
        volume = _read(volume_from_json, request.record)
        if volume.id != request.volume_id:
            raise InvalidArgument("the record is of another volume than the request")
        return pb.UpdateVolumeResponse(pool=wire.pool_to_wire(self._agent.update_volume(volume)))

    def SetLimits(
        self, request: pb.SetLimitsRequest, context: grpc.ServicerContext
    ) -> pb.SetLimitsResponse:
        self._agent.set_limits(request.volume_id, wire.limits_from_wire(request.limits))
        return pb.SetLimitsResponse()

    def SuspendVolumes(
        self, request: pb.SuspendVolumesRequest, context: grpc.ServicerContext
    ) -> pb.SuspendVolumesResponse:
        suspension = self._agent.suspend_volumes(
            tuple(request.volume_ids), request.deadline_milliseconds / 1000
        )
        return pb.SuspendVolumesResponse(suspension=suspension)

    def ResumeVolumes(
        self, request: pb.ResumeVolumesRequest, context: grpc.ServicerContext
    ) -> pb.ResumeVolumesResponse:
        return pb.ResumeVolumesResponse(held=self._agent.resume_volumes(request.suspension))

    def CreateSnapshots(
        self, request: pb.CreateSnapshotsRequest, context: grpc.ServicerContext
    ) -> pb.CreateSnapshotsResponse:
        reports = self._agent.create_snapshots(
            tuple(map(_snapshot, request.cuts)), request.suspension
        )
        return pb.CreateSnapshotsResponse(snapshots=map(wire.snapshot_to_wire, reports))

    def DeleteSnapshots(
        self, request: pb.DeleteSnapshotsRequest, context: grpc.ServicerContext
    ) -> pb.DeleteSnapshotsResponse:
        self._agent.delete_snapshots(tuple(request.snapshot_ids), request.pool)
        return pb.DeleteSnapshotsResponse(pools=self._pools())

    def VerifyVolume(
        self, request: pb.VerifyVolumeRequest, context: grpc.ServicerContext
    ) -> pb.VerifyVolumeResponse:
        self._agent.verify_volume(request.volume_id)
        return pb.VerifyVolumeResponse()

    def _pools(self, *, fresh: bool = False) -> list[pb.Pool]:
        return [wire.pool_to_wire(pool) for pool in self._agent.pools(fresh=fresh)]


def _wait(context: grpc.ServicerContext) -> float:
    """How long a call may wait, in seconds, so that its answer still arrives."""
    remaining: float | None = context.time_remaining()  # the stubs do not know of None
    if remaining is None:
        return _LONGEST_WAIT_SECONDS
    return min(max(remaining - _ANSWER_SECONDS, 0.0), _LONGEST_WAIT_SECONDS)


def _read(reader: Callable[[str], _Record], text: str) -> _Record:
    """The record of a request: one that cannot be read is the caller's mistake, not a loss."""
    try:
        return reader(text)
    except DataLoss as error:
        raise InvalidArgument(str(error)) from error


def _volume(request: pb.CreateVolumeRequest) -> Volume:
    """The record, with what the request says besides: both have to agree."""
    volume = _read(volume_from_json, request.record)
    source = request.source_snapshot_id or request.source_volume_id
    if volume.id != request.volume_id or (volume.source.id if volume.source else "") != source:
        raise InvalidArgument("the record is of another volume than the request")
    size_bytes = _possible(request.size_bytes)
    return replace(volume, size_bytes=size_bytes, limit_bytes=request.limit_bytes)


def _possible(size_bytes: int) -> int:
    if size_bytes > _MAX_BYTES:
        raise OutOfRange(f"{size_bytes} bytes are more than any volume can have")
    return size_bytes


def _snapshot(cut: pb.Cut) -> Snapshot:
    snapshot = _read(snapshot_from_json, cut.record)
    if (snapshot.id, snapshot.volume_id) != (cut.snapshot_id, cut.volume_id):
        raise InvalidArgument("the record is of another snapshot than the request")
    return snapshot
