"""This node's part in replicated volumes, put together: the arbiter, the loop, DRBD's events.

``Replicas`` is what the rest of the agent uses. Nothing of it starts at boot by itself: a replica
is attached once an arbiter has assigned it (docs/membership.md, rule 14).
"""

from __future__ import annotations

import logging
import threading
from contextlib import nullcontext, suppress

from cluster.agents import ReplicaReport
from cluster.errors import Refused, Unavailable
from host.command import Runner
from host.device_mapper import DeviceMapper
from host.errors import HostError, Missing
from node_agent.arbiter import Arbiter, Assignment
from node_agent.devices import Devices
from node_agent.endless_io import EndlessIo
from node_agent.entries import Entry
from node_agent.holds import Holds
from node_agent.logical_volumes import LogicalVolumes
from node_agent.membership_loop import MembershipLoop
from node_agent.notes import NoteBook
from node_agent.replica_side import Eviction, ReplicaSide
from node_agent.replica_status import ReplicaStatuses
from node_agent.replica_storage import ReplicaStorage
from node_agent.verified import Verified
from replication import fencing, preflight
from replication.commands import Commands
from replication.model import Dialect
from replication.status import ConnectionState, DiskState, ResourceStatus, Role
from replication.watch import NOT_UNDERSTOOD, FallingBack, Watcher

_log = logging.getLogger(__name__)
_LOADING_SECONDS = 30.0
_EVENT_SECONDS = 1.0
# A stage waits so long for the volume to be served here; kubelet repeats it.
_SERVING_SECONDS = 20.0
# While DRBD grows; the kernel warns of hanging writers after 120 s.
_STILL_SECONDS = 20.0
_WHOLE = (DiskState.UP_TO_DATE, DiskState.CONSISTENT)


