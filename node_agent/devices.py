"""The devices of a volume: logical volume -> face -> crypt, where it is encrypted.

The face (``xlss-<id>``) is a linear device, as long as the logical volume, but for what that grew
by and is still to be wiped; what a pod uses is never the logical volume itself, so that it can be
exchanged below a mounted file system. Under the face of a replicated volume is DRBD's device, and
under that a linear device (``xlss-disk-<id>``, see ``replica_storage.py``), there for as long as
the replica is up. The crypt device (``xlss-crypt-<id>``) is above the face, so that for this no key
is needed. A raw volume that is published read-only has one more linear device over its top
(``xlss-ro-<id>``): a mount that is read-only does not keep anybody from writing to a device node in
it.

They are there from the staging of a volume to its unstaging. Each call may be repeated.
"""

from __future__ import annotations

from cluster.errors import Refused
from cluster.identifiers import Kind, is_id
from cluster.model import volume_from_json
from host import block_device, encryption, mount
from host.command import Runner
from host.device_mapper import DeviceInfo, DeviceMapper
from host.errors import InUse
from host.linear_device import ensure_linear, remove_if_present, resize_linear, swap_linear
from host.mount_table import Mount
from node_agent.entries import Entry
from node_agent.logical_volumes import LogicalVolumes

PREFIX = "xlss-"
_CRYPT, _READ_ONLY, _DISK = f"{PREFIX}crypt-", f"{PREFIX}ro-", f"{PREFIX}disk-"
_RESUME_SECONDS = 60.0
DRBD_MAJOR = 147  # linux/major.h


def face_name(volume_id: str) -> str:
    return PREFIX + volume_id


def crypt_name(volume_id: str) -> str:
    return _CRYPT + volume_id


def disk_name(volume_id: str) -> str:
    """What DRBD attaches to."""
    return _DISK + volume_id


def drbd_path(minor: int) -> str:
    """The node of a replicated device."""
    return f"/dev/drbd{minor}"


def stack_names(volume_id: str) -> tuple[str, ...]:
    """All devices that a volume can have, the top first."""
    return _READ_ONLY + volume_id, crypt_name(volume_id), face_name(volume_id)


def volume_of_source(source: str) -> str:
    """The volume whose top is mounted, by the source in the mount table; empty for all others."""
    name = source.removeprefix("/dev/mapper/")
    for prefix in (_CRYPT, _READ_ONLY, PREFIX):
        if name != source and name.startswith(prefix):
            return name.removeprefix(prefix)
    return ""


