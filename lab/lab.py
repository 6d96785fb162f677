"""A lab: the nodes and the network of this process."""

from __future__ import annotations

import compileall
import re
import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from lab import network, sandbox, wakeups
from lab.errors import LabError
from lab.host_process import HostProcess
from lab.kernel import default_kernel
from lab.node import ENVIRONMENT, MIB, Node, tail
from lab.paths import CACHE, FILES, PROJECT, SHARE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

PACKAGES = ("cli", "csi", "node_agent", "replication", "host", "cluster", "lab")
MAX_NODES = 250
NODE_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")


class Lab:
    """The lab of this process; the first is made early, before other threads run.

    Use it with `with`, or end it with close(). When the process ends in any other way, all is
    gone too. `wakeup_seconds`: the longest that a packet lies in a node unnoticed.
    """

    def __init__(self, wakeup_seconds: float = wakeups.SECONDS) -> None:
        CACHE.mkdir(parents=True, exist_ok=True)
        default_kernel().link_modules()
        compile_packages()
        sandbox.enter()
        self.share = SHARE
        self.folder = FILES
        self.folder.mkdir(exist_ok=True)
        self.host_address = network.HOST_ADDRESS
        self.nodes: dict[str, Node] = {}
        self.processes: list[HostProcess] = []
        self._lock = threading.Lock()
        self._wakeups = wakeups.Wakeups(self.nodes, wakeup_seconds)

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def define_node(
        self,
        name: str | None = None,
        *,
        disks: Sequence[int] = (),
        memory: int = 512 * MIB,
        udev: bool = False,
    ) -> Node:
        """Make a node without starting it; see `add_node`."""
        if name is not None and not NODE_NAME.fullmatch(name):
            raise LabError(f"not a name for a node: {name} (like n1 or node-a)")
        with self._lock:
            used = {node.index for node in self.nodes.values()}
            index = next(number for number in range(1, MAX_NODES) if number not in used)
            name = name or f"n{index}"
            if name in self.nodes:
                raise LabError(f"there is a node {name} already")
            node = Node(name, index, memory=memory, udev=udev)
            self.nodes[name] = node
        try:
            node.folder.mkdir(parents=True)
            for size in disks:
                node.add_disk(size)
            network.add_taps(index)
        except BaseException:
            self.remove_node(node)
            raise
        return node

    def add_node(
        self,
        name: str | None = None,
        *,
        disks: Sequence[int] = (),
        memory: int = 512 * MIB,
        udev: bool = False,
    ) -> Node:
        """Make and start a node.

        `disks`: sizes in bytes of its empty disks, /dev/ubdb and on; they take memory of the
        host only as they are written. `memory`: bytes. `udev`: start a stock systemd-udevd.
        """
        node = self.define_node(name, disks=disks, memory=memory, udev=udev)
        try:
            node.start()
        except BaseException:
            self.remove_node(node)
            raise
        return node

    def add_nodes(
        self,
        count: int | Sequence[str],
        *,
        disks: Sequence[int] = (),
        memory: int = 512 * MIB,
        udev: bool = False,
    ) -> list[Node]:
        """`add_node` for several at once: a count, or their names."""
        names = [None] * count if isinstance(count, int) else count
        nodes: list[Node] = []
        try:
            for name in names:
                nodes.append(self.define_node(name, disks=disks, memory=memory, udev=udev))
            for node in nodes:
                node.begin_start()
            for node in nodes:
                node.finish_start()
        except BaseException:
            for node in nodes:
                self.remove_node(node)
            raise
        return nodes

    def remove_node(self, node: Node) -> None:
        """Power a node off and forget it, its disks included."""
        node.kill()
        network.remove_taps(node.index)
        shutil.rmtree(node.folder, ignore_errors=True)
        del self.nodes[node.name]

    def spawn(
        self,
        argv: Sequence[str],
        *,
        log: str,
        env: Mapping[str, str] | None = None,
        cwd: Path = PROJECT,
    ) -> HostProcess:
        """Start a long-running process on the host, in the lab's network (10.77.0.254).

        `log`: name of a file in `folder` that gets its two outputs. `env` is added to the small
        fixed environment that the nodes' processes have too.
        """
        environment = ENVIRONMENT | dict(env or {})
        process = HostProcess(argv, log=self.folder / log, env=environment, cwd=cwd)
        self.processes.append(process)
        return process

    def heal(self) -> None:
        """Undo every fault of every node; see `Node.heal`."""
        for node in self.nodes.values():
            node.heal()

    def evidence(self, *, whole: bool = False) -> list[tuple[str, str]]:
        """(title, text) of what tells why something failed: consoles, logs of processes.

        Their last lines, or the whole.
        """
        cut = str if whole else tail
        found = [(process.log_path.name, cut(process.log())) for process in self.processes]
        for node in self.nodes.values():
            evidence = node.evidence(whole=whole)
            found += [(f"{node.name} {title}", text) for title, text in evidence]
        return found

    def close(self) -> None:
        """Remove all nodes, end all processes, empty the folders."""
        for process in self.processes:
            process.kill()
        self.processes.clear()
        for node in list(self.nodes.values()):
            self.remove_node(node)
        self._wakeups.stop()
        for folder in (self.share, self.folder):
            shutil.rmtree(folder)
            folder.mkdir()


def compile_packages() -> None:
    """Bytecode of our packages: in a node, compiling is slow and would be lost."""
    for package in PACKAGES:
        compileall.compile_dir(PROJECT / package, quiet=1)
