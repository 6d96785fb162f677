"""A service of a chaos run, whose volume's replicas come, go and move, and who keeps it running."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import grpc

from lab.errors import LabError
from lab.node import MIB
from lab.replica_states import stored_volume
from tests.chaos_schedule import NODES
from tests.lab.replicated import Service

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lab.deployment import Deployment
    from lab.records import Writer

TRY_SECONDS = 3.0
_ELSEWHERE_SECONDS = 15.0
# What any of the calls to a cluster in trouble may end with.
FAILURES = (AssertionError, LabError, grpc.RpcError, OSError, KeyError)


class Workload(Service):
    """A service on a volume that is to have two replicas, wherever they are now."""

    def __init__(
        self,
        cluster: Deployment,
        name: str,
        nodes: tuple[str, str],
        filesystem: str = "",
        source: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(cluster, name=name, nodes=nodes, filesystem=filesystem, source=source)
        self.filesystem = filesystem

    def follow(self) -> tuple[str, ...]:
        """The nodes of its volume now, by the store."""
        volume = stored_volume(self.cluster, self.id)
        self.nodes = volume.nodes
        if volume.replication is not None:
            self.minor = volume.replication.minor
        return self.nodes

    def start(self, node: str, seconds: float = TRY_SECONDS) -> Writer:
        """As kubelet: a pod that is still there from before has ended first."""
        old = [one for one in self.records.writers if one.node.name == node and one.ending is None]
        for writer in old:
            assert writer.process is not None
            writer.process.kill()
            writer.wait_ended(seconds)
        if old:
            self.release(node, time.monotonic() + seconds)
        return super().start(node, seconds)

    def release_elsewhere(self, here: str) -> None:
        """What kubelet does of a pod that went elsewhere, on all nodes that it may have been on."""
        for name in set(NODES) - {here}:
            self.release(name, time.monotonic() + TRY_SECONDS)

    def why_not_whole(self) -> str:
        """Why it does not have what it is to have: two replicas in sync, and no rest of others."""
        volume = stored_volume(self.cluster, self.id)
        if volume.spec.replicas != 2 or volume.replication is None or len(volume.nodes) != 2:
            return f"it has not two replicas: {volume}"
        if volume.leftovers:
            return f"there are leftovers: {volume}"
        self.follow()
        return "" if self.in_sync() else f"it is not in sync: {self.state()}"

    def content_bytes(self, node: str) -> int:
        """How far what is on it reaches there: its file system, or the device."""
        face = f"/dev/mapper/xlss-{self.id}"
        if not self.filesystem:
            return int(self.node(node).run(["blockdev", "--getsize64", face]).text)
        lines = self.node(node).run(["dumpe2fs", "-h", face]).text.splitlines()
        said = dict(line.split(":", 1) for line in lines if ":" in line)
        return int(said["Block count"]) * int(said["Block size"])

    def why_not_grown(self, node: str) -> str:
        """Why what is on it does not reach to its end there."""
        size = stored_volume(self.cluster, self.id).size_bytes
        content = self.content_bytes(node)
        # A file system may leave out the beginning of a group of blocks.
        short = size - content >= (4 * MIB if self.filesystem else 1)
        return f"{content} of {size} bytes are used on {node}" if short else ""


class Keeper(threading.Thread):
    """An orchestrator of one service: it runs, on a node that is not taken for dead."""

    def __init__(self, service: Workload, dead: set[str]) -> None:
        super().__init__(name=f"keeper-{service.id}", daemon=True)
        self.service = service
        self.here = service.nodes[0]
        self.trouble = ""
        self.turn = threading.Lock()
        """Held while it does something; whoever else has it may use the service."""
        self._dead = dead
        self._moving = False
        self._failing_since = 0.0
        self._ended = threading.Event()

    def want_move(self) -> None:
        """To the other node, in order; forgotten where it does not succeed at once."""
        self._moving = True

    def end(self) -> None:
        self._ended.set()
        self.join()

    def runs(self) -> bool:
        writer = self.service.writer
        return writer is not None and writer.ending is None

    @property
    def is_cut_off(self) -> bool:
        """Whether its node is taken for dead."""
        return self.here in self._dead

    def run(self) -> None:
        while not self._ended.wait(0.1):
            with self.turn:
                try:
                    self._look()
                    self.trouble, self._failing_since = "", 0.0
                except FAILURES as error:
                    self.trouble = f"{type(error).__name__}: {str(error.args[:1])[:500]}"
                    self._failing_since = self._failing_since or time.monotonic()

    def _look(self) -> None:
        moving, self._moving = self._moving, False
        if self.is_cut_off:
            if other := self._elsewhere():
                self._go_elsewhere(other)
        elif not self.runs():
            # A pod that cannot start where it is gets another node, where one is.
            late = self._failing_since and (
                time.monotonic() - self._failing_since > _ELSEWHERE_SECONDS
            )
            other = self._elsewhere()
            if other and (late or self.here not in self.service.nodes):
                self._failing_since = 0.0
                self._go_elsewhere(other)
            else:
                self.service.start(self.here, TRY_SECONDS)
        elif moving and (other := self._elsewhere()):
            self.service.move(other, TRY_SECONDS)
            self.here = other

    def _go_elsewhere(self, other: str) -> None:
        self.here = other
        self.service.writer = None  # it may hang where it was, and ends when that node is back
        self.service.fail_over(other, TRY_SECONDS)

    def _elsewhere(self) -> str:
        """Another node with a replica that is not taken for dead, or nothing."""
        places = self.service.follow()
        return next((node for node in places if node not in {self.here, *self._dead}), "")