class Devices:
    """All raise the errors of ``host/errors.py``; the caller holds the volume's lock."""

    def __init__(self, runner: Runner, mapper: DeviceMapper, volumes: LogicalVolumes) -> None:
        self._runner = runner
        self._mapper = mapper
        self._volumes = volumes

    def ensure_face(self, entry: Entry) -> str:
        """The path of the face; as long as what is under it is now.

        A replicated volume has to be served here already: its device cannot be opened otherwise.
        """
        self._volumes.ensure_active(entry)
        backing, size = self._backing(entry)
        name = face_name(entry.label.id)
        info = self._mapper.find(name)
        if info is not None and info.live_table:
            # Shorter than it should be where an expansion was interrupted.
            resize_linear(self._mapper, name, size)
            return str(self._mapper.ensure_node(name))
        return str(ensure_linear(self._mapper, name, backing, size))

    def _backing(self, entry: Entry) -> tuple[str, int]:
        """What the face lies over, and its size in bytes."""
        replication = volume_from_json(entry.label.record).replication
        if replication is None:
            return entry.path, entry.usable_bytes
        number = f"{DRBD_MAJOR}:{replication.minor}"
        return drbd_path(replication.minor), block_device.size_of_number(number)

    def over(self, volume_id: str, number: str) -> bool | None:
        """Whether the face lies over the device ``major:minor``; None where there is no face."""
        info = self._mapper.find(face_name(volume_id))
        if info is None or not info.live_table:
            return None
        return self._mapper.table(info.name)[0].parameters == f"{number} 0"

    def exchange(self, volume_id: str, backing: str) -> None:
        """Put the face, where there is one, over another device, also while it is mounted."""
        name = face_name(volume_id)
        info = self._mapper.find(name)
        if info is not None and info.live_table:
            swap_linear(self._mapper, name, backing)

    def open_crypt(self, entry: Entry, key: bytes) -> str:
        """The path of the crypt device over the face. Raises WrongKey."""
        volume_id = entry.label.id
        name = crypt_name(volume_id)
        face = str(self._mapper.node(face_name(volume_id)))
        path = encryption.open_device(self._runner, self._mapper, face, name, key)
        below = block_device.size_of_number(self._mapper.info(face_name(volume_id)).major_minor)
        if block_device.size_of(str(path)) < below - encryption.HEADER_BYTES:
            encryption.resize_device(self._runner, name)
        return str(path)

    def close_crypt(self, volume_id: str) -> None:
        encryption.close_device(self._mapper, crypt_name(volume_id))

    def ensure_read_only(self, volume_id: str) -> str:
        """The path of a device that shows the volume and takes no writes."""
        top = self.require_top(volume_id)
        path = str(self._mapper.node(top.name))
        name = _READ_ONLY + volume_id
        size = block_device.size_of_number(top.major_minor)
        found = self._mapper.find(name)
        if found is not None and found.live_table:
            resize_linear(self._mapper, name, size)
        return str(ensure_linear(self._mapper, name, path, size, read_only=True))

    def remove_read_only(self, volume_id: str) -> None:
        remove_if_present(self._mapper, _READ_ONLY + volume_id)

    def top(self, volume_id: str) -> DeviceInfo | None:
        """What a pod uses; None where the volume is not staged."""
        for name in (crypt_name(volume_id), face_name(volume_id)):
            info = self._mapper.find(name)
            if info is not None and info.live_table:
                return info
        return None

    def require_top(self, volume_id: str) -> DeviceInfo:
        """Raises Refused where the volume is not staged."""
        info = self.top(volume_id)
        if info is None:
            raise Refused(f"volume {volume_id} is not staged on this node")
        return info

    def face(self, volume_id: str) -> DeviceInfo | None:
        return self._mapper.find(face_name(volume_id))

    def path_of(self, info: DeviceInfo) -> str:
        return str(self._mapper.node(info.name))

    def mounts(self, volume_id: str) -> list[Mount]:
        """Where the file system of the volume is mounted."""
        top = self.top(volume_id)
        return [] if top is None else mount.mounts_of(top.device_number)

    def grow(self, entry: Entry) -> None:
        """Give what is there of the stack all that may be shown, also under mounts."""
        volume_id = entry.label.id
        if self._mapper.find(face_name(volume_id)) is None:
            return
        self.ensure_face(entry)
        if self._mapper.find(crypt_name(volume_id)) is not None:
            encryption.resize_device(self._runner, crypt_name(volume_id))
        if self._mapper.find(_READ_ONLY + volume_id) is not None:
            self.ensure_read_only(volume_id)

    def take_down(self, volume_id: str) -> None:
        """Remove the stack, top first. Raises Refused while it is mounted or open."""
        if mounts := self.mounts(volume_id):
            paths = ", ".join(mounted.path for mounted in mounts)
            raise Refused(f"volume {volume_id} is mounted at {paths}")
        try:
            self.remove_read_only(volume_id)
            self.close_crypt(volume_id)
            remove_if_present(self._mapper, face_name(volume_id))
        except InUse as error:
            raise Refused(f"volume {volume_id} is in use: {error}") from error

    def staged_ids(self) -> frozenset[str]:
        """The volumes that have a face."""
        names = self._mapper.names(PREFIX)
        others = (_CRYPT, _READ_ONLY, _DISK)
        ids = (name.removeprefix(PREFIX) for name in names if not name.startswith(others))
        return frozenset(volume_id for volume_id in ids if is_id(Kind.VOLUME, volume_id))

    def resume_all(self) -> list[str]:
        """At the start: whatever an earlier agent left suspended. Returns the names.

        But for the faces of replicated volumes: one of them may be suspended because a replica was
        lost, and the write that it holds must not be acknowledged before that one is out of the
        set. The membership loop resumes it.
        """

        def is_ours_alone(name: str) -> bool:
            table = self._mapper.table(name)
            return not table or not table[0].parameters.startswith(f"{DRBD_MAJOR}:")

        return self._mapper.resume_all(PREFIX, deadline=_RESUME_SECONDS, wanted=is_ours_alone)
