"""The arbiter's port: what a node is told, what it may ask, and what is refused."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from cluster.identifiers import Kind, new_id
from cluster.membership import Membership
from cluster.model import from_json, to_json
from node_agent import certificates
from node_agent.rpc import arbiter_pb2 as pb
from replication.actions import Do
from replication.record import Statement
from tests.unit.arbiter_world import (
    BOTH,
    VOLUME,
    Controller,
    Wire,
    add_volume,
    alone,
    code_of,
    held,
    sees,
)

_Code = grpc.StatusCode


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[Wire]:
    wire = Wire(tmp_path)
    with wire.stack:
        yield wire


@pytest.fixture
def controller(wire: Wire) -> Controller:
    return wire.controller()


def statement(stated: Statement, volume_id: str = VOLUME) -> pb.Statement:
    return pb.Statement(volume_id=volume_id, statement=to_json(stated))


def question(wire: Wire, node: str, what: str = Do.ASK_ALONE, **fields: str) -> pb.AskRequest:
    return pb.AskRequest(
        node=node, what=what, statement=statement(alone(wire.store, node)), **fields
    )


def test_a_node_is_told_everything_then_changes_and_heartbeats(
    wire: Wire, controller: Controller
) -> None:
    with wire.stub(controller, "b") as b, wire.stub(controller, "a") as a:
        told = b.Watch(pb.WatchRequest(node="b"))
        first = next(told)
        assert first.complete and not first.gone
        (assignment,) = first.assignments
        assert from_json(Membership, assignment.record) == BOTH
        assert assignment.revision == held(wire.store).revision
        assert assignment.secret == wire.secret

        stated = sees(wire.store, "a")
        a.Tell(pb.TellRequest(node="a", statements=[statement(stated)]))
        while not (message := next(told)).assignments:
            pass
        assert from_json(Statement, message.assignments[0].peer) == stated
        assert not message.complete
        assert next(told) == pb.WatchResponse()


def test_a_node_without_volumes_is_told_so(wire: Wire, controller: Controller) -> None:
    with wire.stub(controller, "c") as c:
        assert next(c.Watch(pb.WatchRequest(node="c"))) == pb.WatchResponse(complete=True)


def test_many_assignments_come_in_parts(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recovery.arbiter_service._ASSIGNMENTS_A_MESSAGE", 2)
    volumes = {VOLUME, *(new_id(Kind.VOLUME, f"data-{i}") for i in range(4))}
    for volume_id in volumes - {VOLUME}:
        add_volume(wire.store, volume_id, BOTH)
    with wire.stub(wire.controller(), "a") as a:
        told = a.Watch(pb.WatchRequest(node="a"))
        parts = [next(told) for _ in range(3)]
    assert [len(part.assignments) for part in parts] == [2, 2, 1]
    assert [part.complete for part in parts] == [False, False, True]
    assert {one.volume_id for part in parts for one in part.assignments} == volumes


def test_a_newer_stream_of_a_node_ends_its_former_one(wire: Wire, controller: Controller) -> None:
    with wire.stub(controller, "a") as a:
        older = a.Watch(pb.WatchRequest(node="a"))
        assert next(older).complete
        newer = a.Watch(pb.WatchRequest(node="a"))
        assert next(newer).complete
        assert all(message == pb.WatchResponse() for message in older)
        assert next(newer) == pb.WatchResponse()


def test_all_streams_end_with_the_server(wire: Wire, controller: Controller) -> None:
    with wire.stub(controller, "a") as a, wire.stub(controller, "b") as b:
        streams = [one.Watch(pb.WatchRequest(node=node)) for one, node in ((a, "a"), (b, "b"))]
        assert all(next(stream).complete for stream in streams)
        # Were they not ended, this would take all of its grace.
        controller.server.stop(3600.0)
        for stream in streams:
            assert [message for message in stream if message.complete] == []
        assert code_of(lambda: a.Ask(question(wire, "a")))[0] is _Code.UNAVAILABLE


def test_what_is_asked_is_answered_by_the_rules(wire: Wire, controller: Controller) -> None:
    with wire.stub(controller, "a") as a, wire.stub(controller, "b") as b:
        refused = b.Ask(question(wire, "b"))
        assert not refused.granted and "published on a" in refused.reason
        assert from_json(Membership, refused.record) == BOTH

        granted = a.Ask(question(wire, "a"))
        assert granted.granted
        assert from_json(Membership, granted.record) == held(wire.store).record
        assert granted.revision == held(wire.store).revision
        assert held(wire.store).record.members == ("a",)

        other = question(wire, "a")
        other.statement.volume_id = new_id(Kind.VOLUME, "other")
        code, text = code_of(lambda: a.Ask(other))
        assert code is _Code.NOT_FOUND and "no membership record" in text


def test_a_node_reports_the_newer_record_that_it_has_seen(
    wire: Wire, controller: Controller
) -> None:
    newer = to_json(replace(BOTH, epoch=9, primary="b"))
    with wire.stub(controller, "b") as b, wire.stub(controller, "c") as c:
        code, text = code_of(lambda: c.Ask(question(wire, "c", Do.REPORT, noted=newer)))
        assert code is _Code.FAILED_PRECONDITION and "c has no replica" in text
        assert b.Ask(question(wire, "b", Do.REPORT, noted=newer)).granted
    assert "older than what its nodes have seen" in held(wire.store).record.quarantine


def test_a_node_speaks_for_itself_only(wire: Wire, controller: Controller) -> None:
    before = held(wire.store)
    of_a = statement(alone(wire.store, "a"))
    mixed = pb.AskRequest(node="b", what=Do.ASK_ALONE, statement=of_a)
    with wire.stub(controller, "b") as b:
        for call in (
            lambda: next(b.Watch(pb.WatchRequest(node="a"))),
            lambda: b.Ask(question(wire, "a")),
            lambda: b.Ask(mixed),
            lambda: b.Tell(pb.TellRequest(node="a", statements=[of_a])),
            lambda: b.Tell(pb.TellRequest(node="b", statements=[of_a])),
        ):
            code, text = code_of(call)
            assert code is _Code.PERMISSION_DENIED
            assert "a node speaks for itself only" in text
    assert held(wire.store) == before
    assert controller.stated() == {} and not controller.arbiter.followed._heard


def test_who_is_no_node_of_ours_is_not_served(wire: Wire, controller: Controller) -> None:
    def watched(files: str, node: str) -> tuple[grpc.StatusCode, str]:
        with wire.stub(controller, files) as stub:
            return code_of(lambda: next(stub.Watch(pb.WatchRequest(node=node))))

    assert watched("controller", "a")[0] is _Code.PERMISSION_DENIED
    certificates.issue_node(wire.directory / "authority", wire.directory / "d", "d")
    code, text = watched("d", "d")
    assert code is _Code.INVALID_ARGUMENT and "not in this controller's [nodes]" in text

    certificates.make_authority(wire.directory / "foreign")
    certificates.issue_node(wire.directory / "foreign", wire.directory / "a", "a")
    (wire.directory / "a/ca.crt").write_bytes((wire.directory / "b/ca.crt").read_bytes())
    assert watched("a", "a")[0] is _Code.UNAVAILABLE


GOOD = '{"view":{"node":"a","boot_id":"1"},"revision":1,"epoch":1}'
REPORT = '{"members":[],"replicas":[],"reports":[{"node":"a","record":'
NESTED = REPORT * 250 + "null" + "}]}" * 250


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"node": ""}, "cannot be the name of a node"),
        ({"node": "../a"}, "cannot be the name of a node"),
        ({"what": ""}, "is no question to an arbiter"),
        ({"what": "ask-for-the-moon"}, "is no question to an arbiter"),
        ({"what": "promote"}, "is no question to an arbiter"),
        ({"volume_id": ""}, "is not an identifier"),
        ({"volume_id": "../../etc"}, "is not an identifier"),
        ({"statement": ""}, "statement: record is not JSON"),
        ({"statement": "{"}, "statement: record is not JSON"),
        ({"statement": "[" * 50_000}, "statement: record is not JSON"),
        ({"statement": "[]"}, "statement: statement record cannot be read"),
        ({"statement": '{"view":{"node":"a"}}'}, "boot_id is missing"),
        ({"statement": GOOD.replace('"epoch":1', '"epoch":"1"')}, "not of the expected type"),
        ({"statement": GOOD.replace('"epoch":1', '"epoch":' + "9" * 5000)}, "is not JSON"),
        ({"statement": GOOD.replace('"1"', '"\\ud800"')}, "cannot be printed"),
        ({"statement": GOOD.replace('"1"', '"\\u0000"')}, "cannot be printed"),
        ({"statement": GOOD.replace('"1"', '"1\\nfake"')}, "cannot be printed"),
        ({"statement": GOOD.replace('"1"', f'"{"1" * 70_000}"')}, "statement is longer than"),
        ({"noted": "{}"}, "noted: membership record cannot be read"),
        ({"noted": REPORT * 800}, "noted: record is not JSON"),
        ({"noted": NESTED}, "noted: membership record is nested too deep"),
        ({"what": "ask-alone", "noted": to_json(BOTH)}, "noted is for report only"),
    ],
    ids=range(22),
)
def test_a_malformed_question_is_refused_and_does_nothing(
    wire: Wire,
    controller: Controller,
    caplog: pytest.LogCaptureFixture,
    fields: dict[str, str],
    complaint: str,
) -> None:
    with wire.stub(controller, "a") as a:
        request = pb.AskRequest(
            node=fields.get("node", "a"),
            what=fields.get("what", "report"),
            statement=pb.Statement(
                volume_id=fields.get("volume_id", VOLUME), statement=fields.get("statement", GOOD)
            ),
            noted=fields.get("noted", ""),
        )
        before = held(wire.store)
        code, text = code_of(lambda: a.Ask(request))
        if fields.get("node") is None:
            assert code is _Code.INVALID_ARGUMENT
            told = pb.TellRequest(node="a", statements=[statement(alone(wire.store, "a"))])
            told.statements.append(request.statement)
            if {"volume_id", "statement"} & fields.keys():
                assert code_of(lambda: a.Tell(told))[0] is _Code.INVALID_ARGUMENT
    assert code is _Code.INVALID_ARGUMENT and complaint in text, text
    assert held(wire.store) == before
    assert controller.stated() == {}
    assert [record for record in caplog.records if record.exc_info] == []


def test_the_secret_is_in_no_log(
    wire: Wire, controller: Controller, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    client = wire.client("a", controller.address)
    while not client.assignments():
        pass
    assignments = client.assignments()
    client.ask(Do.ASK_ALONE, VOLUME, alone(wire.store, "a"))
    client.stop()
    assert assignments is not None and assignments[VOLUME].secret == wire.secret
    shown = [json.dumps(vars(record), default=repr) for record in caplog.records]
    assert any("Ask ends" in line for line in shown)
    assert [line for line in shown if wire.secret in line] == []
    assert wire.secret not in repr(assignments)
