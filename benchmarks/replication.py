"""Replicated volumes: their rates against DRBD by hand, their failover, the pause of a snapshot."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import grpc

from benchmarks.device_io import PATTERNS, SIZE, Pattern, rates
from benchmarks.figures import Figure, Target, at_least, at_most, median_ratio
from csi.rpc import csi_pb2 as pb
from lab.csi_client import block
from lab.deployment import Deployment, Pool
from lab.errors import LabError
from lab.lab import Lab
from lab.node import MIB, Node
from lab.records import Records
from lab.replica_states import membership

ONE, TWO = "n1", "n2"
_GROUP = "vg0"
_FOLDER = "/var/lib/kubelet"
_PATIENCE_SECONDS = 120.0
_FAILOVER_SECONDS = 6.0
_HAND = "/dev/drbd1"
_T = TypeVar("_T")
# What a person writes who follows the manual, with the settings that ours has.
_BY_HAND = """resource hand {{
  disk {{ on-io-error detach; fencing resource-and-stonith; c-max-rate 102400k; }}
  net {{
    protocol C; cram-hmac-alg sha256; shared-secret "{secret}";
    timeout 9; ping-int 1; ping-timeout 5; connect-int 1; ko-count 7;
    verify-alg sha256; csums-alg sha256;
  }}
{hosts}
}}
"""
_HOST = """  on {name} {{
    address ipv4 {address}:7001;
    volume 0 {{
      device minor 1; disk /dev/vg0/hand; flexible-meta-disk /dev/vg0/hand-meta;
    }}
  }}"""


class Pair:
    """Two nodes with a controller, and one orchestrator that calls CSI."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.controller = deployment.controller()

    def node(self, name: str) -> Node:
        return self.deployment.nodes[name]

    def create(self, name: str, size: int, **parameters: str) -> pb.Volume:
        return _repeat(
            lambda: self.controller.create(name, size, capability=block(), parameters=parameters)
        )

    def serve(self, volume: pb.Volume, name: str) -> str:
        """Publish, stage and publish it there; returns the path of its device."""
        staging, target = f"{_FOLDER}/s-{volume.volume_id}", f"{_FOLDER}/p-{volume.volume_id}"
        self.node(name).run(["mkdir", "-p", _FOLDER])
        agent = self.deployment.node(name)
        _repeat(lambda: self.controller.publish(volume.volume_id, name, block()))
        _repeat(lambda: agent.stage(volume, staging, block()))
        _repeat(lambda: agent.publish(volume, staging, target, block()))
        return target

    def withdraw(self, volume: pb.Volume, name: str) -> None:
        agent = self.deployment.node(name)
        staging, target = f"{_FOLDER}/s-{volume.volume_id}", f"{_FOLDER}/p-{volume.volume_id}"
        _repeat(lambda: agent.unpublish(volume.volume_id, target))
        _repeat(lambda: agent.unstage(volume.volume_id, staging))
        _repeat(lambda: self.controller.unpublish(volume.volume_id, name))

    def until_in_sync(self, volume: pb.Volume) -> None:
        """Both are members. Raises LabError."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while len(members := membership(self.deployment, volume.volume_id).members) < 2:
            if time.monotonic() > deadline:
                raise LabError(f"only {members} is in sync after {_PATIENCE_SECONDS:g} s")
            time.sleep(0.2)


@contextmanager
def pair() -> Iterator[Pair]:
    """Build it, and take it down again."""
    with Lab() as lab:
        nodes = lab.add_nodes((ONE, TWO), disks=(8 << 30,), memory=512 * MIB, udev=True)
        settings = {"thin_size": "50%"}
        deployment = Deployment(
            lab, nodes, pools=(Pool(settings=settings),), replication=True, name="pair"
        )
        try:
            deployment.start()
            yield Pair(deployment)
        finally:
            deployment.close()


def device_rates(site: Pair, rounds: int, seconds: float) -> list[Figure]:
    """Ours against the same resource by hand, the raw logical volume, and a face without DRBD."""
    parameters = {"pool": "default", "provision": "thick"}
    ours = site.create("bench-two", SIZE, **parameters, replicas="2")
    single = site.create("bench-one", SIZE, **parameters)
    where = single.accessible_topology[0].segments["csi.xlss.io/node"]
    mine, alone = site.serve(ours, where), site.serve(single, where)
    _make_by_hand(site, where)
    devices = (mine, _HAND, f"/dev/{_GROUP}/vol-{single.volume_id}", alone)
    try:
        for device in devices[:3]:
            site.node(where).run(
                ["dd", "if=/dev/urandom", f"of={device}", "bs=1M", "oflag=direct"], check=False
            )
        site.until_in_sync(ours)
        figures = []
        for pattern in PATTERNS:
            figures += _compare(site.node(where), pattern, devices, rounds, seconds)
        return figures
    finally:
        _remove_by_hand(site)
        for volume in (ours, single):
            site.withdraw(volume, where)
            site.controller.delete(volume.volume_id)


def _compare(
    node: Node, pattern: Pattern, devices: tuple[str, ...], rounds: int, seconds: float
) -> list[Figure]:
    ours, hand, raw, alone = rates(node, pattern, devices, rounds, seconds)
    against = (
        ("DRBD by hand", hand, at_least(0.97)),
        ("raw LV", raw, None),
        ("face without replica", alone, None),
    )
    return [
        _ratio(f"fio, replicated / {name}", pattern, ours, theirs, target)
        for name, theirs, target in against
    ]


def _ratio(
    group: str, pattern: Pattern, ours: list[float], theirs: list[float], target: Target | None
) -> Figure:
    basis = f"{statistics.median(ours):.0f} / {statistics.median(theirs):.0f} {pattern.unit}"
    return Figure(group, pattern.name, median_ratio(ours, theirs), "", target, basis)


def failover(site: Pair, runs: int) -> list[Figure]:
    """From the SIGKILL of the primary's node to the first write acknowledged on the survivor."""
    volume = site.create("bench-failover", 64 * MIB, replicas="2")
    took: list[float] = []
    site.serve(volume, ONE)
    site.until_in_sync(volume)
    for number in range(runs):
        old, new = (ONE, TWO) if number % 2 == 0 else (TWO, ONE)
        site.node(old).kill(silently=True)
        begun = time.monotonic()
        _repeat(lambda old=old: site.controller.unpublish(volume.volume_id, old))  # type: ignore[misc]
        device = site.serve(volume, new)
        _write(site.node(new), device)
        took.append(time.monotonic() - begun)
        site.deployment.reboot(old)
        site.until_in_sync(volume)
    site.withdraw(volume, new)
    site.controller.delete(volume.volume_id)
    basis = f"min {min(took):.2f}, max {max(took):.2f} s, {runs} runs"
    return [
        Figure(
            "failover",
            "power-off of the primary to the first write on the survivor, median",
            statistics.median(took),
            "s",
            at_most(_FAILOVER_SECONDS),
            basis,
        )
    ]


