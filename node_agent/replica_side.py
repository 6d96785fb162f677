"""This node's side of its replicated volumes: the actions of membership, as steps in the kernel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import Refused
from host.boot import boot_id
from host.command import Runner
from host.device_mapper import DeviceMapper
from host.errors import Missing
from node_agent.arbiter import Assignment
from node_agent.devices import face_name
from replication import fencing
from replication.commands import Commands
from replication.fencing import GRANTS, Verdict
from replication.membership import Do
from replication.model import Replica, Resource
from replication.observed import Surroundings, view_of
from replication.record import Generations, Users, View

_FLUSH_SECONDS = 60.0
_FACE_SECONDS = 30.0


@dataclass(frozen=True)
class ReplicaDevices:
    """Paths of what DRBD lies on: the inner linear device, and the metadata's logical volume."""

    data: str
    metadata: str


class ReplicaSide:
    """``Side`` of membership_loop.py, over DRBD and device-mapper.

    ``devices`` gives those of a volume, set up and active, and raises NotFound where this node has
    no replica. ``kill_users`` ends all that has the volume open. ``users`` says whether anybody
    has.
    """

    def __init__(
        self,
        node: str,
        runner: Runner,
        mapper: DeviceMapper,
        commands: Commands,
        devices: Callable[[Assignment], ReplicaDevices],
        users: Callable[[str], Users],
        kill_users: Callable[[str], None],
        grants: Path = GRANTS,
    ) -> None:
        self._node = node
        self._runner = runner
        self._mapper = mapper
        self._commands = commands
        self._devices = devices
        self._users = users
        self._kill_users = kill_users
        self._grants = grants
        self._boot_id = boot_id()

    def view(self, assignment: Assignment) -> View:
        """The volume as the kernel has it now, from a fresh look."""
        volume_id = assignment.volume_id
        face = self._mapper.find(face_name(volume_id))
        around = Surroundings(
            self._node,
            self._boot_id,
            self._users(volume_id),
            face_suspended=face is not None and face.suspended,
            grant=self._has_grant(volume_id),
        )
        status = self._commands.status(volume_id)
        if status is None or not status.volumes:
            return view_of(None, Generations(), around)
        try:
            generations = self._commands.generations(self.resource(assignment))
        except Missing:
            generations = Generations()
        return view_of(status, generations, around)

    def flush(self, assignment: Assignment) -> None:
        """sync(1) of a device is fsync(2), which has the disk empty its cache."""
        path = self._devices(assignment).data
        self._runner.run(["sync", path], deadline=_FLUSH_SECONDS, resource=path)

    def carry_out(self, do: Do, assignment: Assignment) -> None:
        """Raises Refused for what is no step in the kernel."""
        steps: dict[Do, Callable[[Assignment], None]] = {
            Do.ATTACH: lambda one: self._commands.attach(self.resource(one)),
            Do.CONNECT: self._connect,
            Do.FORCE_DISCONNECT: self._disconnect,
            Do.RESUME_IO: lambda one: self._commands.resume_io(self.resource(one)),
            Do.WRITE_GRANT: self._grant,
            Do.REMOVE_GRANT: lambda one: fencing.revoke(one.volume_id, self._grants),
            Do.PROMOTE: lambda one: self._commands.promote(self.resource(one)),
            Do.PROMOTE_BY_FORCE: lambda one: self._commands.force_promote(self.resource(one)),
            Do.DEMOTE: lambda one: self._commands.demote(self.resource(one)),
            Do.SUSPEND_FACE: self._suspend_face,
            Do.RESUME_FACE: self._resume_face,
            Do.NEW_GENERATION: lambda one: self._commands.new_generation(self.resource(one)),
            Do.OUTDATE: lambda one: self._commands.outdate(self.resource(one)),
            Do.INVALIDATE: self._invalidate,
            Do.DETACH: lambda one: self._commands.detach(self.resource(one), force=True),
            Do.TAKE_DOWN: lambda one: self._commands.down(one.volume_id),
            Do.KILL_USERS: lambda one: self._kill_users(one.volume_id),
            Do.REPORT_REBOOT: lambda one: None,  # the decision, kept for status, is the report
        }
        step = steps.get(do)
        if step is None:
            raise Refused(f"{do} is no step in the kernel")
        step(assignment)

    def resource(self, assignment: Assignment) -> Resource:
        """What DRBD is told. Of the peer only its address counts here."""
        devices = self._devices(assignment)
        replication = assignment.replication
        replicas = tuple(
            Replica(place.node, place.node_id, place.address, devices.data, devices.metadata)
            for place in replication.places
        )
        return Resource(
            assignment.volume_id, replication.minor, replication.port, assignment.secret, replicas
        )

    def _connect(self, assignment: Assignment) -> None:
        resource = self.resource(assignment)
        for peer in resource.peers(self._node):
            self._commands.connect(resource, peer)

    def _disconnect(self, assignment: Assignment) -> None:
        resource = self.resource(assignment)
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
        self._commands.down(resource.name)
        self._commands.create_metadata(resource, anew=True)
        self._commands.attach(resource)

    def _suspend_face(self, assignment: Assignment) -> None:
        # Without freezing the file system: what that writes would not end, were the peer to be lost
        # as well. The module's own freeze then ends this by the deadline.
        name = face_name(assignment.volume_id)
        self._mapper.suspend(name, deadline=_FACE_SECONDS, lockfs=False)

    def _resume_face(self, assignment: Assignment) -> None:
        name = face_name(assignment.volume_id)
        self._mapper.resume(name, deadline=_FACE_SECONDS, lockfs=False)
