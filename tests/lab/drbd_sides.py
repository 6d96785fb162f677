"""The two sides of a replicated volume in lab nodes, observed in both ways at every step."""

from __future__ import annotations

import contextlib
import dataclasses
import pickle
import secrets
import time
from typing import TYPE_CHECKING, Any

from lab.node import MIB
from replication.model import Replica, Resource
from replication.status import DiskState, ReplicationState
from tests.lab.calls import Calls, Failed
from tests.lab.stories.drbd import BACKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lab.guest_process import GuestProcess
    from lab.node import Node
    from replication.record import Generations
    from replication.status import ResourceStatus

DATA, METADATA = "/dev/ubdb", "/dev/ubdc"
DISKS = (256 * MIB, 16 * MIB)
SIZE = 64 * MIB
SOCKET = "/run/drbd-side.sock"
NO_PEER = [(ReplicationState.OFF, DiskState.DUNKNOWN)]
HOW = ("netlink", "drbdsetup")


class Side:
    """One node's side. Any method of ``replication.commands.Commands`` by ``do``."""

    def __init__(self, node: Node, number: int) -> None:
        self.node = node
        self.replica = Replica(node.name, number, node.address, f"/dev/mapper/{BACKING}", METADATA)
        code = (
            f"from tests.lab.stories.drbd import serve_side; serve_side({node.name!r}, {SOCKET!r})"
        )
        self._calls = Calls(node, code, SOCKET)
        self._watchers: dict[str, GuestProcess] = {}

    def do(self, what: str, *arguments: object, **options: object) -> Any:
        return self._calls.call(what, *arguments, **options)

    def status(self, name: str) -> ResourceStatus:
        """By both ways, which have to agree, and as both streams of events have told."""
        end = time.monotonic() + 20
        while True:
            seen = {how: self.do("observe", how) for how in HOW}
            known = {how: _comparable(seen[how][name]) for how in HOW}
            status: ResourceStatus = seen["netlink"][name]
            agree = known["netlink"] == known["drbdsetup"] and self._watched(seen["netlink"])
            if agree and self._looked_at_alone(status):
                return status
            assert time.monotonic() < end, (known, self._streams(), self._alone(name))

    def watch(self) -> None:
        """Have both streams of events watched from now on."""
        for how in HOW:
            path = f"/run/watched-{how}"
            code = f"from tests.lab.stories.drbd import watch; watch({how!r}, {path!r})"
            argv = [".venv/bin/python", "-c", code]
            self._watchers[how] = self.node.spawn(argv, log=f"/run/watch-{how}.log")
            self.wait_until(lambda path=path: self.node.run(["test", "-e", path], check=False))

    def unwatch(self) -> None:
        for watcher in self._watchers.values():
            watcher.kill()
        self._watchers.clear()

    def until(self, name: str, right: Callable[[ResourceStatus], object]) -> ResourceStatus:
        """Wait until the status is as wanted; then it has to be the same in all ways."""
        end = time.monotonic() + 60
        while not right(status := self.do("observe", "netlink")[name]):
            assert time.monotonic() < end, status
            time.sleep(0.1)
        return self.status(name)

    @staticmethod
    def wait_until(happened: Callable[[], Any]) -> None:
        end = time.monotonic() + 30
        while getattr(happened(), "returncode", 1) != 0:
            assert time.monotonic() < end
            time.sleep(0.1)

    def write(self, resource: Resource, text: str, *, block: int = 0) -> None:
        self._write(["sh", "-c", _writing(resource, text, block)])

    def begin_write(self, resource: Resource, text: str, *, block: int = 0) -> GuestProcess:
        argv = ["sh", "-c", _writing(resource, text, block)]
        return self.node.spawn(argv, log="/run/writer.log")

    def read(self, resource: Resource, *, block: int = 0) -> str:
        script = f"dd if={resource.device} bs=4096 count=1 skip={block} iflag=direct status=none"
        return self.node.sh(script).stdout.rstrip(b"\0").decode()

    def _write(self, argv: list[str]) -> None:
        self.node.run(argv)

    def _streams(self) -> dict[str, dict[str, ResourceStatus]]:
        return {how: pickle.loads(self.node.get(f"/run/watched-{how}")) for how in self._watchers}

    def _alone(self, name: str) -> dict[str, tuple[ResourceStatus, Generations | None]]:
        return {how: self.do("observe_one", how, name) for how in HOW}

    def _looked_at_alone(self, status: ResourceStatus) -> bool:
        """Whether a look at this one tells the same as that at all, and as drbdsetup prints."""
        alone = self._alone(status.name)
        one, generations = alone["netlink"]
        printed = None
        if status.disk not in (DiskState.DISKLESS, DiskState.FAILED):
            printed = self.do("printed_generations", status.volumes[0].minor)
        return (
            one == status
            and generations == printed
            and _comparable(alone["drbdsetup"][0]) == _comparable(status)
        )

    def _watched(self, seen: dict[str, ResourceStatus]) -> bool:
        wanted = {name: _states(status) for name, status in seen.items()}
        return all(
            {name: _states(status) for name, status in told.items()} == wanted
            for told in self._streams().values()
        )


