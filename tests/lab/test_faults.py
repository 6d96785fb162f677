"""What breaks at night: power, disks, pools, groups, commands, stores.

Each test has a node of its own, since it leaves it broken.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import grpc
import pytest

from csi.rpc import csi_pb2 as pb
from lab.csi_client import mount
from lab.deployment import Deployment, Pool
from lab.errors import CommandFailed

if TYPE_CHECKING:
    from lab.lab import Lab
    from lab.node import Node

pytestmark = pytest.mark.lab

MIB = 1 << 20
GIB = 1 << 30
STAGING = "/var/lib/kubelet/staging"
THICK = {"provision": "thick"}
NO_UDEV = "export DM_DISABLE_UDEV=1"


@pytest.fixture
def deploy(lab: Lab) -> Iterator[Callable[..., Deployment]]:
    """Starts a cluster of one node with these disks and pools."""
    made: list[Deployment] = []

    def deploy(
        *pools: Pool,
        disks: tuple[int, ...] = (2 * GIB,),
        prepare: Callable[[Node], None] = lambda node: None,
        pools_open: bool = True,
        **options: object,
    ) -> Deployment:
        node = lab.add_node(disks=disks)
        prepare(node)
        cluster = Deployment(
            lab,
            [node],
            pools=pools or (Pool(),),
            name=f"faults-{len(made)}",
            **options,  # type: ignore[arg-type]
        )
        made.append(cluster)
        cluster.start(pools_open=pools_open)
        return cluster

    yield deploy
    for cluster in made:
        cluster.close()
        for node in cluster.nodes.values():
            lab.remove_node(node)


class Served:
    """A volume that is staged on the cluster's only node."""

    def __init__(self, cluster: Deployment, name: str, size: int, **options: object) -> None:
        self.cluster = cluster
        self.name = name
        (self.node,) = cluster.nodes.values()
        self.volume: pb.Volume = cluster.controller().create(name, size, **options)  # type: ignore[arg-type]
        cluster.controller().publish(self.volume.volume_id, self.node.name)
        self.stage()

    @property
    def path(self) -> str:
        return f"{STAGING}/{self.name}"

    def stage(self) -> None:
        self.node.run(["mkdir", "-p", self.path])
        self.cluster.node(self.node.name).stage(self.volume, self.path)

    def unstage(self) -> None:
        self.cluster.node(self.node.name).unstage(self.volume.volume_id, self.path)

    def write(self, mebibytes: int, name: str = "file") -> str:
        """Write and fsync random bytes; returns their checksum."""
        script = (
            f"dd if=/dev/urandom of={self.path}/{name} bs=1M count={mebibytes}"
            f" conv=fsync status=none; sha256sum <{self.path}/{name}"
        )
        return self.node.sh(script, timeout=120).text

    def checksum(self, name: str = "file") -> str:
        return self.node.sh(f"sha256sum <{self.path}/{name}").text


def test_synced_data_is_there_after_a_power_cut(deploy: Callable[..., Deployment]) -> None:
    cluster = deploy()
    volumes = [
        Served(cluster, "thin-ext4", 128 * MIB),
        Served(cluster, "thick-ext4", 128 * MIB, parameters=THICK),
        Served(cluster, "thin-xfs", 320 * MIB, capability=mount("xfs")),
    ]
    written = [volume.write(16) for volume in volumes]
    volumes[0].node.sh(f"nohup dd if=/dev/zero of={volumes[0].path}/endless bs=4k &>/dev/null &")
    cluster.reboot(volumes[0].node.name)
    for volume, checksum in zip(volumes, written, strict=True):
        volume.stage()
        assert volume.checksum() == checksum


def test_a_full_thin_pool_stops_its_own_volumes_only_and_grows_again(
    deploy: Callable[..., Deployment],
) -> None:
    pool = Pool(settings={"thin_size": "256MiB", "overcommit": 4.0, "grow_at": 1.0})
    cluster = deploy(pool)
    thin = Served(cluster, "thin", 512 * MIB)
    neighbour = Served(cluster, "thick", 256 * MIB, parameters=THICK)
    kept = thin.write(64)
    # Directly: the errors of buffered writes come whenever the kernel writes back.
    too_much = f"dd if=/dev/zero of={thin.path}/too-much bs=1M count=400 oflag=direct"
    with pytest.raises(CommandFailed, match=r"(?i)no space|input/output|read-only"):
        thin.node.sh(too_much, timeout=120)
    assert neighbour.write(64) == neighbour.checksum()
    status = cluster.xlss("status", "--socket", str(cluster.socket), check=False)
    assert "data used" in " ".join(status.split())
    thin.unstage()
    thin.node.run(["lvextend", "-q", "-L", "768m", "vg0/thin"])
    thin.stage()
    assert thin.checksum() == kept
    assert thin.write(100, "more") == thin.checksum("more")


