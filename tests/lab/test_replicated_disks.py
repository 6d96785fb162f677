"""A disk under one replica fails, hangs or is full: the service goes on through the other."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from lab.deployment import Pool
from lab.node import MIB
from tests.lab.replica_nodes import check_on_all, nodes, until_two_in_sync
from tests.lab.replicated import LVM, ONE, OTHER, SERVING, TWO, Service
from tests.lab.told import until_told, xlss

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.node import Node
    from lab.records import Writer
    from tests.lab.replica_group import Group

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

DISK = "/dev/ubdb"
DISKS = (512 * MIB, 512 * MIB)
SMALL = {"thin_size": "128MiB", "grow_at": 1.0, "overcommit": 10.0}
# A thin pool whose own metadata cannot be written has failed, until its node has been rebooted.
VOLUME = {"provision": "thick"}
THIN = {"provision": "thin"}
POOLS = (
    Pool(devices=("/dev/mapper/faulty-ubdb",), settings={"thin_size": "40%"}),
    Pool("small", "vg1", ("/dev/ubdc",), settings=SMALL),
)


def through_the_peer(service: Service, fault: str) -> Writer:
    """A writer on ONE, whose own disk has failed."""
    writer = service.start(ONE)
    writer.wait_for(50)
    getattr(service.node(ONE).faulty_disk(DISK), fault)()
    service.until_alone(TWO)
    writer.wait_for(50)
    return writer


@pytest.mark.parametrize("fault", ["fail", "fail_writes"])
def test_the_disk_under_the_primary_returns_errors(service: Service, fault: str) -> None:
    writer = through_the_peer(service, fault)
    service.node(ONE).faulty_disk(DISK).recover()
    writer.wait_for(20)
    service.move(TWO)
    service.start(TWO).wait_for(20)
    service.until_in_sync()
    service.check()


@pytest.mark.parametrize("service", [VOLUME, THIN], ids=["thick", "thin"], indirect=True)
def test_the_disk_under_the_primary_fails_and_its_node_dies(service: Service) -> None:
    through_the_peer(service, "fail")
    service.power_off(ONE)
    service.fail_over(TWO).wait_for(50)
    service.power_on(ONE)
    service.until_in_sync()
    service.check()


def test_a_primary_without_its_pool_is_taken_down_by_an_agent_that_never_saw_it(
    service: Service,
) -> None:
    through_the_peer(service, "fail")
    service.restart_agent(ONE)
    service.move(TWO)
    service.start(TWO).wait_for(20)
    service.node(ONE).faulty_disk(DISK).recover()
    service.until_in_sync()
    service.check()


def test_the_peer_of_a_failed_disk_is_away_for_a_moment(service: Service) -> None:
    """No data is within reach then: writes wait for it, and do not fail."""
    writer = through_the_peer(service, "fail")
    service.cut_link()
    service.until_frozen(ONE)
    service.holds_still(writer)
    service.join_link()
    writer.wait_for(20)
    service.node(ONE).faulty_disk(DISK).recover()
    service.move(TWO)
    service.start(TWO).wait_for(20)
    service.check()


@pytest.mark.parametrize("fault", ["fail", "fail_writes"])
def test_the_disk_under_the_secondary_returns_errors(service: Service, fault: str) -> None:
    writer = service.start(ONE)
    writer.wait_for(50)
    getattr(service.node(TWO).faulty_disk(DISK), fault)()
    service.until_alone(ONE)
    writer.wait_for(50)
    until_told(service, "cannot be filled anew yet" if fault == "fail" else "drbdmeta")
    service.node(TWO).faulty_disk(DISK).recover()
    service.until_in_sync()
    service.check()


@pytest.mark.parametrize("service", [THIN], ids=["thin"], indirect=True)
def test_a_node_whose_disk_has_failed_dies_and_freezes_nothing(service: Service) -> None:
    """In a freeze DRBD 8.4 forgets the flush under way, and nothing else waits for that node."""
    writer = service.start(ONE)
    service.node(TWO).faulty_disk(DISK).fail()
    service.until_alone(ONE)
    writer.wait_for(50)
    until_told(service, "cannot be filled anew yet")
    before = freezes(service)
    service.power_off(TWO)
    service.holds_on(writer)
    assert freezes(service) == before
    service.power_on(TWO)
    service.until_in_sync()
    service.check()


def freezes(service: Service) -> int:
    """How often the kernel has frozen volumes on ONE."""
    return service.node(ONE).run(["dmesg"]).text.count("susp( 0 -> 1 )")


def test_a_replica_whose_disk_has_failed_for_good_is_made_elsewhere(service: Service) -> None:
    with service.cluster.controller_with("repair_after_seconds = 5\nreconcile_seconds = 5"):
        writer = service.start(ONE)
        writer.wait_for(20)
        service.node(TWO).faulty_disk(DISK).fail()
        service.until("replaced", lambda: set(nodes(service)) == {ONE, OTHER})
        writer.wait_for(20)
        until_two_in_sync(service)
        writer.wait_for(20)
        check_on_all(service)
        service.node(TWO).faulty_disk(DISK).recover()
        left = f"{LVM} lvs --noheadings -o lv_name vg0"
        service.until("removed", lambda: service.id not in service.node(TWO).sh(left).text)


def test_the_disk_under_the_secondary_hangs(service: Service) -> None:
    writer = service.start(ONE)
    writer.wait_for(50)
    service.node(TWO).faulty_disk(DISK).hang()
    writer.wait_for(50)
    assert service.record.members == (ONE,)
    service.node(TWO).faulty_disk(DISK).recover()
    service.until_in_sync()
    service.check()


def test_the_disk_under_the_primary_hangs(service: Service) -> None:
    stuck = service.start(ONE)
    stuck.wait_for(50)
    service.node(ONE).faulty_disk(DISK).hang()
    service.holds_still(stuck)
    # Its kernel lives and is primary, and nothing but a reboot ends what hangs in it.
    service.refused(TWO, "still primary")
    until_told(service, "its processes cannot be killed: .* n1 has to be rebooted by a person")
    service.power_off(ONE)
    service.fail_over(TWO).wait_for(50)
    service.power_on(ONE)
    service.until_in_sync()
    service.check()


@contextmanager
def volatile_cache(node: Node) -> Iterator[None]:
    """Volumes that are made meanwhile have flushes sent to the disk, which takes its time."""
    set_cache(node, "write back")
    yield
    set_cache(node, "write through")


def set_cache(node: Node, kind: str) -> None:
    node.sh(f"echo {kind} > /sys/block/ubdb/queue/write_cache")
    node.faulty_disk(DISK).recover()  # its new table takes that over


FLUSH = "import os, sys; disk = os.open(sys.argv[1], os.O_RDWR)\nwhile True: os.fsync(disk)"


def test_the_module_forgets_a_flush_and_the_other_volumes_go_on(group: Group) -> None:
    """DRBD 8.4 never answers one that ends while it is frozen, and would hang when it connects."""
    one = group.cluster.nodes[ONE]
    with volatile_cache(one), group.service(**VOLUME) as service:
        other = Service(group.cluster, name="other", **VOLUME)
        service.serve(ONE)
        one.spawn(["python3", "-S", "-c", FLUSH, service.device], log="/run/flush.log")
        one.faulty_disk(DISK).hang()
        service.power_off(TWO)
        service.until_frozen(ONE)
        one.faulty_disk(DISK).recover()
        service.until_alone(ONE)
        service.power_on(TWO)
        until_told(service, "writes to it do not end .* reboot this node")
        other.until_in_sync()
        other.delete()
        until_told(service, "its disk is idle: DRBD 8.4 has forgotten a flush, reboot this node")
        service.power_off(ONE)
        service.power_on(ONE)
        service.start(ONE).wait_for(20)
        service.check()


def test_both_disks_return_errors(service: Service) -> None:
    writer = service.start(ONE)
    writer.wait_for(50)
    for name in (TWO, ONE):
        service.node(name).faulty_disk(DISK).fail()
    last = writer.last
    service.holds_still(writer)
    assert writer.last <= last + 1
    for name in (TWO, ONE):
        service.node(name).faulty_disk(DISK).recover()
    service.refused(TWO, "decide|not in the set|disk")
    service.refused(ONE, "decide|disk")
    # As long as it may be ONE's, what it writes waits for data; then its agent ends it.
    for name in (ONE, TWO):
        service.unpublish(name, time.monotonic() + SERVING)
    assert not writer.wait_ended().stopped
    # Both disks are well again, and what is on that of ONE, which failed last, is all there was.
    xlss(service, "volume", "force-primary", "data", "--node", ONE, "--accept-data-loss", "--yes")
    service.start(ONE).wait_for(20)
    service.until_in_sync()
    service.check()


@pytest.mark.parametrize("service", [{"pool": "small", **THIN}], ids=["small"], indirect=True)
@pytest.mark.parametrize("full", [ONE, TWO], ids=["primary", "secondary"])
def test_the_pool_of_one_side_is_full(service: Service, full: str) -> None:
    other = TWO if full == ONE else ONE
    writer = service.start(ONE)
    writer.wait_for(20)
    filler = "export DM_DISABLE_UDEV=1; lvcreate -q -qq -V 1g -T vg1/thin -n filler"
    fill = "dd if=/dev/zero of=/dev/vg1/filler bs=64k oflag=direct status=none"
    service.node(full).sh(f"{filler}; ! {fill} 2>/dev/null", timeout=120)
    service.until_alone(other)
    writer.wait_for(50)
    service.node(full).sh("export DM_DISABLE_UDEV=1; lvremove -q -f vg1/filler")
    if full == ONE:
        service.move(TWO)
        service.start(TWO)
    service.until_in_sync()
    service.check()
