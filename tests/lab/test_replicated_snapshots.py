"""Snapshots of replicated volumes: of one instant on both nodes, whoever writes meanwhile."""

from __future__ import annotations

import re
import signal
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from cluster.model import Provision
from lab.csi_client import mount, on
from lab.deployment import Pool
from lab.node import MIB
from lab.record_verdict import judge as verdict_of
from lab.records import all_hashes, differing
from lab.replica_states import stored, stored_volume
from tests.lab.replica_group import Group, visible
from tests.lab.replicated import KUBELET, LVM, ONE, OTHER, SIZE, TWO, Service

if TYPE_CHECKING:
    from collections.abc import Iterator

    from csi.rpc import csi_pb2 as pb
    from lab.record_verdict import Journal

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]

# Room for thick volumes and the snapshots of thick ones beside the thin pool.
DISKS = (1024 * MIB,)
POOLS = (Pool(settings={"thin_size": "512MiB", "overcommit": 10.0}),)
# What looks at a snapshot costs more than it: some are looked at at once.
_BATCHES, _BATCH = 5, 10


def cut(service: Service, name: str) -> pb.Snapshot:
    made: list[pb.Snapshot] = []
    controller = service.cluster.controller()
    service.repeat("cut it", lambda: made.append(controller.snapshot(service.id, name)))
    return made[0]


def remove(service: Service, snapshot: pb.Snapshot) -> None:
    controller = service.cluster.controller()
    service.repeat("delete it", lambda: controller.delete_snapshot(snapshot.snapshot_id))


@dataclass(frozen=True)
class Cut:
    """A snapshot, with what was acknowledged when it was begun, and once it was there."""

    snapshot: pb.Snapshot
    before: Journal
    after: Journal


def cut_while_written(service: Service, name: str) -> Cut:
    assert service.writer is not None
    service.writer.wait_for(5)
    before = service.records.journal()
    return Cut(cut(service, name), before, service.records.journal())


def judge(service: Service, *cuts: Cut) -> None:
    """What was acknowledged before is in each, nothing later is, and both nodes have the same."""
    # That of a thick volume is there whenever its origin is, and goes with it only.
    thin = stored_volume(service.cluster, service.id).spec.provision is Provision.THIN
    nodes = service.nodes if thin else ()
    with visible(service.cluster, nodes, *(one.snapshot.snapshot_id for one in cuts)) as paths:
        sides = [all_hashes(service.node(node), paths) for node in service.nodes]
        for contents in zip(*sides, strict=True):
            assert differing(*contents) == []
        found = service.records.read(service.node(service.nodes[-1]), *paths)
        for one, places in zip(cuts, found, strict=True):
            verdict = verdict_of(places, one.before, one.after)
            assert verdict.ok, verdict


def test_snapshots_are_equal_on_both_nodes_while_it_is_written(service: Service) -> None:
    writer = service.start(ONE)
    for batch in range(_BATCHES):
        cuts = [cut_while_written(service, f"cut-{batch}-{n}") for n in range(_BATCH)]
        writer.wait_for(5)
        judge(service, *cuts)
        for one in cuts:
            remove(service, one.snapshot)
    service.check()


@contextmanager
def copied(service: Service, **options: object) -> Iterator[Service]:
    """Another volume of two replicas, made of the service's own."""
    copy = Service(service.cluster, name="copy", **options)  # type: ignore[arg-type]
    copy.records = service.records
    yield copy
    copy.records = type(service.records)()  # its writers are the service's
    copy.delete()


def serves(copy: Service, before: Journal) -> None:
    """Both nodes serve what was acknowledged before, one after the other."""
    copy.serve(TWO)
    for node in (TWO, ONE):
        if node != TWO:
            copy.move(node)
        verdict = copy.records.check(copy.node(node), copy.device, before)
        assert verdict.ok, (node, verdict)


def nothing_differs(copy: Service) -> None:
    """DRBD compares all blocks of both replicas, and finds them equal."""
    node = copy.node(ONE)
    node.sh(f"drbdsetup verify {copy.minor}")
    copy.until("verified", lambda: (s := copy.drbd(ONE)) and s.connection == "Connected")
    numbers = node.sh(f"grep -A 1 '^ *{copy.minor}:' /proc/drbd").text
    assert re.search(r"\boos:0\b", numbers), numbers


