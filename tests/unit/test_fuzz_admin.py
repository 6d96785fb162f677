"""Hostile requests to every call of the admin service: meant answers, and nothing has changed.

As tests/unit/test_fuzz_csi.py does it. Behind the service is a real arbiter, so that whatever only
a person may decide is really decided when a request happens to be good.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from cluster.model import Volume
from cluster.store import RecordKind
from csi.controller.admin import AdminService
from csi.controller.admin_changes import ReplicationParts
from csi.rpc import admin_pb2 as pb
from csi.rpc import admin_pb2_grpc
from csi.server import UnixServer
from recovery.decisions import Decisions
from recovery.verification import Verification
from tests.hostile_calls import (
    hold_against_drawn,
    hold_against_swept,
    judge,
    judge_log,
    send,
    whole_log,
)
from tests.hostile_messages import Vocabulary, examples, methods_of
from tests.unit.changes_world import ChangingWorld, changing_world
from tests.unit.cluster_world import THIN, THIN_PAIR, on
from tests.unit.test_workflows_replicas import publish

EXAMPLES = int(os.environ.get("XLSS_FUZZ_EXAMPLES", "40"))
METHODS = methods_of(pb.DESCRIPTOR.services_by_name["Admin"])
ADDRESSES = {"n1": "a:1", "n2": "b:2", "n3": "c:3"}


class Standing:
    """A volume of two replicas that one node serves, a plain one, and a snapshot of that."""

    def __init__(self, world: ChangingWorld) -> None:
        self.world = world
        self.pair: Volume
        self.plain: Volume
        self.stand_up()

    def stand_up(self) -> None:
        """Make everything anew, in whatever state it has come to be."""
        world = self.world
        for one in world.volumes.list()[0]:
            for publication in one.published:
                world.volumes.unpublish(one.id, publication.node)
            world.volumes.delete(one.id)
        for cut in world.snapshots.list()[0]:
            world.snapshots.delete(cut.id)
        world.check_settled()
        for node in world.nodes.nodes.values():
            node.replicas.clear()
        self.pair = publish(world, world.create("pair", THIN_PAIR, requisite=on("n1", "n2")), "n1")
        self.plain = world.create("plain", THIN)
        self.cut = world.snapshots.create("cut", self.plain.id)
        world.eyes.look()
        self.before = self.look()

    def look(self) -> object:
        """All that is recorded, and all that is on the nodes."""
        store, nodes = self.world.store, self.world.nodes.nodes
        records = [store.list(kind)[0] for kind in RecordKind]
        return records, [
            (name, dict(node.volumes), set(node.snapshots), dict(node.replicas))
            for name, node in nodes.items()
        ]


@pytest.fixture(scope="module")
def log() -> Iterator[io.StringIO]:
    with whole_log() as stream:
        yield stream


@pytest.fixture(scope="module")
def standing(
    log: io.StringIO, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Standing, grpc.Channel]]:
    directory = tmp_path_factory.mktemp("fuzz")
    with changing_world(directory) as world:
        arbiter = world.eyes.arbiter
        parts = ReplicationParts(
            arbiter.followed,
            Decisions(world.store, world.locks, arbiter),
            Verification(world.store, world.agents, interval_seconds=0),
            world.changes,
        )
        service = AdminService(world.store, world.agents, ADDRESSES, world.reconciler, parts)
        path = directory / "csi.sock"
        server = UnixServer(
            path, [lambda server: admin_pb2_grpc.add_AdminServicer_to_server(service, server)]
        )
        with grpc.insecure_channel(f"unix:{path}") as channel:
            yield Standing(world), channel
        server.stop(0)
        service.close()


def vocabulary(standing: Standing) -> Vocabulary:
    nodes = [*ADDRESSES, "n9"]
    return Vocabulary(
        {
            "volume": lambda: ["pair", "plain", standing.pair.id, standing.plain.id],
            "volume_id": lambda: [standing.plain.id, standing.pair.id],
            "after": lambda: [standing.pair.id[:21], standing.cut.id[:21]],
            "node": nodes,
            "from_node": nodes,
            "to_node": nodes,
            "limit": [0, 1, 2],
            "count": [0, 1, 2, 3],
        }
    )


def good_requests(standing: Standing) -> dict[str, list[Message]]:
    """For every call whose requests have fields, some that would be granted."""
    force: dict[str, Any] = {"node": "n2", "accept_data_loss": True}
    return {
        "ListVolumes": [pb.ListVolumesRequest(limit=1, after=standing.pair.id[:21])],
        "GetVolume": [
            pb.GetVolumeRequest(volume="pair"),
            pb.GetVolumeRequest(volume=standing.plain.id),
        ],
        "ListSnapshots": [pb.ListSnapshotsRequest(limit=1, volume_id=standing.plain.id)],
        "FailOver": [pb.FailOverRequest(volume="pair", node="n2")],
        "ForcePrimary": [pb.ForcePrimaryRequest(volume=standing.pair.id, **force)],
        "VerifyVolume": [pb.VerifyVolumeRequest(volume="pair")],
        "SetReplicas": [
            pb.SetReplicasRequest(volume="pair", count=1),
            pb.SetReplicasRequest(volume="plain", count=2),
        ],
        "MoveReplica": [pb.MoveReplicaRequest(volume="pair", from_node="n2", to_node="n3")],
    }


def hold_against(
    world: Standing, channel: grpc.Channel, method: MethodDescriptor, request: Message | bytes
) -> None:
    answer = send(channel, method, request)
    judge(answer)
    if not answer.ok:
        assert world.look() == world.before, "a call that failed has changed something"
    elif world.look() != world.before:
        world.stand_up()


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_answer_is_meant_and_a_refusal_changes_nothing(
    method: MethodDescriptor, standing: tuple[Standing, grpc.Channel], log: io.StringIO
) -> None:
    world, channel = standing
    hold_against_drawn(
        method,
        vocabulary(world),
        good_requests(world).get(method.name, ()),
        EXAMPLES,
        lambda request: hold_against(world, channel, method, request),
    )
    judge_log(log.getvalue())


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_part_of_a_good_request_may_be_hostile(
    method: MethodDescriptor, standing: tuple[Standing, grpc.Channel], log: io.StringIO
) -> None:
    world, channel = standing
    hold_against_swept(
        lambda: good_requests(world).get(method.name, ()),
        lambda request: hold_against(world, channel, method, request),
    )
    judge_log(log.getvalue())


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_bytes_that_are_no_message_are_an_invalid_argument(
    method: MethodDescriptor, standing: tuple[Standing, grpc.Channel], log: io.StringIO
) -> None:
    world, channel = standing

    @examples(10)
    @given(st.one_of(st.binary(max_size=40), st.just(b"\x0a\x02\xc3\x28")))
    def hold(raw: bytes) -> None:
        hold_against(world, channel, method, raw)

    hold()
    judge_log(log.getvalue())


def test_what_is_granted_is_done(standing: tuple[Standing, grpc.Channel]) -> None:
    """Or the others would hold against calls that never come to do anything."""
    world, channel = standing
    shown = ("GetStatus", "ListVolumes", "GetVolume", "ListSnapshots")
    for method in METHODS:
        for number in range(len(good_requests(world).get(method.name, "."))):
            request = good_requests(world).get(method.name, [pb.GetStatusRequest()])[number]
            answer = send(channel, method, request)
            assert answer.ok, f"{method.name}: {answer.text}"
            assert (world.look() == world.before) == (method.name in shown), method.name
            world.stand_up()
