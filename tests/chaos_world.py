"""The cluster of a chaos run: its faults made and undone, its changes, and what is seen of it."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from lab.deployment import Deployment, Pool
from lab.errors import LabError
from lab.node import MIB
from tests.chaos_changes import Changes
from tests.chaos_schedule import NODES, PAIRS
from tests.chaos_service import FAILURES, Keeper, Workload

if TYPE_CHECKING:
    from lab.lab import Lab
    from lab.node import Node
    from tests.chaos_schedule import Fault

_DISKS = (1024 * MIB,)
_DISK = "/dev/ubdb"
# Volumes that have grown, with their snapshots, hold much less than they may.
_POOLS = (Pool(devices=("/dev/mapper/faulty-ubdb",), settings={"overcommit": 10.0}),)
# What a change has left on a node that was away is to be gone within a round.
_CONTROLLER = {"reconcile_seconds": 5.0}


class World:
    """Three nodes, a controller, and a service on each of some replicated volumes."""

    def __init__(self, lab: Lab, volumes: int) -> None:
        self._lab = lab
        self.nodes = {node.name: node for node in lab.add_nodes(NODES, disks=_DISKS)}
        for node in self.nodes.values():
            node.faulty_disk(_DISK)
        self._failed: set[str] = set()
        self.cluster = Deployment(
            lab,
            list(self.nodes.values()),
            pools=_POOLS,
            controller=_CONTROLLER,
            replication=True,
            name="chaos",
        )
        self.cluster.start()
        self.dead: set[str] = set()
        """Nodes that an orchestrator takes for dead."""
        self.keepers: list[Keeper] = []
        for number in range(volumes):
            filesystem = "ext4" if number == volumes - 1 else ""
            pair = PAIRS[number % len(PAIRS)]
            service = Workload(self.cluster, f"chaos-{number}", pair, filesystem)
            self.keepers.append(Keeper(service, self.dead))
        self.changes = Changes(self.cluster, self.keepers)
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
            "disk-errors": self._fail_disk,
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

    def _fail_disk(self, name: str, how: str) -> None:
        disk = self._running(name).faulty_disk(_DISK)
        self._failed.add(name)
        getattr(disk, how)()

    def heal(self) -> None:
        """Undo all of them: everything runs again.

        A thin pool that has met a failed disk works again when its node has been rebooted.
        """
        for name in self._failed:
            self.nodes[name].kill(silently=True)
        self._failed.clear()
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
        """Until all changes are done, every service writes, and every volume is in sync.

        Raises AssertionError.
        """
        until = time.monotonic() + seconds
        self.changes.wait(until)
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
        service = keeper.service
        if not keeper.runs() or service.writer is None:
            return False
        service.release_elsewhere(keeper.here)
        service.writer.wait_for(5, timeout=2.0)
        keeper.trouble = service.why_not_whole()
        return not keeper.trouble

    def check(self) -> None:
        """All records on both replicas. Raises AssertionError."""
        failed: list[BaseException] = []

        def check(keeper: Keeper) -> None:
            with keeper.turn:
                try:
                    keeper.service.follow()
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
        self.changes.cuts.nothing_left([keeper.service.id for keeper in self.keepers])

    def acknowledged(self) -> int:
        sessions = [one for keeper in self.keepers for one in keeper.service.records.journal()]
        return sum(len(session.acknowledged) for session in sessions)

    def keep_evidence(self, folder: Path) -> None:
        """States, consoles and logs; in these, where each thread of the agents is."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in self.nodes:
            with suppress(*FAILURES):
                self.cluster.agent(name).signal(signal.SIGUSR1)
        states = []
        for keeper in self.keepers:
            states.append(f"on {keeper.here}, {keeper.trouble or 'no trouble'}")
            with suppress(*FAILURES):
                states.append(keeper.service.state())
        (folder / "states").write_text("\n".join(states))
        (folder / "changes").write_text(self.changes.told())
        for title, text in self._lab.evidence(whole=True):
            (folder / title.strip("/").replace("/", "-").replace(" ", "-")).write_text(text)

    def close(self) -> None:
        """End the services, and all that they ran on."""
        self.changes.close()
        for keeper in self.keepers:
            keeper.end()
        for node in self.nodes.values():
            node.kill()
        self.cluster.close()
        for node in self.nodes.values():
            self._lab.remove_node(node)