@pytest.mark.parametrize(
    ("kind", "filesystem"),
    [("snapshot", ""), ("snapshot", "ext4"), ("clone", ""), ("clone", "btrfs")],
)
def test_a_copy_is_the_same_on_both_nodes(group: Group, kind: str, filesystem: str) -> None:
    with group.service(filesystem=filesystem) as service:
        writer = service.start(ONE)
        writer.wait_for(50)
        before = service.records.journal()
        source = cut(service, "cut").snapshot_id if kind == "snapshot" else service.id
        with copied(service, filesystem=filesystem, source={kind: source}) as copy:
            writer.wait_for(20)
            nothing_differs(copy)
            serves(copy, before)
            nothing_differs(copy)
        if kind == "snapshot":
            service.cluster.controller().delete_snapshot(source)
        assert stored(service.cluster)["snapshot"] == 0
        writer.wait_for(5)


def test_a_copy_on_a_node_without_the_source_is_synced(service: Service) -> None:
    writer = service.start(ONE)
    writer.wait_for(50)
    before = service.records.journal()
    snapshot = cut(service, "cut")
    source = {"snapshot": snapshot.snapshot_id}
    with copied(service, source=source, nodes=(TWO, OTHER)) as copy:
        copy.serve(OTHER)
        verdict = copy.records.check(copy.node(OTHER), copy.device, before)
        assert verdict.ok, verdict
    remove(service, snapshot)


def test_a_thick_copy_is_synced(service: Service) -> None:
    writer = service.start(ONE)
    writer.wait_for(50)
    before = service.records.journal()
    with copied(service, source={"clone": service.id}, provision="thick") as copy:
        nothing_differs(copy)
        serves(copy, before)


def test_a_copy_of_a_thick_volume_is_synced(group: Group) -> None:
    with group.service(provision="thick") as service:
        writer = service.start(ONE)
        writer.wait_for(50)
        made = cut_while_written(service, "cut")
        writer.wait_for(20)
        judge(service, made)
        with copied(service, source={"snapshot": made.snapshot.snapshot_id}) as copy:
            nothing_differs(copy)
            serves(copy, made.before)
        remove(service, made.snapshot)
        service.check()


def test_one_replica_has_what_a_node_that_never_staged_it_holds(group: Group) -> None:
    with group.service(filesystem="ext4") as service:
        service.start(ONE).wait_for(50)
        before = service.records.journal()
        snapshot = cut(service, "cut")
        controller, agent = service.cluster.controller(), service.cluster.node(TWO)
        capability, staging, target = mount("ext4"), f"{KUBELET}/single", f"{KUBELET}/single-pod"
        volume = controller.create(
            "single",
            SIZE,
            capability=capability,
            snapshot=snapshot.snapshot_id,
            nodes=[on(TWO)],
        )
        service.node(TWO).run(["mkdir", "-p", staging])
        controller.publish(volume.volume_id, TWO, capability)
        agent.stage(volume, staging, capability)
        agent.publish(volume, staging, target, capability)
        verdict = service.records.check(service.node(TWO), f"{target}/records", before)
        assert verdict.ok, verdict
        agent.unpublish(volume.volume_id, target)
        agent.unstage(volume.volume_id, staging)
        controller.unpublish(volume.volume_id, TWO)
        controller.delete(volume.volume_id)
        remove(service, snapshot)


def test_an_agent_dies_while_it_holds_the_volume(service: Service) -> None:
    writer = service.start(ONE)
    writer.wait_for(20)
    service.pause_agent(TWO)  # it answers nothing: the hold goes on
    made: list[Cut] = []
    cutting = threading.Thread(target=lambda: made.append(cut_while_written(service, "cut")))
    cutting.start()
    face = f"dmsetup info -c --noheadings -o suspended xlss-{service.id}"
    service.until("held", lambda: "Suspended" in service.node(ONE).sh(face).text)
    service.cluster.stop_agent(ONE, signal.SIGKILL)
    writer.wait_for(20)  # what held it has let it go
    service.cluster.start_agent(ONE)
    service.resume_agent(TWO)
    cutting.join()
    judge(service, *made)
    remove(service, made[0].snapshot)
    service.until_in_sync()
    service.check()


