"""Hostile requests of a node's agent to the arbiter, over TLS: meant answers, and no debris.

As tests/unit/test_fuzz_csi.py does it. Most of what these calls hold is JSON, which is bent too.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from cluster.membership import Report
from cluster.memberships import Memberships
from cluster.model import to_json
from node_agent import tls
from node_agent.rpc import arbiter_pb2 as pb
from recovery.arbiter import QUESTIONS
from replication.actions import Do
from replication.record import Connection, Disk, Generations, Role, Statement, Users, View
from tests.hostile_calls import Answer, hold_against_drawn, judge, judge_log, send, whole_log
from tests.hostile_messages import Vocabulary, examples, methods_of, swept
from tests.unit.arbiter_world import BOTH, VOLUME, Controller, Wire, held, sees

EXAMPLES = int(os.environ.get("XLSS_FUZZ_EXAMPLES", "60"))
METHODS = methods_of(pb.DESCRIPTOR.services_by_name["Arbiter"])
# With a value in every field: what is the default is not written.
STATED = Statement(
    View(
        "a",
        "1",
        role=Role.PRIMARY,
        peer_role=Role.SECONDARY,
        disk=Disk.UP_TO_DATE,
        peer_disk=Disk.OUTDATED,
        connection=Connection.CONNECTING,
        suspended=True,
        face_suspended=True,
        users=Users.ALIVE,
        grant=True,
        generations=Generations("g", "f", ("e",), was_primary=True),
    ),
    1,
    3,
)
NOTED = replace(BOTH, epoch=9, quarantine="q", reports=(Report("b", BOTH),), forced="b")
NASTY: tuple[Any, ...] = (
    None,
    True,
    -1,
    1 << 63,
    10**400,
    0.5,
    float("inf"),
    "",
    "b",
    "nul\0",
    "half of a pair \ud800",
    "y" * 10_000,
    [],
    {},
    [[[]]],
    [{"node": "a"}] * 100,
)


def bent(value: Any) -> Iterator[Any]:
    """The value with one part replaced: every part, by everything nasty."""
    yield from NASTY
    if isinstance(value, dict):
        for key, part in value.items():
            yield from ({**value, key: other} for other in bent(part))
            yield {other: each for other, each in value.items() if other != key}
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from ([*value[:number], other, *value[number + 1 :]] for other in bent(part))


class Site:
    """Node a's channel to a controller, and the volume of which it has a replica."""

    def __init__(self, wire: Wire, controller: Controller, channel: grpc.Channel) -> None:
        self.wire, self.controller, self.channel = wire, controller, channel

    def hold_against(self, method: MethodDescriptor, request: Message | bytes) -> Answer:
        """Make a call where all is well, and take back what came of it."""
        store, arbiter = self.wire.store, self.controller.arbiter
        for node in ("a", "b"):
            arbiter.tell(node, {VOLUME: sees(store, node)})
        before = held(store)
        answer = send(self.channel, method, request)
        judge(answer, grpc.StatusCode.PERMISSION_DENIED)  # it speaks for another node
        after = held(store)
        if method.name != "Ask" or not answer.ok:
            assert after == before, "a call that failed, or asks for nothing, changed the record"
        elif after != before:
            Memberships(store).write(VOLUME, BOTH, after.revision)
        return answer


@pytest.fixture(scope="module")
def log() -> Iterator[io.StringIO]:
    with whole_log() as stream:
        yield stream


@pytest.fixture(scope="module")
def site(log: io.StringIO, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    wire = Wire(tmp_path_factory.mktemp("fuzz"))
    with wire.stack:
        controller = wire.controller()
        with tls.controller_channel(controller.address, wire.directory / "a") as channel:
            yield Site(wire, controller, channel)


def vocabulary() -> Vocabulary:
    return Vocabulary(
        {
            "node": ["a", "a", "a", "b", "d"],
            "what": sorted(QUESTIONS),
            "volume_id": [VOLUME],
            "noted": [to_json(BOTH), to_json(NOTED)],
        }
    )


def ask(what: str = Do.ASK_ALONE, **fields: Any) -> pb.AskRequest:
    stated = pb.Statement(volume_id=VOLUME, statement=fields.pop("statement", to_json(STATED)))
    return pb.AskRequest(node="a", what=what, statement=stated, **fields)


def good_requests() -> dict[str, list[Message]]:
    return {
        "Watch": [pb.WatchRequest(node="a")],
        "Ask": [*map(ask, sorted(QUESTIONS)), ask(Do.REPORT, noted=to_json(NOTED))],
        "Tell": [pb.TellRequest(node="a", statements=[ask().statement])],
    }


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_answer_is_meant(method: MethodDescriptor, site: Site, log: io.StringIO) -> None:
    good = good_requests()[method.name]
    hold_against_drawn(
        method, vocabulary(), good, EXAMPLES, lambda request: site.hold_against(method, request)
    )
    judge_log(log.getvalue())


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_part_of_a_good_request_may_be_hostile(
    method: MethodDescriptor, site: Site, log: io.StringIO
) -> None:
    good = good_requests()[method.name]
    assert all(site.hold_against(method, request).ok for request in good)
    # Of the questions the last one has all fields.
    for request in swept(good[-1]):
        site.hold_against(method, request)
    judge_log(log.getvalue())


def test_every_part_of_what_a_node_states_may_be_hostile(site: Site, log: io.StringIO) -> None:
    (method,) = (method for method in METHODS if method.name == "Ask")
    questions = sorted(QUESTIONS)
    for number, stated in enumerate(bent(json.loads(to_json(STATED)))):
        what = questions[number % len(questions)]
        site.hold_against(method, ask(what, statement=json.dumps(stated)))
    for noted in bent(json.loads(to_json(NOTED))):
        site.hold_against(method, ask(Do.REPORT, noted=json.dumps(noted)))
    judge_log(log.getvalue())


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_bytes_that_are_no_message_are_an_invalid_argument(
    method: MethodDescriptor, site: Site, log: io.StringIO
) -> None:
    @examples(15)
    @given(st.one_of(st.binary(max_size=40), st.just(b"\x0a\x02\xc3\x28")))
    def hold(raw: bytes) -> None:
        site.hold_against(method, raw)

    hold()
    judge_log(log.getvalue())
