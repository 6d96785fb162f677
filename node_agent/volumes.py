"""The local life of volumes: made, filled, grown, removed. Sizes are bytes.

Every call looks before it acts and may be repeated from any point: what a crash has left is adopted
when it is whole, and made anew when it is not (``labels.py`` tells which).
"""

from __future__ import annotations

import logging
from dataclasses import replace

from cluster.errors import (
    AlreadyExists,
    Busy,
    InvalidArgument,
    OutOfRange,
    Refused,
    Unavailable,
)
from cluster.locks import Locks
from cluster.model import (
    AccessType,
    IoLimits,
    Provision,
    SourceKind,
    Volume,
    to_json,
)
from host import block_device, block_worker, signature
from host import errors as host
from host.command import Runner
from node_agent.cuts import Cuts
from node_agent.devices import Devices
from node_agent.entries import Entry
from node_agent.growth import Growth, require_within
from node_agent.jobs import Jobs, Report
from node_agent.labels import Kind, Label, State
from node_agent.logical_volumes import LogicalVolumes, rounded
from node_agent.records import layout_of, overhead, record_of, spec_of, volume_bytes
from node_agent.replicas import Replicas

_log = logging.getLogger(__name__)


class NodeVolumes:
    def __init__(
        self,
        node: str,
        runner: Runner,
        volumes: LogicalVolumes,
        devices: Devices,
        cuts: Cuts,
        locks: Locks,
        jobs: Jobs,
        replicas: Replicas | None,
    ) -> None:
        """``node``: the name of this one. ``replicas``: None where it takes none."""
        self._node = node
        self._replicas = replicas
        self._growth = Growth(runner, volumes, jobs)
        self._runner = runner
        self._volumes = volumes
        self._devices = devices
        self._cuts = cuts
        self._locks = locks
        self._jobs = jobs

    def create(self, wanted: Volume, *, wait: float) -> Entry:
        """Make the volume or adopt what is there; of at least its size.

        Copies and wipes that take longer than ``wait`` seconds go on in the background. Raises
        Unavailable with their progress, or where no replica can be served now, NoSpace,
        OutOfRange, NotFound (pool or source), AlreadyExists, Busy.
        """
        with self._locks.hold(wanted.id, purpose="its creation"):
            if wanted.replication is not None:
                self.require_replicas().require_set_up()
            entry = self._adopted(wanted) or self._made(wanted)
            if entry.label.state is State.FILLING:
                if not self._jobs.rejoin(wanted.id, wait):
                    self._fill(entry, wanted, wait)
                entry = self._volumes.require(Kind.VOLUME, wanted.id)
            entry = self._growth.grown(entry, wanted.size_bytes, wanted.limit_bytes, wait)
            if wanted.replication is not None:
                self.require_replicas().establish(entry)
            return entry

    def delete(self, volume_id: str, pool_name: str) -> None:
        """Remove it with all half-made parts; nothing in its pool, "" for any, is success.

        Raises Refused while it is mounted or a thick snapshot depends on it, Busy, Unavailable.
        """
        with self._locks.hold(volume_id, purpose="its deletion"):
            entry = self._volumes.locate(Kind.VOLUME, volume_id, pool_name)
            self._require_deletable(volume_id, entry)
            self._jobs.cancel(volume_id)
            self._growth.cancel(volume_id)
            self._remove_scratch(volume_id)
            if entry is not None:
                self._devices.take_down(volume_id)
                if record_of(entry).replication is not None:
                    self.require_replicas()
                if self._replicas is not None:  # also what a change that was cut off has left
                    self._replicas.remove(volume_id)
                self._volumes.remove(entry)

    def expand(self, volume_id: str, size_bytes: int, limit_bytes: int, *, wait: float) -> Entry:
        """Grow it and the devices over it. One that is as large already is success.

        A wipe that takes longer than ``wait`` seconds goes on in the background. Raises Unavailable
        with its progress, NotFound, NoSpace, OutOfRange, Refused (thick snapshots), Busy.
        """
        with self._locks.hold(volume_id, purpose="its expansion"):
            entry = self.require_complete(volume_id)
            entry = self._growth.grown(entry, size_bytes, limit_bytes, wait)
            if record_of(entry).replication is not None:
                self.require_replicas().grow(entry)
            self._devices.grow(entry)
            return entry

    def require_replicas(self) -> Replicas:
        """Raises Refused where this node takes none."""
        if self._replicas is None:
            raise Refused("this node takes no replicas: no replication_address is configured")
        return self._replicas

    def update(self, wanted: Volume) -> Entry:
        """Keep the record; put DRBD under the volume, or take it away, also while it is used.

        What is made comes before the record that tells of it, and what is taken away goes before
        that, so that every way of being cut off is gone on with by a repetition. Raises NotFound,
        NoSpace, Refused, Unavailable, Busy.
        """
        with self._locks.hold(wanted.id, purpose="a change of its replicas"):
            entry = self.require_complete(wanted.id)
            present = record_of(entry)
            if replace(present.spec, replicas=wanted.spec.replicas) != wanted.spec:
                raise Refused(f"volume {wanted.id} is another one here: only replicas may change")
            if wanted.replication is not None:
                self.require_replicas().establish(entry)
            elif present.replication is not None:
                self.require_replicas().dissolve(entry)
            if present != wanted:
                label = replace(entry.label, record=to_json(wanted))
                if wanted.replication is None and label.state is not State.USED:
                    label = label.with_state(self._state_by_content(entry, wanted))
                entry = self._volumes.relabel(entry, label)
            if wanted.replication is None:
                self._devices.grow(entry)  # DRBD's device may have been shorter
            return entry

    def set_limits(self, volume_id: str, limits: IoLimits) -> Entry:
        """Keep them in the record. Raises NotFound, Busy."""
        with self._locks.hold(volume_id, purpose="a change of its limits"):
            entry = self.require_complete(volume_id)
            record = replace(record_of(entry), limits=limits)
            return self._volumes.relabel(entry, replace(entry.label, record=to_json(record)))

    def require_complete(self, volume_id: str) -> Entry:
        """The volume, ready for use. Raises NotFound; Unavailable while it is being filled."""
        entry = self._volumes.require(Kind.VOLUME, volume_id)
        if entry.label.state is State.FILLING:
            raise Unavailable(f"volume {volume_id} is still being filled or wiped")
        return entry

    def mark(self, entry: Entry, state: State, *, unique: bool | None = None) -> Entry:
        """Note durably how far the volume is. The caller holds its lock."""
        label = entry.label.with_state(state)
        if unique is not None:
            label = replace(label, unique=unique)
        return self._volumes.relabel(entry, label) if label != entry.label else entry

    def remove_scratch(self) -> None:
        """At the start: sources of copies that an earlier agent did not finish."""
        for entry in self._volumes.entries(Kind.SCRATCH):
            volume_id = entry.label.id
            try:
                with self._locks.hold(volume_id, purpose="clearing up"):
                    if not self._jobs.running(volume_id):
                        self._volumes.remove(entry)
            except (host.HostError, Busy, Unavailable) as error:
                _log.warning("cannot remove %s/%s: %s", entry.group, entry.name, error)

    # Creation

    def _adopted(self, wanted: Volume) -> Entry | None:
        """What is there already and can be gone on with."""
        entry = self._volumes.find(Kind.VOLUME, wanted.id)
        if entry is None:
            return None
        present = record_of(entry)
        made = (present.spec, present.source, present.cut)
        if made != (wanted.spec, wanted.source, wanted.cut):
            raise AlreadyExists(f"volume {wanted.id} is there, made for another request")
        # Killed over a copy, or it failed: what it read may have changed since.
        half_copied = entry.label.state is State.FILLING and wanted.source is not None
        if half_copied and not self._jobs.running(wanted.id):
            self._remove_scratch(wanted.id)
            self._volumes.remove(entry)
            return None
        return entry

    def _made(self, wanted: Volume) -> Entry:
        source = self._source(wanted)
        self._require_limit(wanted)
        try:
            if source is not None and _can_share(source, wanted):
                return self._shared(wanted, source)
            return self._made_empty(wanted, to_fill=source is not None)
        except host.AlreadyExists:
            # Memory did not know it: an answer of LVM was lost.
            if self._volumes.find_fresh(Kind.VOLUME, wanted.id) is None:
                raise
        return self._adopted(wanted) or self._made(wanted)

    def _made_empty(self, wanted: Volume, *, to_fill: bool) -> Entry:
        spec = wanted.spec
        size = wanted.size_bytes + overhead(spec)
        if not self._begins_complete(wanted):
            # Whatever is there is synced over before anybody can use it.
            label = _label(wanted, State.BLANK, unique=wanted.source is None)
            if spec.provision is Provision.THIN:
                return self._volumes.create_thin(spec.pool, label, size)
            return self._volumes.create_thick(spec.pool, label, size, layout_of(spec))
        if spec.provision is Provision.THIN:
            # New blocks of the pool read as zeros: nothing of a former tenant is there to wipe.
            label = _label(wanted, State.FILLING if to_fill else State.BLANK)
            return self._volumes.create_thin(spec.pool, label, size)
        label = _label(wanted, State.FILLING)
        return self._volumes.create_thick(spec.pool, label, size, layout_of(spec))

    def _shared(self, wanted: Volume, source: Entry) -> Entry:
        """A thin volume that shares all blocks with its source."""
        known = source.label.state is State.USED
        label = _label(wanted, State.USED if known else State.FILLING, unique=False)
        if source.label.kind is Kind.SNAPSHOT:
            entry = self._cuts.take(source, label, read_only=False)
        else:
            with self._locks.hold(source.label.id, purpose="a cut for a clone of it"):
                entry = self._cuts.cut(source, label, read_only=False)
        return entry if known else self.mark(entry, self._state_by_content(entry, wanted))

    def _state_by_content(self, entry: Entry, wanted: Volume) -> State:
        """Whether it has been formatted, where no label says that.

        The label of a replica, and of what is cut of it, tells what was done on its own node only.
        """
        self._volumes.ensure_active(entry)
        raw = wanted.spec.access is AccessType.BLOCK and not wanted.spec.encrypted
        used = raw or signature.probe(self._runner, entry.path) is not None
        return State.USED if used else State.BLANK

    def _begins_complete(self, wanted: Volume) -> bool:
        """Whether what is made here has the data from the beginning, not from another replica."""
        return wanted.replication is None or self._node in wanted.replication.complete

    def _source(self, wanted: Volume) -> Entry | None:
        """What there is to copy; None also for a source that was never written."""
        wanted_source = wanted.read_from
        if wanted_source is None or not self._begins_complete(wanted):
            return None
        kind = Kind.SNAPSHOT if wanted_source.kind is SourceKind.SNAPSHOT else Kind.VOLUME
        source = self._volumes.require(kind, wanted_source.id)
        if source.label.state is State.FILLING:
            raise Unavailable(f"{kind} {source.label.id} is still being filled")
        spec = spec_of(source)
        if (spec.encrypted, spec.access, spec.filesystem) != (
            wanted.spec.encrypted,
            wanted.spec.access,
            wanted.spec.filesystem,
        ):
            raise InvalidArgument(
                f"{kind} {source.label.id} has another file system, access type or encryption"
                " than the volume that is to be made of it"
            )
        # One replica may have grown alone: what is beyond the others was never written.
        longer = spec.replicas > 1 and _can_share(source, wanted)
        if wanted.size_bytes < volume_bytes(source, spec) and not longer:
            raise OutOfRange(
                f"{wanted.size_bytes} bytes are less than the {volume_bytes(source, spec)} bytes"
                f" of {kind} {source.label.id}"
            )
        return source if source.label.state is State.USED or spec.replicas > 1 else None

    def _require_limit(self, wanted: Volume) -> None:
        """Before anything is made. Raises OutOfRange."""
        if not self._volumes.report(wanted.spec.pool).extent_bytes:
            self._volumes.look(wanted.spec.pool)
        extra = overhead(wanted.spec)
        pool = self._volumes.report(wanted.spec.pool)
        size = rounded(wanted.size_bytes + extra, pool, layout_of(wanted.spec))
        require_within(size - extra, wanted.limit_bytes)

    # Filling

    def _fill(self, entry: Entry, wanted: Volume, wait: float) -> None:
        self._volumes.ensure_active(entry)
        source = self._source(wanted)
        if source is not None:
            what = f"copy of {source.label.kind} {source.label.id} to volume {wanted.id}"
            reads = [source.label.id]
            self._jobs.join(
                wanted.id,
                what,
                lambda report: self._copy(entry, wanted, source, report),
                reads=reads,
                wait=wait,
            )
        elif wanted.spec.access is AccessType.BLOCK:
            what = f"wipe of volume {wanted.id}"
            self._jobs.join(wanted.id, what, lambda report: self._wipe(entry, report), wait=wait)
        else:
            # A file system shows nobody what it has not written: no signature may be left, though.
            block_device.zero_edges(entry.path)
            self.mark(entry, State.BLANK)

    def _wipe(self, entry: Entry, report: Report) -> None:
        size = entry.size_bytes
        block_worker.zero(self._runner, entry.path, lambda done: report(done, size))
        self.mark(entry, State.BLANK)

    def _copy(self, entry: Entry, wanted: Volume, source: Entry, report: Report) -> None:
        reading = source
        if source.label.kind is Kind.VOLUME:
            with self._locks.hold(source.label.id, purpose="a cut for a clone of it"):
                # As it is now: it may have grown while this waited for its turn.
                source = self._volumes.require(Kind.VOLUME, source.label.id)
                reading = self._cuts.cut(source, Label(wanted.id, Kind.SCRATCH, State.USED))
        self._volumes.ensure_active(reading)

        def copied(done_bytes: int) -> None:
            report(done_bytes, entry.size_bytes)

        if not entry.thin and wanted.spec.access is AccessType.MOUNT:
            block_device.zero_edges(entry.path)
        block_worker.copy(self._runner, reading.path, entry.path, copied, skip_zeros=entry.thin)
        if not entry.thin and wanted.spec.access is AccessType.BLOCK:
            block_worker.zero(self._runner, entry.path, copied, begin=reading.size_bytes)
        self._remove_scratch(wanted.id)
        if source.label.state is State.USED:
            self.mark(entry, State.USED, unique=False)
        else:
            self.mark(entry, self._state_by_content(entry, wanted), unique=False)

    # Removal

    def _require_deletable(self, volume_id: str, entry: Entry | None) -> None:
        if reader := self._jobs.reader_of(volume_id):
            raise Busy(f"volume {volume_id} is being read: {reader}")
        if entry is not None and (dependents := self._volumes.dependents(entry)):
            raise Refused(
                f"thick volume {volume_id} has snapshots that depend on it: {_names(dependents)};"
                " delete them first"
            )

    def _remove_scratch(self, volume_id: str) -> None:
        scratch = self._volumes.find(Kind.SCRATCH, volume_id)
        if scratch is not None:
            self._volumes.remove(scratch)


def _label(wanted: Volume, state: State, *, unique: bool = True) -> Label:
    return Label(wanted.id, Kind.VOLUME, state, unique=unique, record=to_json(wanted))


def _can_share(source: Entry, wanted: Volume) -> bool:
    thin = source.thin and wanted.spec.provision is Provision.THIN
    return thin and source.pool.name == wanted.spec.pool


def _names(entries: tuple[Entry, ...]) -> str:
    return ", ".join(entry.label.id for entry in entries)
