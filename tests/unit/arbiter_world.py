"""A replicated volume in a store, what its nodes see, and controllers that answer for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import grpc

from cluster.identifiers import Kind, new_id
from cluster.membership import Boot, Held, Membership
from cluster.memberships import Memberships
from cluster.model import Phase, ReplicaPlace, Replication, Volume, VolumeSpec
from cluster.records import volume_table
from cluster.sqlite_store import SqliteStore
from node_agent import certificates, tls
from node_agent.arbiter_client import ArbiterClient
from node_agent.replication_key import ReplicationKey
from node_agent.rpc import arbiter_pb2_grpc
from recovery.arbiter import Arbiter
from recovery.arbiter_service import ArbiterServer
from replication.record import Connection, Disk, Generations, Statement, View

VOLUME = new_id(Kind.VOLUME, "data")
PLACES = (ReplicaPlace("a", 0, "10.0.0.1"), ReplicaPlace("b", 1, "10.0.0.2"))
REPLICATION = Replication(1000, 7800, "0123456789abcdee", PLACES)
BOTH = Membership(
    ("a", "b"),
    ("a", "b"),
    primary="a",
    active="a",
    epoch=3,
    generation="g",
    boots=(Boot("a", "1"), Boot("b", "1")),
)


def add_volume(store: SqliteStore, volume_id: str, record: Membership | None = None) -> None:
    """A volume with replicas on a and b, and its membership record if there is one."""
    spec = VolumeSpec("default", replicas=2)
    volume_table(store).create(
        Volume(volume_id, "data", 1 << 26, spec, Phase.READY, ("a", "b"), replication=REPLICATION)
    )
    if record is not None:
        Memberships(store).create(volume_id, record)


def held(store: SqliteStore) -> Held:
    found = Memberships(store).find(VOLUME)
    assert found is not None
    return found


def sees(store: SqliteStore, node: str, **view: object) -> Statement:
    """Connected and complete, but for what is given."""
    seen = View(
        node,
        "1",
        disk=Disk.UP_TO_DATE,
        peer_disk=Disk.UP_TO_DATE,
        connection=Connection.CONNECTED,
        generations=Generations("g"),
    )
    now = held(store)
    return Statement(replace(seen, **view), now.revision, now.record.epoch)  # type: ignore[arg-type]


def alone(store: SqliteStore, node: str) -> Statement:
    return sees(store, node, connection=Connection.STANDALONE, peer_disk=Disk.UNKNOWN)


def until(right: Callable[[], object]) -> None:
    """Return when it is so; fails when it has not become so in far more time than it takes."""
    end = time.monotonic() + 30
    while not right():
        assert time.monotonic() < end
        time.sleep(0.01)


class Controller:
    """What of a controller process answers agents."""

    def __init__(self, store: SqliteStore, files: Path, port: int = 0) -> None:
        self.arbiter = Arbiter(store, ReplicationKey(files).secret, gather_seconds=0.0)
        self.arbiter.start()
        nodes = ("a", "b", "c")
        self.server = ArbiterServer(self.arbiter, nodes, f"127.0.0.1:{port}", files)
        self._stopped = False

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.port}"

    def stated(self) -> dict[str, Statement]:
        """What it knows of the volume, by node."""
        found = self.arbiter.followed.unsettled(("a", "b"))
        return dict(next((one.statements for one in found if one.volume_id == VOLUME), {}))

    def stop(self) -> None:
        if not self._stopped:
            self._stopped = True
            self.server.stop(5.0)
            self.arbiter.stop()


class Wire:
    """Certificates of a controller and the nodes a, b, c; a store; what is started ends with it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        authority = directory / "authority"
        certificates.init(directory)
        for node in ("a", "b", "c"):
            certificates.issue_node(authority, directory / node, node)
        self.store = SqliteStore(directory / "store.sqlite")
        add_volume(self.store, VOLUME, BOTH)
        self.stack = ExitStack()
        self.stack.callback(self.store.close)

    @property
    def secret(self) -> str:
        return ReplicationKey(self.directory / "controller").secret(VOLUME)

    def controller(self, port: int = 0, files: str = "controller") -> Controller:
        controller = Controller(self.store, self.directory / files, port)
        self.stack.callback(controller.stop)
        return controller

    def client(self, node: str, *addresses: str) -> ArbiterClient:
        client = ArbiterClient(node, addresses, self.directory / node)
        client.start()
        self.stack.callback(client.stop)
        return client

    @contextmanager
    def stub(self, controller: Controller, files: str) -> Iterator[arbiter_pb2_grpc.ArbiterStub]:
        with tls.controller_channel(controller.address, self.directory / files) as channel:
            yield arbiter_pb2_grpc.ArbiterStub(channel)


def code_of(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    """The code and the text with which it is refused."""
    try:
        answer = call()
    except grpc.RpcError as error:
        return error.code(), error.details()
    raise AssertionError(f"was not refused, but answered {answer}")
