"""Placement over three real nodes: topology, zones, and claims that race for the last room.

And the whole way of an I/O limit, from the controller to a writer in a pod.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import grpc
import pytest

from csi.rpc import csi_pb2 as pb
from lab.deployment import Deployment, Pool

if TYPE_CHECKING:
    from lab.lab import Lab
    from lab.node import Node

pytestmark = [pytest.mark.lab, pytest.mark.xdist_group("three-nodes")]

MIB = 1 << 20
GIB = 1 << 30
NODE, ZONE = "csi.xlss.io/node", "csi.xlss.io/zone"
ZONES = {"n1": "a", "n2": "a", "n3": "b"}


@pytest.fixture(scope="module")
def cluster(lab: Lab) -> Iterator[Deployment]:
    # Ten volumes of 100 MiB fit into each group of 1 GiB: the disk has 4 MiB more for LVM.
    nodes = [lab.define_node(name, disks=(GIB + 4 * MIB,)) for name in ZONES]
    for node in nodes:
        node.begin_start()
    for node in nodes:
        node.finish_start()
    pools = (Pool(thin_pool=""),)
    topology = {name: {ZONE: zone} for name, zone in ZONES.items()}
    cluster = Deployment(lab, nodes, pools=pools, topology=topology, name="three")
    cluster.start()
    yield cluster
    cluster.close()
    for node in nodes:
        lab.remove_node(node)


@pytest.fixture
def create(cluster: Deployment) -> Iterator[Callable[..., pb.Volume]]:
    """Creates thick volumes, which are deleted after the test."""
    made: list[pb.Volume] = []

    def create(name: str, **options: object) -> pb.Volume:
        parameters = {"provision": "thick"}
        volume = cluster.controller().create(
            name,
            100 * MIB,
            parameters=parameters,
            **options,  # type: ignore[arg-type]
        )
        made.append(volume)
        return volume

    yield create
    for volume in made:
        cluster.controller().delete(volume.volume_id)
    assert logical_volumes(cluster) == {name: [] for name in ZONES}


def logical_volumes(cluster: Deployment) -> dict[str, list[str]]:
    argv = ["lvs", "--noheadings", "-o", "lv_name", "vg0"]
    return {name: node.run(argv).text.split() for name, node in cluster.nodes.items()}


def node_of(volume: pb.Volume) -> str:
    (topology,) = volume.accessible_topology
    return topology.segments[NODE]


def test_the_preferred_node_is_chosen(create: Callable[..., pb.Volume]) -> None:
    anywhere = [{NODE: name} for name in ZONES]
    for name in ZONES:
        rotated = sorted(anywhere, key=lambda segments: segments[NODE] != name)
        volume = create(f"on-{name}", nodes=anywhere, preferred=rotated)
        assert node_of(volume) == name


def test_a_volume_stays_in_the_requisite_zone(create: Callable[..., pb.Volume]) -> None:
    for zone in "ab":
        volumes = [create(f"zone-{zone}-{n}", nodes=[{ZONE: zone}]) for n in range(3)]
        assert {ZONES[node_of(volume)] for volume in volumes} == {zone}


def test_an_unknown_topology_is_refused_and_leaves_nothing(
    cluster: Deployment, create: Callable[..., pb.Volume]
) -> None:
    elsewhere: Mapping[str, str] = {ZONE: "nowhere"}
    with pytest.raises(grpc.RpcError) as refusal:
        create("nowhere", nodes=[elsewhere])
    assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "n1: " in refusal.value.details() and "topology" in refusal.value.details()
    assert cluster.controller().volumes() == []


def test_of_fifty_claims_at_once_the_thirty_that_fit_succeed(
    cluster: Deployment, create: Callable[..., pb.Volume]
) -> None:
    together = threading.Barrier(50)

    def claim(number: int) -> str:
        together.wait()
        try:
            return node_of(create(f"claim-{number}"))
        except grpc.RpcError as error:
            return str(error.code().name)  # type: ignore[attr-defined]

    with ThreadPoolExecutor(50) as claims:
        outcome = Counter(claims.map(claim, range(50)))
    assert outcome == {"n1": 10, "n2": 10, "n3": 10, "RESOURCE_EXHAUSTED": 20}
    left = logical_volumes(cluster)
    assert {name: len(volumes) for name, volumes in left.items()} == dict.fromkeys(ZONES, 10)
    assert len(cluster.controller().volumes()) == 30


POD = "0b1a8a55-63f4-4a0e-8a4e-6a2c5a0d8f11"
STAGING = "/var/lib/kubelet/staging/limited"
TARGET = f"/var/lib/kubelet/pods/{POD}/volumes/kubernetes.io~csi/limited/mount"
PODS = "/sys/fs/cgroup/kubepods"
IN_POD, BESIDE = f"{PODS}/pod{POD}", f"{PODS}/beside"
WRITE = (
    "echo $$ >{cgroup}/cgroup.procs; while :; do"
    " dd if=/dev/zero of={path} bs=4k count=1000 oflag=direct conv=notrunc status=none; done"
)


def test_a_limit_slows_a_writer_that_runs(
    cluster: Deployment, create: Callable[..., pb.Volume]
) -> None:
    """The measure is a second writer, on the same volume and in no pod."""
    volume = create("limited", mutable={"writeIops": "1000000"})
    name, controller = node_of(volume), cluster.controller()
    node, kubelet = cluster.nodes[name], cluster.node(name)
    node.run(["mkdir", "-p", IN_POD, BESIDE, STAGING, TARGET.rpartition("/")[0]])
    controller.publish(volume.volume_id, name)
    kubelet.stage(volume, STAGING)
    kubelet.publish(volume, STAGING, TARGET)
    device = node.run(["findmnt", "-no", "MAJ:MIN", TARGET]).text.strip()
    writers = [
        node.spawn(["bash", "-c", WRITE.format(cgroup=cgroup, path=f"{TARGET}/{number}")], log=log)
        for number, (cgroup, log) in enumerate([(IN_POD, "/run/pod.log"), (BESIDE, "/run/b.log")])
    ]
    try:
        assert in_pod_for_1000_beside(node, device) > 100
        controller.modify(volume.volume_id, writeIops="2")
        assert in_pod_for_1000_beside(node, device) < 20
        controller.modify(volume.volume_id, writeIops="0")
        assert in_pod_for_1000_beside(node, device) > 100
    finally:
        for writer in writers:
            writer.kill()
    kubelet.unpublish(volume.volume_id, TARGET)
    kubelet.unstage(volume.volume_id, STAGING)
    controller.unpublish(volume.volume_id, name)
    node.run(["rmdir", IN_POD, BESIDE, PODS])


def in_pod_for_1000_beside(node: Node, device: str) -> int:
    """Writes to the device that the pod gets through while the writer beside makes 1000."""
    in_pod, beside = writes(node, device)
    while True:
        now_in_pod, now_beside = writes(node, device)
        if now_beside >= beside + 1000:
            return now_in_pod - in_pod
        time.sleep(0.02)


def writes(node: Node, device: str) -> tuple[int, int]:
    """What the kernel has counted in either cgroup (io.stat in admin-guide/cgroup-v2)."""
    counts = []
    for cgroup in (IN_POD, BESIDE):
        lines = node.get(f"{cgroup}/io.stat").decode().splitlines()
        of_device = next((line.split() for line in lines if line.startswith(f"{device} ")), [])
        counts.append(sum(int(word[5:]) for word in of_device if word.startswith("wios=")))
    return counts[0], counts[1]