def up_to_date(status: ResourceStatus) -> bool:
    peers = [peer.disk for peer in status.peer_volumes()]
    return {status.disk, *peers} == {DiskState.UP_TO_DATE} and bool(peers)


@contextlib.contextmanager
def replicated(
    sides: tuple[Side, Side], *, equal: bool = True, minor: int = 1
) -> Iterator[Resource]:
    """A volume on both, connected, UpToDate on both; afterwards nothing is left of it."""
    replicas = (sides[0].replica, sides[1].replica)
    resource = Resource(
        f"v{secrets.token_hex(4)}", minor, 7000 + minor, secrets.token_hex(16), replicas
    )
    try:
        for side in sides:
            side.do("prepare", DATA, SIZE)
            side.do("create_metadata", resource, anew=True)
            side.do("attach", resource)
        for side, other in (sides, sides[::-1]):
            side.do("connect", resource, other.replica)
        if equal:
            sides[0].until(resource.name, lambda s: s.connections[0].role.value == "Secondary")
            sides[0].do("declare_equal", resource)
        yield resource
    finally:
        for side in sides:
            side.node.join()
            side.unwatch()
            take_down(side, resource)


def take_down(side: Side, resource: Resource) -> None:
    """Whatever state it is in."""
    if side.node.running:
        side.node.sh(f"umount {resource.device} 2>/dev/null || true")
        side.do("detach", resource, force=True)
        with contextlib.suppress(Failed):
            side.do("resume_io", resource)
        side.do("demote", resource)
        side.do("down", resource.name)
        side.do("remove_backing")


def _comparable(status: ResourceStatus) -> ResourceStatus:
    """Without what drbdsetup does not tell."""
    return dataclasses.replace(
        status,
        connections=tuple(
            dataclasses.replace(
                connection,
                peer_address=None,
                volumes=tuple(
                    dataclasses.replace(peer, resync_total_bytes=None)
                    for peer in connection.volumes
                ),
            )
            for connection in status.connections
        ),
    )


def _states(status: ResourceStatus) -> object:
    """What events tell at once: states, not numbers."""
    connection = status.connection()
    return (
        status.role,
        status.suspended,
        [(volume.minor, volume.disk) for volume in status.volumes],
        (connection.state, connection.role),
        [(peer.replication, peer.disk) for peer in connection.volumes] or NO_PEER,
    )


def _writing(resource: Resource, text: str, block: int) -> str:
    return (
        f"printf %s {text} | dd of={resource.device} bs=4096 count=1 seek={block}"
        " conv=sync,notrunc oflag=direct status=none"
    )
