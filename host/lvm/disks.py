"""Which disks belong to a volume group, and which may be taken for one."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from host import block_device, loop_devices, mount_table, signature
from host.command import Runner
from host.device_mapper import major_minor
from host.errors import InUse, NotBlank, Refused
from host.lvm.config import GroupDirectory
from host.lvm.failures import failure
from host.lvm.fork import ForkExecutor

_COLUMNS = "pv_name,pv_uuid,vg_name,vg_uuid,pv_count,pv_in_use,pv_mda_count"
_DEADLINE = 60.0
_SYS_BLOCK = Path("/sys/class/block")
_SWAPS = Path("/proc/swaps")
# No disks of volume groups: memory, removable, network.
_NEVER_DISKS = ("ram", "zram", "sr", "fd", "nbd", "rbd", "drbd")
# Device-mapper devices that carry what is inside volumes, of ours or of others.
_INSIDE_VOLUMES = ("LVM-", "XLSS-")
_OUR_NAMES = "xlss-"


@dataclass(frozen=True)
class FoundDisk:
    """A disk that LVM has claimed. ``group`` is empty where it was prepared, but for none yet.

    ``group_disks``: how many the group should have. ``free``: in no group, and not known to be part
    of one whose description is on other disks.
    """

    device: str
    uuid: str
    group: str
    group_uuid: str
    group_disks: int
    free: bool


def look(runner: Runner, root: Path, group: str, devices: Iterable[str]) -> list[FoundDisk]:
    """What LVM finds on these disks. Those without a label of LVM are left out, and those that
    cannot be read.

    ``group``: for whose sake. Each has a directory and a breaker of its own, for several may look
    at once, and where one hangs the others need not.
    """
    # No volume group has a name with that character.
    directory = GroupDirectory(root, f"disks!{group}", udev=False)
    directory.write(devices)
    argv = ("pvs", "-o", _COLUMNS)
    report = ForkExecutor(runner, directory).execute(argv, _DEADLINE)
    names = directory.devices()
    if not report.ok:
        raise failure(argv, report)
    return [
        FoundDisk(
            device=names[row["pv_name"]],
            uuid=row["pv_uuid"],
            group=row["vg_name"],
            group_uuid=row["vg_uuid"],
            group_disks=int(row["pv_count"] or 0),
            free=not row["vg_name"] and not row["pv_in_use"] and row["pv_mda_count"] != "0",
        )
        for row in report.rows
        if row["pv_name"] in names
    ]


def every_disk() -> list[str]:
    """All devices of the machine on which a disk of a volume group may be.

    Not what lies inside volumes, nor what kubelet lays over raw ones: a guest may have made groups
    there, of any name.
    """
    names = sorted(entry.name for entry in _SYS_BLOCK.iterdir())
    over_devices = loop_devices.loops_over(is_there)
    return [path for name in names if (path := _disk(name)) and path not in over_devices]


def the_one_group(name: str, disks: Sequence[FoundDisk]) -> str | None:
    """The UUID of the group of that name. Refused where there are several."""
    places: dict[str, list[str]] = {}
    for disk in disks:
        if disk.group == name:
            places.setdefault(disk.group_uuid, []).append(disk.device)
    if len(places) > 1:
        found = "; ".join(f"{uuid} on {', '.join(on)}" for uuid, on in sorted(places.items()))
        raise Refused(
            f"{len(places)} volume groups are named {name}: {found}. Rename one of them "
            f"(vgrename UUID NAME), or name the devices of the right one"
        )
    return next(iter(places), None)


def is_there(device: str) -> bool:
    """Whether there is a block device of that path."""
    try:
        return stat.S_ISBLK(Path(device).stat().st_mode)
    except OSError:
        return False


def require_unused(runner: Runner, device: str) -> None:
    """Raises ``NotBlank`` naming what ``device`` holds, ``InUse`` naming who uses it.

    Nothing that holds anything becomes part of a pool: a signature, a partition table, data of
    which nobody knows the kind.
    """
    number = Path(device).stat().st_rdev
    held = block_device.holders_of(device)
    if held:
        raise InUse(f"{device} is held by {', '.join(held)}")
    mounts = mount_table.mounts_of(number)
    if mounts:
        raise InUse(f"{device} is mounted at {mounts[0].path}")
    if number in _swaps():
        raise InUse(f"{device} is used as swap")
    parts = _partitions(number)
    if parts:
        raise NotBlank(f"{device} has partitions: {', '.join(parts)}")
    try:
        os.close(os.open(device, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError as error:
        raise InUse(f"{device} cannot be opened for ourselves: {error.strerror}") from error
    signature.require_blank(runner, device)


def create_group(
    runner: Runner, directory: GroupDirectory, devices: Sequence[str], *, tag: str
) -> None:
    """Make a volume group of disks that were found unused, or prepared for none.

    One command prepares the disks and writes the group; what a crash leaves is a disk prepared for
    none, which the next attempt takes. Forked and without ``-y``: where LVM after all sees
    something and wants to ask, it gets no answer and fails.
    """
    directory.write(devices)
    smallest = min(block_device.size_of(device) for device in devices)
    names = [directory.name_of(device) for device in devices]
    argv = (
        "vgcreate",
        "--metadatasize",
        f"{_metadata_bytes(smallest)}b",
        "--addtag",
        tag,
        directory.group,
        *names,
    )
    report = ForkExecutor(runner, directory).execute(argv, _DEADLINE)
    if not report.ok:
        raise failure(argv, report)


def _metadata_bytes(disk_bytes: int) -> int:
    """Room for the description of the group on a disk: half of it is what a description may take.

    A volume takes about 1 KiB of it with our tags: LVM's own choice, 1 MiB, ends at 500 volumes.
    """
    return max(1 << 20, min(32 << 20, disk_bytes // 128 >> 20 << 20))


def _disk(name: str) -> str | None:
    entry = _SYS_BLOCK / name
    if name.rstrip("0123456789") in _NEVER_DISKS or _read(entry / "size") in {"", "0"}:
        return None
    mapped = _read(entry / "dm" / "name")
    if not mapped:
        return f"/dev/{name.replace('!', '/')}"
    if mapped.startswith(_OUR_NAMES) or _read(entry / "dm" / "uuid").startswith(_INSIDE_VOLUMES):
        return None
    return f"/dev/mapper/{mapped}"


def _partitions(number: int) -> list[str]:
    entry = Path("/sys/dev/block", major_minor(number))
    return sorted(part.parent.name for part in entry.glob("*/partition"))


def _swaps() -> set[int]:
    numbers = set()
    for line in _read(_SWAPS).splitlines()[1:]:
        with contextlib.suppress(OSError):
            numbers.add(Path(line.split()[0]).stat().st_rdev)
    return numbers


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
