"""Replicas come, go and move under a writer, which keeps going; what it wrote is on all of them."""

from __future__ import annotations

import signal
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import grpc
import pytest

from cluster.errors import ClusterError
from lab.deployment import AGENT_PORT
from node_agent.client import GrpcAgents
from tests.conftest import LONGEST_PAUSE
from tests.lab.replica_nodes import check_on_all, nodes, until_two_in_sync
from tests.lab.replicated import ONE, OTHER, SERVING, SIZE, TWO
from tests.lab.told import insist

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lab.records import Writer
    from tests.lab.replica_group import Group
    from tests.lab.replicated import Service

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]
# For tests whose writer waits for nothing but changes of replicas, and what is done to these.
tells_its_pause = pytest.mark.usefixtures("pause")


@pytest.fixture
def pause(service: Service, record_property: Callable[[str, object], None]) -> Iterator[None]:
    yield
    record_property(LONGEST_PAUSE, longest_pause(service))


def longest_pause(service: Service) -> float:
    return max(writer.longest_pause for writer in service.records.writers)


def replicas(service: Service, count: int) -> None:
    controller = service.cluster.controller()
    service.repeat(
        f"give it {count} replicas",
        lambda: controller.modify(service.id, replicas=str(count)),
        time.monotonic() + SERVING,
    )


def second(service: Service) -> str:
    """The node of the replica that is not on ONE."""
    return next(node for node in nodes(service) if node != ONE)


def until_plain(service: Service) -> None:
    service.until("without DRBD", lambda: all(service.drbd(n) is None for n in (ONE, TWO, OTHER)))
    face = service.node(ONE).sh(f"dmsetup table xlss-{service.id}").text
    assert " 147:" not in face


@tells_its_pause
@pytest.mark.parametrize("service", [{}, {"filesystem": "ext4"}], indirect=True)
def test_a_writer_keeps_going_through_two_one_two_and_an_expansion(service: Service) -> None:
    writer = service.start(ONE)
    writer.wait_for(50)
    replicas(service, 1)
    until_plain(service)
    writer.wait_for(50)
    replicas(service, 2)
    writer.wait_for(50)
    until_two_in_sync(service)
    controller = service.cluster.controller()
    service.repeat(
        "expand it",
        lambda: controller.expand(service.id, 2 * SIZE),
        time.monotonic() + SERVING,
    )
    writer.wait_for(50)
    until_two_in_sync(service)
    check_on_all(service)


def test_a_plain_volume_is_replicated_moves_and_is_plain_again_under_its_file_system(
    group: Group, record_property: Callable[[str, object], None]
) -> None:
    with group.service(filesystem="ext4", replicas=1) as service:
        assert nodes(service) == (ONE,)
        writer = service.start(ONE)
        writer.wait_for(50)
        replicas(service, 2)
        service.learn_minor()
        writer.wait_for(50)
        until_two_in_sync(service)

        old = second(service)
        (new,) = {TWO, OTHER} - {old}
        move = ("volume", "move-replica", "data", "--from", old, "--to", new)
        assert f"the replica moves away from {old}" in insist(service, *move)
        writer.wait_for(50)
        service.until("moved", lambda: set(nodes(service)) == {ONE, new})
        until_two_in_sync(service)
        gone = service.node(old).sh("lvs --noheadings -o lv_name").text
        assert service.id not in gone
        check_on_all(service)

        writer = service.start(ONE)
        writer.wait_for(50)
        replicas(service, 1)
        until_plain(service)
        writer.wait_for(50)
        assert nodes(service) == (ONE,)
        check_on_all(service)
        record_property(LONGEST_PAUSE, longest_pause(service))


