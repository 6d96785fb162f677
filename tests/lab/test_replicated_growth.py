"""A replicated volume grows while a replica is lost, or has not grown itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import pytest

from lab.deployment import Pool
from lab.node import MIB
from tests.lab.held_wipes import wipes_held
from tests.lab.replicated import ONE, SIZE, TWO

if TYPE_CHECKING:
    from tests.lab.replicated import Service

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

DISKS = (512 * MIB,)
POOLS = (Pool(settings={"thin_size": "40%"}),)
THICK = {"provision": "thick", "filesystem": "ext4"}


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
