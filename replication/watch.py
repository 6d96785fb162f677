"""Status and events of all resources of this node: by netlink, or by drbdsetup where that fails.

One protocol, two implementations, one suite (tests/lab/drbd_sides.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import selectors
import struct
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from host.command import Child, Runner
from host.errors import CommandStuck, Missing
from replication import events, old_status
from replication.netlink import Connection, EventsLost
from replication.record import Generations
from replication.status import RESYNC, VERIFY, ResourceStatus
from replication.updates import SnapshotEnd, Table, Update, added_up

log = logging.getLogger("xlss.replication")

_SECONDS = 10.0
_GET_INITIAL_STATE = 38
_RECEIVE_BUFFER = 1 << 20
_T = TypeVar("_T")

NOT_UNDERSTOOD = (LookupError, ValueError, struct.error)
"""What is raised where a message is not as it was in the versions that this was written for."""


class EventStream(Protocol):
    """Changes as they come. One reader."""

    def snapshot(self) -> list[Update]:
        """All that there is now. What ``receive`` gives from now on came after it, or is in it."""

    def receive(self, seconds: float) -> list[Update]:
        """The next updates, ``seconds`` later at the most. Raises EventsLost after a gap."""

    def fileno(self) -> int:
        """Readable when there is something to receive."""

    def close(self) -> None:
        """End it. Right also twice."""


class Observer(Protocol):
    """Raises ``Missing`` where DRBD is not loaded, ``CommandStuck`` when there is no answer."""

    def status(self) -> dict[str, ResourceStatus]:
        """All resources by name, as they are now."""

    def status_of(self, name: str) -> tuple[ResourceStatus | None, Generations | None]:
        """One resource, None where there is none of that name, and its copy's generations.

        Those are None as well where this has not told them: they cost a command then.
        """

    def events(self) -> EventStream:
        """The caller closes the stream."""


class NetlinkObserver:
    """Forks nothing. The kernel may hold a caller in a request as long as another hangs in one."""

    def status(self) -> dict[str, ResourceStatus]:
        with Connection() as connection:
            resources = added_up(_snapshot(connection))
            if connection.version == 1 and any(_is_syncing(one) for one in resources.values()):
                # DRBD 8.4 tells how large a resync was at its beginning only in its old status.
                totals = old_status.resync_totals(connection.dump(old_status.GET_STATUS))
                return {name: _with_total(one, totals) for name, one in resources.items()}
            return resources

    def status_of(self, name: str) -> tuple[ResourceStatus | None, Generations | None]:
        """With DRBD 8.4 it costs the same however many resources there are."""
        with Connection() as connection:
            if connection.version != 1:
                return added_up(_snapshot(connection)).get(name), None
            try:
                found = connection.dump(old_status.GET_STATUS, old_status.request_for(name))
            except Missing:
                return None, None
        if len(found) == 1 and found[0].minor != old_status.NO_MINOR:
            return old_status.from_message(found[0])
        # One whose setting up was interrupted has no device; ours never have more than one.
        return self.status().get(name), None

    def events(self) -> NetlinkStream:
        return NetlinkStream()


class NetlinkStream:
    """``receive_buffer``: bytes that the kernel keeps for a slow reader before it drops events."""

    def __init__(self, receive_buffer: int = _RECEIVE_BUFFER) -> None:
        # Answers to requests come on a socket of their own: events between them would be mixed up.
        self._requests = Connection()
        self._events = Connection(receive_buffer=receive_buffer)
        self._events.subscribe()

    def snapshot(self) -> list[Update]:
        self._discard()
        # An event that came before the snapshot was taken and is applied after it does no harm:
        # another one for the same object follows, up to what the snapshot has.
        return [*_snapshot(self._requests), *self.receive(0.0)]

    def receive(self, seconds: float) -> list[Update]:
        updates: list[Update] = []
        messages = self._events.receive(seconds)
        while messages:
            for message in messages:
                update = events.from_message(message, self._events.version)
                if update is not None:
                    updates.append(update)
            messages = self._events.receive(0.0)
        return updates

    def fileno(self) -> int:
        return self._events.fileno()

    def close(self) -> None:
        self._requests.close()
        self._events.close()

    def _discard(self) -> None:
        while True:
            with contextlib.suppress(EventsLost):
                if not self._events.receive(0.0):
                    return


class FallingBack:
    """By netlink; by drbdsetup, from then on, once the module's messages are not understood.

    As with a module whose messages have changed: its own tools come with it, and know them.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._chosen: Observer = NetlinkObserver()

    def status(self) -> dict[str, ResourceStatus]:
        return self._ask(lambda observer: observer.status())

    def status_of(self, name: str) -> tuple[ResourceStatus | None, Generations | None]:
        return self._ask(lambda observer: observer.status_of(name))

    def events(self) -> EventStream:
        """Whoever does not understand what it tells calls ``fall_back`` and begins anew."""
        return self._ask(lambda observer: observer.events())

    def fall_back(self, error: Exception) -> bool:
        """Whether there is another way than the one that was not understood."""
        if isinstance(self._chosen, DrbdsetupObserver):
            return False
        log.error("DRBD is asked by drbdsetup from now on: netlink is not understood: %r", error)
        self._chosen = DrbdsetupObserver(self._runner)
        return True

    def _ask(self, ask: Callable[[Observer], _T]) -> _T:
        try:
            return ask(self._chosen)
        except NOT_UNDERSTOOD as error:
            if not self.fall_back(error):
                raise
            return ask(self._chosen)