class Replicas:
    """Thread safe. ``start`` once, ``stop`` at the end: what DRBD does goes on."""

    def __init__(
        self,
        node: str,
        runner: Runner,
        mapper: DeviceMapper,
        volumes: LogicalVolumes,
        devices: Devices,
        eviction: Eviction,
        holds: Holds,
        notes: NoteBook,
        verified: Verified,
        *,
        resync_bytes_per_second: int,
    ) -> None:
        self._node = node
        self._runner = runner
        self._volumes = volumes
        self._devices = devices
        self._holds = holds
        self._observer = FallingBack(runner)
        self._commands = Commands(runner, node, self._observer)
        self._storage = ReplicaStorage(runner, mapper, volumes)
        self._notes = notes
        endless = EndlessIo()
        self._side = ReplicaSide(
            node,
            runner,
            mapper,
            self._commands,
            self._storage,
            devices,
            eviction,
            holds,
            endless,
            resync_bytes_per_second=resync_bytes_per_second,
        )
        self._loop = MembershipLoop(self._side, notes)
        self._verified = verified
        self._statuses = ReplicaStatuses(self._loop.decision, endless.of, verified)
        self._stopped = threading.Event()
        self.tried = threading.Event()
        """Set once it has been set up, or could not be for the first time."""
        self.trouble = "replication is being set up"
        """Why this node takes no replicas now; "" where it does."""

    def start(self, arbiter: Arbiter) -> None:
        """Load and set up the module, then begin; returns at once."""
        threading.Thread(target=self._run, args=(arbiter,), name="replicas", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()
        self._loop.stop()

    # What the agent asks

    def require_set_up(self) -> None:
        """To be called before a replica is made. Raises Unavailable while DRBD cannot be used."""
        if self.trouble:
            raise Unavailable(f"{self._node} takes no replicas now: {self.trouble}")

    def establish(self, data: Entry) -> None:
        """Make what a replica needs beside its data, or adopt what is there. Raises NoSpace."""
        if not self._storage.is_established(data):
            # Whatever was noted is of a former life of it here: a new record would look older.
            self._notes.remove(data.label.id)
            self._storage.establish(data)

    def dissolve(self, data: Entry) -> None:
        """Take DRBD out from under the only replica, also while it is used.

        The loop is paused. Where this is cut off, it runs again with what is there then, and all of
        that does no harm: the only replica has everything on its logical volume, whether it is
        written through DRBD or past it, and no other replica is left that could miss something (one
        that comes later is filled as a whole). So the loop attaches again, asks, promotes and puts
        the face back over DRBD; or, once the metadata is gone, it cannot attach, and the face stays
        over the logical volume. A repetition begins wherever that is. The notes stay: a store that
        is rolled back to when there were two replicas is recognized by them.

        Raises Unavailable while this node does not know itself to be the only complete replica, or
        while DRBD holds its I/O back.
        """
        volume_id = data.label.id
        with self._loop.paused(volume_id):
            status = None
            with suppress(Missing):  # the module is not loaded: then there is no resource
                status = self._commands.status(volume_id)
            if status is not None or self._storage.is_used(volume_id):
                resource = self._side.resource(self._require_only(volume_id, status))
                self._volumes.ensure_active(data)
                self._devices.exchange(volume_id, data.path)
                self._commands.demote(resource)
                self._commands.down(volume_id)
            self._storage.remove(volume_id)
            fencing.revoke(volume_id)

    def _require_only(self, volume_id: str, status: ResourceStatus | None) -> Assignment:
        assignment = self._loop.assignment(volume_id)
        if assignment is None:
            raise Unavailable(f"volume {volume_id}: no arbiter has assigned it yet")
        record = assignment.held.record
        if record.quarantine:
            raise Unavailable(f"volume {volume_id}: {record.quarantine}")
        if (record.replicas, record.members) != ((self._node,), (self._node,)):
            raise Unavailable(
                f"volume {volume_id}: {self._node} does not know yet that it has the only replica"
            )
        if status is None or status.disk not in _WHOLE:
            state = "not set up" if status is None else status.disk
            raise Unavailable(f"volume {volume_id}: the replica on {self._node} is {state}")
        if status.frozen:
            raise Unavailable(f"volume {volume_id}: its I/O is held back on {self._node}")
        return assignment

    def require_primary(self, volume_id: str) -> None:
        """Wait until this node serves the volume. Raises Unavailable, which says why it does not.

        A device that could not grow while nobody used the volume does so now.
        """
        self._loop.require_primary(volume_id, _SERVING_SECONDS)
        status = self._commands.status(volume_id)
        size, everywhere = self._storage.sizes(volume_id)
        size = min(size, everywhere)
        if status is not None and (status.volumes[0].size_bytes or 0) < size:
            with suppress(HostError, Unavailable):  # it is served as it is; NodeExpand insists
                self._resize(volume_id, size, status)

    def report(self, volume_id: str) -> ReplicaReport:
        """How the replica is, from what is known: nothing is asked of the kernel."""
        return self._statuses.of(volume_id)

    def verify(self, volume_id: str) -> None:
        """Begin to compare both replicas; the result comes with ``report``.

        Raises Refused unless both are connected and UpToDate, and where the volume is served: there
        DRBD 8.4 waits for all writes under way with all of its netlink locked, and should the link
        be lost just then, they never end. Unavailable without an assignment.
        """
        assignment = self._loop.assignment(volume_id)
        if assignment is None:
            raise Unavailable(f"volume {volume_id}: no arbiter has assigned it yet")
        replica = self._statuses.of(volume_id)
        if not replica.in_sync:
            raise Refused(
                f"volume {volume_id} is {replica.connection}, {replica.disk}/{replica.peer_disk}: "
                "it can be verified once both replicas are connected and UpToDate"
            )
        with self._loop.paused(volume_id):  # nor is it promoted meanwhile
            status = self._commands.status(volume_id)
            if status is not None and status.role is Role.PRIMARY:
                raise Refused(f"volume {volume_id} is served here: verify it from the other node")
            self._commands.verify(self._side.resource(assignment))

    def grow(self, data: Entry) -> None:
        """Let DRBD have what the logical volume has grown to, as far as the peer has it, too.

        Where the volume is not used, or its peer is away, the device grows later. Raises Refused
        where the peer's disk is smaller, Unavailable.
        """
        volume_id = data.label.id
        with self._loop.paused(volume_id):
            size = self._storage.grow(data)
        status = self._commands.status(volume_id)
        if status is not None and status.role is Role.PRIMARY and _is_connected(status):
            self._resize(volume_id, size, status)

    def remove(self, volume_id: str) -> None:
        """Take the replica down, and all but its data away. Nothing there is success.

        Raises InUse while the device is open.
        """
        with self._loop.paused(volume_id):
            with suppress(Missing):  # the module is not loaded: then there is no resource
                self._commands.down(volume_id)
            self._storage.remove(volume_id)
            fencing.revoke(volume_id)
            self._notes.remove(volume_id)
            self._verified.remove(volume_id)

    def _resize(self, volume_id: str, size_bytes: int, status: ResourceStatus) -> None:
        assignment = self._loop.assignment(volume_id)
        if assignment is None:
            raise Unavailable(f"volume {volume_id}: no arbiter has assigned it yet")
        resource = self._side.resource(assignment)
        connected = _is_connected(status)
        disk, everywhere = self._storage.sizes(volume_id)
        # Alone it takes all of its disk; one that is larger than the peer's never connects again.
        if not connected and disk > everywhere:
            raise Unavailable(f"volume {volume_id} grows only once its other replica is there")
        face = self._devices.face(volume_id)
        # DRBD 8.4 waits for writes under way with all of its netlink locked: should the link be
        # lost just then, they would never end, as what lets them go on is a request by netlink.
        still = self._holds.still(volume_id, face.name, _STILL_SECONDS) if face else nullcontext()
        with still:
            # DRBD 8.4 refuses to take anything for equal while it is alone: a peer that comes back
            # is no member, and is synced in any case.
            self._commands.resize(
                resource, size_bytes, peer_has_space=not connected, equal=connected
            )

    # Following the kernel

    def _run(self, arbiter: Arbiter) -> None:
        while not self._stopped.is_set():
            try:
                self._set_up()
                break
            except (HostError, OSError) as error:
                self._tell(str(error))
            except Exception as error:
                _log.exception("replication cannot be set up")
                self._tell(f"{type(error).__name__}: {error}")
            self._stopped.wait(_LOADING_SECONDS)
        else:
            return
        self._tell("")
        self._loop.start(arbiter)
        while not self._stopped.is_set():
            try:
                self._follow()
            except (HostError, OSError) as error:
                _log.warning("DRBD's events cannot be followed: %s", error)
            except NOT_UNDERSTOOD as error:
                self._observer.fall_back(error)
                _log.exception("DRBD's events cannot be followed")
            except Exception:
                # Whatever it is, it is begun anew: without events replicas are only looked at from
                # time to time.
                _log.exception("DRBD's events cannot be followed")
            self._stopped.wait(_EVENT_SECONDS)

    def _set_up(self) -> None:
        """The module, and its fence helper: without it a primary would not stay frozen (rule 8)."""
        self._runner.run(["modprobe", "drbd"], deadline=_LOADING_SECONDS)
        version = preflight.loaded_version() or "of an unknown version"
        if preflight.dialect_of(version) is not Dialect.V84:
            raise HostError(f"DRBD {version} is loaded: this version drives 8.4 only")
        fencing.install()
        fencing.configure()

    def _follow(self) -> None:
        stream = self._observer.events()
        try:
            watcher = Watcher(stream)
            self._loop.poke_all()
            while not self._stopped.is_set():
                self._look(watcher)
                for name in watcher.changes(_EVENT_SECONDS).names:
                    self._loop.poke(name)
        finally:
            stream.close()

    def _look(self, watcher: Watcher) -> None:
        """Events tell no progress: while something is copied or compared, one dump a second."""
        due = self._statuses.figures_due(watcher.resources)
        if due is not None:
            self._statuses.see(self._observer.status() if due else watcher.resources)

    def _tell(self, trouble: str) -> None:
        if trouble and trouble != self.trouble:
            _log.error("this node takes no replicas: %s", trouble)
        self.trouble = trouble
        self.tried.set()


def _is_connected(status: ResourceStatus) -> bool:
    return status.connection().state is ConnectionState.CONNECTED
