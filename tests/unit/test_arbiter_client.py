"""An agent's way to its arbiter: one of several controllers, over real connections."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from cluster.errors import InvalidArgument, NotFound, Refused, Unavailable
from cluster.identifiers import Kind, new_id
from cluster.memberships import Memberships
from cluster.model import to_json
from node_agent import certificates, tls
from node_agent.arbiter_client import ArbiterClient
from node_agent.rpc import arbiter_pb2 as pb
from node_agent.rpc import arbiter_pb2_grpc as pb_grpc
from replication.actions import Do
from replication.record import Statement
from tests.unit.arbiter_world import (
    BOTH,
    REPLICATION,
    VOLUME,
    Controller,
    Wire,
    add_volume,
    alone,
    held,
    sees,
    until,
)


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[Wire]:
    wire = Wire(tmp_path)
    with wire.stack:
        yield wire


def nowhere() -> str:
    """An address at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def grpc_server() -> Iterator[grpc.Server]:
    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool)
        try:
            yield server
        finally:
            server.stop(None).wait()


def test_it_has_the_assignments_as_they_are(wire: Wire) -> None:
    controller = wire.controller()
    client = wire.client("b", controller.address)
    until(client.assignments)
    (assignment,) = (client.assignments() or {}).values()
    assert assignment.held == held(wire.store)
    assert (assignment.replication, assignment.secret) == (REPLICATION, wire.secret)
    assert assignment.peer is None and not assignment.go_alone

    stated = sees(wire.store, "a")
    controller.arbiter.tell("a", {VOLUME: stated})
    until(lambda: (client.assignments() or {})[VOLUME].peer == stated)
    other = new_id(Kind.VOLUME, "other")
    add_volume(wire.store, other, BOTH)
    until(lambda: (client.assignments() or {}).keys() == {VOLUME, other})
    Memberships(wire.store).delete(VOLUME)
    until(lambda: (client.assignments() or {}).keys() == {other})


def test_whoever_wants_to_know_is_told_of_every_change_at_once(wire: Wire) -> None:
    controller = wire.controller()
    seen: list[object] = []
    client = ArbiterClient("b", [controller.address], wire.directory / "b")
    client.notify(lambda: seen.append(client.assignments()))
    client.start()
    wire.stack.callback(client.stop)
    until(lambda: len(seen) == 1)
    controller.arbiter.tell("a", {VOLUME: sees(wire.store, "a")})
    until(lambda: len(seen) == 2)
    controller.stop()
    until(lambda: len(seen) == 3)
    assert [known is not None for known in seen] == [True, True, False]


def test_what_it_asks_is_answered_or_refused(wire: Wire) -> None:
    controller = wire.controller()
    a, b, c = (wire.client(node, controller.address) for node in ("a", "b", "c"))
    for client in (a, b, c):
        until(lambda client=client: client.assignments() is not None)
    asked = alone(wire.store, "a")
    refused = b.ask(Do.ASK_ALONE, VOLUME, alone(wire.store, "b"), BOTH)
    assert not refused.granted and refused.held == held(wire.store)
    assert "published on a" in refused.reason
    granted = a.ask(Do.ASK_ALONE, VOLUME, asked)
    assert granted.granted and granted.held == held(wire.store)
    assert not a.ask(Do.ASK_ALONE, VOLUME, asked).granted
    until(lambda: (a.assignments() or {})[VOLUME].held == granted.held)

    assert c.assignments() == {}
    with pytest.raises(Refused, match="c has no replica"):
        c.ask(Do.REPORT, VOLUME, alone(wire.store, "c"), replace(BOTH, epoch=99))
    with pytest.raises(NotFound):
        a.ask(Do.ASK_LEAVE, new_id(Kind.VOLUME, "other"), asked)
    with pytest.raises(InvalidArgument, match="is no question"):
        a.ask(Do.PROMOTE, VOLUME, asked)
    newer = replace(BOTH, epoch=9)
    assert b.ask(Do.REPORT, VOLUME, alone(wire.store, "b"), newer).granted
    assert held(wire.store).record.quarantine


