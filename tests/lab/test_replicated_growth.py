"""A replicated volume grows while a replica is lost, or has not grown itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import pytest

from lab.deployment import AGENT_PORT, Pool
from lab.node import MIB
from node_agent.client import GrpcAgents
from tests.lab.held_wipes import wipes_held
from tests.lab.replicated import LVM, ONE, SERVING, SIZE, TWO

if TYPE_CHECKING:
    from tests.lab.replica_group import Group
    from tests.lab.replicated import Service

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

DISKS = (512 * MIB,)
POOLS = (Pool(settings={"thin_size": "40%"}),)
THICK = {"provision": "thick", "filesystem": "ext4"}


def test_the_replicas_are_made_where_a_file_system_was(group: Group) -> None:
    for name in (ONE, TWO):
        node = group.cluster.nodes[name]
        node.sh(f"{LVM} lvcreate -q -y -Zn -l 100%FREE -n former vg0")
        node.sh(f"mkfs.ext4 -q /dev/vg0/former; {LVM} lvremove -q -y vg0/former")
    with group.service() as service:
        service.start(ONE).wait_for(20)


@pytest.mark.parametrize("service", [THICK], ids=["thick"], indirect=True)
def test_the_peer_dies_while_what_the_primary_grows_by_is_wiped(service: Service) -> None:
    writer = service.start(ONE)
    writer.wait_for(20)
    controller = service.cluster.controller()
    with wipes_held(service.node(ONE)):
        with pytest.raises(grpc.RpcError, match="0 % done; repeat"):
            controller.expand(service.id, 2 * SIZE)
        service.power_off(TWO)
        service.until_alone(ONE)
        writer.wait_for(20)
    service.power_on(TWO)
    service.until_in_sync()
    service.repeat("expand it", lambda: controller.expand(service.id, 2 * SIZE))
    writer.wait_for(20)
    service.check()


def test_a_replica_that_grew_alone_is_no_larger_than_its_peer(service: Service) -> None:
    addresses = {ONE: f"{service.node(ONE).address}:{AGENT_PORT}"}
    agents = GrpcAgents(addresses, service.cluster.tls / "controller", call_seconds=SERVING)
    agents.agent(ONE).expand_volume(service.id, 2 * SIZE, 0)  # and TWO is never asked
    agents.close()
    service.power_off(TWO)
    writer = service.fail_over(ONE)
    writer.wait_for(20)
    service.power_on(TWO)
    service.until_in_sync()
    controller = service.cluster.controller()
    service.repeat("expand it", lambda: controller.expand(service.id, 2 * SIZE))
    assert size(service) == 2 * SIZE
    service.check()


def size(service: Service) -> int:
    """Of what the service has on ONE."""
    return int(service.node(ONE).run(["blockdev", "--getsize64", service.device]).text)


def test_what_all_replicas_grew_by_is_there_without_the_peer(service: Service) -> None:
    controller = service.cluster.controller()
    service.repeat("expand it", lambda: controller.expand(service.id, 2 * SIZE))
    service.power_off(TWO)
    service.fail_over(ONE).wait_for(20)
    assert size(service) == 2 * SIZE
    service.power_on(TWO)
    service.until_in_sync()
    service.check()