def test_a_volume_is_deleted_while_a_node_is_down(service: Service) -> None:
    service.start(ONE).wait_for(20)
    service.stop()
    service.power_off(TWO)
    service.until_alone(ONE)
    service.give_up(ONE)
    controller = service.cluster.controller()
    agent = service.cluster.node(ONE)
    agent.unpublish(service.id, service.device)
    agent.unstage(service.id, service.staging)
    controller.unpublish(service.id, "")
    service.repeat("delete it", lambda: controller.delete(service.id))
    assert service.node(ONE).sh("ls /dev/vg0/ | grep vol- || true").text == ""
    assert stored(service.cluster)["volume"] == 1
    service.power_on(TWO)
    service.until("forgotten", lambda: not stored(service.cluster)["volume"])
    left = service.node(TWO).sh(f"{LVM} lvs --noheadings -o lv_name vg0").text
    assert service.id not in left
    assert stored(service.cluster)["membership"] == 0


def test_a_snapshot_is_deleted_while_a_node_is_down(service: Service) -> None:
    writer = service.start(ONE)
    writer.wait_for(20)
    snapshot = cut(service, "cut")
    service.power_off(TWO)
    service.until_alone(ONE)
    remove(service, snapshot)
    assert snapshot_volumes(service, ONE) == ""
    assert stored(service.cluster)["snapshot"] == 1
    service.power_on(TWO)
    service.until("forgotten", lambda: not stored(service.cluster)["snapshot"])
    nothing_is_cut(service)
    service.until_in_sync()
    writer.wait_for(20)


# Each number is on the first device, on the disk, before it goes to the second.
_CHAIN_AT = 32 * MIB
_CHAIN = f"""
import mmap, os, sys, time
devices = [os.open(path, os.O_RDWR | os.O_DIRECT | os.O_DSYNC) for path in sys.argv[1:]]
block, number = mmap.mmap(-1, 4096), 0
while True:
    number += 1
    block[:16] = b"%016d" % number
    for device in devices:
        os.pwrite(device, block, {_CHAIN_AT})
    time.sleep(0.002)
"""


def link_of_chain(service: Service, path: str) -> int:
    read = f"dd if={path} bs=4096 skip={_CHAIN_AT // 4096} count=1 iflag=direct status=none"
    return int(service.node(TWO).sh(f"{read} | head -c 16").text)


def test_a_group_on_two_pairs_of_nodes_is_cut_at_one_instant(group: Group) -> None:
    with group.service(nodes=(ONE, TWO)) as first:
        cluster, controller = first.cluster, first.cluster.controller()
        second = Service(cluster, name="second", nodes=(TWO, OTHER))
        third = Service(cluster, name="third", nodes=(ONE, TWO))
        services = (first, second, third)
        writers = [first.start(TWO), second.start(TWO), third.start(ONE)]
        chain = [first.device, second.device]
        argv = ["python3", "-S", "-c", _CHAIN, *chain]
        process = first.node(TWO).spawn(argv, log="/run/chain.log")
        for number in range(2):
            for writer in writers:
                writer.wait_for(5)
            befores = [service.records.journal() for service in services]
            made = group_cut(services, f"group-{number}")
            afters = [service.records.journal() for service in services]
            for writer in writers:
                writer.wait_for(1)
            of = {one.source_volume_id: one for one in made.snapshots}
            links = []
            for service in (first, second):
                with visible(cluster, service.nodes, of[service.id].snapshot_id) as (path,):
                    links.append(link_of_chain(service, path))
            assert 0 <= links[0] - links[1] <= 1, links
            for service, before, after in zip(services, befores, afters, strict=True):
                judge(service, Cut(of[service.id], before, after))
            first.repeat("delete it", lambda made=made: controller.delete_group_snapshot(made))
            nothing_is_cut(first)
        assert process.alive
        process.kill()
        for service in (second, third):
            service.delete()


def group_cut(services: tuple[Service, ...], name: str) -> pb.VolumeGroupSnapshot:
    made: list[pb.VolumeGroupSnapshot] = []
    ids = [service.id for service in services]
    controller = services[0].cluster.controller()
    services[0].repeat("cut it", lambda: made.append(controller.group_snapshot(ids, name)))
    return made[0]


def nothing_is_cut(service: Service) -> None:
    counted = stored(service.cluster)
    assert counted["snapshot"] == counted["group"] == 0
    for name in (ONE, TWO, OTHER):
        assert snapshot_volumes(service, name) == "", name


def snapshot_volumes(service: Service, name: str) -> str:
    """The logical volumes of snapshots on that node."""
    return service.node(name).sh(f"{LVM} lvs --noheadings -o lv_name vg0 | grep snap- || true").text