class DrbdsetupObserver:
    """The fallback: forks once a status, and once more for each volume with a disk."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def status(self) -> dict[str, ResourceStatus]:
        return {name: self._with_uuids(status) for name, status in self._states().items()}

    def status_of(self, name: str) -> tuple[ResourceStatus | None, Generations | None]:
        status = self._states().get(name)
        return (None if status is None else self._with_uuids(status)), None

    def _states(self) -> dict[str, ResourceStatus]:
        argv = ["drbdsetup", "events2", "--now", "--statistics"]
        output = self._runner.run(argv, deadline=_SECONDS).stdout.decode(errors="replace")
        updates = (events.from_line(line) for line in output.splitlines())
        return added_up(update for update in updates if update is not None)

    def events(self) -> DrbdsetupStream:
        return DrbdsetupStream(self._runner)

    def _with_uuids(self, status: ResourceStatus) -> ResourceStatus:
        # Without DRBD 9's further peers: those need get-gi for each of them, by names of their own.
        # The module tells 0 of a volume that has no disk.
        found = {
            volume.number: self._uuids(volume.minor)
            for volume in status.volumes
            if volume.size_bytes is not None
        }
        volumes = tuple(
            dataclasses.replace(volume, current_uuid=found[volume.number][0])
            if volume.number in found
            else volume
            for volume in status.volumes
        )
        connections = tuple(
            dataclasses.replace(
                connection,
                volumes=tuple(
                    dataclasses.replace(peer, bitmap_uuid=found.get(peer.number, (None, 0))[1])
                    for peer in connection.volumes
                ),
            )
            for connection in status.connections
        )
        return dataclasses.replace(status, volumes=volumes, connections=connections)

    def _uuids(self, minor: int) -> tuple[int | None, int | None]:
        output = self._runner.run(["drbdsetup", "get-gi", str(minor)], deadline=_SECONDS).stdout
        words = output.decode(errors="replace").strip().split(":")
        current, bitmap = words[0], words[1]
        return int(current, 16) & ~1, int(bitmap, 16) & ~1


class DrbdsetupStream:
    """The lines of a ``drbdsetup events2`` that runs along; a new one for every snapshot."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._child: Child | None = None
        self._rest = b""

    def snapshot(self) -> list[Update]:
        self.close()
        argv = ["drbdsetup", "events2", "--statistics"]
        self._child = self._runner.spawn(argv, stdout=subprocess.PIPE)
        self._rest = b""
        updates: list[Update] = []
        give_up = time.monotonic() + _SECONDS
        while not any(isinstance(update, SnapshotEnd) for update in updates):
            left = give_up - time.monotonic()
            if left <= 0:
                raise CommandStuck(f"{' '.join(argv)}: no snapshot within {_SECONDS:g} s")
            updates += self.receive(left)
        return updates

    def receive(self, seconds: float) -> list[Update]:
        child = self._child
        if child is None:
            raise EventsLost("drbdsetup events2 is not running")
        with selectors.DefaultSelector() as selector:
            selector.register(child.stdout, selectors.EVENT_READ)
            if not selector.select(seconds):
                return []
        data = os.read(child.stdout.fileno(), 1 << 20)
        if not data:
            self.close()
            raise EventsLost("drbdsetup events2 has ended")
        *lines, self._rest = (self._rest + data).split(b"\n")
        updates = (events.from_line(line.decode(errors="replace")) for line in lines)
        return [update for update in updates if update is not None]

    def fileno(self) -> int:
        if self._child is None:
            raise EventsLost("drbdsetup events2 is not running")
        return self._child.stdout.fileno()

    def close(self) -> None:
        if self._child is not None:
            self._runner.abandon(self._child)
            self._child = None


