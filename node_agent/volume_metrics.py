"""What a storage node shows to Prometheus of its pools and volumes. docs/metrics.md explains all.

Pools and volumes are shown as the agent saw them last: a scrape starts no command. How full the
mounted file systems are is asked of the kernel at the scrape, by one thread that may hang on a dead
device without anybody waiting for it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from cluster.agents import Health, PoolReport, VolumeReport
from node_agent.metrics import pool_metrics

_WAIT_SECONDS = 1.0
# Of a hanging file system nothing is shown rather than what was true long ago.
_STALE_SECONDS = 120.0
# End of the metric's name, what it is, and how it comes out of statvfs(3).
_USAGE: tuple[tuple[str, str, Callable[[os.statvfs_result], int]], ...] = (
    ("size_bytes", "Room in the file system.", lambda u: u.f_blocks * u.f_frsize),
    ("used_bytes", "Room in use.", lambda u: (u.f_blocks - u.f_bfree) * u.f_frsize),
    ("available_bytes", "Room for users.", lambda u: u.f_bavail * u.f_frsize),
    ("inodes", "Inodes in all; 0 without a limit.", lambda u: u.f_files),
    ("inodes_used", "Inodes in use.", lambda u: u.f_files - u.f_ffree),
)


class MountedUsage:
    """How full the file systems of mounted volumes are. Never more than one thread measures."""

    def __init__(
        self,
        mounted: Callable[[], Mapping[str, str]],
        measure: Callable[[str], os.statvfs_result] = os.statvfs,
    ) -> None:
        """``mounted`` answers a mount point for each volume that is mounted here."""
        self._mounted = mounted
        self._measure = measure
        self._mutex = threading.Lock()
        self._worker: threading.Thread | None = None
        self._known: dict[str, tuple[float, os.statvfs_result]] = {}

    def look(self) -> dict[str, os.statvfs_result]:
        """By volume. What does not answer in a moment is as it was shortly before, or absent."""
        with self._mutex:
            if self._worker is None or not self._worker.is_alive():
                self._worker = threading.Thread(target=self._work, name="usage", daemon=True)
                self._worker.start()
            worker = self._worker
        worker.join(_WAIT_SECONDS)
        oldest = time.monotonic() - _STALE_SECONDS
        return {volume: usage for volume, (at, usage) in self._known.copy().items() if at > oldest}

    def _work(self) -> None:
        mounted = self._mounted()
        for volume in self._known.keys() - mounted.keys():
            del self._known[volume]
        for volume, path in mounted.items():
            try:
                self._known[volume] = (time.monotonic(), self._measure(path))
            except OSError:  # unmounted meanwhile, or broken: then there is nothing to show
                self._known.pop(volume, None)


class NodeCollector(Collector):
    """The state of one storage node."""

    def __init__(
        self,
        node: str,
        pools: Callable[[], Sequence[PoolReport]],
        volumes: Callable[[], Sequence[VolumeReport]],
        stuck_commands: Callable[[], int],
        mounted: Callable[[], Mapping[str, str]],
    ) -> None:
        """The callables answer at once, from what the agent knows; none may start a command."""
        self._node = node
        self._pools = pools
        self._volumes = volumes
        self._stuck_commands = stuck_commands
        self._usage = MountedUsage(mounted)

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "xlss_stuck_commands",
            "Killed commands that the kernel has not let go of.",
            value=self._stuck_commands(),
        )
        yield from pool_metrics((self._node, pool) for pool in self._pools())
        yield from self._volume_metrics()
        yield from self._usage_metrics()

    def _volume_metrics(self) -> Iterator[Metric]:
        size = GaugeMetricFamily(
            "xlss_volume_size_bytes", "Size of the volume.", labels=["volume", "pool"]
        )
        allocated = GaugeMetricFamily(
            "xlss_volume_allocated_bytes",
            "What a thin volume holds in its pool.",
            labels=["volume", "pool"],
        )
        healthy = GaugeMetricFamily(
            "xlss_volume_healthy",
            "1, or 0 when something is wrong with the volume.",
            labels=["volume"],
        )
        volumes = self._volumes()
        for volume in volumes:
            size.add_metric([volume.id, volume.pool], volume.size_bytes)
            if volume.allocated_bytes:
                allocated.add_metric([volume.id, volume.pool], volume.allocated_bytes)
            healthy.add_metric([volume.id], 1 if volume.health is Health.OK else 0)
        yield from (size, allocated, healthy)
        yield from _replica_metrics(volumes)

    def _usage_metrics(self) -> Iterator[Metric]:
        usages = self._usage.look()
        for name, text, value in _USAGE:
            family = GaugeMetricFamily(f"xlss_volume_filesystem_{name}", text, labels=["volume"])
            for volume, usage in usages.items():
                family.add_metric([volume], value(usage))
            yield family


def _replica_metrics(volumes: Sequence[VolumeReport]) -> Iterator[Metric]:
    """States are shown as 1 at the present one: a state that ends is no more there."""
    states = GaugeMetricFamily(
        "xlss_replica_state",
        "Always 1; the labels have the states in DRBD's words.",
        labels=["volume", "role", "disk", "peer_disk", "connection"],
    )
    numbers = {
        name: GaugeMetricFamily(f"xlss_replica_{name}", text, labels=["volume"])
        for name, text in (
            ("frozen", "1 while writes are held back."),
            ("in_sync", "1 while both replicas are complete, as this node sees it."),
            ("out_of_sync_bytes", "What differs, or may differ, from the other replica."),
            ("resync_total_bytes", "What the resync under way began with."),
            ("resync_done_bytes", "What of it is done."),
            ("verified_timestamp_seconds", "When the last finished verify ended."),
            ("verify_out_of_sync_bytes", "What the last finished verify found different."),
        )
    }
    for volume in volumes:
        replica = volume.replica
        if replica is None:
            continue
        words = [replica.role, replica.disk, replica.peer_disk, replica.connection]
        states.add_metric([volume.id, *words], 1)
        found: dict[str, float] = {
            "frozen": bool(replica.frozen),
            "in_sync": replica.in_sync,
            "out_of_sync_bytes": replica.out_of_sync_bytes,
        }
        if replica.resync_total_bytes:
            found["resync_total_bytes"] = replica.resync_total_bytes
            found["resync_done_bytes"] = replica.resync_done_bytes
        if replica.verify is not None and not replica.verify.trouble:
            found["verified_timestamp_seconds"] = replica.verify.finished_at
            found["verify_out_of_sync_bytes"] = replica.verify.out_of_sync_bytes
        for name, value in found.items():
            numbers[name].add_metric([volume.id], value)
    yield states
    yield from numbers.values()