def test_the_next_controller_takes_over_and_is_told_everything(wire: Wire) -> None:
    first, second = wire.controller(), wire.controller()
    client = wire.client("a", nowhere(), first.address, second.address)
    until(client.assignments)
    stated = sees(wire.store, "a")
    client.tell(VOLUME, stated)
    until(lambda: first.stated() == {"a": stated})
    assert second.stated() == {}

    first.stop()
    until(lambda: second.stated() == {"a": stated})
    assert client.assignments()
    assert client.ask(Do.ASK_ALONE, VOLUME, alone(wire.store, "a")).granted


def test_a_controller_that_is_started_anew_is_told_everything(wire: Wire) -> None:
    first = wire.controller()
    client = wire.client("a", first.address)
    until(client.assignments)
    stated = sees(wire.store, "a")
    client.tell(VOLUME, stated)
    until(lambda: first.stated() == {"a": stated})

    first.stop()
    until(lambda: client.assignments() is None)
    with pytest.raises(Unavailable, match=f"no controller of {first.address} answers"):
        client.ask(Do.ASK_ALONE, VOLUME, alone(wire.store, "a"))
    newest = alone(wire.store, "a")
    client.tell(VOLUME, newest)
    again = wire.controller(first.server.port)
    until(client.assignments)
    until(lambda: again.stated() == {"a": newest})


def test_a_statement_that_could_not_be_told_is_told_again(wire: Wire) -> None:
    controller = wire.controller()
    heard: list[dict[str, Statement]] = []
    tell, refuse = controller.arbiter.tell, threading.Event()

    def hear(node: str, statements: dict[str, Statement]) -> None:
        heard.append(statements)
        if statements and refuse.is_set():
            raise InvalidArgument("as a controller of an older version might")
        tell(node, statements)

    controller.arbiter.tell = hear  # type: ignore[method-assign]
    refuse.set()
    client = wire.client("a", controller.address)
    until(client.assignments)
    stated = sees(wire.store, "a")
    client.tell(VOLUME, stated)
    # While it is refused the controller still hears that the node lives, and newer ones count.
    until(lambda: heard.count({VOLUME: stated}) >= 2)
    assert {} in heard[heard.index({VOLUME: stated}) :]
    newer = alone(wire.store, "a")
    client.tell(VOLUME, newer)
    refuse.clear()
    until(lambda: controller.stated() == {"a": newer})
    beats = heard.count({})
    until(lambda: heard.count({}) >= beats + 2)
    assert heard[-1] == {} and heard.count({VOLUME: newer}) >= 1


def test_telling_never_waits_and_only_the_newest_counts(wire: Wire) -> None:
    controller = wire.controller()
    heard: list[dict[str, Statement]] = []
    hang, came = threading.Event(), threading.Event()

    def hear(node: str, statements: dict[str, Statement]) -> None:
        heard.append(statements)
        if statements:
            came.set()
            hang.wait(30.0)

    controller.arbiter.tell = hear  # type: ignore[method-assign]
    client = wire.client("a", controller.address)
    until(client.assignments)
    many = [sees(wire.store, "a", boot_id=str(i)) for i in range(100)]
    client.tell(VOLUME, many[0])
    assert came.wait(30.0)
    for stated in many:
        client.tell(VOLUME, stated)
    client.tell(new_id(Kind.VOLUME, "gone"), many[0])
    hang.set()
    until(lambda: {VOLUME: many[-1]} in heard)
    assert [one for one in heard if one][1:] == [{VOLUME: many[-1]}]


class Silent(pb_grpc.ArbiterServicer):
    """Tells of one volume that can be understood and of one that cannot, and then nothing."""

    def __init__(self) -> None:
        self.ended = threading.Event()

    def Watch(self, request: pb.WatchRequest, context: grpc.ServicerContext) -> Iterator[object]:
        context.add_callback(self.ended.set)
        good = pb.Assignment(
            volume_id=VOLUME, record=to_json(BOTH), replication=to_json(REPLICATION), secret="s"
        )
        bad = pb.Assignment(volume_id="bad", record="{", replication="{}", secret="s")
        yield pb.WatchResponse(assignments=[good, bad], complete=True)
        self.ended.wait(60.0)


