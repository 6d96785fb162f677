"""Cutting snapshots: holding I/O still, and taking them while it is.

A file system that is mounted is frozen before the cut, so that the snapshot needs no recovery. What
holds it is a process of its own, which lets it go when the agent dies (``host/resume_guard.py``).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from cluster.errors import Unavailable
from host import mount
from host.command import Runner
from host.resume_guard import ResumeGuard
from node_agent.devices import Devices
from node_agent.entries import Entry
from node_agent.holds import Holds
from node_agent.labels import Label
from node_agent.logical_volumes import LogicalVolumes

_log = logging.getLogger(__name__)
# A cut takes one command of LVM; the kernel warns of hanging writers after 120 s.
_HOLD_SECONDS = 20.0
_SYNC_SECONDS = 60.0


@dataclass
class Hold:
    """``held`` after the block: no write came in between."""

    held: bool = False


class Cuts:
    def __init__(
        self,
        volumes: LogicalVolumes,
        devices: Devices,
        runner: Runner,
        holds: Holds,
    ) -> None:
        self._volumes = volumes
        self._devices = devices
        self._runner = runner
        self.holds = holds

    def cut(self, source: Entry, label: Label, *, read_only: bool = True) -> Entry:
        """One snapshot, its file system frozen meanwhile. The caller holds the source's lock.

        A cut is one instant in any case: where the hold was lost, the file system in it is as
        after a power cut.
        """
        with self.still([source]) as hold:
            entry = self.take(source, label, read_only=read_only)
        if not hold.held:
            _log.warning("%s was cut without its file system being frozen", entry.name)
        return entry

    def take(self, source: Entry, label: Label, *, read_only: bool = True) -> Entry:
        """The cut alone. Raises Unavailable while there is something in it that nobody may see."""
        if source.usable_bytes < source.size_bytes:
            raise Unavailable(
                f"volume {source.label.id} grows, and what it grew by is still to be wiped: expand"
                " it again, then repeat the request"
            )
        if source.thin:
            return self._volumes.create_thin_snapshot(source, label, read_only=read_only)
        return self._volumes.create_cow_snapshot(source, label)

    @contextmanager
    def still(self, sources: Sequence[Entry]) -> Iterator[Hold]:
        """Hold the I/O of all of them at the same time."""
        hold = Hold()
        guard = self.guard(sources, _HOLD_SECONDS)
        if guard is None:
            yield hold
            hold.held = True
            return
        self.holds.suspend([source.label.id for source in sources], guard)
        try:
            yield hold
        finally:
            hold.held = self.holds.release(guard)

    def guard(self, sources: Sequence[Entry], seconds: float) -> ResumeGuard | None:
        """What can hold them, their caches written out; None where none of them is in use."""
        found = [self._devices.top(source.label.id) for source in sources]
        tops = [top for top in found if top is not None]
        if not tops:
            return None
        for top in tops:
            # The fewer there is to write, the shorter it is frozen.
            for mounted in mount.mounts_of(top.device_number)[:1]:
                device = self._devices.path_of(top)
                mount.sync(self._runner, mounted.path, deadline=_SYNC_SECONDS, resource=device)
        return self.holds.guard([top.name for top in tops], seconds)
