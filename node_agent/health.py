"""What is wrong with a volume, as its pool, its mounts and its device show it.

Judged from what is known; only ``answers`` touches the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.agents import Health
from host.command import Runner
from host.errors import CommandFailed, CommandStuck, HostError
from host.lvm.model import Kind as LvKind
from host.lvm.pools import PoolStatus
from host.mount_table import Mount
from node_agent.entries import Entry
from node_agent.pool_report import ThinUsage

_READ_SECONDS = 10.0
_SEVERITY = (Health.DATA_LOSS, Health.INACCESSIBLE, Health.DEGRADED)


@dataclass(frozen=True)
class Problem:
    """``reason`` is one word for machines, ``message`` is for people."""

    health: Health
    reason: str
    message: str


def problems(
    entry: Entry,
    status: PoolStatus | None,
    usage: ThinUsage | None,
    mounts: Sequence[Mount],
) -> list[Problem]:
    """Everything that can be told without touching the device."""
    found = []
    if status is None or status.state is None:
        text = status.trouble if status else "the pool has not been looked at yet"
        found.append(Problem(Health.INACCESSIBLE, "PoolUnavailable", text))
    if entry.seen is not None and entry.seen.health:
        found.append(_of_logical_volume(entry.seen.kind, entry.seen.health))
    if entry.thin and usage is not None:
        found += _of_thin_pool(entry, usage)
    # A mount that may write over a file system that may not: the kernel has seen errors.
    if any("rw" in mount.options and "ro" in mount.super_options for mount in mounts):
        found.append(
            Problem(
                Health.DEGRADED,
                "ReadOnlyFilesystem",
                "the kernel has made the file system read-only after errors",
            )
        )
    return found


def worst(found: Sequence[Problem]) -> Health:
    kinds = {problem.health for problem in found}
    return next((health for health in _SEVERITY if health in kinds), Health.OK)


def in_words(found: Sequence[Problem]) -> str:
    return "; ".join(problem.message for problem in found)


def answers(runner: Runner, device: str) -> list[Problem]:
    """Read the first block of the device past all caches, under a deadline."""
    argv = ["dd", f"if={device}", "of=/dev/null", "bs=4096", "count=1", "iflag=direct"]
    try:
        runner.run(argv, deadline=_READ_SECONDS, resource=device)
    except CommandStuck as error:
        text = f"the device does not answer: {error}"
        return [Problem(Health.INACCESSIBLE, "DeviceHangs", text)]
    except CommandFailed as error:
        text = f"the device cannot be read: {error.stderr.strip()[-300:]}"
        return [Problem(Health.INACCESSIBLE, "DeviceError", text)]
    except HostError as error:
        return [Problem(Health.INACCESSIBLE, "DeviceError", str(error))]
    return []


def _of_logical_volume(kind: LvKind, said: str) -> Problem:
    """lvs(8), "lv_health_status"."""
    text = f"LVM says: {said}"
    if kind is LvKind.RAID1:
        return Problem(Health.DEGRADED, "MirrorDegraded", text)
    if "partial" in said:
        return Problem(Health.INACCESSIBLE, "DiskMissing", text)
    if "invalid" in said:
        return Problem(Health.DATA_LOSS, "SnapshotInvalid", text)
    return Problem(Health.DEGRADED, "LogicalVolumeUnhealthy", text)


def _of_thin_pool(entry: Entry, usage: ThinUsage) -> list[Problem]:
    name = f"{entry.group}/{entry.pool.thin_pool}"
    if usage.failed:
        text = f"thin pool {name} {usage.trouble}"
        return [Problem(Health.INACCESSIBLE, "ThinPoolFailed", text)]
    if usage.trouble:
        text = f"thin pool {name} {usage.trouble}: writes fail"
        return [Problem(Health.DEGRADED, "ThinPoolFull", text)]
    for what, share in (("data", usage.data), ("metadata", usage.metadata)):
        if share >= entry.pool.full_at:
            text = f"thin pool {name}: {share:.0%} of its {what} used, writes will soon fail"
            return [Problem(Health.DEGRADED, "ThinPoolNearlyFull", text)]
    return []
