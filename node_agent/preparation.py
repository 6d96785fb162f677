"""From a logical volume to a device that can be mounted or given to a pod.

This is the only place that formats anything. It does so in two cases: the volume was never
formatted (``blank``) and carries no signature, or this driver was interrupted when it formatted it
(``formatting``; of a replicated volume, what it carries tells that). Whatever else it finds on a
device, it refuses, and says what it has found.
"""

from __future__ import annotations

import uuid

from cluster.model import AccessType, VolumeSpec
from host import encryption, filesystem, mount, signature
from host.command import Runner
from host.device_mapper import device_number
from host.errors import NotBlank, Refused
from node_agent.devices import Devices
from node_agent.entries import Entry
from node_agent.labels import State
from node_agent.records import record_of, spec_of
from node_agent.volumes import NodeVolumes

# Copies get a UUID that is the same at every attempt, as it may be half-written.
_COPIES = uuid.UUID("5b1c3f0e-6c1e-4f5b-9d38-3f1f2a7f9a11")


class Preparation:
    """The caller holds the volume's lock. All raise the errors of ``host/errors.py``."""

    def __init__(self, runner: Runner, volumes: NodeVolumes, devices: Devices) -> None:
        self._runner = runner
        self._volumes = volumes
        self._devices = devices

    def bring_up(self, entry: Entry, key: bytes) -> tuple[Entry, str]:
        """The path of the device that carries the file system or is the raw volume.

        ``key`` is used for encrypted volumes. Raises WrongKey, NotBlank, Refused (something else
        is on the device than there should be).
        """
        spec = spec_of(entry)
        if entry.label.state is not State.USED:
            return self._first_use(entry, spec, key)
        device = self._devices.ensure_face(entry)
        if spec.encrypted:
            device = self._devices.open_crypt(entry, key)
        return entry, device

    def mount(
        self, entry: Entry, device: str, path: str, flags: tuple[str, ...], *, read_only: bool
    ) -> None:
        """Mount the file system at ``path``, as large as its device. Mounted so already is fine."""
        kind = spec_of(entry).filesystem
        if not mount.mounts_of(device_number(device)):
            self._require_filesystem(device, kind)
            if not entry.label.unique:
                new_uuid = uuid.uuid5(_COPIES, entry.label.id)
                filesystem.make_unique(device, kind, new_uuid)
                entry = self._volumes.mark(entry, State.USED, unique=True)
            filesystem.check(self._runner, device, kind)
        mount.make_directory(path)
        options = (*filesystem.MOUNT_OPTIONS[kind], *flags)
        mount.mount_device(self._runner, device, path, kind, options, read_only=read_only)
        if not read_only and filesystem.needs_growth(device, kind):
            filesystem.grow(self._runner, device, path, kind)

    def _first_use(self, entry: Entry, spec: VolumeSpec, key: bytes) -> tuple[Entry, str]:
        anew = entry.label.state is State.FORMATTING
        # An attempt that was interrupted may have left it open.
        self._devices.close_crypt(entry.label.id)
        device = self._devices.ensure_face(entry)
        if spec.access is AccessType.BLOCK and not spec.encrypted:
            return self._volumes.mark(entry, State.USED), device
        # The state is that of this node: of a volume with replicas, what it carries tells whether
        # another node has formatted it, also after this one was interrupted over that.
        replicated = record_of(entry).replication is not None
        # What was made of a source may have blocks, also where it has no file system.
        fresh = not anew and not replicated and record_of(entry).source is None
        if not anew or replicated:
            found = signature.probe(self._runner, device)
            expected = encryption.SIGNATURE if spec.encrypted else spec.filesystem
            if found is not None and found.kind == expected and replicated:
                if not self._is_half_made(device, expected):
                    return self._used_elsewhere(entry, spec, device, key)
                anew = True
            elif found is not None:
                raise NotBlank(
                    f"volume {entry.label.id} was never formatted by this driver, but carries"
                    f" {found}: it is left as it is"
                )
            entry = self._volumes.mark(entry, State.FORMATTING)
        if spec.encrypted:
            encryption.format_device(self._runner, device, key, anew=anew)
            device = self._devices.open_crypt(entry, key)
        if spec.access is AccessType.MOUNT:
            filesystem.make(
                self._runner,
                device,
                spec.filesystem,
                spec.mkfs_options,
                reads_zero=entry.thin and not spec.encrypted and fresh,
                # What an encrypted device shows before it is written is noise.
                anew=anew or spec.encrypted,
            )
        return self._volumes.mark(entry, State.USED, unique=True), device

    def _used_elsewhere(
        self, entry: Entry, spec: VolumeSpec, device: str, key: bytes
    ) -> tuple[Entry, str]:
        """A replicated volume that was formatted on the other node: what it carries tells so."""
        if spec.encrypted:
            device = self._devices.open_crypt(entry, key)
            found = signature.probe(self._runner, device)
            made = found is not None and not self._is_half_made(device, found.kind)
            if spec.access is AccessType.MOUNT and not made:
                # Interrupted between the two: nobody has had a file system in it yet.
                filesystem.make(
                    self._runner,
                    device,
                    spec.filesystem,
                    spec.mkfs_options,
                    reads_zero=False,
                    anew=True,
                )
        return self._volumes.mark(entry, State.USED), device

    def _is_half_made(self, device: str, kind: str) -> bool:
        """Formatting was interrupted, here or on the other node; nobody can have used it."""
        if kind == encryption.SIGNATURE:
            return encryption.is_half_made(self._runner, device)
        return filesystem.is_half_made(device, kind)

    def _require_filesystem(self, device: str, kind: str) -> None:
        # Also the first touch of the device, by a child: a disk that hangs must not hold the agent.
        found = signature.probe(self._runner, device)
        if found is None or found.kind != kind:
            carries = "no known signature" if found is None else str(found)
            raise Refused(
                f"{device} should carry {kind}, and carries {carries}: it is left as it is"
            )
