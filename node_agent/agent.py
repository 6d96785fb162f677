"""The agent of one storage node, put together: what ``cluster/agents.py`` promises, done here.

``node_agent/server.py`` serves it to controllers; ``csi/node`` uses its parts in the same process.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from cluster.agents import Inventory, PoolReport, SnapshotReport, VolumeReport
from cluster.errors import InvalidArgument, Refused, Unavailable
from cluster.identifiers import Kind as IdKind
from cluster.identifiers import require_id
from cluster.locks import Locks
from cluster.model import IoLimits, Snapshot, Volume
from host.command import Runner
from host.device_mapper import DeviceMapper
from host.errors import HostError
from host.lvm.pool_spec import PoolSpec
from host.lvm.pools import Pools
from node_agent import health
from node_agent.config import NodeConfig
from node_agent.cuts import Cuts
from node_agent.devices import Devices
from node_agent.eviction import Evictor
from node_agent.holds import Holds
from node_agent.inventory import Reporter, is_replicated
from node_agent.jobs import Jobs
from node_agent.labels import Kind
from node_agent.limits import Limiter
from node_agent.logical_volumes import LogicalVolumes
from node_agent.notes import NoteBook
from node_agent.pool_report import thin_usage
from node_agent.replicas import Replicas
from node_agent.snapshots import NodeSnapshots
from node_agent.targets import Targets
from node_agent.verified import Verified
from node_agent.volumes import NodeVolumes
from node_agent.watch import PoolWatch

_log = logging.getLogger(__name__)
_SHORTEST_HOLD, _LONGEST_HOLD = 0.1, 60.0
# A pool that takes longer to open than this does not keep the node from being ready.
_OPENING_SECONDS = 30.0
_WAIT_SECONDS = 30.0
# Loading DRBD's module takes a moment after the start.
_SETTING_UP_SECONDS = 5.0


class NodeAgent:
    """``cluster.agents.Agent`` on this machine. Call ``start`` once, and ``stop`` at the end."""

    def __init__(self, config: NodeConfig, runner: Runner) -> None:
        self.config = config
        self.runner = runner
        self.mapper = DeviceMapper(runner)
        self.locks = Locks()
        self.targets = Targets(config.run_directory / "targets")
        self._jobs = Jobs()
        self._pools = {spec.name: self._pools_of(spec) for spec in config.pools}
        self.logical = LogicalVolumes(self._pools, lambda spec: thin_usage(self.mapper, spec))
        self.devices = Devices(runner, self.mapper, self.logical)
        holds = Holds(runner, config.cgroup_root)
        cuts = Cuts(self.logical, self.devices, runner, holds)
        self.limiter = Limiter(self.logical, self.devices, self.targets, config.cgroup_root)
        self.replicas: Replicas | None = None
        if config.arbiters:
            self.replicas = Replicas(
                config.name,
                runner,
                self.mapper,
                self.logical,
                self.devices,
                Evictor(
                    runner,
                    self.mapper,
                    self.devices,
                    self.targets,
                    self.limiter,
                    self.locks,
                    config.cgroup_root,
                ),
                holds,
                NoteBook(config.state_directory / "notes"),
                Verified(config.state_directory / "notes"),
                resync_bytes_per_second=config.resync_bytes_per_second,
            )
        self.volumes = NodeVolumes(
            config.name,
            runner,
            self.logical,
            self.devices,
            cuts,
            self.locks,
            self._jobs,
            self.replicas,
        )
        self._snapshots = NodeSnapshots(self.volumes, self.logical, cuts, self.locks, self._jobs)
        self.reporter = Reporter(
            config, self.logical, self.devices, self.targets, runner, self.replicas
        )
        self._watches = [self._watch(spec) for spec in config.pools]
        self._started = 0.0

    def start(self) -> None:
        """Begin to open the pools; returns at once."""
        self._started = time.monotonic()
        threading.Thread(target=self._resume_all, name="resume", daemon=True).start()
        for watch in self._watches:
            watch.start()
        self.limiter.start()

    @property
    def ready(self) -> bool:
        """Whether all pools have been opened, or have had their time."""
        late = time.monotonic() - self._started > _OPENING_SECONDS
        return late or all(watch.first_turn.is_set() for watch in self._watches)

    def _look(self) -> None:
        """Ask LVM; of a pool that is being opened there is nothing to tell before it is open."""
        opened_by = self._started + _OPENING_SECONDS
        for watch in self._watches:
            watch.first_turn.wait(max(0.0, opened_by - time.monotonic()))
        self.logical.look_everywhere()

    def stop(self) -> None:
        """End the background work and LVM's processes. What is mounted stays."""
        self._jobs.cancel_all()
        if self.replicas is not None:
            self.replicas.stop()
        self.limiter.stop()
        for watch in self._watches:
            watch.stop()
        for pools in self._pools.values():
            threading.Thread(target=pools.close, name="close", daemon=True).start()

    # cluster.agents.Agent

    def inventory(self) -> Inventory:
        self._look()
        if self.replicas is not None:
            # So that nobody is told of a trouble that is over in a moment.
            until = self._started + _SETTING_UP_SECONDS
            self.replicas.tried.wait(max(0.0, until - time.monotonic()))
        return self.reporter.inventory()

    def pools(self, *, fresh: bool) -> tuple[PoolReport, ...]:
        if fresh:
            self._look()
        return self.reporter.pools()

    def get_volume(self, volume_id: str) -> VolumeReport:
        require_id(IdKind.VOLUME, volume_id, "volume_id")
        entry = self.logical.require(Kind.VOLUME, volume_id)
        with suppress(Unavailable):  # then memory answers, and its health tells why
            self.logical.look(entry.pool.name)
            entry = self.logical.require(Kind.VOLUME, volume_id)
        problems = self.reporter.problems(entry)
        return replace(
            self.reporter.volume(entry),
            health=health.worst(problems),
            trouble=health.in_words(problems),
        )

    def create_volume(
        self, volume: Volume, *, wait: float = _WAIT_SECONDS
    ) -> tuple[VolumeReport, PoolReport]:
        """``wait``: seconds after which a long copy goes on without the caller."""
        require_id(IdKind.VOLUME, volume.id, "volume_id")
        if volume.size_bytes <= 0:
            raise InvalidArgument("size_bytes must be above 0")
        entry = self.volumes.create(volume, wait=wait)
        # Its UUID is known from LVM's next report on; until then nobody is told half of the time.
        report = replace(self.reporter.volume(entry), logical_volume_uuid="")
        return report, self.logical.report(entry.pool.name)

    def delete_volume(self, volume_id: str, pool: str = "") -> None:
        require_id(IdKind.VOLUME, volume_id, "volume_id")
        self.volumes.delete(volume_id, pool)

    def expand_volume(
        self, volume_id: str, size_bytes: int, limit_bytes: int, *, wait: float = _WAIT_SECONDS
    ) -> tuple[int, PoolReport]:
        """``wait``: seconds after which a long wipe goes on without the caller."""
        require_id(IdKind.VOLUME, volume_id, "volume_id")
        entry = self.volumes.expand(volume_id, size_bytes, limit_bytes, wait=wait)
        return self.reporter.volume(entry).size_bytes, self.logical.report(entry.pool.name)

    def update_volume(self, volume: Volume) -> PoolReport:
        require_id(IdKind.VOLUME, volume.id, "volume_id")
        if volume.size_bytes <= 0:
            raise InvalidArgument("size_bytes must be above 0")
        entry = self.volumes.update(volume)
        return self.logical.report(entry.pool.name)

    def set_limits(self, volume_id: str, limits: IoLimits) -> None:
        require_id(IdKind.VOLUME, volume_id, "volume_id")
        self.volumes.set_limits(volume_id, limits)
        self.limiter.apply(volume_id, limits)

    def suspend_volumes(self, volume_ids: Sequence[str], deadline: float) -> str:
        for volume_id in volume_ids:
            require_id(IdKind.VOLUME, volume_id, "volume_ids")
        if not volume_ids or not _SHORTEST_HOLD <= deadline <= _LONGEST_HOLD:
            raise InvalidArgument(
                f"volume_ids, and a deadline of {_SHORTEST_HOLD:g} to {_LONGEST_HOLD:g} s, are"
                " needed"
            )
        return self._snapshots.suspend(volume_ids, deadline)

    def resume_volumes(self, suspension: str) -> bool:
        return self._snapshots.resume(suspension)

    def create_snapshots(
        self, snapshots: Sequence[Snapshot], suspension: str = ""
    ) -> tuple[SnapshotReport, ...]:
        for snapshot in snapshots:
            require_id(IdKind.SNAPSHOT, snapshot.id, "snapshot_id")
            require_id(IdKind.VOLUME, snapshot.volume_id, "volume_id")
        entries = self._snapshots.create(snapshots, suspension)
        return tuple(map(self.reporter.snapshot, entries))

    def delete_snapshots(self, snapshot_ids: Sequence[str], pool: str = "") -> None:
        for snapshot_id in snapshot_ids:
            require_id(IdKind.SNAPSHOT, snapshot_id, "snapshot_ids")
        self._snapshots.delete(snapshot_ids, pool)

    def verify_volume(self, volume_id: str) -> None:
        require_id(IdKind.VOLUME, volume_id, "volume_id")
        entry = self.logical.require(Kind.VOLUME, volume_id)
        if not is_replicated(entry):
            raise Refused(f"volume {volume_id} is not replicated: there is nothing to compare")
        self.volumes.require_replicas().verify(volume_id)

    # The parts

    def _pools_of(self, spec: PoolSpec) -> Pools:
        return Pools(
            [spec],
            self.runner,
            run_directory=self.config.run_directory,
            durable_directory=self.config.lvm_directory,
        )

    def _watch(self, spec: PoolSpec) -> PoolWatch:
        return PoolWatch(
            spec,
            self._pools[spec.name],
            self.logical,
            seconds=self.config.watch_seconds,
            opened=self._clean_up,
        )

    def _clean_up(self) -> None:
        """What an agent that was killed has left half-made, and nobody will ask for again."""
        self.volumes.remove_scratch()
        self._snapshots.remove_half_made()

    def _resume_all(self) -> None:
        try:
            for name in self.devices.resume_all():
                _log.warning("%s was suspended, and is resumed", name)
        except HostError as error:
            _log.error("not all devices could be resumed: %s", error)
