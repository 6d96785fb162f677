"""This node's side of its replicated volumes: the actions of membership, as steps in the kernel."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from cluster.errors import NotFound, Refused, Unavailable
from cluster.model import Replication
from host import block_device
from host.boot import boot_id
from host.command import Runner
from host.device_mapper import DeviceMapper
from host.errors import CommandStuck, DeviceFailed, HostError
from node_agent import health
from node_agent.arbiter import Assignment
from node_agent.devices import DRBD_MAJOR, Devices, face_name
from node_agent.endless_io import EndlessIo
from replication import fencing
from replication.actions import Do
from replication.commands import Commands
from replication.fencing import GRANTS, Verdict
from replication.model import MIB, Replica, Resource, Tuning
from replication.observed import Surroundings, view_of
from replication.record import Generations, Role, Users, View

_log = logging.getLogger(__name__)
_FLUSH_SECONDS = 60.0
_FACE_SECONDS = 30.0
_ENDING_SECONDS = 3.0
# Who writes waits while it is tried whether writes end.
_HOLDING_AGAIN_SECONDS = 60.0


@dataclass(frozen=True)
class ReplicaDevices:
    """Paths of what DRBD lies on: the inner linear device, and the metadata's logical volume.

    ``size_bytes``: of the data. ``fresh``: DRBD has written no metadata there yet.
    ``chunk_bytes``: that of a thin pool, in which what is zero is not to be written by a resync.
    """

    data: str
    metadata: str
    size_bytes: int
    fresh: bool = False
    chunk_bytes: int = 0


_NO_DEVICES = ReplicaDevices("/dev/no-data", "/dev/no-metadata", 0)


class Storage(Protocol):
    """``replica_storage.py`` has it."""

    def devices(self, volume_id: str) -> ReplicaDevices:
        """What they are, from memory. Raises NotFound where this node has no replica."""
        ...

    def set_up(self, volume_id: str) -> ReplicaDevices:
        """The same, active. Raises NotFound, and Unavailable while the volume is being filled."""
        ...

    def metadata_made(self, volume_id: str) -> None: ...

    def is_there(self, volume_id: str) -> bool:
        """Whether the volume is on this node, by a fresh look."""
        ...

    def recorded(self, volume_id: str) -> Replication | None:
        """What the tags of the data tell of its replicas. Raises NotFound."""
        ...


class Eviction(Protocol):
    """Whoever has a volume open here; ``frozen``: DRBD holds back its I/O."""

    def users(self, volume_id: str, *, frozen: bool) -> Users: ...

    def kill(self, volume_id: str, *, frozen: bool) -> None:
        """End them, and take down what is mounted where it is not frozen."""
        ...

    def kill_again(self, volume_id: str, *, frozen: bool) -> None:
        """From time to time, where nothing but a reboot seems to help."""
        ...


class Holds(Protocol):
    """Faces that are held still for a moment."""

    def still(
        self, volume_id: str, face: str, seconds: float
    ) -> contextlib.AbstractContextManager[None]:
        """No write is under way in the block; raises CommandStuck where some do not end."""
        ...

    def is_held(self, volume_id: str) -> bool: ...

    def ended(self, volume_id: str) -> contextlib.AbstractContextManager[None]:
        """It is let go, and not held in the block: what was cut meanwhile is void."""
        ...


class ReplicaSide:
    """``Side`` of membership_loop.py, over DRBD and device-mapper."""

    def __init__(
        self,
        node: str,
        runner: Runner,
        mapper: DeviceMapper,
        commands: Commands,
        storage: Storage,
        devices: Devices,
        eviction: Eviction,
        holds: Holds,
        endless: EndlessIo,
        *,
        resync_bytes_per_second: int,
        grants: Path = GRANTS,
    ) -> None:
        self._node = node
        self._runner = runner
        self._mapper = mapper
        self._commands = commands
        self._storage = storage
        self._devices = devices
        self._eviction = eviction
        self._holds = holds
        self._endless = endless
        self._resync_bytes_per_second = resync_bytes_per_second
        self._grants = grants
        self._boot_id = boot_id()
        self._unending: dict[str, float] = {}  # volumes whose writes did not end: when to try again

    def view(self, assignment: Assignment) -> View:
        """The volume as the kernel has it now, from a fresh look."""
        volume_id = assignment.volume_id
        status, generations = self._commands.look(volume_id)
        held = self._holds.is_held(volume_id)
        face = self._mapper.find(face_name(volume_id))
        # Asked twice: one that begins or ends meanwhile is not to be taken for our own suspension.
        held = held or self._holds.is_held(volume_id)
        around = Surroundings(
            self._node,
            self._boot_id,
            self._eviction.users(volume_id, frozen=status is not None and status.frozen),
            face_suspended=face is not None and face.suspended and not held,
            grant=self._has_grant(volume_id),
        )
        if status is None or not status.volumes:
            return view_of(None, Generations(), around)
        if generations is None:
            generations = self._generations(assignment)
        seen = view_of(status, generations, around)
        self._look_for_endless(volume_id, status.volumes[0].minor, seen)
        if seen.role is Role.PRIMARY and self._face_elsewhere(assignment):
            # Its users still write past DRBD: promoted is who has the face over its device.
            return replace(seen, role=Role.SECONDARY)
        return seen

    def _look_for_endless(self, volume_id: str, minor: int, seen: View) -> None:
        if seen.role is Role.PRIMARY and not seen.suspended:
            with contextlib.suppress(NotFound, Unavailable):  # its disk is gone, or its whole pool
                disk = self._storage.devices(volume_id).data
                self._endless.look(volume_id, f"{DRBD_MAJOR}:{minor}", disk)
                return
        self._endless.forget(volume_id)

    def has_replica(self, volume_id: str) -> bool:
        return self._storage.is_there(volume_id)

    def _generations(self, assignment: Assignment) -> Generations:
        """Those of a replica without a disk in the kernel: from its metadata, by a command.

        Where the disk has failed its metadata may be unreadable as well: then nothing is claimed,
        and the failure itself can be acted on.
        """
        try:
            return self._commands.generations(self.resource(assignment))
        except (HostError, Unavailable) as error:
            _log.warning("volume %s: its metadata cannot be read: %s", assignment.volume_id, error)
            return Generations()

    def flush(self, assignment: Assignment) -> None:
        """sync(1) of a device is fsync(2), which has the disk empty its cache."""
        path = self._storage.devices(assignment.volume_id).data
        self._runner.run(["sync", path], deadline=_FLUSH_SECONDS, resource=path)

    def carry_out(self, do: Do, assignment: Assignment) -> None:
        """Raises Refused for what is no step in the kernel."""
        steps: dict[Do, Callable[[Assignment], None]] = {
            Do.ATTACH: self._attach,
            Do.CONNECT: self._connect,
            Do.FORCE_DISCONNECT: self._disconnect,
            Do.RESUME_IO: lambda one: self._commands.resume_io(self._running(one)),
            Do.WRITE_GRANT: self._grant,
            Do.REMOVE_GRANT: lambda one: fencing.revoke(one.volume_id, self._grants),
            Do.PROMOTE: lambda one: self._promote(one, self._commands.promote),
            Do.PROMOTE_BY_FORCE: lambda one: self._promote(one, self._commands.force_promote),
            Do.DEMOTE: lambda one: self._commands.demote(self._running(one)),
            Do.SUSPEND_FACE: self._suspend_face,
            Do.RESUME_FACE: self._resume_face,
            Do.NEW_GENERATION: lambda one: self._commands.new_generation(self._running(one)),
            Do.OUTDATE: lambda one: self._commands.outdate(self._running(one)),
            Do.INVALIDATE: self._invalidate,
            Do.DETACH: lambda one: self._commands.detach(self._running(one), force=True),
            Do.TAKE_DOWN: lambda one: self._commands.down(one.volume_id),
            Do.KILL_USERS: lambda one: self._kill_users(one, self._eviction.kill),
            # The decision, kept for status, is the report.
            Do.REPORT_REBOOT: lambda one: self._kill_users(one, self._eviction.kill_again),
        }
        step = steps.get(do)
        if step is None:
            raise Refused(f"{do} is no step in the kernel")
        step(assignment)

    def resource(self, assignment: Assignment) -> Resource:
        """What DRBD is told. Of the peer only its address counts here."""
        return self._resource(assignment, self._storage.devices(assignment.volume_id))

    def _running(self, assignment: Assignment) -> Resource:
        """For what is done to a resource in the kernel alone.

        That has to work where its pool is dead, and nothing is known of its disks any more.
        """
        return self._resource(assignment, _NO_DEVICES)

    def _resource(self, assignment: Assignment, devices: ReplicaDevices) -> Resource:
        replication = assignment.replication
        if self._node not in (place.node for place in replication.places):
            # The replica here has been replaced meanwhile: it is as its tags tell until it is gone.
            with contextlib.suppress(Unavailable):
                replication = self._storage.recorded(assignment.volume_id) or replication
        replicas = tuple(
            Replica(place.node, place.node_id, place.address, devices.data, devices.metadata)
            for place in replication.places
        )
        tuning = Tuning(
            resync_bytes_per_second=self._resync_bytes_per_second,
            discard_granularity_bytes=min(devices.chunk_bytes, MIB),
        )
        return Resource(
            assignment.volume_id,
            replication.minor,
            replication.port,
            assignment.secret,
            replicas,
            tuning=tuning,
        )

    def _attach(self, assignment: Assignment) -> None:
        """Also what is left to do of the making of the replica: DRBD's metadata."""
        devices = self._storage.set_up(assignment.volume_id)
        resource = self.resource(assignment)
        if devices.fresh:
            # Whatever is there was a former tenant's.
            complete = self._node in assignment.replication.complete
            generation = assignment.replication.generation if complete else ""
            self._commands.create_metadata(
                resource, anew=True, generation=generation, size_bytes=devices.size_bytes
            )
            self._storage.metadata_made(assignment.volume_id)
        self._commands.attach(resource)

    def _promote(self, assignment: Assignment, promote: Callable[[Resource], None]) -> None:
        """Also under a face that was there before the volume was replicated."""
        resource = self.resource(assignment)
        promote(resource)
        self._devices.exchange(assignment.volume_id, resource.device)

    def _face_elsewhere(self, assignment: Assignment) -> bool:
        """Whether the volume is used past DRBD: it was not replicated when it was staged."""
        number = f"{DRBD_MAJOR}:{assignment.replication.minor}"
        return self._devices.over(assignment.volume_id, number) is False

    def _kill_users(self, assignment: Assignment, kill: Callable[..., None]) -> None:
        status = self._commands.status(assignment.volume_id)
        frozen = status is not None and status.frozen
        kill(assignment.volume_id, frozen=frozen)

    def _connect(self, assignment: Assignment) -> None:
        if self._face_elsewhere(assignment):
            raise Refused("it is used past DRBD: what is written would not reach the other replica")
        resource = self.resource(assignment)
        self._require_writes_to_end(resource)
        for peer in resource.peers(self._node):
            self._commands.connect(resource, peer)

    def _require_writes_to_end(self, resource: Resource) -> None:
        """DRBD 8.4 loses a flush that ends while it holds back writes: it is never answered.

        Connecting waits for it, and whoever then asks the module for anything else waits as well:
        one volume would take the replication of the whole node.
        """
        name = resource.name
        status = self._commands.status(name)
        face = self._mapper.find(face_name(name))
        if status is None or status.frozen or face is None:
            return
        if not any(block_device.in_flight(f"{DRBD_MAJOR}:{resource.minor}")):
            return
        now = time.monotonic()
        if now >= self._unending.get(name, now):
            try:
                with self._holds.still(name, face.name, _ENDING_SECONDS):
                    self._unending.pop(name, None)
                    return
            except CommandStuck:
                self._unending[name] = now + _HOLDING_AGAIN_SECONDS
        raise Refused(
            f"writes to it do not end within {_ENDING_SECONDS:g} s, so it is not connected: DRBD "
            "8.4 forgets a flush that is under way when it freezes. Where its disk is idle, reboot "
            "this node"
        )

    def _disconnect(self, assignment: Assignment) -> None:
        resource = self._running(assignment)
        for peer in resource.peers(self._node):
            self._commands.disconnect(resource, peer, force=True)

    def _grant(self, assignment: Assignment) -> None:
        epoch = assignment.held.record.epoch
        fencing.grant(assignment.volume_id, epoch, Verdict.PEER_FENCED, self._grants)

    def _has_grant(self, volume_id: str) -> bool:
        try:
            words = (self._grants / volume_id).read_text().split()
        except FileNotFoundError:
            return False
        return len(words) > 2 and words[2] == self._boot_id

    def _invalidate(self, assignment: Assignment) -> None:
        resource = self.resource(assignment)
        devices = self._storage.set_up(assignment.volume_id)
        # Else it is filled and fails again, as often as that can be tried.
        if problems := health.answers(self._runner, devices.data):
            raise DeviceFailed(f"it cannot be filled anew yet: {health.in_words(problems)}")
        self._commands.down(resource.name)
        self._commands.create_metadata(resource, anew=True)
        self._commands.attach(resource)

    def _suspend_face(self, assignment: Assignment) -> None:
        # Without freezing the file system: what that writes would not end, were the peer to be lost
        # as well. The module's own freeze then ends this by the deadline.
        name = face_name(assignment.volume_id)
        # What holds it lets it go in the end: then the write would be acknowledged.
        with self._holds.ended(assignment.volume_id):
            self._mapper.suspend(name, deadline=_FACE_SECONDS, lockfs=False)

    def _resume_face(self, assignment: Assignment) -> None:
        name = face_name(assignment.volume_id)
        self._mapper.resume(name, deadline=_FACE_SECONDS, lockfs=False)