def test_a_missing_disk_fails_its_volumes_and_no_others(
    deploy: Callable[..., Deployment],
) -> None:
    pools = (
        Pool("good", "vg-good", ("/dev/ubdb",)),
        Pool("bad", "vg-bad", ("/dev/ubdc", "/dev/ubdd")),
    )
    cluster = deploy(*pools, disks=(GIB, GIB, GIB))
    good = Served(cluster, "good", 64 * MIB, parameters={"pool": "good"})
    bad = Served(cluster, "bad", 64 * MIB, parameters={"pool": "bad"})
    checksum = good.write(8)
    good.node.kill()
    good.node.disks[1] = None
    good.node.start()
    cluster.start_agent(good.node.name)
    good.stage()
    assert good.checksum() == checksum
    with pytest.raises(grpc.RpcError) as failure:
        cluster.controller().create("more", 64 * MIB, parameters={"pool": "bad"})
    assert failure.value.code() in (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNAVAILABLE,
    )
    assert "missing" in failure.value.details()
    with pytest.raises(grpc.RpcError) as unstaged:
        bad.stage()
    assert unstaged.value.code() is not grpc.StatusCode.INTERNAL
    assert cluster.controller().create("new", 64 * MIB, parameters={"pool": "good"}).volume_id


def test_no_group_is_made_beside_a_foreign_one_of_the_same_name(
    deploy: Callable[..., Deployment],
) -> None:
    def foreign(node: Node) -> None:
        node.sh(f"{NO_UDEV}; vgcreate -q vg0 /dev/ubdc; lvcreate -q -Zn -L 16m -n theirs vg0")

    cluster = deploy(disks=(GIB, GIB), prepare=foreign, pools_open=False)
    (node,) = cluster.nodes.values()
    with pytest.raises(grpc.RpcError) as refusal:
        cluster.controller().create("ours", 64 * MIB)
    assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "vg0 is on /dev/ubdc" in refusal.value.details()
    assert node.run(["lvs", "--noheadings", "-o", "lv_name", "vg0"]).text.split() == ["theirs"]
    assert node.run(["blkid", "-p", "/dev/ubdb"], check=False).returncode == 2, "still empty"


def test_a_disk_that_holds_something_is_never_taken_for_a_pool(
    deploy: Callable[..., Deployment],
) -> None:
    pools = (Pool("good", "vg-good", ("/dev/ubdb",)), Pool("theirs", "vg-x", ("/dev/ubdc",)))
    cluster = deploy(
        *pools, disks=(GIB, GIB), prepare=lambda node: node.sh("mkfs.xfs -q /dev/ubdc") and None
    )
    (node,) = cluster.nodes.values()
    status = cluster.xlss("status", "--socket", str(cluster.socket))
    assert "xfs" in status
    assert node.run(["blkid", "-o", "value", "-s", "TYPE", "/dev/ubdc"]).text == "xfs"
    assert Served(cluster, "works", 64 * MIB, parameters={"pool": "good"}).write(4)


def with_faulty_disk(node: Node) -> None:
    node.faulty_disk("/dev/ubdc")


def test_a_disk_that_returns_errors_fails_its_own_volume_only(
    deploy: Callable[..., Deployment],
) -> None:
    pools = (Pool("good", "vg-good"), Pool("bad", "vg-bad", ("/dev/mapper/faulty-ubdc",), ""))
    cluster = deploy(*pools, disks=(GIB, 2 * GIB), prepare=with_faulty_disk)
    good = Served(cluster, "good", 64 * MIB, parameters={"pool": "good"})
    bad = Served(cluster, "bad", 64 * MIB, parameters={"pool": "bad", **THICK})
    bad.write(8)
    good.node.faulty_disk("/dev/ubdc").fail()
    with pytest.raises(CommandFailed):
        bad.write(8, "more")
    assert good.write(8) == good.checksum()
    health = cluster.node(good.node.name).stub.NodeGetVolumeHealth(
        pb.NodeGetVolumeHealthRequest(volume_id=bad.volume.volume_id, volume_publish_path=bad.path),
        timeout=30,
    )
    assert health.volume_health.health_statuses, "a volume on a dead disk is not healthy"
    second = cluster.controller().create("second", 64 * MIB, parameters={"pool": "good"})
    assert second.volume_id


