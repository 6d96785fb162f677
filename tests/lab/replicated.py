"""A stateful service on a volume of two replicas, and the orchestrator that runs it.

    writer = service.start(ONE)
    service.power_off(ONE)
    service.fail_over(TWO).wait_for(50)
    service.power_on(ONE)
    service.until_in_sync()
    service.check()

The orchestrator knows CSI only: it repeats each call until it succeeds, as kubelet and the sidecars
do. The service writes numbered records (`lab.records`); `check` judges them on both replicas.
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING

import grpc

from lab.csi_client import block, mount, on
from lab.deployment import Deployment
from lab.errors import LabError
from lab.node import MIB
from lab.record_writer import WINDOW
from lab.records import Records, differing, hashes
from lab.replica_states import drbd_state, membership, stored_volume

if TYPE_CHECKING:
    from cluster.membership import Membership
    from lab.node import Node
    from lab.records import Writer
    from lab.replica_states import DrbdState

ONE, TWO, OTHER = "n1", "n2", "n3"
SIZE = 64 * MIB
RECORDS = 16 * MIB
KUBELET = "/var/lib/kubelet"
LVM = "export LVM_SYSTEM_DIR=/run/xlss/lvm/vg0 DM_DISABLE_UDEV=1; lvm"
# Deadlines of the tests' patience, in seconds: nothing is measured by them.
SERVING = 90.0
SYNCING = 120.0
# Slow enough that a ring holds what is written in a while, and the machine has room for the rest.
INTERVAL = 0.02
NO_MINOR = -1  # of a volume without DRBD


class Service:
    """One replicated volume on ONE and TWO, and a writer on it where it runs."""

    def __init__(
        self,
        cluster: Deployment,
        *,
        filesystem: str = "",
        dsync: bool = False,
        pool: str = "",
        provision: str = "",
        replicas: int = 2,
        key: str = "",
        nodes: tuple[str, str] = (ONE, TWO),
        name: str = "data",
        source: Mapping[str, str] | None = None,
    ) -> None:
        """`filesystem` "" is the raw device. `dsync`: the writer's O_DSYNC instead of fsync.

        `pool`, `provision` and `replicas` as in the class; with a `key` it is encrypted. `nodes`:
        where its replicas are to be; `source`: the `snapshot` or `clone` that it is made of.
        """
        self.cluster = cluster
        self.nodes: tuple[str, ...] = nodes
        self.dsync = dsync
        self.id = ""
        self.capability = mount(filesystem) if filesystem else block()
        self._file = "/records" if filesystem else ""
        self.records = Records(size=RECORDS)
        self.writer: Writer | None = None
        self.secrets = {"encryptionKey": key} if key else {}
        encryption = "luks2" if key else ""
        chosen = {"pool": pool, "provision": provision, "encryption": encryption}
        chosen["replicas"] = str(replicas)
        parameters = {word: value for word, value in chosen.items() if value}
        self._create(name, parameters, source or {})
        self.id = self.volume.volume_id
        self.minor = NO_MINOR
        if replicas > 1:
            self.learn_minor()
            self.until_in_sync()

    def _create(self, name: str, parameters: dict[str, str], source: Mapping[str, str]) -> None:
        def create() -> None:
            self.volume = self.cluster.controller().create(
                name,
                SIZE,
                capability=self.capability,
                parameters=parameters,
                nodes=[on(node) for node in self.nodes],
                preferred=[on(node) for node in self.nodes],
                **source,  # type: ignore[arg-type]
            )

        self.repeat("create it", create, time.monotonic() + SERVING)

    def node(self, name: str) -> Node:
        return self.cluster.nodes[name]

    # What the orchestrator does

    @property
    def device(self) -> str:
        """Path of what the service writes to: the device, or a file in the file system."""
        return f"{KUBELET}/pod-{self.id}{self._file}"

    @property
    def staging(self) -> str:
        return f"{KUBELET}/staging-{self.id}"

    def start(self, node: str, seconds: float = SERVING) -> Writer:
        """Publish, stage, publish, and run the service there."""
        self.serve(node, seconds)
        self.writer = self.records.start(
            self.node(node), self.device, interval=INTERVAL, dsync=self.dsync
        )
        return self.writer

    def serve(self, node: str, seconds: float = SERVING) -> None:
        """`start` without the service."""
        staging = self.staging
        self.node(node).run(["mkdir", "-p", KUBELET, *([staging] if self._file else [])])
        agent = self.cluster.node(node)
        steps = (
            lambda: self.cluster.controller().publish(self.id, node, self.capability),
            lambda: agent.stage(self.volume, staging, self.capability, secrets=self.secrets),
            lambda: agent.publish(
                self.volume, staging, f"{KUBELET}/pod-{self.id}", self.capability
            ),
        )
        deadline = time.monotonic() + seconds
        for step in steps:
            self.repeat(f"serve it on {node}", step, deadline)

    def fail_over(self, node: str, seconds: float = SERVING) -> Writer:
        """The other node is taken for dead: from now on the service runs here."""
        self.give_up(node, seconds)
        return self.start(node, seconds)

    def give_up(self, node: str, seconds: float = SERVING) -> None:
        """Unpublish from all nodes but this one, without a word to them; publish here."""
        deadline = time.monotonic() + seconds
        for other in set(self.nodes) - {node}:
            self.unpublish(other, deadline)
        controller = self.cluster.controller()
        self.repeat(
            f"publish it on {node}",
            lambda: controller.publish(self.id, node, self.capability),
            deadline,
        )

    def move(self, node: str, seconds: float = SERVING) -> None:
        """An orderly move to this node, without the service."""
        deadline = time.monotonic() + seconds
        self.stop()
        for other in set(self.nodes) - {node}:
            self.release(other, deadline)
            self.unpublish(other, deadline)
        self.serve(node, seconds)

    def refused(self, node: str, words: str, seconds: float = SERVING) -> None:
        """It cannot be served there, and the error says so: a pattern for its text."""
        deadline = time.monotonic() + seconds
        said = ""
        while not re.search(words, said):
            assert time.monotonic() < deadline, (
                f"{said!r} says nothing of {words!r}: {self.state()}"
            )
            try:
                self.give_up(node, 1.0)
                self.serve(node, 1.0)
            except AssertionError as error:
                said = str(error.args[0])
            else:
                raise AssertionError(f"{node} serves: {self.state()}")

    def stop(self) -> None:
        """The service ends, wherever it runs or hangs."""
        if self.writer is not None and self.writer.ending is None:
            self.writer.stop()
        self.writer = None

    def delete(self) -> None:
        for writer in self.records.writers:
            if writer.ending is None:
                writer.kill()
        deadline = time.monotonic() + SYNCING
        self.withdraw()
        controller = self.cluster.controller()
        self.repeat("delete it", lambda: controller.delete(self.id), deadline)

    def withdraw(self) -> None:
        """Nobody uses it any more, anywhere."""
        deadline = time.monotonic() + SYNCING
        for name in self.nodes:
            self.release(name, deadline)
            self.unpublish(name, deadline)

    def release(self, name: str, deadline: float) -> None:
        """What kubelet does where a pod is gone; also after a reboot, and again."""
        agent = self.cluster.node(name)
        staging, target = self.staging, f"{KUBELET}/pod-{self.id}"
        self.repeat(f"unpublish it in {name}", lambda: agent.unpublish(self.id, target), deadline)
        self.repeat(f"unstage it in {name}", lambda: agent.unstage(self.id, staging), deadline)

    def unpublish(self, name: str, deadline: float) -> None:
        controller = self.cluster.controller()
        self.repeat(
            f"unpublish it from {name}", lambda: controller.unpublish(self.id, name), deadline
        )

    def repeat(self, what: str, call: Callable[[], object], deadline: float | None = None) -> None:
        """A call, until it succeeds; `deadline` by time.monotonic(), SERVING from now without."""
        if deadline is None:
            deadline = time.monotonic() + SERVING
        while True:
            try:
                call()
            except grpc.RpcError as error:
                said = f"cannot {what}: {error.code().name} {error.details()}"
            else:
                return
            if time.monotonic() > deadline:
                raise AssertionError(said, self.state())
            time.sleep(0.2)

    # Faults

    def power_off(self, name: str) -> None:
        self.node(name).kill(silently=True)

    def power_on(self, name: str) -> None:
        self.cluster.reboot(name)

    def cut_link(self) -> None:
        """Between the replicas only: both still reach the arbiter."""
        self.node(self.nodes[0]).cut_from(self.node(self.nodes[1]))

    def join_link(self) -> None:
        self.node(self.nodes[0]).join_with(self.node(self.nodes[1]))

    def pause_agent(self, name: str) -> None:
        self.node(name).pause_process(self.cluster.agent(name).pid)

    def resume_agent(self, name: str) -> None:
        self.node(name).resume_process(self.cluster.agent(name).pid)

    def restart_agent(self, name: str) -> None:
        self.cluster.stop_agent(name, signal.SIGKILL)
        self.cluster.start_agent(name)

    # What is seen

    def learn_minor(self) -> None:
        """By which DRBD knows it; again where it was not replicated before."""
        replication = stored_volume(self.cluster, self.id).replication
        assert replication is not None
        self.minor = replication.minor

    @property
    def record(self) -> Membership:
        return membership(self.cluster, self.id)

    def drbd(self, name: str) -> DrbdState | None:
        node = self.node(name)
        return drbd_state(node, self.minor) if node.running else None

    def role(self, name: str) -> str:
        """Primary, Secondary …, "" where the kernel has no such replica."""
        state = self.drbd(name)
        return state.role if state is not None else ""

    def until(self, what: str, right: Callable[[], object], seconds: float = SYNCING) -> None:
        deadline = time.monotonic() + seconds
        while not right():
            assert time.monotonic() < deadline, f"not {what} in {seconds} s: {self.state()}"
            time.sleep(0.15)

    def in_sync(self) -> bool:
        """Both replicas are members, and the kernel has nothing left to copy."""
        for name in self.nodes:
            if (state := self.drbd(name)) is None or not state.in_sync:
                return False
        record = self.record
        return set(record.members) == set(self.nodes) and not record.quarantine

    def until_in_sync(self) -> None:
        self.until("in sync", self.in_sync)

    def until_frozen(self, name: str) -> None:
        """The kernel holds writes back, and the writer there gets no acknowledgement."""

        def frozen() -> bool:
            state = self.drbd(name)
            return state is not None and state.frozen

        self.until(f"frozen on {name}", frozen)

    def until_alone(self, name: str) -> None:
        """The arbiter has taken the other node out of the set."""
        self.until(f"the only member is {name}", lambda: self.record.members == (name,))

    def holds_still(self, writer: Writer, seconds: float = 2.0) -> None:
        """Nothing that it writes from now on ends; what ended before may still be on its way."""
        before, last = writer.last, -1
        while writer.last != last:
            last = writer.last
            assert last <= before + WINDOW, f"{last - before} more: {self.state()}"
            time.sleep(seconds)

    def holds_on(self, writer: Writer, seconds: float = 6.0) -> None:
        """It goes on for as long as it takes to notice that somebody is silent, and act on it."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            writer.wait_for(10)

    def state(self) -> str:
        """What tells why something does not go on."""
        if not self.id:
            return "it is not created"
        lines = []
        with suppress(KeyError):  # it has none where it is not replicated
            lines.append(f"record: {self.record}")
        for name in self.nodes:
            lines.append(f"{name}: {self.drbd(name)}")
            with suppress(LabError, KeyError):
                generations = ["drbdsetup", "get-gi", str(self.minor)]
                lines.append(f"    {self.node(name).run(generations, check=False).text}")
                log = self.cluster.agent(name).log(timeout=5.0).splitlines()
                lines += [f"    {line}" for line in log if self.id in line][-6:]
        return "\n".join(lines)

    # Judging

    def at_most_one_acknowledges(self) -> None:
        """Each writer found all that those before it had acknowledged by then, or did later."""
        for before, after in pairwise(self.records.writers):
            assert before.last <= after.found, f"{before.node} went on: {self.state()}"

    def check(self) -> None:
        """Nothing is lost on either replica, both are equal, and one at a time acknowledged.

        The node that does not serve has to: stale data would be seen there.
        """
        self.stop()
        self.at_most_one_acknowledges()
        self.until_in_sync()
        other = next(name for name in self.nodes if self.role(name) != "Primary")
        self.move(other)
        verdict = self.records.check(self.node(other), self.device)
        assert verdict.ok, (other, verdict, self.state())
        self.withdraw()
        self.until_in_sync()
        below = f"/dev/mapper/xlss-disk-{self.id}"
        contents = [hashes(self.node(name), below) for name in self.nodes]
        assert differing(*contents) == [], self.state()
