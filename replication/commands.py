"""Changes to replicated volumes: each looks first, or knows the answer that says "so already".

They fork, through the one runner: a request may hang in the kernel, and a process can be given up.
What is to be decided before (the in-sync set, who may be primary) is ``membership``'s, not decided
here; where a step in the wrong state would lose data, it is refused here as well.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from host.command import Result, Runner
from host.errors import CommandFailed, InTransition, Missing, Refused
from replication import addresses, connecting, resource_file
from replication.generations import (
    JUST_CREATED,
    LARGEST_IO_BYTES,
    Generation,
    generations_of,
    metadata_dump,
)
from replication.model import Dialect, Replica, Resource
from replication.record import Generations
from replication.resource_file import FOLDER
from replication.results import translated
from replication.status import (
    ConnectionState,
    DiskState,
    ReplicationState,
    ResourceStatus,
    Role,
)
from replication.watch import Observer

_SECONDS = 30.0
_SETTLING_SECONDS = 10.0
_NOT_ATTACHED = (DiskState.DISKLESS, DiskState.ATTACHING, DiskState.FAILED, DiskState.UNKNOWN)


class Commands:
    """What a node does to its side of replicated volumes. Thread safe for different resources.

    Every method may be repeated. Besides what is named: ``Missing`` for a resource or device that
    is not there, ``Refused`` for what the module does not permit in its state, ``InUse``,
    ``DeviceFailed``, ``CommandStuck`` after the deadline.
    """

    def __init__(
        self, runner: Runner, node: str, observer: Observer, folder: Path = FOLDER
    ) -> None:
        self._runner = runner
        self._node = node
        self._observer = observer
        self._folder = folder

    def status(self, name: str) -> ResourceStatus | None:
        """The resource as it is now; None where the kernel has none of that name."""
        return self.look(name)[0]

    def look(self, name: str) -> tuple[ResourceStatus | None, Generations | None]:
        """The same with the generations of its copy; None where only ``generations`` tells them."""
        return self._observer.status_of(name)

    # Making and taking down

    def create_metadata(
        self,
        resource: Resource,
        *,
        anew: bool = False,
        generation: str = "",
        size_bytes: int = 0,
    ) -> bool:
        """Write DRBD's metadata; whether anything was written.

        Metadata that is there is kept, with its generation and bitmap, unless ``anew``. Without
        ``generation`` the replica has then seen no data, and will be synced fully. With one (16
        hexadecimal digits, an even number) it is complete and of that generation, and nothing of
        its ``size_bytes`` differs from any other replica that begins so: the caller has made sure,
        and has filled the disk for the metadata with zeros, which say so.
        """
        if not anew and self._stored_generation(resource) is not None:
            return False
        if generation:
            self._create_complete(resource, generation, size_bytes)
            return True
        peers = [str(resource.max_peers)] if resource.dialect is Dialect.V9 else []
        self._metadata(resource, "create-md", f"--peer-max-bio-size={LARGEST_IO_BYTES}", *peers)
        return True

    def attach(self, resource: Resource) -> None:
        """Bring the resource up with its disk, and connected to nobody."""
        resource_file.write(resource, self._folder)
        status = self.status(resource.name)
        if status is None:
            self._drbdadm(resource, "new-resource")
        if status is None or not status.volumes:
            self._drbdadm(resource, "new-minor")
        elif status.volumes[0].minor != resource.minor:
            raise Refused(
                f"resource {resource.name} has the minor {status.volumes[0].minor}, not "
                f"{resource.minor}: take it down first"
            )
        if status is None or status.disk is DiskState.DISKLESS:
            self._drbdadm(resource, "attach")

    def down(self, name: str) -> None:
        """Take the resource away from the kernel, and its file.

        Unforced: it outdates a connected peer. Take this node out of the set first.
        """
        if self.status(name) is not None:
            self._drbdsetup("down", name, resource=name)
        resource_file.remove(name, self._folder)

    def detach(self, resource: Resource, *, force: bool = False) -> None:
        """Let go of the disk; by force also with I/O under way, which then fails."""
        status = self.status(resource.name)
        if status is None or not status.volumes or status.disk is DiskState.DISKLESS:
            return
        options = ["--force"] if force else []
        self._drbdsetup("detach", str(resource.minor), *options, resource=resource.device)

    # Connections

    def connect(self, resource: Resource, peer: Replica) -> None:
        """Begin to connect; returns before it is so. Right at once for a connection to ``peer``.

        To a peer at another address, only after ``disconnect``.
        """
        resource_file.write(resource, self._folder)
        status = self._present(resource)
        wanted = addresses.join(peer.address, resource.port)
        found = status.connection(_peer_id(resource, peer))
        if found.state is not ConnectionState.STANDALONE:
            if found.peer_address in (None, wanted):
                return
            raise Refused(
                f"resource {resource.name} is configured for the peer {found.peer_address}, not "
                f"{wanted}: disconnect it first"
            )
        local = resource.local(self._node)
        with translated():
            connecting.connect(self._runner, resource, local, peer, deadline=_SECONDS)

    def disconnect(self, resource: Resource, peer: Replica, *, force: bool = False) -> None:
        """Go StandAlone towards ``peer``.

        Unforced, a connected peer is outdated without a freeze: take it out of the set first. By
        force it is neither asked nor outdated; a primary freezes, or stays frozen.
        """
        status = self.status(resource.name)
        if status is None:
            return
        found = status.connection(_peer_id(resource, peer))
        if found.state is ConnectionState.STANDALONE:
            return
        options = ["--force"] if force else []
        ends = self._ends(resource, peer, found.peer_address)
        self._drbdsetup("disconnect", *ends, *options, resource=resource.device)

    # Roles

    def promote(self, resource: Resource) -> None:
        """Become primary. The caller has made sure that this node may (rule 1 of the rules)."""
        if self._present(resource).role is not Role.PRIMARY:
            self._drbdsetup("primary", str(resource.minor), resource=resource.device)

    def force_promote(self, resource: Resource) -> None:
        """Become primary on whatever data is here: at creation, or by a person's decision."""
        self._drbdsetup("primary", str(resource.minor), "--force", resource=resource.device)

    def demote(self, resource: Resource) -> None:
        """Become secondary. ``InUse`` while the device is open."""
        status = self.status(resource.name)
        if status is not None and status.role is Role.PRIMARY:
            self._drbdsetup("secondary", str(resource.minor), resource=resource.device)

    def resume_io(self, resource: Resource) -> None:
        """Let held-back I/O go on, whatever held it back. Only after the arbiter's permission."""
        if self._present(resource).frozen:
            self._drbdsetup("resume-io", str(resource.minor), resource=resource.device)

    # Data

    def declare_equal(self, resource: Resource) -> None:
        """Skip the first sync: both copies become UpToDate as they are. Once, on one side.

        The caller has made sure that they are equal: nothing would ever find the difference.
        Refused unless both are connected, and have seen no data yet.
        """
        status = self._present(resource)
        peer = next(status.peer_volumes(), None)
        if peer is None:
            raise Refused(f"resource {resource.name} has no peer: connect it first")
        if peer.replication is ReplicationState.ESTABLISHED and {status.disk, peer.disk} == {
            DiskState.UP_TO_DATE
        }:
            return
        fresh = status.volumes[0].current_uuid == JUST_CREATED
        if not fresh or {status.disk, peer.disk} != {DiskState.INCONSISTENT}:
            raise Refused(
                f"resource {resource.name} is {status.disk} here and {peer.disk} at the peer, "
                "connected and just created are wanted: only then the first sync may be skipped"
            )
        minor = str(resource.minor)
        self._drbdsetup("new-current-uuid", minor, "--clear-bitmap", resource=resource.device)

    def new_generation(self, resource: Resource) -> None:
        """Begin a new data generation, so that who does not have it is known to be older."""
        self._drbdsetup("new-current-uuid", str(resource.minor), resource=resource.device)

    def invalidate(self, resource: Resource) -> None:
        """Give the local copy up: it becomes Inconsistent, and is synced fully from the peer."""
        self._drbdsetup("invalidate", str(resource.minor), resource=resource.device)

    def outdate(self, resource: Resource) -> None:
        """Mark the local copy as no longer current. Refused on a primary or a connected node."""
        if self._present(resource).disk is not DiskState.OUTDATED:
            self._drbdsetup("outdate", str(resource.minor), resource=resource.device)

    def verify(self, resource: Resource) -> None:
        """Begin to compare both copies online. Refused unless both are UpToDate.

        DRBD 8.4 would declare two Inconsistent copies UpToDate by it.
        """
        status = self._present(resource)
        for peer in status.peer_volumes():
            if peer.replication in (ReplicationState.VERIFY_S, ReplicationState.VERIFY_T):
                return
            if {status.disk, peer.disk} != {DiskState.UP_TO_DATE}:
                raise Refused(
                    f"resource {resource.name} is {status.disk} here and {peer.disk} at the peer: "
                    "it can be verified once both are UpToDate"
                )
        self._drbdsetup("verify", str(resource.minor), resource=resource.device)

    def resize(
        self,
        resource: Resource,
        size_bytes: int,
        *,
        peer_has_space: bool = False,
        equal: bool = False,
    ) -> None:
        """Grow the device to what all disks have by now; all were made larger before.

        ``peer_has_space``: that of a peer which is not connected is known to have been, too.
        ``equal``: what was added is provably the same everywhere (zeroes); otherwise it is synced,
        and until then the peer is Inconsistent: no member of the set.
        Refused where the device does not have ``size_bytes`` then: without its peer and without
        that promise, the module says nothing and leaves it as it is.
        """
        if self._has_size(resource, size_bytes):
            return
        options = ["--assume-peer-has-space"] if peer_has_space else []
        options += ["--assume-clean"] if equal else []
        self._drbdsetup("resize", str(resource.minor), *options, resource=resource.device)
        if not _settles(lambda: self._has_size(resource, size_bytes)):
            raise Refused(
                f"resource {resource.name} did not grow to {size_bytes} bytes: a disk is still "
                "smaller, or the peer is away"
            )

    def generation(self, resource: Resource) -> Generation:
        """The UUIDs of the local copy, attached or not. ``Missing`` without metadata."""
        found = self._stored_generation(resource)
        if found is None:
            raise Missing(f"there is no metadata of DRBD on {self._local(resource).metadata_disk}")
        return found

    def generations(self, resource: Resource) -> Generations:
        """All that is known of the local copy's generations. ``Missing`` without metadata."""
        status, told = self.look(resource.name)
        if told is not None:
            return told
        if status is not None and status.disk not in _NOT_ATTACHED:
            argv = ["drbdsetup", "get-gi", str(resource.minor)]
            with translated():
                found = self._runner.run(argv, deadline=_SECONDS, resource=resource.device)
            return generations_of(found.stdout.decode(errors="replace"))
        return generations_of(self._metadata(resource, "get-gi").stdout.decode(errors="replace"))

    def _create_complete(self, resource: Resource, generation: str, size_bytes: int) -> None:
        if resource.dialect is not Dialect.V84:
            raise Refused("metadata of a generation is written for DRBD 8.4 only")
        dump = metadata_dump(generation, size_bytes)
        # What is there first has to be metadata, of the layout that the dump does not tell.
        self._metadata(resource, "create-md")
        # From a file: it does not read a pipe to its end.
        with tempfile.NamedTemporaryFile("w", prefix="xlss-metadata-") as file:
            file.write(dump)
            file.flush()
            self._metadata(resource, "restore-md", file.name)

    def _stored_generation(self, resource: Resource) -> Generation | None:
        status, told = self.look(resource.name)
        if told is not None:
            return Generation(int(told.current or "0", 16), int(told.bitmap or "0", 16))
        volume = status.volumes[0] if status is not None and status.volumes else None
        if volume is not None and volume.current_uuid is not None and status is not None:
            peer = next(status.peer_volumes(), None)
            return Generation(volume.current_uuid, (peer.bitmap_uuid if peer else None) or 0)
        try:
            text = self._metadata(resource, "get-gi").stdout.decode(errors="replace")
        except CommandFailed as error:
            if error.exit_code == 1 and not error.stderr.strip():
                return None
            raise
        words = text.strip().split(":")
        return Generation(int(words[0], 16) & ~1, int(words[1], 16) & ~1)

    def _has_size(self, resource: Resource, size_bytes: int) -> bool:
        volumes = self._present(resource).volumes
        return bool(volumes) and (volumes[0].size_bytes or 0) >= size_bytes

    def _present(self, resource: Resource) -> ResourceStatus:
        status = self.status(resource.name)
        if status is None:
            raise Missing(f"resource {resource.name} is not up on this node: attach it first")
        return status

    def _local(self, resource: Resource) -> Replica:
        return resource.local(self._node)

    def _ends(self, resource: Resource, peer: Replica, configured: str | None) -> list[str]:
        if resource.dialect is Dialect.V9:
            return [resource.name, str(peer.node_id)]
        local = self._local(resource)
        family = "ipv6" if local.is_ipv6 else "ipv4"
        mine = addresses.join(local.address, resource.port)
        # That of a former peer, where the volume has got another one since.
        theirs = configured or addresses.join(peer.address, resource.port)
        return [f"{family}:{mine}", f"{family}:{theirs}"]

    def _metadata(self, resource: Resource, *command: str) -> Result:
        version = "v08" if resource.dialect is Dialect.V84 else "v09"
        disk = self._local(resource).metadata_disk
        argv = ["drbdmeta", "--force", str(resource.minor), version, disk, "flex-external"]
        with translated():
            return self._runner.run([*argv, *command], deadline=_SECONDS, resource=disk)

    def _drbdadm(self, resource: Resource, command: str) -> None:
        path = resource_file.path(resource.name, self._folder)
        # The names of nodes are ours, and need not be those of the machines.
        environment = {"__DRBD_NODE__": self._node}
        argv = ["drbdadm", "-c", str(path), command, resource.name]
        with translated():
            self._runner.run(argv, deadline=_SECONDS, resource=resource.device, env=environment)

    def _drbdsetup(self, *arguments: str, resource: str) -> None:
        give_up = time.monotonic() + _SETTLING_SECONDS
        while True:
            try:
                with translated():
                    self._runner.run(
                        ["drbdsetup", *arguments], deadline=_SECONDS, resource=resource
                    )
            except InTransition:  # such as while a connection is being lost
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.1)
            else:
                return


def _peer_id(resource: Resource, peer: Replica) -> int:
    return 0 if resource.dialect is Dialect.V84 else peer.node_id


def _settles(is_so: Callable[[], bool]) -> bool:
    give_up = time.monotonic() + _SETTLING_SECONDS
    while not is_so():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.1)
    return True
