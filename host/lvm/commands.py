"""What is done with logical volumes, by LVM (lvm(8), lvcreate(8), lvmthin(7)).

Sizes are bytes; LVM rounds them up to whole extents. Every call may be repeated after a crash:
those that create raise ``AlreadyExists``, all others do what is left to do.

Errors: ``Missing`` (no such volume or pool), ``AlreadyExists``, ``NoSpace``, ``InUse``,
``Refused``, ``DeviceFailed`` (a disk or the whole group is missing, a disk returns errors, metadata
needs repair), ``CommandStuck`` (with ``CommandLost``), and ``CommandFailed`` for what LVM says in
words that we do not know.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from host.errors import DeviceFailed, InUse, Missing, Refused
from host.lvm import report as parse
from host.lvm.config import GroupDirectory
from host.lvm.executor import DEADLINE, LvmExecutor
from host.lvm.failures import failure, only_same_size, without_missing
from host.lvm.model import (
    LINEAR,
    GroupState,
    Layout,
    Linear,
    LogicalVolume,
    Raid1,
    Striped,
    VolumeGroup,
)
from host.lvm.names import is_name
from host.lvm.report import LV_COLUMNS, PV_COLUMNS, UNITS, Report

_TAG = re.compile(r"[A-Za-z0-9_+.-][A-Za-z0-9_+.\-/=!:&#]{0,1023}")
_SECTOR = 512
_NAMES_A_COMMAND = 32
# Pauses before a volume that somebody has open is tried again: udev and monitors look at devices in
# passing. Nothing is locked meanwhile.
_PASSING_OPENER_PAUSES = (0.05, 0.1, 0.2, 0.4, 0.8)
_NO_WIPE = ("-Wn", "-Zn")


@dataclass(frozen=True)
class Group:
    """A volume group that commands may be sent to: its world, and who carries them out."""

    directory: GroupDirectory
    executor: LvmExecutor


class Lvm:
    """The logical volumes of the groups that were added. Thread safe.

    A group has one command at a time; different groups do not wait for each other. ``deadline``:
    seconds that a command may take.
    """

    def __init__(self, groups: Iterable[Group] = (), *, deadline: float = DEADLINE) -> None:
        self._deadline = deadline
        self._groups = {group.directory.group: group for group in groups}
        self._changed: set[str] = set()
        self._lock = threading.Lock()

    def add(self, group: Group) -> None:
        """Work on this group as well. It counts as changed: the last agent may have been killed."""
        name = group.directory.group
        with self._lock:
            self._groups = {**self._groups, name: group}
            self._changed.add(name)

    def close(self) -> None:
        with self._lock:
            groups, self._groups = self._groups, {}
        for group in groups.values():
            group.executor.close()

    @property
    def groups(self) -> tuple[str, ...]:
        """The names of the groups."""
        return tuple(self._groups)

    # Creating

    def create_thick(
        self,
        vg: str,
        name: str,
        size_bytes: int,
        *,
        tags: Iterable[str] = (),
        layout: Layout = LINEAR,
    ) -> None:
        """A volume with all its extents. It is not wiped: it shows what was on the disks."""
        self._create(vg, name, tags, (*_size(size_bytes), *_NO_WIPE, *_layout(layout)))

    def create_thin(
        self,
        vg: str,
        pool: str,
        name: str,
        size_bytes: int,
        *,
        tags: Iterable[str] = (),
    ) -> None:
        """A volume that takes room in ``pool`` as it is written. Over-commit is not checked."""
        options = ("-V", _bytes(size_bytes), "--thinpool", _name(pool))
        self._create(vg, name, tags, options)

    def create_thin_snapshot(
        self,
        vg: str,
        origin: str,
        name: str,
        *,
        tags: Iterable[str] = (),
        read_only: bool = False,
        activate: bool = True,
    ) -> None:
        """A thin volume that shares all blocks with ``origin`` as it is now."""
        options = ("-s", "-kn", "-pr") if read_only else ("-s", "-kn")
        options = options if activate else (*options, "-an")
        self._create(vg, name, tags, options, origin=origin)

    def create_cow_snapshot(
        self,
        vg: str,
        origin: str,
        name: str,
        *,
        tags: Iterable[str] = (),
        read_only: bool = False,
    ) -> None:
        """A snapshot of a thick volume, with room for all of it: it cannot overflow.

        ``Refused`` for a thin volume, of which this would be a thin snapshot.
        """
        options = ("-s", "-l", "100%ORIGIN", *(("-pr",) if read_only else ()))
        self._create(vg, name, tags, options, origin=origin)

    def create_thin_pool(
        self,
        vg: str,
        name: str,
        size_bytes: int,
        *,
        chunk_bytes: int,
        metadata_bytes: int = 0,
        error_when_full: bool = True,
        layout: Linear | Striped = LINEAR,
    ) -> None:
        """A pool for thin volumes. New blocks are zeroed, discards are passed down.

        ``metadata_bytes`` 0: LVM's own choice. ``error_when_full``: writes that find no room fail
        at once; else they wait for the pool to grow, a minute at the most (dm-thin's
        ``no_space_timeout``).
        """
        metadata = ("--poolmetadatasize", _bytes(metadata_bytes)) if metadata_bytes else ()
        full = ("--errorwhenfull", "y" if error_when_full else "n")
        # Spelled --type thin-pool, LVM 2.03.16 does not take --errorwhenfull.
        options = ("-T", *_size(size_bytes), "-c", _bytes(chunk_bytes), "-Zy", *metadata, *full)
        stripes = _stripes(layout) if isinstance(layout, Striped) else ()
        self._create(vg, name, (), (*options, "--discards", "passdown", *stripes))

    # Changing

    def extend(self, vg: str, name: str, size_bytes: int) -> None:
        """Grow to ``size_bytes`` in all; a volume or pool of that size or more is left alone."""
        self._extend(vg, ("-L", _bytes(size_bytes)), name)

    def extend_pool_metadata(self, vg: str, name: str, size_bytes: int) -> None:
        """Grow the metadata of a thin pool to ``size_bytes`` in all."""
        self._extend(vg, ("--poolmetadatasize", _bytes(size_bytes)), name)

    def retag(
        self, vg: str, name: str, *, add: Iterable[str] = (), remove: Iterable[str] = ()
    ) -> None:
        """Change tags, all at once. Tags that are there, or not there, already are fine."""
        options = (*_flags("--addtag", add), *_flags("--deltag", remove))
        if options:
            self._change(vg, ("lvchange", "-y", *options, _path(vg, name)))

    def activate(self, vg: str, *names: str) -> None:
        """Make the device nodes. Active ones stay as they are."""
        for paths in _paths(vg, names):
            self._change(vg, ("lvchange", "-y", "-ay", "-K", *paths), archive=False)

    def activate_tagged(self, vg: str, tag: str) -> list[str]:
        """Activate all volumes with ``tag``; returns what LVM says of those that it could not."""
        wanted = [v.name for v in self.logical_volumes(vg) if tag in v.tags and not v.active]
        said: list[str] = []
        for paths in _paths(vg, wanted):
            said += self._run(vg, ("lvchange", "-y", "-ay", "-K", *paths)).errors
        return said

    def deactivate(self, vg: str, *names: str) -> None:
        """Take the device nodes away. ``InUse`` where one is open; missing ones are fine."""
        for paths in _paths(vg, names):
            self._until_closed(vg, ("lvchange", "-y", "-an", *paths))

    def remove(self, vg: str, *names: str) -> None:
        """Remove volumes, active or not. ``InUse`` where one is open; missing ones are fine."""
        for paths in _paths(vg, names):
            self._until_closed(vg, ("lvremove", "-y", *paths))
            self._mark_changed(vg)

    def refresh_all(self, vg: str) -> None:
        """Make the tables of all active volumes what the metadata says, and resume them."""
        self._ask(vg, ("vgchange", "-y", "--refresh", _name(vg)))

    def hold(self, vg: str) -> AbstractContextManager[None]:
        """No command on the group is under way inside of this, nor begun."""
        return self._group(vg).executor.hold(self._deadline)

    # Looking

    def logical_volume(self, vg: str, name: str) -> LogicalVolume:
        """One volume as it is now."""
        argv = ("lvs", *UNITS, "-o", LV_COLUMNS, _path(vg, name))
        found = parse.logical_volumes(self._ask(vg, argv).rows)
        if not found:
            raise Missing(f"there is no logical volume {vg}/{name}")
        return found[0]

    def find(self, vg: str, name: str) -> LogicalVolume | None:
        """Like ``logical_volume``, with None for a volume that does not exist."""
        argv = ("lvs", *UNITS, "-o", LV_COLUMNS, _path(vg, name))
        report = without_missing(self._run(vg, argv))
        if not report.ok:
            raise failure(argv, report)
        return next(iter(parse.logical_volumes(report.rows)), None)

    def logical_volumes(self, vg: str | None = None) -> list[LogicalVolume]:
        """All volumes of one group, or of all; internal parts of pools and mirrors are left out."""
        groups = self.groups if vg is None else (vg,)
        return [volume for group in groups for volume in parse.logical_volumes(self._lvs(group))]

    def volume_group(self, vg: str) -> VolumeGroup:
        return self._only(vg, parse.volume_groups(self._pvs(vg)))

    def state(self, vg: str) -> GroupState:
        """Everything about one group, for the price of two reports."""
        disks, volumes = self._pvs(vg), self._lvs(vg)
        devices = self._group(vg).directory.devices()
        return GroupState(
            self._only(vg, parse.volume_groups(disks)),
            tuple(parse.physical_volumes(disks, devices)),
            tuple(parse.logical_volumes(volumes)),
            tuple(parse.thin_pools(volumes)),
        )

    # Metadata archives (host/lvm/archive.py)

    def take_changed(self) -> set[str]:
        """The groups whose metadata was changed since the last call."""
        with self._lock:
            changed, self._changed = self._changed, set()
        return changed

    def write_metadata(self, vg: str, file: Path) -> None:
        """Write the metadata of a group in the form that vgcfgrestore(8) reads."""
        self._ask(vg, ("vgcfgbackup", "-f", str(file), _name(vg)))

    def _create(
        self,
        vg: str,
        name: str,
        tags: Iterable[str],
        options: Sequence[str],
        origin: str | None = None,
    ) -> None:
        of = _name(vg) if origin is None else _path(vg, origin)
        argv = ("lvcreate", "-y", *options, "-n", _name(name), *_flags("--addtag", tags), of)
        self._change(vg, argv)

    def _extend(self, vg: str, options: Sequence[str], name: str) -> None:
        argv = ("lvextend", "-y", *options, _path(vg, name))
        report = self._run(vg, argv)
        if not report.ok and not only_same_size(report):
            raise failure(argv, report)
        self._mark_changed(vg)

    def _change(self, vg: str, argv: Sequence[str], *, archive: bool = True) -> None:
        self._ask(vg, argv)
        if archive:
            self._mark_changed(vg)

    def _until_closed(self, vg: str, argv: Sequence[str]) -> None:
        """Run a command that fails while a volume is open; missing volumes are fine."""

        def attempt() -> None:
            report = without_missing(self._run(vg, argv))
            if not report.ok:
                raise failure(argv, report)

        for pause in _PASSING_OPENER_PAUSES:
            try:
                return attempt()
            except InUse:
                time.sleep(pause)
        return attempt()

    def _mark_changed(self, vg: str) -> None:
        with self._lock:
            self._changed.add(vg)

    def _lvs(self, vg: str) -> Sequence[parse.Row]:
        return self._ask(vg, ("lvs", *UNITS, "-o", LV_COLUMNS, _name(vg))).rows

    def _pvs(self, vg: str) -> Sequence[parse.Row]:
        return self._ask(vg, ("pvs", *UNITS, "-o", PV_COLUMNS)).rows

    def _ask(self, vg: str, argv: Sequence[str]) -> Report:
        report = self._run(vg, argv)
        if not report.ok:
            raise failure(argv, report)
        return report

    def _run(self, vg: str, argv: Sequence[str]) -> Report:
        return self._group(vg).executor.execute(argv, self._deadline)

    def _group(self, vg: str) -> Group:
        group = self._groups.get(vg)
        if group is None:
            raise DeviceFailed(f"volume group {vg} is not open on this node")
        return group

    def _only(self, vg: str, groups: Sequence[VolumeGroup]) -> VolumeGroup:
        named = [group for group in groups if group.name == vg]
        if len(named) > 1:
            uuids = ", ".join(group.uuid for group in named)
            raise Refused(f"{len(named)} volume groups on these disks are named {vg}: {uuids}")
        if not named:
            raise DeviceFailed(f"volume group {vg} is not on the disks that are there")
        return named[0]


def _layout(layout: Layout) -> tuple[str, ...]:
    match layout:
        case Striped():
            return ("--type", "striped", *_stripes(layout))
        case Raid1(copies, initial_sync):
            sync = () if initial_sync else ("--nosync",)
            return ("--type", "raid1", "-m", str(copies - 1), *sync)
        case Linear():
            return ()


def _stripes(layout: Striped) -> tuple[str, ...]:
    return ("-i", str(layout.stripes), "-I", _bytes(layout.stripe_bytes))


def _size(size_bytes: int) -> tuple[str, str]:
    return ("-L", _bytes(size_bytes))


def _bytes(count: int) -> str:
    """In LVM's spelling, rounded up to sectors: LVM takes nothing finer."""
    if count <= 0:
        raise ValueError(f"not a size: {count}")
    return f"{-(-count // _SECTOR) * _SECTOR}b"


def _name(name: str) -> str:
    if not is_name(name):
        raise ValueError(f"not a name for LVM: {name!r}")
    return name


def _tag(tag: str) -> str:
    if not _TAG.fullmatch(tag):
        raise ValueError(f"not a tag for LVM: {tag!r}")
    return tag


def _path(vg: str, name: str) -> str:
    return f"{_name(vg)}/{_name(name)}"


def _paths(vg: str, names: Sequence[str]) -> Iterator[list[str]]:
    """In groups that a command line has room for."""
    for start in range(0, len(names), _NAMES_A_COMMAND):
        yield [_path(vg, name) for name in names[start : start + _NAMES_A_COMMAND]]


def _flags(flag: str, tags: Iterable[str]) -> tuple[str, ...]:
    return tuple(part for tag in tags for part in (flag, _tag(tag)))
