"""An `xlss node` alone in a lab node, for tests of the agent and of the Node service."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from cluster.errors import Busy, Unavailable
from cluster.identifiers import Kind, new_id
from cluster.model import (
    AccessType,
    IoLimits,
    Layout,
    Phase,
    Provision,
    Snapshot,
    Source,
    SourceKind,
    Volume,
    VolumeSpec,
    to_json,
)
from csi.rpc import csi_pb2 as pb
from lab.csi_client import MODES, NodeClient, block, mount
from lab.paths import PYTHON
from node_agent import tls
from node_agent.client import GrpcAgent
from node_agent.interceptors import ObservedChannel
from node_agent.rpc import node_agent_pb2 as pb_agent
from node_agent.rpc.node_agent_pb2_grpc import NodeAgentStub
from tests.lab.calls import remains_of

if TYPE_CHECKING:
    from lab.guest_process import GuestProcess
    from lab.node import Node

CSI_SOCKET = "/run/xlss/csi.sock"
AGENT_SOCKET = "/run/xlss/agent.sock"
CONFIG = "/run/node.toml"
_STARTING_SECONDS = 60.0
MIB = 1 << 20
LINEAR, UNLIMITED = Layout(), IoLimits()

T = TypeVar("T")


class AgentNode:
    """The process, and both of its interfaces as a client on the host sees them."""

    def __init__(
        self, node: Node, *, pools: str, settings: str = "", call_seconds: float = 60.0
    ) -> None:
        """``pools`` and ``settings`` are TOML; addresses are set here."""
        self.node = node
        self.csi = NodeClient(node.grpc_target(CSI_SOCKET))
        channel = grpc.insecure_channel(
            node.grpc_target(AGENT_SOCKET), options=tls.AGENT_CHANNEL_OPTIONS
        )
        self._channel = ObservedChannel(channel, node.name, deadline=call_seconds)
        self.agent = GrpcAgent(self._channel)
        self._config = (
            f"name = {json.dumps(node.name)}\n"
            f'listen = "unix:{AGENT_SOCKET}"\ncsi_socket = "{CSI_SOCKET}"\nmetrics_listen = ""\n'
            f"{settings}\n{pools}"
        )
        self._process: GuestProcess | None = None
        self._threads = ThreadPoolExecutor(4)
        self._remains = remains_of(node)

    def start(self) -> None:
        self.node.put(CONFIG, self._config.encode())
        argv = [str(PYTHON), "-m", "cli.main", "node", "--config", CONFIG]
        self._process = self.node.spawn(argv, log="/run/xlss-node.log")
        until = time.monotonic() + _STARTING_SECONDS
        while not self.csi.probe():
            assert self._process.alive, self._process.log()
            assert time.monotonic() < until, self._process.log()
            time.sleep(0.05)

    def create(
        self,
        name: str = "data",
        size: int = 64 * MIB,
        *,
        provision: Provision = Provision.THIN,
        filesystem: str = "ext4",
        access: AccessType = AccessType.MOUNT,
        encrypted: bool = False,
        layout: Layout = LINEAR,
        limits: IoLimits = UNLIMITED,
        source: Served | Snapshot | None = None,
        wait: bool = True,
        pool: str = "default",
    ) -> Served:
        """A volume; the encrypted one with its key. Without ``wait`` it is not asked for yet."""
        spec = VolumeSpec(
            pool=pool,
            provision=provision,
            layout=layout,
            access=access,
            filesystem=filesystem if access is AccessType.MOUNT else "",
            encrypted=encrypted,
        )
        wanted = Volume(
            id=new_id(Kind.VOLUME, name),
            name=name,
            size_bytes=size,
            spec=spec,
            phase=Phase.CREATING,
            nodes=(self.node.name,),
            limits=limits,
            source=_source(source),
        )
        if wait:
            until_done(lambda: self.agent.create_volume(wanted))
        return Served(self, wanted, {"encryptionKey": "correct horse"} if encrypted else {})

    def spawn_create(self, name: str, **options: Any) -> Future[object]:
        """Ask for a volume in a thread: for what is expected to take its time or to fail."""
        wanted = self.create(name, wait=False, **options).record
        return self._threads.submit(self.agent.create_volume, wanted)

    def when_open(self, pool: str) -> None:
        """Wait until a pool works."""
        while any(one.trouble for one in self.agent.pools(fresh=True) if one.name == pool):
            time.sleep(0.2)

    def progress(self, wanted: Volume) -> str:
        """Ask for it with a short deadline, until the answer is how far its copy is; or "done"."""
        request = pb_agent.CreateVolumeRequest(
            volume_id=wanted.id,
            size_bytes=wanted.size_bytes,
            record=to_json(wanted),
            source_snapshot_id=_id_of(wanted, SourceKind.SNAPSHOT),
            source_volume_id=_id_of(wanted, SourceKind.VOLUME),
        )
        while True:
            try:
                NodeAgentStub(self._channel).CreateVolume(request, timeout=3)
            except (Unavailable, Busy) as error:  # Busy: with a request that was given up
                if "copy of" in str(error):
                    return str(error)
            else:
                return "done"

    def snapshot(self, *volumes: Served, wait: bool = True) -> list[Snapshot]:
        """Snapshots of all of them, cut together. Without ``wait`` it is asked for once."""
        wanted = [
            Snapshot(
                id=new_id(Kind.SNAPSHOT, volume.id),
                name=volume.id,
                volume_id=volume.id,
                size_bytes=volume.record.size_bytes,
                spec=volume.record.spec,
                phase=Phase.CREATING,
                nodes=(self.node.name,),
            )
            for volume in volumes
        ]
        if wait:
            until_done(lambda: self.agent.create_snapshots(wanted))
        else:
            self.agent.create_snapshots(wanted)
        return wanted

    def wipe_clean(self) -> None:
        """Take everything down and delete it; nothing may be left then."""
        mounts = [line.split()[4] for line in self._remains.call()["mounts"]]
        for path in reversed(mounts):
            self.node.run(["umount", "-l", path])
        self.node.sh("rm -rf --one-file-system /run/xlss/targets/* /var/lib/kubelet")
        inventory = self.agent.inventory()
        # Half-made copies first: they read the snapshots, on which thick volumes depend.
        for half_made in (volume for volume in inventory.volumes if not volume.complete):
            self.agent.delete_volume(half_made.id)
        self.agent.delete_snapshots([snapshot.id for snapshot in inventory.snapshots])
        for volume in inventory.volumes:
            self.agent.delete_volume(volume.id)
        left = self._remains.call()
        assert [row[0] for row in left["logical volumes"]] == ["thin"], left
        assert not [name for name, _ in left["devices"] if name.startswith("xlss-")], left

    @property
    def process(self) -> GuestProcess:
        assert self._process is not None
        return self._process

    def kill(self) -> None:
        """SIGKILL, as a crash."""
        self.process.kill()

    def restart(self) -> None:
        self.kill()
        self.start()

    def close(self) -> None:
        self._threads.shutdown()
        self.csi.close()
        self._channel.close()


@dataclass
class Served:
    """A volume on such a node, with its paths as kubelet has them."""

    home: AgentNode
    record: Volume
    secrets: Mapping[str, str] = field(default_factory=dict)
    pod: str = "4a8a7b3e-7f0c-4a52-b37f-0c9c4f6f6b5e"

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def staging(self) -> str:
        return f"/var/lib/kubelet/staging/{self.id}"

    @property
    def target(self) -> str:
        return f"/var/lib/kubelet/pods/{self.pod}/volumes/kubernetes.io~csi/{self.id}/mount"

    @property
    def top(self) -> str:
        return f"/dev/mapper/xlss-{'crypt-' if self.record.spec.encrypted else ''}{self.id}"

    @property
    def logical(self) -> str:
        group = "vg0" if self.record.spec.pool == "default" else "vg1"
        return f"/dev/{group}/vol-{self.id}"

    def capability(self, mode: str = "SINGLE_NODE_WRITER", **options: Any) -> pb.VolumeCapability:
        number = MODES.Mode.Value(mode)
        if self.record.spec.access is AccessType.BLOCK:
            return block(mode=number)
        return mount(mode=number, **options)

    def stage(self, **options: Any) -> None:
        self.home.node.run(["mkdir", "-p", self.staging])
        self.home.csi.stage(
            pb.Volume(volume_id=self.id),
            self.staging,
            self.capability(**options),
            secrets=self.secrets,
        )

    def publish(
        self, target: str = "", *, readonly: bool = False, context: Any = None, **options: Any
    ) -> None:
        path = target or self.target
        self.home.node.run(["mkdir", "-p", path.rpartition("/")[0]])
        self.home.csi.publish(
            pb.Volume(volume_id=self.id),
            self.staging,
            path,
            self.capability(**options),
            readonly=readonly,
            context=context,
        )

    def unpublish(self, target: str = "") -> None:
        self.home.csi.unpublish(self.id, target or self.target)

    def unstage(self) -> None:
        self.home.csi.unstage(self.id, self.staging)

    def serve(self) -> Served:
        self.stage()
        self.publish()
        return self

    def withdraw(self) -> Served:
        self.unpublish()
        self.unstage()
        return self

    def write(self, text: str, name: str = "file") -> None:
        """Write and fsync."""
        path = self.target if self.record.spec.access is AccessType.BLOCK else self.path(name)
        self.home.node.run(
            ["dd", f"of={path}", "conv=fsync,notrunc", "status=none"], input=text.encode()
        )

    def read(self, name: str = "file") -> str:
        return self.home.node.run(["cat", self.path(name)]).text

    def path(self, name: str) -> str:
        return f"{self.target}/{name}"

    def expand(self, size: int) -> int:
        """Both halves, as the controller and kubelet ask for them."""
        self.home.agent.expand_volume(self.id, size, 0)
        return self.home.csi.expand(self.id, self.target, size, staging=self.staging)

    def state(self) -> str:
        tags = self.home.node.run(["lvs", "--noheadings", "-o", "tags", self.logical]).text
        return tags.partition("xlss.state=")[2].partition(",")[0].strip()


def until_done(call: Callable[[], T]) -> T:
    """Repeat while a long copy or wipe goes on, as the controller does."""
    while True:
        try:
            return call()
        except Unavailable:
            time.sleep(0.1)


def _source(source: Served | Snapshot | None) -> Source | None:
    if source is None:
        return None
    if isinstance(source, Snapshot):
        return Source(SourceKind.SNAPSHOT, source.id)
    return Source(SourceKind.VOLUME, source.id)


def _id_of(volume: Volume, kind: SourceKind) -> str:
    return volume.source.id if volume.source and volume.source.kind is kind else ""