@dataclass(frozen=True)
class Changes:
    """Names of the resources whose state is not what it was; ``lost``: everything was read anew.

    The progress of a resync is no change of state: it is only in the watcher's resources.
    """

    names: frozenset[str] = frozenset()
    lost: bool = False


class Watcher:
    """Keeps a table of all resources up to date from a stream. Not thread safe."""

    def __init__(self, stream: EventStream) -> None:
        self._stream = stream
        self._table = Table()
        self.resources: dict[str, ResourceStatus] = {}
        self._read_anew()

    def changes(self, seconds: float) -> Changes:
        """Wait for changes, ``seconds`` at the most. After a lost event, all of it is read anew."""
        try:
            updates = self._stream.receive(seconds)
            touched = {self._table.apply(update) for update in updates}
        except EventsLost as error:
            log.warning("reading the state of all resources anew: %s", error)
            before = self.resources.keys()
            self._read_anew()
            return Changes(frozenset(before | self.resources.keys()), lost=True)
        if not updates:
            return Changes()
        before = self.resources.keys()
        self.resources = self._table.resources()
        names = {name for name in touched if name is not None}
        return Changes(frozenset(names | (before ^ self.resources.keys())))

    def _read_anew(self) -> None:
        while True:
            table = Table()
            try:
                for update in self._stream.snapshot():
                    table.apply(update)
            except EventsLost as error:
                log.warning("the state changed while it was read, once more: %s", error)
                continue
            self._table, self.resources = table, table.resources()
            return


def _snapshot(connection: Connection) -> list[Update]:
    messages = connection.dump(_GET_INITIAL_STATE)
    updates = (events.from_message(message, connection.version) for message in messages)
    return [update for update in updates if update is not None]


def _is_syncing(status: ResourceStatus) -> bool:
    return any(peer.replication in RESYNC | VERIFY for peer in status.peer_volumes())


def _with_total(status: ResourceStatus, totals: dict[int, int]) -> ResourceStatus:
    minors = {volume.number: volume.minor for volume in status.volumes}
    return dataclasses.replace(
        status,
        connections=tuple(
            dataclasses.replace(
                connection,
                volumes=tuple(
                    dataclasses.replace(
                        peer, resync_total_bytes=totals.get(minors.get(peer.number, -1))
                    )
                    for peer in connection.volumes
                ),
            )
            for connection in status.connections
        ),
    )
