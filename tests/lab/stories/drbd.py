"""What a test has done on one side of a replicated volume, in the node's own Python."""

from __future__ import annotations

import pickle
import time
from pathlib import Path
from typing import Any

from host.command import Runner
from host.device_mapper import DeviceMapper
from host.errors import HostError
from host.linear_device import ensure_linear, resize_linear
from node_agent.arbiter import Assignment
from node_agent.devices import Devices
from node_agent.endless_io import EndlessIo
from node_agent.holds import Holds
from node_agent.logical_volumes import LogicalVolumes
from node_agent.replica_side import ReplicaDevices, ReplicaSide
from replication import fencing
from replication.actions import Do
from replication.commands import Commands
from replication.generations import generations_of
from replication.record import Generations, Users, View
from replication.status import ResourceStatus
from replication.watch import DrbdsetupObserver, NetlinkObserver, NetlinkStream, Observer, Watcher
from tests.lab.stories.serving import serve

BACKING = "xlss-drbd-data"
SIZE = 64 << 20


def serve_side(node: str, path: str) -> None:
    """Answer what a test asks of this side: a method of ``Commands`` or one of those below."""

    def answer(what: str, *arguments: Any, **options: Any) -> Any:
        commands = Commands(Runner(), node, NetlinkObserver())
        if what == "act":
            return _act(node, commands, *arguments)
        call = _OWN.get(what) or getattr(commands, what)
        return call(*arguments, **options)

    serve(path, answer, HostError)


def _act(node: str, commands: Commands, assignment: Assignment, do: Do | None) -> View:
    """One action of membership, by the class that the agent has; then what it sees."""
    runner = Runner()
    mapper = DeviceMapper(runner)
    # None of them is asked for a logical volume.
    devices = Devices(runner, mapper, LogicalVolumes({}, lambda spec: None))
    side = ReplicaSide(
        node,
        runner,
        mapper,
        commands,
        _Backing(),
        devices,
        _Nobody(),
        Holds(runner, Path("/sys/fs/cgroup")),
        EndlessIo(),
        resync_bytes_per_second=100 << 20,
    )
    side.flush(assignment)
    if do is not None:
        side.carry_out(do, assignment)
    return side.view(assignment)


class _Backing:
    """``Storage`` of replica_side.py, of a replica that is made."""

    def devices(self, volume_id: str) -> ReplicaDevices:
        return ReplicaDevices(f"/dev/mapper/{BACKING}", "/dev/ubdc", SIZE)

    def set_up(self, volume_id: str) -> ReplicaDevices:
        return self.devices(volume_id)

    def metadata_made(self, volume_id: str) -> None:
        raise AssertionError("it was made before")

    def is_there(self, volume_id: str) -> bool:
        return True


class _Nobody:
    """``Eviction`` where nobody has the volume open."""

    def users(self, volume_id: str, *, frozen: bool) -> Users:
        return Users.NONE

    def kill(self, volume_id: str, *, frozen: bool) -> None:
        raise AssertionError("there is nobody")

    def kill_again(self, volume_id: str, *, frozen: bool) -> None:
        raise AssertionError("there is nobody")


def watch(kind: str, path: str) -> None:
    """Write all resources into a file, at every change, until the process is ended."""
    watcher = Watcher(_observer(kind).events())
    while True:
        fresh = Path(f"{path}.new")
        fresh.write_bytes(pickle.dumps(watcher.resources))
        fresh.replace(path)
        watcher.changes(60.0)


def _observer(kind: str) -> Observer:
    return NetlinkObserver() if kind == "netlink" else DrbdsetupObserver(Runner())


def _observe(kind: str) -> dict[str, ResourceStatus]:
    return _observer(kind).status()


def _observe_one(kind: str, name: str) -> tuple[ResourceStatus | None, Generations | None]:
    return _observer(kind).status_of(name)


def _printed_generations(minor: int) -> Generations:
    found = Runner().run(["drbdsetup", "get-gi", str(minor)], deadline=10.0)
    return generations_of(found.stdout.decode())


def _prepare(disk: str, size_bytes: int) -> None:
    Runner().run(["modprobe", "drbd"], deadline=30.0)
    fencing.install()
    fencing.configure()
    ensure_linear(DeviceMapper(Runner()), BACKING, disk, size_bytes)


def _grow(size_bytes: int) -> None:
    resize_linear(DeviceMapper(Runner()), BACKING, size_bytes)


def _remove_backing() -> None:
    DeviceMapper(Runner()).remove(BACKING)


def _lose_events(minor: int) -> tuple[bool, bool, bool]:
    """Does not read while a lot happens: (lost was said, the table is right after, and stays)."""
    observer, runner = NetlinkObserver(), Runner()
    watcher = Watcher(NetlinkStream(receive_buffer=1))
    for _ in range(30):
        runner.run(["drbdsetup", "invalidate", str(minor)], deadline=10.0)
        runner.run(["drbdsetup", "new-resource", "passing"], deadline=10.0)
        runner.run(["drbdsetup", "down", "passing"], deadline=10.0)
    lost = watcher.changes(0.0).lost
    right = watcher.resources == observer.status()
    while watcher.changes(0.2).names:
        pass
    return lost, right, watcher.resources == observer.status()


def _timed_status(kind: str, rounds: int) -> float:
    observer = _observer(kind)
    observer.status()
    begun = time.perf_counter()
    for _ in range(rounds):
        observer.status()
    return (time.perf_counter() - begun) / rounds


_OWN = {
    "observe": _observe,
    "observe_one": _observe_one,
    "printed_generations": _printed_generations,
    "prepare": _prepare,
    "grow": _grow,
    "remove_backing": _remove_backing,
    "lose_events": _lose_events,
    "timed_status": _timed_status,
    "grant": fencing.grant,
    "revoke": fencing.revoke,
}
