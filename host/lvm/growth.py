"""What is wrong with a pool, and how far its thin pool should grow: functions of what LVM says.

Nobody else watches: dmeventd would act by LVM's configuration, outside of our locks and metrics.
"""

from __future__ import annotations

from dataclasses import dataclass

from host.lvm.model import GroupState, ThinPool, VolumeGroup
from host.lvm.pool_spec import PoolSpec

_METADATA_FULL = 0.9
# dm-thin's limit (THIN_METADATA_MAX_SECTORS), a little below 16 GiB; lvmthin(7).
_LARGEST_METADATA = 255 * (1 << 14) * 4096
_SMALLEST_METADATA_STEP = 16 << 20


@dataclass(frozen=True)
class Growth:
    """Sizes in all to grow to, in bytes; None leaves as it is. ``short``: what room is lacking."""

    data_bytes: int | None = None
    metadata_bytes: int | None = None
    short: str = ""


def growth(spec: PoolSpec, group: VolumeGroup, thin: ThinPool) -> Growth:
    """What to do about a thin pool that is used beyond ``spec.grow_at``.

    Metadata first: a pool without room for it fails in worse ways than one without room for data.
    """
    if spec.grow_at >= 1:
        return Growth()
    extent, free, short = group.extent_bytes, group.free_bytes, []
    metadata = data = None
    if thin.metadata_used >= spec.grow_at and thin.metadata_bytes < _LARGEST_METADATA:
        step = _up(max(thin.metadata_bytes // 2, _SMALLEST_METADATA_STEP), extent)
        step = min(step, _LARGEST_METADATA - thin.metadata_bytes)
        # The spare that repairs need grows along, from at most nothing.
        if free >= thin.metadata_bytes + 2 * step:
            metadata = thin.metadata_bytes + step
            free -= thin.metadata_bytes + 2 * step
        elif free >= 2 * extent:
            metadata = thin.metadata_bytes + extent
            free -= 2 * extent
        else:
            short.append("metadata")
    if thin.data_used >= spec.grow_at:
        step = min(_up(spec.grow_by.of(thin.size_bytes), extent), free // extent * extent)
        if step > 0:
            data = thin.size_bytes + step
        else:
            short.append("data")
    return Growth(data, metadata, f"no room to grow its {' and '.join(short)}" if short else "")


def troubles(spec: PoolSpec, state: GroupState) -> list[str]:
    """What a person should know about a pool, in words; empty when it is well."""
    group = state.volume_group
    said = []
    if group.missing_pv_count:
        lost = [disk.uuid for disk in state.physical_volumes if disk.missing]
        said.append(
            f"{group.missing_pv_count} of {group.pv_count} disks missing ({', '.join(lost)}): "
            f"volumes on the others go on, new ones are refused"
        )
    if group.metadata_free_bytes < (1 - _METADATA_FULL) * group.metadata_bytes / 2:
        said.append("the metadata area of the volume group is nearly full")
    said += [f"{volume.name}: {volume.health}" for volume in state.logical_volumes if volume.health]
    if spec.thin_pool:
        thin = next((pool for pool in state.thin_pools if pool.name == spec.thin_pool), None)
        said += _thin_troubles(spec, thin)
    return said


def _thin_troubles(spec: PoolSpec, thin: ThinPool | None) -> list[str]:
    if thin is None:
        return [f"thin pool {spec.thin_pool} is not there"]
    if not thin.active:
        return [f"thin pool {thin.name} is not active"]
    if not thin.zeroes:
        return [
            f"thin pool {thin.name} takes nothing new: it does not zero its blocks, and nobody else"
            f" does (lvchange --zero y {thin.vg}/{thin.name})"
        ]
    used = {"data": thin.data_used, "metadata": thin.metadata_used}
    return [
        f"thin pool {thin.name}: {share:.0%} of its {what} used"
        for what, share in used.items()
        if share >= spec.full_at
    ]


def _up(size_bytes: int, extent_bytes: int) -> int:
    return -(-size_bytes // extent_bytes) * extent_bytes