def test_a_disk_that_hangs_does_not_hold_the_other_pools(
    deploy: Callable[..., Deployment],
) -> None:
    pools = (Pool("good", "vg-good"), Pool("bad", "vg-bad", ("/dev/mapper/faulty-ubdc",), ""))
    cluster = deploy(
        *pools, disks=(GIB, GIB), prepare=with_faulty_disk, controller={"call_seconds": 20.0}
    )
    (node,) = cluster.nodes.values()
    disk = node.faulty_disk("/dev/ubdc")
    disk.hang()
    controller = cluster.controller()
    with pytest.raises(grpc.RpcError) as stuck:
        controller.create("stuck", 64 * MIB, parameters={"pool": "bad", **THICK})
    assert stuck.value.code() in (
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    )
    good = Served(cluster, "good", 64 * MIB, parameters={"pool": "good"})
    assert good.write(4) == good.checksum()
    disk.recover()


def test_kubelet_stages_while_the_controller_is_down(deploy: Callable[..., Deployment]) -> None:
    cluster = deploy()
    served = Served(cluster, "data", 64 * MIB)
    checksum = served.write(8)
    served.unstage()
    cluster.stop_controller(signal.SIGKILL)
    served.stage()
    assert served.checksum() == checksum
    cluster.stop_agent(served.node.name, signal.SIGKILL)
    cluster.start_agent(served.node.name)
    served.unstage()
    served.stage()
    assert served.checksum() == checksum


@pytest.mark.parametrize("damage", ["lost", "corrupt"])
def test_a_lost_store_is_rebuilt_from_the_nodes(
    deploy: Callable[..., Deployment], damage: str
) -> None:
    cluster = deploy()
    controller = cluster.controller()
    served = Served(cluster, "data", 64 * MIB)
    checksum = served.write(8)
    snapshot = controller.snapshot(served.volume.volume_id, "kept")
    plain = controller.create("plain", 64 * MIB, parameters=THICK)
    before = sorted(entry.volume.volume_id for entry in controller.volumes())
    cluster.stop_controller()
    if damage == "lost":
        for path in cluster.store.parent.iterdir():
            path.unlink()
    else:
        content = bytearray(cluster.store.read_bytes())
        content[4096 : 4096 * 3] = b"\xff" * (4096 * 2)
        cluster.store.write_bytes(content)
        cluster.spawn_controller()
        assert wait_for_end(cluster) != 0, "a corrupt store must not be served from"
        assert "recover-store" in cluster.controller_log.read_text()
        for path in cluster.store.parent.iterdir():
            path.rename(path.with_name(f"damaged-{path.name}"))
    cluster.xlss("recover-store", "--config", str(cluster.config))
    cluster.start_controller()
    controller = cluster.controller()
    assert sorted(entry.volume.volume_id for entry in controller.volumes()) == before
    assert [s.snapshot_id for s in controller.snapshots()] == [snapshot.snapshot_id]
    # Idempotent by name again, and published where it is in use.
    assert controller.create("plain", 64 * MIB, parameters=THICK).volume_id == plain.volume_id
    published = {
        entry.volume.volume_id: list(entry.status.published_node_ids)
        for entry in controller.volumes()
    }
    assert published[served.volume.volume_id] == [served.node.name]
    assert served.checksum() == checksum


def wait_for_end(cluster: Deployment) -> int:
    while not cluster.controller_ended():
        signal.sigtimedwait([], 0.1)
    return cluster.stop_controller()


def test_a_second_controller_on_the_same_store_is_refused(
    deploy: Callable[..., Deployment],
) -> None:
    cluster = deploy()
    with pytest.raises(Exception, match=r"(?i)store"):
        cluster.xlss("controller", "--config", str(cluster.config))
    assert cluster.controller().volumes() == []