def test_a_stream_that_brings_nothing_is_dead(
    wire: Wire, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("node_agent.arbiter_client._DEAD_SECONDS", 2.0)
    silent = Silent()
    with grpc_server() as server:
        pb_grpc.add_ArbiterServicer_to_server(silent, server)
        credentials = tls.server_credentials(wire.directory / "controller")
        port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        controller = wire.controller()
        seen: list[object] = []
        address = f"127.0.0.1:{port}"
        client = ArbiterClient("a", [address, controller.address], wire.directory / "a")
        client.notify(lambda: seen.append(client.assignments()))
        client.start()
        wire.stack.callback(client.stop)
        assert silent.ended.wait(30.0)
        until(lambda: len(seen) >= 3)
    first, lost, again = seen[:3]
    assert isinstance(first, dict) and list(first) == [VOLUME]
    assert lost is None
    assert isinstance(again, dict) and again[VOLUME].secret == wire.secret
    assert "volume bad: its assignment is not understood" in caplog.text
    assert f"arbiter {address}: it has sent nothing" in caplog.text


def test_only_a_controllers_certificate_will_do(wire: Wire) -> None:
    posing = wire.directory / "posing"
    certificates.issue_node(wire.directory / "authority", posing, "b")
    (posing / "replication.key").write_bytes(
        (wire.directory / "controller/replication.key").read_bytes()
    )
    thief = wire.controller(files="posing")
    client = wire.client("a", thief.address)
    honest = wire.controller()
    other = wire.client("a", thief.address, honest.address)
    until(other.assignments)
    assert client.assignments() is None and not thief.arbiter.followed._heard


def test_a_renewed_certificate_is_used_without_a_restart(wire: Wire) -> None:
    controller = wire.controller()
    streams: list[str] = []
    subscribe = controller.arbiter.followed.subscribe

    def count(node: str) -> object:
        streams.append(node)
        return subscribe(node)

    controller.arbiter.followed.subscribe = count  # type: ignore[method-assign, assignment]
    client = wire.client("a", controller.address)
    until(client.assignments)
    files = wire.directory / "a"
    certificate = (files / "tls.crt").read_bytes()
    (files / "tls.crt").unlink()
    until(lambda: lives_on(client, controller))
    assert streams == ["a"]
    (files / "tls.crt").write_bytes(certificate)
    certificates.issue_node(wire.directory / "authority", files, "a")
    until(lambda: len(streams) >= 2 and client.assignments())


def lives_on(client: ArbiterClient, controller: Controller) -> bool:
    """After a few heartbeats."""
    beats: list[str] = []
    tell = controller.arbiter.tell

    def hear(node: str, statements: dict[str, Statement]) -> None:
        beats.append(node)
        tell(node, statements)

    controller.arbiter.tell = hear  # type: ignore[method-assign]
    until(lambda: len(beats) >= 3)
    return client.assignments() is not None


def test_certificates_that_are_missing_are_waited_for(wire: Wire) -> None:
    controller = wire.controller()
    hidden = wire.directory / "hidden"
    (wire.directory / "a").rename(hidden)
    client = wire.client("a", controller.address)

    def trouble() -> bool:
        with pytest.raises(Unavailable) as caught:
            client.ask(Do.ASK_ALONE, VOLUME, alone(wire.store, "a"))
        return "No such file" in str(caught.value)

    until(trouble)
    hidden.rename(wire.directory / "a")
    until(client.assignments)


@pytest.mark.parametrize("serving", [True, False])
def test_it_ends_whatever_it_is_at(wire: Wire, serving: bool) -> None:
    controller = wire.controller()
    address = controller.address if serving else nowhere()
    client = wire.client("a", address)
    until(lambda: client.assignments() or not serving)
    client.stop()
    assert client.assignments() is None
    assert [one.name for one in threading.enumerate() if one.name.startswith("arbiter-")] == []
    with pytest.raises(Unavailable):
        client.ask(Do.ASK_ALONE, VOLUME, alone(wire.store, "a"))
