"""The cluster of a chaos run: its faults made and undone, and who keeps its services running."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from lab.deployment import Deployment
from lab.errors import LabError
from lab.node import MIB
from tests.chaos_schedule import NODES, PAIRS
from tests.lab.replicated import Service

if TYPE_CHECKING:
    from lab.lab import Lab
    from lab.node import Node
    from tests.chaos_schedule import Fault

_TRY_SECONDS = 3.0
_ELSEWHERE_SECONDS = 15.0
_DISKS = (1024 * MIB,)
# What any of the calls to a cluster in trouble may end with.
FAILURES = (AssertionError, LabError, grpc.RpcError, OSError, KeyError)


class Keeper(threading.Thread):
    """An orchestrator of one service: it runs, on a node that is not taken for dead."""

    def __init__(self, service: Service, dead: set[str]) -> None:
        super().__init__(name=f"keeper-{service.id}", daemon=True)
        self.service = service
        self.here = service.nodes[0]
        self.trouble = ""
        self.turn = threading.Lock()
        """Held while it does something; whoever else has it may use the service."""
        self._dead = dead
        self._wanted = ""
        self._failing_since = 0.0
        self._ended = threading.Event()

    def want_move(self) -> None:
        """To the other node, in order; forgotten where it does not succeed at once."""
        self._wanted = self._other()

    def end(self) -> None:
        self._ended.set()
        self.join()

    def runs(self) -> bool:
        writer = self.service.writer
        return writer is not None and writer.ending is None

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
        service = self.service
        wanted, self._wanted = self._wanted, ""
        if self.here in self._dead:
            if self._other() not in self._dead:
                self._go_elsewhere()
        elif not self.runs():
            # A pod that cannot start where it is gets another node, where one is.
            late = self._failing_since and (
                time.monotonic() - self._failing_since > _ELSEWHERE_SECONDS
            )
            if late and self._other() not in self._dead:
                self._failing_since = 0.0
                self._go_elsewhere()
            else:
                service.start(self.here, _TRY_SECONDS)
        elif wanted and wanted not in self._dead and wanted != self.here:
            service.move(wanted, _TRY_SECONDS)
            self.here = wanted

    def _go_elsewhere(self) -> None:
        self.here = self._other()
        self.service.writer = None  # it may hang where it was, and ends when that node is back
        self.service.fail_over(self.here, _TRY_SECONDS)

    def _other(self) -> str:
        one, two = self.service.nodes
        return two if self.here == one else one


class World:
    """Three nodes, a controller, and a service on each of some replicated volumes."""

    def __init__(self, lab: Lab, volumes: int) -> None:
        self._lab = lab
        self.nodes = {node.name: node for node in lab.add_nodes(NODES, disks=_DISKS)}
        self.cluster = Deployment(lab, list(self.nodes.values()), replication=True, name="chaos")
        self.cluster.start()
        self.dead: set[str] = set()
        """Nodes that an orchestrator takes for dead."""
        self.keepers: list[Keeper] = []
        for number in range(volumes):
            filesystem = "ext4" if number == volumes - 1 else ""
            pair = PAIRS[number % len(PAIRS)]
            service = Service(
                self.cluster, name=f"chaos-{number}", nodes=pair, filesystem=filesystem
            )
            self.keepers.append(Keeper(service, self.dead))
        for keeper in self.keepers:
            keeper.start()

    # Faults

    def make(self, fault: Fault) -> None:
        """Make it, as far as that goes with those that are there already."""
        faults: dict[str, Callable[..., None]] = {
            "power-off": self._power_off,
            "power-off-both": self._power_off,
            "isolate": self._isolate,
            "cut-link": self._cut_link,
            "cut-link-one-way": self._cut_link,
            "disturb": lambda name, rule: self._running(name).disturb(rule, "both"),
            "cut-arbiter": lambda name: self.nodes[name].cut_from("host"),
            "cut-arbiter-from-all": self._cut_arbiter,
            "kill-agent": lambda name: self._kill_agent(name),
            "kill-controller": lambda: self._kill_controller(),
            "pause-agent": lambda name: self._pause_agent(name),
            "pause-node": self._pause,
            "shift-clock": lambda name, by: self._running(name).shift_clock(float(by)),
            "move": lambda number: self.keepers[int(number) % len(self.keepers)].want_move(),
        }
        with suppress(LabError, KeyError):
            faults[fault.kind](*fault.arguments)

    def _running(self, name: str) -> Node:
        if name in self.dead:
            raise LabError(f"{name} is off, or stands still")
        return self.nodes[name]

    def _power_off(self, *names: str) -> None:
        for name in names:
            self.dead.add(name)
            self.nodes[name].kill(silently=True)

    def _pause(self, name: str) -> None:
        node = self._running(name)
        self.dead.add(name)
        node.pause()

    def _isolate(self, name: str) -> None:
        self.nodes[name].cut()
        self.dead.add(name)

    def _cut_link(self, one: str, two: str, direction: str = "both") -> None:
        assert direction in ("both", "in", "out")
        self.nodes[one].cut_from(self.nodes[two], direction)  # type: ignore[arg-type]

    def _cut_arbiter(self) -> None:
        for node in self.nodes.values():
            node.cut_from("host")

    def _kill_agent(self, name: str) -> None:
        self._running(name)
        self.cluster.stop_agent(name, signal.SIGKILL)

    def _kill_controller(self) -> None:
        self.cluster.stop_controller(signal.SIGKILL)

    def _pause_agent(self, name: str) -> None:
        self._running(name).pause_process(self.cluster.agent(name).pid)

    def heal(self) -> None:
        """Undo all of them: everything runs again."""
        self._lab.heal()
        for name, node in self.nodes.items():
            if not node.running:
                self.cluster.reboot(name)
            elif not self._agent_alive(name):
                self.cluster.start_agent(name)
        if self.cluster.controller_ended():
            self.cluster.start_controller()
        self.dead.clear()

    def _agent_alive(self, name: str) -> bool:
        try:
            return self.cluster.agent(name).alive
        except KeyError:
            return False

    # What is seen

    def settle(self, seconds: float) -> None:
        """Until every service writes and every volume is in sync. Raises AssertionError."""
        until = time.monotonic() + seconds
        for keeper in self.keepers:
            while True:
                with keeper.turn:
                    try:
                        if self._settled(keeper):
                            break
                    except FAILURES as error:
                        keeper.trouble = str(error.args[:1])[:500]
                assert time.monotonic() < until, f"{keeper.here}: {keeper.trouble}"
                time.sleep(0.2)

    def _settled(self, keeper: Keeper) -> bool:
        """What kubelet does of a pod that went elsewhere is done here too."""
        service = keeper.service
        if not keeper.runs() or service.writer is None:
            return False
        for name in set(service.nodes) - {keeper.here}:
            service.release(name, time.monotonic() + _TRY_SECONDS)
        service.writer.wait_for(5, timeout=2.0)
        return service.in_sync()

    def check(self) -> None:
        """All records on both replicas. Raises AssertionError."""
        failed: list[BaseException] = []

        def check(keeper: Keeper) -> None:
            with keeper.turn:
                try:
                    keeper.service.check()
                    keeper.here = keeper.service.nodes[0]
                except BaseException as error:
                    failed.append(error)

        threads = [threading.Thread(target=check, args=(keeper,)) for keeper in self.keepers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failed:
            raise failed[0]

    def acknowledged(self) -> int:
        sessions = [one for keeper in self.keepers for one in keeper.service.records.journal()]
        return sum(len(session.acknowledged) for session in sessions)

    def keep_evidence(self, folder: Path) -> None:
        """States, consoles and logs."""
        folder.mkdir(parents=True, exist_ok=True)
        states = []
        for keeper in self.keepers:
            states.append(f"on {keeper.here}, {keeper.trouble or 'no trouble'}")
            with suppress(*FAILURES):
                states.append(keeper.service.state())
        (folder / "states").write_text("\n".join(states))
        for title, text in self._lab.evidence(whole=True):
            (folder / title.strip("/").replace("/", "-").replace(" ", "-")).write_text(text)

    def close(self) -> None:
        """End the services, and all that they ran on."""
        for keeper in self.keepers:
            keeper.end()
        for node in self.nodes.values():
            node.kill()
        self.cluster.close()
        for node in self.nodes.values():
            self._lab.remove_node(node)
