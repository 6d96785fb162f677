"""The logical volumes of a volume group that are ours, told from the others by their tags."""

from __future__ import annotations

from dataclasses import dataclass

from host.lvm.model import GroupState, LogicalVolume
from host.lvm.pool_spec import PoolSpec
from node_agent.labels import Label, parse_label


@dataclass(frozen=True)
class Entry:
    """One logical volume of ours. ``size_bytes`` is what its device has."""

    pool: PoolSpec
    label: Label
    size_bytes: int
    thin: bool
    origin: str = ""  # name of the origin of a copy-on-write snapshot
    seen: LogicalVolume | None = None  # as LVM showed it last; None since its creation

    @property
    def group(self) -> str:
        return self.pool.volume_group

    @property
    def name(self) -> str:
        return self.label.name

    @property
    def path(self) -> str:
        return f"/dev/{self.group}/{self.name}"

    @property
    def usable_bytes(self) -> int:
        """How much of it anybody may be shown: what it grew by has to be wiped before."""
        wiped = self.label.wiped_bytes
        return self.size_bytes if wiped is None else min(wiped, self.size_bytes)


def sort_out(spec: PoolSpec, state: GroupState) -> tuple[dict[str, Entry], tuple[str, ...]]:
    """Which logical volumes of a group are ours, by name; and the full names of those that are not.

    The thin pool itself is neither.
    """
    sizes = {volume.name: volume.size_bytes for volume in state.logical_volumes}
    ours: dict[str, Entry] = {}
    foreign: list[str] = []
    for volume in state.logical_volumes:
        label = parse_label(volume.tags)
        thin = volume.pool is not None
        if label is not None and label.name == volume.name:
            cow = volume.origin if volume.origin and not thin else ""
            # LVM reports the size of the store of a copy-on-write snapshot, not that of its device.
            size = sizes.get(cow, volume.size_bytes) if cow else volume.size_bytes
            ours[volume.name] = Entry(spec, label, size, thin, cow, volume)
        elif volume.name != spec.thin_pool:
            foreign.append(f"{volume.vg}/{volume.name}")
    return ours, tuple(foreign)
