"""The controller's services with their workflows, on a unix socket of a test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from cluster.agents import Health
from cluster.groups import Groups
from cluster.locks import ObjectLocks
from cluster.pools import PoolLedger
from cluster.snapshots import Snapshots
from cluster.sqlite_store import SqliteStore
from cluster.volumes import Volumes
from csi.controller.groups import GroupController
from csi.controller.service import Controller
from csi.identity import Identity
from csi.rpc import csi_pb2 as pb
from csi.rpc import csi_pb2_grpc
from csi.server import serve_controller
from tests.unit.fake_agent import FakeAgents

MIB = 1 << 20
GIB = 1 << 30
_Mode = pb.VolumeCapability.AccessMode


def capability(mode: int, filesystem: str = "") -> pb.VolumeCapability:
    return pb.VolumeCapability(mount={"fs_type": filesystem}, access_mode=_Mode(mode=mode))


MOUNT = capability(_Mode.SINGLE_NODE_WRITER)
BLOCK = pb.VolumeCapability(block={}, access_mode=_Mode(mode=_Mode.SINGLE_NODE_WRITER))


@dataclass(frozen=True)
class ControllerDriver:
    """Stubs of the services, and what is behind them."""

    stub: csi_pb2_grpc.ControllerStub
    groups: csi_pb2_grpc.GroupControllerStub
    volumes: Volumes
    agents: FakeAgents

    def create(self, name: str = "data", **fields: Any) -> str:
        """The id of a new volume of 64 MiB."""
        fields.setdefault("volume_capabilities", [MOUNT])
        fields.setdefault("capacity_range", pb.CapacityRange(required_bytes=64 * MIB))
        made = self.stub.CreateVolume(pb.CreateVolumeRequest(name=name, **fields))
        return str(made.volume.volume_id)

    def node_of(self, volume_id: str) -> str:
        return self.volumes.get(volume_id).nodes[0]

    def published(self, volume_id: str) -> list[str]:
        request = pb.ControllerGetVolumeRequest(volume_id=volume_id)
        return list(self.stub.ControllerGetVolume(request).status.published_node_ids)

    def ail(self, volume_id: str, health: Health, text: str) -> None:
        """From now on the volume's node reports this."""
        self.agents.agent(self.node_of(volume_id)).sick[volume_id] = (health, text)


@contextmanager
def controller_driver(directory: Path, **options: Any) -> Iterator[ControllerDriver]:
    agents = FakeAgents("n1", "n2")
    store = SqliteStore(directory / "store.sqlite")
    locks = ObjectLocks()
    volumes = Volumes(store, agents, PoolLedger(agents), locks)
    snapshots = Snapshots(store, agents, locks)
    groups = Groups(store, agents, locks)
    path = directory / "csi.sock"
    server = serve_controller(
        path, Identity(), Controller(volumes, snapshots, **options), GroupController(groups)
    )
    try:
        with grpc.insecure_channel(f"unix:{path}") as channel:
            yield ControllerDriver(
                csi_pb2_grpc.ControllerStub(channel),
                csi_pb2_grpc.GroupControllerStub(channel),
                volumes,
                agents,
            )
    finally:
        server.stop(0)
        store.close()