def snapshot_pause(site: Pair, snapshots: int) -> list[Figure]:
    """The longest that a write waits around a snapshot, under a writer that never rests."""
    volume = site.create("bench-pause", 64 * MIB, replicas="2")
    device = site.serve(volume, ONE)
    site.until_in_sync(volume)
    records = Records()
    writer = records.start(site.node(ONE), device)
    pauses: list[float] = []
    for number in range(snapshots):
        writer.wait_for(50)
        begun = time.monotonic()
        cut = site.controller.snapshot(volume.volume_id, f"pause-{number}")
        writer.wait_for(50)
        pauses.append(_longest_gap(records, begun))
        site.controller.delete_snapshot(cut.snapshot_id)
    writer.stop()
    site.withdraw(volume, ONE)
    site.controller.delete(volume.volume_id)
    basis = f"max {max(pauses) * 1000:.0f} ms, {snapshots} snapshots"
    return [
        Figure(
            "snapshot of a replicated volume",
            "longest pause of a write, median",
            statistics.median(pauses) * 1000,
            "ms",
            None,
            basis,
        )
    ]


def _longest_gap(records: Records, since: float) -> float:
    (session,) = records.journal()
    times = [since, *(time for time in session.acknowledged if time > since)]
    return max((b - a for a, b in itertools.pairwise(times)), default=0.0)


def _write(node: Node, device: str) -> None:
    node.run(["dd", "if=/dev/zero", f"of={device}", "bs=4096", "count=1", "oflag=direct,sync"])


def _make_by_hand(site: Pair, primary: str) -> None:
    nodes = site.deployment.nodes.values()
    hosts = "\n".join(_HOST.format(name=node.name, address=node.address) for node in nodes)
    config = _BY_HAND.format(secret="0123456789abcdef", hosts=hosts)
    for node in nodes:
        node.put("/etc/hand.res", config.encode(), mode=0o600)
        node.sh(
            f"lvcreate -y -Wn -Zn -L {SIZE}b -n hand {_GROUP} && "
            f"lvcreate -y -Wn -Zn -L 4M -n hand-meta {_GROUP} && "
            "drbdadm -c /etc/hand.res create-md --force hand && drbdadm -c /etc/hand.res up hand"
        )
    site.node(primary).sh("drbdadm -c /etc/hand.res primary --force hand")


def _remove_by_hand(site: Pair) -> None:
    for node in site.deployment.nodes.values():
        node.sh(
            f"drbdadm -c /etc/hand.res down hand; lvremove -fy {_GROUP}/hand {_GROUP}/hand-meta",
            check=False,
        )


def _repeat(call: Callable[[], _T]) -> _T:
    """As the sidecars and kubelet do."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return call()
        except grpc.RpcError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
