"""The three nodes on which the tests of replicated volumes run."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lab.deployment import Deployment, Pool
from lab.node import MIB
from lab.replica_states import proc_drbd
from tests.lab.replicated import LVM, ONE, OTHER, SYNCING, TWO, Service

if TYPE_CHECKING:
    from lab.lab import Lab
    from lab.node import Node


class Group:
    """Three nodes that the tests of a file share; `service` gives them back as they were."""

    def __init__(
        self,
        lab: Lab,
        pools: tuple[Pool, ...],
        disks: tuple[int, ...],
        agent: Mapping[str, object],
    ) -> None:
        self._lab = lab
        self._agent = agent
        self._pools = pools
        self._disks = disks
        self._generation = 0
        self._cluster: Deployment | None = None
        self._sound = False

    @property
    def cluster(self) -> Deployment:
        """On new nodes where those before it were given up, which are there until then."""
        if self._cluster is None or not self._sound:
            self.close()
            self._cluster = self._build()
            self._cluster.start()
            self._sound = True
        return self._cluster

    def _build(self) -> Deployment:
        nodes = self._lab.add_nodes((ONE, TWO, OTHER), disks=self._disks, memory=384 * MIB)
        for node in nodes:
            for pool in self._pools:
                for device in pool.devices:
                    if "/faulty-" in device:
                        node.faulty_disk(f"/dev/{device.rpartition('-')[2]}")
        self._generation += 1
        return Deployment(
            self._lab,
            nodes,
            pools=self._pools,
            agent=self._agent,
            replication=True,
            name=f"replicated-{self._generation}",
        )

    @contextmanager
    def service(self, **options: Any) -> Iterator[Service]:
        """Afterwards everything runs, and nothing is left of it; else the nodes are given up."""
        cluster = self.cluster
        try:
            service = Service(cluster, **options)
            yield service
            self._heal(cluster, service)
        except BaseException:
            self._sound = False
            raise

    def _heal(self, cluster: Deployment, service: Service) -> None:
        self._lab.heal()
        if cluster.controller_ended():
            cluster.start_controller()
        for name, node in cluster.nodes.items():
            if not node.running:
                cluster.reboot(name)
            elif not cluster.agent(name).alive:
                cluster.start_agent(name)
        service.delete()
        # A node that does not answer just then has its part removed when it does.
        deadline = time.monotonic() + SYNCING
        for name, node in cluster.nodes.items():
            while left := _left(node):
                assert time.monotonic() < deadline, (name, left)
                time.sleep(0.2)

    def nodes(self) -> Collection[Node]:
        return self._cluster.nodes.values() if self._cluster is not None else ()

    def close(self) -> None:
        if self._cluster is not None:
            self._cluster.remove()
        self._cluster = None


def _left(node: Node) -> list[str]:
    """What the kernel still has of volumes: DRBD's devices, and ours of device-mapper."""
    replicas = [line for line in proc_drbd(node).splitlines() if " cs:" in line]
    devices = node.run(["dmsetup", "ls"]).text.splitlines()
    return [
        *(line for line in replicas if "Unconfigured" not in line),
        *(line for line in devices if line.startswith("xlss-")),
    ]


@contextmanager
def visible(cluster: Deployment, nodes: Iterable[str], *snapshots: str) -> Iterator[list[str]]:
    """The devices of thin volumes' snapshots, at the same paths on these nodes."""
    names = [f"vg0/snap-{one}" for one in snapshots]
    try:
        for node in nodes:
            cluster.nodes[node].sh(f"{LVM} lvchange -q -ay -K {' '.join(names)}")
        yield [f"/dev/{name}" for name in names]
    finally:
        for node in nodes:
            cluster.nodes[node].sh(f"{LVM} lvchange -q -an {' '.join(names)}")
