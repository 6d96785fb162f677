"""`make demo`: what XLSS does, on three virtual nodes, in under three minutes."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

from csi.rpc import csi_pb2 as pb
from lab.csi_client import block, mount, on
from lab.deployment import Deployment, Pool
from lab.lab import Lab
from lab.node import Node
from lab.orchestrator import Orchestrator
from lab.records import Records

MIB = 1 << 20
GIB = 1 << 30
DISKS = (6 * GIB, 6 * GIB)
STAGING = "/var/lib/kubelet/staging"
PODS = "/var/lib/kubelet/pods"
RESYNC_SECONDS = 60.0

console = Console(highlight=False)


class Story:
    """Numbered steps, each with what it shows and how long it took."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._number = 0

    @contextmanager
    def step(self, title: str) -> Iterator[Callable[[str], None]]:
        self._number += 1
        began = time.monotonic()
        console.print(f"[bold]{self._number:2}. {title}[/]")
        with console.status("…"):
            yield lambda text: console.print(f"      {text}")
        console.print(f"      [dim]{time.monotonic() - began:.1f} s[/]")

    def end(self) -> None:
        console.print(
            f"\n[green]Done[/] in {time.monotonic() - self._began:.0f} s. Nothing is left."
        )


def main() -> int:
    story = Story()
    with story.step("Boot three nodes, each a real Linux kernel with two disks") as say:
        lab = Lab()
        nodes = lab.add_nodes(3, disks=DISKS, memory=512 * MIB)
        say(", ".join(f"{node.name} ({node.address})" for node in nodes))
        say(f"Linux {nodes[0].run(['uname', '-r']).text}")
    try:
        pool = Pool(devices=("/dev/ubdb", "/dev/ubdc"), settings={"thin_size": "80%"})
        cluster = Deployment(lab, nodes, pools=(pool,), replication=True)
        tell(story, cluster)
        tell_of_replicas(story, cluster)
    finally:
        with story.step("Tear down"):
            lab.close()
    story.end()
    return 0


def tell(story: Story, cluster: Deployment) -> None:
    """The demonstration proper, on nodes that are up."""
    with story.step("Start a controller, and `xlss node` on each node; disks become pools"):
        cluster.start()
    controller = cluster.controller()
    with story.step("Create volumes through CSI: thin ext4, thick xfs, a raw block device") as say:
        data = controller.create("data", GIB, capability=mount("ext4"), nodes=[on("n1")])
        logs = controller.create(
            "logs", GIB, capability=mount("xfs"), parameters={"provision": "thick"}
        )
        raw = controller.create("raw", 512 * MIB, capability=block())
        for volume in (data, logs, raw):
            where = volume.accessible_topology[0].segments["csi.xlss.io/node"]
            say(f"{volume.volume_id}  {volume.capacity_bytes / MIB:6.0f} MiB on {where}")
    with story.step("Mount the first one on n1, as kubelet does, and write a file") as say:
        serve(cluster, data, "app")
        node = cluster.nodes["n1"]
        digest = write(cluster, f"{PODS}/app", 64)
        say(f"64 MiB written and synced, sha256 {digest[:16]}…")
    with story.step("Take a snapshot while it is mounted, then overwrite the file") as say:
        snapshot = controller.snapshot(data.volume_id, "before-upgrade")
        say(f"{snapshot.snapshot_id} ready: {snapshot.ready_to_use}")
        newer = write(cluster, f"{PODS}/app", 64)
    with story.step("Restore the snapshot beside it, and clone the live volume") as say:
        restored = controller.create(
            "restored", GIB, capability=mount("ext4"), snapshot=snapshot.snapshot_id
        )
        clone = controller.create("clone", 2 * GIB, capability=mount("ext4"), clone=data.volume_id)
        serve(cluster, restored, "restored")
        serve(cluster, clone, "clone")
        expect(read(cluster, f"{PODS}/restored") == digest, "the snapshot holds the old file")
        expect(read(cluster, f"{PODS}/clone") == newer, "the clone holds the new file")
        say("the snapshot holds the old file, the clone the new one and twice the room")
    with story.step("Grow the mounted volume to 3 GiB") as say:
        before = free_mib(cluster, f"{PODS}/app")
        controller.expand(data.volume_id, 3 * GIB)
        cluster.node("n1").expand(data.volume_id, f"{PODS}/app", 3 * GIB, staging=staging("app"))
        after = free_mib(cluster, f"{PODS}/app")
        say(f"free in the file system: {before} MiB before, {after} MiB after")
    with story.step("xlss status"):
        console.print(cluster.xlss("status", "--socket", str(cluster.socket)))
    with story.step("Kill n1 without warning, start it again, mount again") as say:
        cluster.reboot("n1")
        serve(cluster, data, "app")
        expect(read(cluster, f"{PODS}/app") == newer, "the data is there after the power cut")
        say(f"sha256 {newer[:16]}…: what was synced is there")
    with story.step("Delete everything through CSI") as say:
        release(cluster, data, "app")
        controller.delete_snapshot(snapshot.snapshot_id)
        for volume in (data, logs, raw, restored, clone):
            controller.unpublish(volume.volume_id, "")
            controller.delete(volume.volume_id)
        left = node.sh(
            "lvs --noheadings -o lv_name --config 'devices{scan_lvs=0}' vg0"
        ).text.split()
        expect(left == ["thin"], f"only the empty pool is left on n1, not {left}")
        say("no logical volume is left")


