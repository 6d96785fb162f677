"""Linear devices over one whole backing device: the face of a volume, and what DRBD attaches to.

A face is exactly as long as its volume, and its table can be swapped under a mounted file system.
Each function looks first, so that it can be repeated after a crash at any point: what is right is
adopted, what was left half-made is completed, what is wrong is an error and stays as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from host import block_device
from host.device_mapper import SECTOR, UUID_PREFIX, Target, device_number, major_minor
from host.errors import AlreadyExists, Refused

# A resume waits for nothing but the thaw of a file system.
_DEADLINE = 60.0

if TYPE_CHECKING:
    import os
    from pathlib import Path

    from host.device_mapper import DeviceInfo, DeviceMapper


def ensure_linear(
    mapper: DeviceMapper,
    name: str,
    backing: str | os.PathLike[str],
    size_bytes: int,
    *,
    read_only: bool = False,
) -> Path:
    """The node of a running linear device ``name`` over the first ``size_bytes`` of ``backing``.

    Adopts a device that is so already; completes one without a live table, and resumes one that is
    suspended. Raises ``AlreadyExists`` for a device of that name over something else, of another
    size or of another owner; ``Refused`` where the backing device is too short; ``Missing`` where
    it is not there.
    """
    wanted = _table(backing, size_bytes)
    info = mapper.find(name)
    if info is None:
        info = mapper.create(name)
    _require_ours(info)
    if not info.live_table:
        mapper.load(name, wanted, read_only=read_only)
        return mapper.activate(name)
    live = mapper.table(name)
    if live != wanted or info.read_only != read_only:
        raise AlreadyExists(
            f"device {name} is there with table {_text(live)}"
            f"{' (read-only)' if info.read_only else ''}, wanted is {_text(wanted)}"
        )
    if info.inactive_table:
        mapper.clear(name)
    if info.suspended:
        mapper.resume(name, deadline=_DEADLINE)
    return mapper.ensure_node(name)


def remove_if_present(mapper: DeviceMapper, name: str) -> None:
    """Remove ``name`` and its node. Nothing to do where it is gone; ``InUse`` while it is open."""
    info = mapper.find(name)
    if info is None:
        mapper.remove_node(name)
        return
    _require_ours(info)
    mapper.remove(name)


def resize_linear(
    mapper: DeviceMapper, name: str, size_bytes: int, *, deadline: float = 60.0
) -> None:
    """Make ``name`` ``size_bytes`` long over the backing device that it has, also while mounted.

    Growing only: ``Refused`` for less than it has, or more than the backing device has.
    """
    info = mapper.info(name)
    _require_ours(info)
    live = mapper.table(name)
    number = _backing_number(name, live)
    present = sum(target.sectors for target in live) * SECTOR
    if size_bytes < present:
        raise Refused(f"device {name} has {present} bytes, it cannot shrink to {size_bytes}")
    wanted = _table(f"device {number}", size_bytes, number=number)
    _change(mapper, info, live, wanted, deadline)


def swap_linear(
    mapper: DeviceMapper,
    name: str,
    backing: str | os.PathLike[str],
    *,
    deadline: float = 60.0,
) -> None:
    """Put ``name``, with the size that it has, over another device, while it is used.

    What both devices hold has to be the same: the caller's business. Nothing happens where it is
    so already. Raises ``Refused`` before anything is touched where ``backing`` is too short.
    """
    info = mapper.info(name)
    _require_ours(info)
    live = mapper.table(name)
    _backing_number(name, live)
    wanted = _table(backing, sum(target.sectors for target in live) * SECTOR)
    _change(mapper, info, live, wanted, deadline)


def _change(
    mapper: DeviceMapper,
    info: DeviceInfo,
    live: tuple[Target, ...],
    wanted: tuple[Target, ...],
    deadline: float,
) -> None:
    if live != wanted:
        mapper.swap(info.name, wanted, deadline=deadline, read_only=info.read_only)
        return
    if info.inactive_table:
        mapper.clear(info.name)
    if info.suspended:
        mapper.resume(info.name, deadline=deadline)


def _table(
    backing: str | os.PathLike[str], size_bytes: int, *, number: str | None = None
) -> tuple[Target, ...]:
    if size_bytes <= 0 or size_bytes % SECTOR:
        raise ValueError(f"the size of a device is a multiple of {SECTOR} bytes: {size_bytes}")
    number = number or major_minor(device_number(backing))
    # Found out by the kernel only at the resume, which would leave the device suspended.
    longest = block_device.size_of_number(number)
    if longest < size_bytes:
        raise Refused(f"{backing} has {longest} bytes, {size_bytes} are wanted of it")
    return (Target(0, size_bytes // SECTOR, "linear", f"{number} 0"),)


def _backing_number(name: str, table: tuple[Target, ...]) -> str:
    if len(table) != 1 or table[0].kind != "linear" or not table[0].parameters.endswith(" 0"):
        raise Refused(f"device {name} is not one linear segment: {_text(table)}")
    return table[0].parameters.split()[0]


def _require_ours(info: DeviceInfo) -> None:
    if not info.ours:
        raise AlreadyExists(
            f"device {info.name} has the UUID {info.uuid!r}, not one that begins with {UUID_PREFIX}"
        )


def _text(table: tuple[Target, ...]) -> str:
    parts = [f"{t.start} {t.sectors} {t.kind}" for t in table]
    if table and table[0].kind == "linear":
        parts[0] += f" {table[0].parameters}"
    return "; ".join(parts) or "none"
