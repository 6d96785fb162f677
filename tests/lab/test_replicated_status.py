"""What people are told of a replicated volume: in sync, frozen, degraded, compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lab.node import MIB
from tests.lab.replicated import ONE, TWO
from tests.lab.told import metric, metrics, replica, shown, summary, until_shown, words, xlss

if TYPE_CHECKING:
    from typing import Any

    from tests.lab.replicated import Service

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]


def test_a_volume_is_told_in_words_through_a_failure_and_compared(service: Service) -> None:
    writer = service.start(ONE)
    writer.wait_for(20)
    found = until_shown(service, lambda one: summary(one) == "2/2 in sync")
    assert "Every acknowledged write is on n1 and n2." in found["replication"]["explanation"]
    assert replica(found, ONE)["role"] == "Primary"
    assert replica(found, ONE)["verify"] is None

    assert "compares" in xlss(service, "volume", "verify", service.id)
    found = until_shown(service, lambda one: replica(one, ONE)["verify"] is not None)
    assert replica(found, ONE)["verify"]["trouble"] == ""
    assert replica(found, ONE)["verify"]["out_of_sync_bytes"] == 0

    # Without an arbiter the loss of the peer freezes the primary; its node tells so by itself.
    service.cluster.stop_controller()
    service.cut_link()
    service.until_frozen(ONE)
    frozen = f'xlss_replica_frozen{{volume="{service.id}"}} 1.0'
    service.until("frozen in the metrics", lambda: frozen in metrics(service, ONE))
    # A link that comes back needs no arbiter: nobody has left the set.
    service.join_link()
    service.until("thawed", lambda: frozen not in metrics(service, ONE))
    service.cluster.start_controller()
    service.until_in_sync()
    writer.wait_for(20)

    service.power_off(TWO)
    service.until_alone(ONE)
    found = until_shown(service, lambda one: summary(one) == "1/2, n2 away")
    assert "only n1 has all that was acknowledged" in found["replication"]["explanation"]
    assert replica(found, ONE)["frozen"] == ""
    writer.wait_for(20)
    service.power_on(TWO)
    service.until_in_sync()
    until_shown(service, lambda one: summary(one) == "2/2 in sync")
    service.check()


def test_a_difference_is_found_and_told_and_mended_as_the_manual_has_it(service: Service) -> None:
    writer = service.start(ONE)
    writer.wait_for(20)
    # Past DRBD, and where the writer does not come by and mend it.
    plant = f"dd if=/dev/urandom bs=4k count=3 seek={32 * MIB // 4096} oflag=direct status=none"
    service.node(TWO).sh(f"{plant} of=/dev/mapper/xlss-disk-{service.id}")

    assert verified(service)["out_of_sync_bytes"] == 3 * 4096
    for name in service.nodes:
        assert metric(service, name, "xlss_replica_verify_out_of_sync_bytes") == 3 * 4096
    assert "12288 B that differ. They are resynced only when the replicas" in words(service)

    # docs/operations.md, "Verifying replicas": the link of the one that does not serve it.
    service.cut_link()
    service.until_alone(ONE)
    service.join_link()
    service.until_in_sync()
    until_shown(service, lambda one: replica(one, TWO)["out_of_sync_bytes"] == 0)
    assert verified(service)["out_of_sync_bytes"] == 0
    assert metric(service, TWO, "xlss_replica_verify_out_of_sync_bytes") == 0
    writer.wait_for(20)
    service.check()


def verified(service: Service) -> dict[str, Any]:
    """What a comparison that begins now finds, as both nodes have it in the end."""
    before = [replica(shown(service), name)["verify"] for name in service.nodes]
    xlss(service, "volume", "verify", service.id)
    found = until_shown(
        service,
        lambda one: all(
            replica(one, name)["verify"] not in (None, old)
            for name, old in zip(service.nodes, before, strict=True)
        ),
    )
    verify: dict[str, Any] = replica(found, TWO)["verify"]
    assert verify["trouble"] == "", verify
    return verify
