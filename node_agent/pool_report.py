"""A pool as LVM shows it, made into what placement and people see. Pure functions. Bytes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cluster.agents import PoolReport, ThinPoolReport
from host.device_mapper import DeviceMapper, Target
from host.errors import HostError
from host.lvm.names import mangled
from host.lvm.pool_spec import PoolSpec
from host.lvm.pools import PoolStatus

if TYPE_CHECKING:
    from host.lvm.model import ThinPool


@dataclass(frozen=True)
class ThinUsage:
    """How full a thin pool is, 0 to 1. With ``trouble`` it takes no writes; ``failed`` no reads."""

    data: float
    metadata: float
    trouble: str = ""
    failed: bool = False


def pool_report(status: PoolStatus, block_bytes: int = 0) -> PoolReport:
    """What a look has found. What cannot be used counts as no room, and ``trouble`` says why."""
    spec, state = status.spec, status.state
    if state is None:
        return PoolReport(spec.name, spec.volume_group, 0, 0, 0, trouble=status.trouble)
    group, thin = state.volume_group, status.thin
    # LVM changes nothing in a group while one of its disks is missing.
    whole = not group.missing_pv_count
    return PoolReport(
        name=spec.name,
        volume_group=spec.volume_group,
        extent_bytes=group.extent_bytes,
        thick_total_bytes=group.size_bytes,
        thick_free_bytes=group.free_bytes if whole else 0,
        disk_free_bytes=tuple(disk.free_bytes if whole else 0 for disk in state.physical_volumes),
        thin=None if thin is None else _thin_report(spec, thin, whole=whole),
        trouble=status.trouble,
        block_bytes=block_bytes,
    )


def _thin_report(spec: PoolSpec, thin: ThinPool, *, whole: bool) -> ThinPoolReport:
    usable = whole and thin.active and thin.zeroes and not thin.health
    return ThinPoolReport(
        name=thin.name,
        total_bytes=thin.size_bytes,
        used_bytes=thin.data_used_bytes,
        metadata_used=thin.metadata_used,
        virtual_bytes=thin.virtual_bytes,
        virtual_limit_bytes=int(thin.size_bytes * spec.overcommit) if usable else 0,
        chunk_bytes=thin.chunk_bytes,
    )


def without_room(report: PoolReport, trouble: str) -> PoolReport:
    """The pool as it is while nothing can be made in it."""
    thin = None if report.thin is None else replace(report.thin, virtual_limit_bytes=0)
    none_free = (0,) * len(report.disk_free_bytes)
    return replace(
        report, thick_free_bytes=0, disk_free_bytes=none_free, thin=thin, trouble=trouble
    )


def with_usage(report: PoolReport, usage: ThinUsage) -> PoolReport:
    """The same pool with what the kernel says now."""
    if report.thin is None:
        return report
    thin = replace(
        report.thin,
        used_bytes=round(report.thin.total_bytes * usage.data),
        metadata_used=usage.metadata,
    )
    return replace(report, thin=thin)


def fullness(spec: PoolSpec, usage: ThinUsage) -> str:
    """Why nothing new is put into the thin pool; empty when there is room."""
    if usage.trouble:
        return f"thin pool {spec.thin_pool} {usage.trouble}"
    if usage.data >= spec.full_at:
        return f"thin pool {spec.thin_pool} is {usage.data:.0%} full"
    if usage.metadata >= spec.full_at:
        return f"metadata of thin pool {spec.thin_pool} is {usage.metadata:.0%} full"
    return ""


def thin_usage(mapper: DeviceMapper, spec: PoolSpec) -> ThinUsage | None:
    """What the kernel says of the pool, for the price of one ioctl; None while it is not active."""
    base = f"{mangled(spec.volume_group)}-{mangled(spec.thin_pool)}"
    # With a thin volume active, the pool's own device is a layer below the public name.
    for name in (f"{base}-tpool", base):
        try:
            for target in mapper.status(name):
                if target.kind == "thin-pool":
                    return parse_thin_status(target)
        except HostError:
            continue
    return None


def parse_thin_status(target: Target) -> ThinUsage:
    """The status line of a thin-pool target (kernel, thin-provisioning.rst)."""
    fields = target.parameters.split()
    if len(fields) < 3:
        return ThinUsage(1.0, 1.0, "has failed: it has to be repaired", failed=True)
    trouble = ""
    if "needs_check" in fields:
        trouble = "has to be checked and repaired"
    elif "out_of_data_space" in fields:
        trouble = "is full"
    elif "ro" in fields:
        trouble = "is read-only: its metadata is full or damaged"
    return ThinUsage(_ratio(fields[2]), _ratio(fields[1]), trouble)


def _ratio(text: str) -> float:
    used, _, total = text.partition("/")
    return int(used) / max(1, int(total))