def tell_of_replicas(story: Story, cluster: Deployment) -> None:
    """A volume on two nodes, whose service goes on elsewhere when one of them dies."""
    pods = Orchestrator(cluster)
    records = Records()
    with story.step('Create a volume with `replicas: "2"`: every write is on two nodes') as say:
        volume = pods.create("database", 256 * MIB, replicas="2")
        here, there = (place.segments["csi.xlss.io/node"] for place in volume.accessible_topology)
        say(f"{volume.volume_id} on {here} and {there}")
    with story.step(
        f"Run a service on {here} that numbers, checksums and syncs its records"
    ) as say:
        writer = records.start(cluster.nodes[here], pods.serve(volume, here))
        pods.until_in_sync(volume)
        writer.wait_for(500)
        say(f"{writer.last} records acknowledged")
    with story.step(f"Kill {here} without warning; the service goes on on {there}") as say:
        cluster.nodes[here].kill(silently=True)
        began = time.monotonic()
        writer = records.start(cluster.nodes[there], pods.fail_over(volume, here, there))
        writer.wait_for(1)
        say(f"writing again after {time.monotonic() - began:.1f} s, no data was copied")
        writer.wait_for(500)
    with story.step(f"Start {here} again: it catches up with what it has missed") as say:
        cluster.reboot(here)
        for text in resync(cluster.nodes[there]):
            say(text)
        pods.until_in_sync(volume)
        say(f"{here} and {there} are both in the in-sync set, and the service never stopped")
    with story.step("Move the service back, and judge every record") as say:
        writer.wait_for(100)
        writer.stop()
        pods.withdraw(volume, there)
        verdict = records.check(cluster.nodes[here], pods.serve(volume, here))
        acknowledged = sum(len(session.acknowledged) for session in records.journal())
        expect(verdict.ok, f"all is well with the records: {verdict}")
        say(f"{acknowledged} acknowledged, {len(verdict.lost)} lost")
        pods.withdraw(volume, here)
        pods.delete(volume)


def resync(node: Node) -> Iterator[str]:
    """How far DRBD is, as long as it is at work."""
    last = ""
    deadline = time.monotonic() + RESYNC_SECONDS
    while time.monotonic() < deadline:
        text = node.sh("cat /proc/drbd").text
        found = re.search(r"sync'ed: *([0-9.]+%).*\n.*finish: (\S+)", text)
        if found and found[1] != last:
            last = found[1]
            yield f"resync: {found[1]}, {found[2]} left"
        if "ds:UpToDate/UpToDate" in text:
            return
        time.sleep(0.2)


def staging(name: str) -> str:
    return f"{STAGING}/{name}"


def serve(cluster: Deployment, volume: pb.Volume, name: str) -> None:
    """Publish on n1, stage and mount, as the attacher and kubelet do."""
    cluster.controller().publish(volume.volume_id, "n1")
    cluster.nodes["n1"].run(["mkdir", "-p", staging(name), PODS])
    kubelet = cluster.node("n1")
    kubelet.stage(volume, staging(name))
    kubelet.publish(volume, staging(name), f"{PODS}/{name}")


def release(cluster: Deployment, volume: pb.Volume, name: str) -> None:
    """Undo `serve`."""
    kubelet = cluster.node("n1")
    kubelet.unpublish(volume.volume_id, f"{PODS}/{name}")
    kubelet.unstage(volume.volume_id, staging(name))
    cluster.controller().unpublish(volume.volume_id, "n1")


def write(cluster: Deployment, folder: str, mebibytes: int) -> str:
    """Write and sync a file of random bytes; returns its SHA-256."""
    size = f"bs=1M count={mebibytes}"
    cluster.nodes["n1"].sh(f"dd if=/dev/urandom of={folder}/file {size} conv=fsync status=none")
    return read(cluster, folder)


def read(cluster: Deployment, folder: str) -> str:
    return cluster.nodes["n1"].run(["sha256sum", f"{folder}/file"]).text.split()[0]


def free_mib(cluster: Deployment, folder: str) -> int:
    result = cluster.nodes["n1"].run(["df", "--output=avail", "-BM", folder])
    return int(result.text.split()[1].rstrip("M"))


def expect(holds: bool, what: str) -> None:
    if not holds:
        raise SystemExit(f"demo: it is not so that {what}")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
