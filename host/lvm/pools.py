"""The pools of a node: found, made where they are not there, watched.

A pool that cannot be opened does not keep the others from working: it says why, and is tried again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from host.command import Runner
from host.errors import HostError, Missing, NoSpace, NotBlank, Refused
from host.lvm import disks
from host.lvm.archive import MetadataArchive
from host.lvm.commands import Group, Lvm
from host.lvm.config import GroupDirectory
from host.lvm.executor import DEADLINE, FallbackExecutor
from host.lvm.fork import ForkExecutor
from host.lvm.growth import growth, troubles
from host.lvm.leftovers import resume_left_suspended
from host.lvm.model import GroupState, Kind, ThinPool, VolumeGroup
from host.lvm.pool_spec import PoolSpec
from host.lvm.shell import ShellExecutor
from host.lvm.udev import udev_answers

log = logging.getLogger("xlss.lvm")

_FIRST_RETRY_SECONDS = 10.0
_LAST_RETRY_SECONDS = 600.0

GROUP_TAG = "xlss"
"""Marks volume groups that were made here."""


@dataclass(frozen=True)
class PoolStatus:
    """A pool as it is now. ``state`` is None where LVM could not be asked: ``trouble`` says why."""

    spec: PoolSpec
    state: GroupState | None
    trouble: str

    @property
    def thin(self) -> ThinPool | None:
        """The thin pool that the configuration names."""
        pools = self.state.thin_pools if self.state else ()
        return next((pool for pool in pools if pool.name == self.spec.thin_pool), None)


class Pools:
    """All pools of the configuration. ``lvm`` works on those that are open. Thread safe.

    ``run_directory``: for what is rebuilt at every start. ``durable_directory``: archives of
    metadata go there. ``udev`` None: find out whether a udevd answers. ``deadline``: seconds for a
    command of LVM.
    """

    def __init__(
        self,
        specs: Iterable[PoolSpec],
        runner: Runner,
        *,
        run_directory: Path,
        durable_directory: Path,
        udev: bool | None = None,
        deadline: float = DEADLINE,
    ) -> None:
        self.specs = tuple(specs)
        self.lvm = Lvm(deadline=deadline)
        self._deadline = deadline
        self._runner = runner
        self._root = run_directory / "lvm"
        self._archive = MetadataArchive(self.lvm, durable_directory / "archive")
        self._udev = udev
        self._closed: dict[str, str] = {spec.name: "not opened yet" for spec in self.specs}
        self._half_open: dict[str, str] = {}
        self._retries: dict[str, _Retry] = {}
        self._searched: dict[str, list[str]] = {}
        self._directories: dict[str, GroupDirectory] = {}
        self._opening = threading.Lock()

    def close(self) -> None:
        """End the processes of LVM. Volumes stay as they are."""
        self._archive.write_due()
        self.lvm.close()

    def open_due(self) -> None:
        """Try to open what is not open, where it is time. What hinders one is in its status."""
        for spec in self.specs:
            with self._opening:
                if self._retry_is_due(spec):
                    self._try_open(spec)

    def tend(self, status: PoolStatus) -> bool:
        """After a look at a pool: find lost disks, grow. Logs instead of raising.

        Returns whether something was done that a look would show.
        """
        if status.state is None:
            return False
        name, group, done = status.spec.name, status.state.volume_group, False
        steps: tuple[Callable[[], object], ...] = (
            lambda: self._search_lost_disks(status),
            lambda: self._resume(group),
            lambda: self.grow_if_needed(name, status),
        )
        for step in steps:  # what hinders one may be there for long, and hinders no other
            try:
                done = bool(step()) or done
            except HostError as error:
                log.error("pool %s: %s", name, error)
                done = True
        return done

    def archive(self) -> None:
        """Keep the metadata of the groups that were opened or changed. Logs instead of raising."""
        self._archive.write_due()

    def status(self, name: str) -> PoolStatus:
        """The pool as it is now. ``Missing`` for a name that is not in the configuration."""
        spec = self._spec(name)
        hindrance = self._closed.get(name)
        if hindrance is not None:
            return PoolStatus(spec, None, hindrance)
        try:
            state = self.lvm.state(spec.volume_group)
        except HostError as error:
            return PoolStatus(spec, None, str(error))
        said = [self._half_open[name]] if name in self._half_open else []
        said += troubles(spec, state) + _left_out(spec, state)
        return PoolStatus(spec, state, "; ".join(said))

    def grow_if_needed(self, name: str, status: PoolStatus | None = None) -> list[str]:
        """Extend the thin pool where it is used beyond ``grow_at``; returns what was done.

        A pool that is full takes writes again afterwards. Raises what ``Lvm.extend`` raises.
        """
        now = status or self.status(name)
        if now.state is None or now.thin is None:
            return []
        plan = growth(now.spec, now.state.volume_group, now.thin)
        group, pool, done = now.spec.volume_group, now.thin.name, []
        if plan.short:
            log.error("thin pool %s/%s: %s", group, pool, plan.short)
        if plan.metadata_bytes is not None:
            self.lvm.extend_pool_metadata(group, pool, plan.metadata_bytes)
            done.append(f"{group}/{pool}: metadata grown to {plan.metadata_bytes} bytes")
        if plan.data_bytes is not None:
            self.lvm.extend(group, pool, plan.data_bytes)
            done.append(f"{group}/{pool}: data grown to {plan.data_bytes} bytes")
        for line in done:
            log.warning(line)
        return done

    def _try_open(self, spec: PoolSpec) -> None:
        try:
            if spec.name in self._closed:
                self._open_group(spec)
                del self._closed[spec.name]
                self._half_open[spec.name] = "not opened yet"
        except (HostError, OSError) as error:
            return self._note(self._closed, spec, str(error))
        if spec.name not in self._half_open:
            return None
        try:
            if spec.thin_pool:
                self._open_thin_pool(spec)
        except (HostError, OSError) as error:
            return self._note(self._half_open, spec, str(error))
        del self._half_open[spec.name]
        self._retries.pop(spec.name, None)
        log.info("pool %s is open", spec.name)
        return None

    def _note(self, notes: dict[str, str], spec: PoolSpec, text: str) -> None:
        if notes.get(spec.name) != text:
            log.error("pool %s: %s", spec.name, text)
        notes[spec.name] = text
        self._retries.setdefault(spec.name, _Retry()).failed()

    def _retry_is_due(self, spec: PoolSpec) -> bool:
        if spec.name not in self._closed and spec.name not in self._half_open:
            return False
        retry = self._retries.get(spec.name)
        return retry is None or retry.is_due()

    def _open_group(self, spec: PoolSpec) -> None:
        if self._udev is None:
            self._udev = udev_answers(self._runner, self._root / "udev-answers")
        directory = GroupDirectory(self._root, spec.volume_group, udev=self._udev)
        members = self._members(spec)
        if members:
            directory.write(members)
        else:
            self._make_group(spec, directory)
        shell = ShellExecutor(self._runner, directory)
        executor = FallbackExecutor(shell, ForkExecutor(self._runner, directory))
        group = Group(directory, executor)
        try:
            found = Lvm([group], deadline=self._deadline).volume_group(spec.volume_group)
        except BaseException:
            executor.close()
            raise
        self._directories[spec.name] = directory
        self.lvm.add(group)
        self._resume(found)

    def _resume(self, group: VolumeGroup) -> bool:
        resumed = resume_left_suspended(self._runner, self.lvm, group)
        for name in resumed:
            log.warning("%s was left suspended by a killed command: resumed", name)
        return bool(resumed)

    def _members(self, spec: PoolSpec) -> list[str]:
        """The disks that the group is on, and those that may be of it once they can be read.

        None where it has to be made. Raises where it cannot.
        """
        group = spec.volume_group
        found = self._look(group, filter(disks.is_there, spec.devices))
        told = {disk.device for disk in found}
        uuid = disks.the_one_group(group, found)
        if uuid is None and spec.devices:
            self._require_none_elsewhere(spec, found)
            return []
        members = [disk for disk in found if disk.group_uuid == uuid]
        if not members or len(members) < members[0].group_disks:
            found = self._look(group, disks.every_disk())
            uuid = uuid or disks.the_one_group(group, found)
            members = [disk for disk in found if disk.group_uuid == uuid]
        if uuid is None:
            raise Missing(f"there is no volume group {group} here, and no devices are named")
        silent = [device for device in spec.devices if device not in told]
        return [*sorted(disk.device for disk in members), *silent]

    def _search_lost_disks(self, status: PoolStatus) -> bool:
        """Show LVM a lost disk that has come back under another path; returns whether it looked.

        Looked for only when other disks are there than at the last search.
        """
        spec, state = status.spec, status.state
        if state is None or not state.volume_group.missing_pv_count:
            return False
        there = disks.every_disk()
        if self._searched.get(spec.name) == there:
            return False
        found = self._look(spec.volume_group, there)
        uuid = state.volume_group.uuid
        members = [disk.device for disk in found if disk.group_uuid == uuid]
        directory = self._directories[spec.name]
        silent = _silent(directory.devices().values(), found, state)
        absent = [device for device in spec.devices if not disks.is_there(device)]
        directory.set_devices([*members, *silent, *absent])
        self._searched[spec.name] = there
        return True

    def _require_none_elsewhere(self, spec: PoolSpec, found: list[disks.FoundDisk]) -> None:
        """A disk that comes up under another path must not lead to a second, empty group."""
        for disk in found:
            if disk.group:
                raise NotBlank(f"{disk.device} belongs to volume group {disk.group}")
        everything = self._look(spec.volume_group, disks.every_disk())
        elsewhere = [disk for disk in everything if disk.group == spec.volume_group]
        if elsewhere:
            places = ", ".join(disk.device for disk in elsewhere)
            raise Refused(
                f"volume group {spec.volume_group} is on {places}, "
                f"not on {', '.join(spec.devices)}: name its devices by paths that last "
                f"(/dev/disk/by-id)"
            )

    def _make_group(self, spec: PoolSpec, directory: GroupDirectory) -> None:
        lacking = [device for device in spec.devices if not disks.is_there(device)]
        if lacking:
            raise Missing(f"{', '.join(lacking)} not there: {spec.volume_group} is not made")
        found = self._look(spec.volume_group, spec.devices)
        prepared = {disk.device for disk in found if disk.free}
        for device in spec.devices:
            if device not in prepared:
                disks.require_unused(self._runner, device)
        disks.create_group(self._runner, directory, spec.devices, tag=GROUP_TAG)
        log.warning("made volume group %s on %s", spec.volume_group, ", ".join(spec.devices))

    def _open_thin_pool(self, spec: PoolSpec) -> None:
        group, name = spec.volume_group, spec.thin_pool
        volume = self.lvm.find(group, name)
        if volume is None:
            self._make_thin_pool(spec)
        elif volume.kind is not Kind.THIN_POOL:
            raise Refused(f"{group}/{name} is a logical volume, not a thin pool")
        elif not volume.active:
            self.lvm.activate(group, name)  # thin_check runs here

    def _make_thin_pool(self, spec: PoolSpec) -> None:
        group = self.lvm.volume_group(spec.volume_group)
        extent = group.extent_bytes
        # Metadata, and as much again for the spare that repairs need: 64 bytes a chunk each, and
        # some extents for rounding and LVM's least size (lvmthin(7), "Metadata space").
        wanted = spec.thin_size.of(group.size_bytes)
        metadata = spec.thin_metadata_bytes or wanted // spec.thin_chunk_bytes * 64
        size = min(wanted, group.free_bytes - 2 * metadata - 4 * extent) // extent * extent
        if size <= 0:
            raise NoSpace(f"no room for thin pool {spec.thin_pool} in {group.name}")
        self.lvm.create_thin_pool(
            spec.volume_group,
            spec.thin_pool,
            size,
            chunk_bytes=spec.thin_chunk_bytes,
            metadata_bytes=spec.thin_metadata_bytes,
            error_when_full=spec.error_when_full,
        )
        log.warning("made thin pool %s/%s of %d bytes", group.name, spec.thin_pool, size)

    def _look(self, group: str, devices: Iterable[str]) -> list[disks.FoundDisk]:
        return disks.look(self._runner, self._root, group, devices)

    def _spec(self, name: str) -> PoolSpec:
        for spec in self.specs:
            if spec.name == name:
                return spec
        raise Missing(f"there is no pool {name} on this node")


@dataclass
class _Retry:
    """When to try again: a look at a broken thin pool may read all its metadata."""

    delay: float = _FIRST_RETRY_SECONDS / 2
    due: float = 0.0

    def failed(self) -> None:
        self.delay = min(self.delay * 2, _LAST_RETRY_SECONDS)
        self.due = time.monotonic() + self.delay

    def is_due(self) -> bool:
        return time.monotonic() >= self.due


def _silent(shown: Iterable[str], found: Sequence[disks.FoundDisk], state: GroupState) -> list[str]:
    """Those of the disks shown to LVM that are there and that a look has told nothing of.

    They cannot be read now, but perhaps later. Not those whose content was found elsewhere: LVM
    changes nothing in a group that it sees twice.
    """
    uuids = {disk.uuid for disk in found}
    moved = [disk.device for disk in state.physical_volumes if disk.device and disk.uuid in uuids]
    told = {Path(device).resolve() for device in (*moved, *(disk.device for disk in found))}
    return [
        device for device in shown if disks.is_there(device) and Path(device).resolve() not in told
    ]


def _left_out(spec: PoolSpec, state: GroupState) -> list[str]:
    members = {Path(disk.device).resolve() for disk in state.physical_volumes if disk.device}
    return [
        f"{device} is configured but not in the volume group: vgextend adds it"
        for device in spec.devices
        if disks.is_there(device) and Path(device).resolve() not in members
    ]