def test_a_thin_replica_is_filled_with_what_is_written_and_no_more(group: Group) -> None:
    with group.service(replicas=1, provision="thin") as service:
        writer = service.start(ONE)
        writer.wait_for(50)
        replicas(service, 2)
        service.learn_minor()
        until_two_in_sync(service)
        room = {name: percent_allocated(service, name) for name in nodes(service)}
        # Each wrote a little beside that meanwhile; all of it would be 100.
        assert 0 < room[second(service)] < room[ONE] + 10 < 50, room
        writer.wait_for(20)


def percent_allocated(service: Service, name: str) -> float:
    """How much of the replica has room of its own in the thin pool."""
    report = f"lvs --noheadings -o data_percent vg0/vol-{service.id}"
    return float(service.node(name).sh(report).text)


@tells_its_pause
def test_the_replica_of_a_dead_node_is_made_elsewhere_and_its_rest_is_removed(
    service: Service,
) -> None:
    cluster = service.cluster
    with cluster.controller_with("repair_after_seconds = 5"):
        writer = service.start(ONE)
        writer.wait_for(50)
        service.power_off(TWO)
        service.until("replaced", lambda: set(nodes(service)) == {ONE, OTHER})
        writer.wait_for(50)
        until_two_in_sync(service)
        service.power_on(TWO)
        volume_id = service.id
        cluster.stop_controller()
        cluster.start_controller()
        service.until(
            "removed from the node that is back",
            lambda: volume_id not in service.node(TWO).sh("lvs --noheadings -o lv_name").text,
        )
        writer.wait_for(50)
        check_on_all(service)


@tells_its_pause
@pytest.mark.parametrize("victim", ["agent", "controller"])
@pytest.mark.parametrize("delay", [0.05, 0.3, 1.0])
def test_killed_in_the_middle(service: Service, victim: str, delay: float) -> None:
    kill: Callable[[], None] = lambda: service.restart_agent(ONE)  # noqa: E731
    if victim == "controller":
        kill = lambda: restart_controller(service)  # noqa: E731
    writer = service.start(ONE)
    writer.wait_for(20)
    for count in (1, 2):
        call = threading.Thread(target=lambda n=count: once(service, n))
        call.start()
        time.sleep(delay)
        kill()
        call.join()
        replicas(service, count)
        writer.wait_for(20)
        if count == 1:
            until_plain(service)
    until_two_in_sync(service)
    check_on_all(service)


def once(service: Service, count: int) -> None:
    with suppress(grpc.RpcError):
        service.cluster.controller().modify(service.id, replicas=str(count))


def restart_controller(service: Service) -> None:
    service.cluster.stop_controller(signal.SIGKILL)
    service.cluster.start_controller()


def test_the_peer_falls_silent_just_before_the_primary_grows(service: Service) -> None:
    """Its writes wait for the peer when DRBD is told to grow: it must not wait for them in turn."""
    cluster = service.cluster
    addresses = {name: f"{service.node(name).address}:{AGENT_PORT}" for name in service.nodes}
    agents = GrpcAgents(addresses, cluster.tls / "controller", call_seconds=SERVING)
    writer = service.start(ONE)
    writer.wait_for(20)
    with pytest.raises(ClusterError, match="did not grow"):  # but its logical volume did
        agents.agent(ONE).expand_volume(service.id, 2 * SIZE, 0)
    agents.agent(TWO).expand_volume(service.id, 2 * SIZE, 0)
    service.node(TWO).pause()
    service.until("nothing is acknowledged", lambda: not acknowledges(writer))
    with suppress(ClusterError):  # it is to be repeated
        agents.agent(ONE).expand_volume(service.id, 2 * SIZE, 0)
    agents.close()
    writer.wait_for(20)
    service.until_alone(ONE)
    service.node(TWO).resume()
    service.repeat("expand it", lambda: cluster.controller().expand(service.id, 2 * SIZE))
    service.until_in_sync()
    writer.wait_for(20)
    service.check()


def acknowledges(writer: Writer) -> bool:
    last = writer.last
    time.sleep(0.1)
    return writer.last > last
