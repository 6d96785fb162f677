"""Where the benchmarks run: one lab node with a stock udevd, and a controller on the host."""

from __future__ import annotations

import re
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

from csi.rpc import csi_pb2 as pb
from lab.csi_client import ControllerClient, NodeClient, block, mount
from lab.deployment import Deployment, Pool
from lab.errors import LabError
from lab.lab import Lab
from lab.node import Node

MIB = 1 << 20
GROUP, THIN_POOL = "vg0", "thin"
CONTROLLER_METRICS = "127.0.0.1:9811"
_METRICS_PORT = 9812
_POOL_SECONDS = 60.0
_MEMORY = 1024 * MIB
# Sparse: it costs only what is written.
_DISK = 64 << 30
_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? ([0-9.eE+-]+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class Sample:
    """One line of Prometheus' text format."""

    name: str
    labels: dict[str, str]
    value: float


class Site:
    """The node under test and how to talk to it."""

    def __init__(self, deployment: Deployment, node: Node) -> None:
        self.deployment, self.host = deployment, node
        self.controller: ControllerClient = deployment.controller()
        self.node: NodeClient = deployment.node(node.name)

    def create(self, name: str, size: int, provision: str, *, raw: bool = True) -> str:
        """Create a volume through CSI, raw or for ext4; returns its identifier."""
        parameters = {"pool": "default", "provision": provision}
        capability = block() if raw else mount("ext4")
        volume = self.controller.create(name, size, capability=capability, parameters=parameters)
        return volume.volume_id

    def wait_for_pool(self) -> None:
        """Return when the agent has made its pool. Raises LabError."""
        deadline = time.monotonic() + _POOL_SECONDS
        request = pb.GetCapacityRequest()
        while not self.controller.stub.GetCapacity(
            request, timeout=_POOL_SECONDS
        ).available_capacity:
            if time.monotonic() > deadline:
                log = self.deployment.agent(self.host.name).log()
                raise LabError(f"no pool after {_POOL_SECONDS:.0f} s: {log[-4000:]}")
            time.sleep(0.5)

    def timed(self, command: str) -> float:
        """Seconds that a command takes that a person types in a shell of the node."""
        script = f"b=$EPOCHREALTIME; {command} >/dev/null; e=$EPOCHREALTIME; echo $b $e"
        # Closed standard input: nothing can wait for an answer.
        words = self.host.sh(f"exec </dev/null; {script}").text.split()
        begin, end = (float(word) for word in words)
        return end - begin

    def forks(self) -> int:
        """Processes and threads that the node's kernel has begun since its boot (proc(5))."""
        lines = self.host.get("/proc/stat").decode().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("processes "))

    def node_metrics(self) -> list[Sample]:
        return _scrape(f"{self.host.address}:{_METRICS_PORT}")

    def controller_metrics(self) -> list[Sample]:
        return _scrape(CONTROLLER_METRICS)

    def node_memory(self) -> dict[str, int]:
        """Resident bytes of `xlss node` and, by command, of the children that it keeps."""
        pid = self.deployment.agent(self.host.name).pid
        script = (
            f"for p in {pid} $(pgrep -P {pid} || true); do "
            "echo $(cat /proc/$p/comm) $(awk '/^VmRSS/ {print $2}' /proc/$p/status); done"
        )
        lines = [line.split() for line in self.host.sh(script).text.splitlines()]
        names = ["xlss node", *(line[0] for line in lines[1:])]
        return {name: int(line[-1]) << 10 for name, line in zip(names, lines, strict=True)}

    def controller_memory(self) -> int:
        """Resident bytes of `xlss controller`."""
        return psutil.Process(self.deployment.controller_pid).memory_info().rss


@contextmanager
def site() -> Iterator[Site]:
    """Build it, and take it down again."""
    with Lab() as lab:
        node = lab.add_node("bench", disks=(_DISK,), memory=_MEMORY, udev=True)
        deployment = Deployment(
            lab,
            [node],
            pools=(Pool(volume_group=GROUP, thin_pool=THIN_POOL, settings={"thin_size": "50%"}),),
            controller={"metrics_listen": CONTROLLER_METRICS},
            # Looking at the pools in between would be counted as the cost of a request.
            agent={"metrics_listen": f"{node.address}:{_METRICS_PORT}", "watch_seconds": 3600.0},
        )
        try:
            deployment.start()
            bench = Site(deployment, node)
            bench.wait_for_pool()
            yield bench
        finally:
            deployment.close()


def parse_samples(text: str) -> list[Sample]:
    """The samples of a scrape; comments are left out."""
    return [
        Sample(name, dict(_LABEL.findall(labels or "")), float(value))
        for name, labels, value in _SAMPLE.findall(text)
    ]


def _scrape(address: str) -> list[Sample]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{address}/metrics", timeout=10.0) as answer:
        return parse_samples(answer.read().decode())
