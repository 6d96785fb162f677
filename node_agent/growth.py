"""The growth of a logical volume: room from LVM, and nothing of its former tenant in it.

The tags say first how far the volume is its own (``xlss.wiped``, see ``labels.py``): from when LVM
has extended it until what is new is wiped, the devices over it stay as long as they were, also when
they are made anew after a reboot. Sizes are bytes.
"""

from __future__ import annotations

from dataclasses import replace

from cluster.errors import OutOfRange, Refused
from host import block_worker
from host.command import Runner
from node_agent.entries import Entry
from node_agent.jobs import Jobs, Report
from node_agent.labels import Kind
from node_agent.logical_volumes import LogicalVolumes, rounded
from node_agent.records import (
    layout_of,
    overhead,
    record_of,
    shows_what_was_there,
    volume_bytes,
)


class Growth:
    """The caller holds the volume's lock. All may be repeated from any point."""

    def __init__(self, runner: Runner, volumes: LogicalVolumes, jobs: Jobs) -> None:
        self._runner = runner
        self._volumes = volumes
        self._jobs = jobs

    def grown(self, entry: Entry, size_bytes: int, limit_bytes: int, wait: float) -> Entry:
        """The volume, of at least that size; the devices over it have not grown yet.

        A wipe that takes longer than ``wait`` seconds goes on in the background. Raises Unavailable
        with its progress, NoSpace, OutOfRange, Refused (thick snapshots).
        """
        entry = self._wiped(entry, wait)
        record = record_of(entry)
        spec = record.spec
        if volume_bytes(entry, spec) >= size_bytes:
            return entry
        layout = layout_of(spec)
        pool = self._volumes.report(entry.pool.name)
        size = rounded(size_bytes + overhead(spec), pool, layout)
        require_within(size - overhead(spec), limit_bytes)
        if dependents := self._volumes.dependents(entry):
            names = ", ".join(other.label.id for other in dependents)
            raise Refused(
                f"thick volume {entry.label.id} cannot grow while it has snapshots: {names};"
                " delete them first"
            )
        if shows_what_was_there(record):
            entry = self._afresh(entry)
            label = replace(entry.label, wiped_bytes=entry.size_bytes)
            entry = self._volumes.relabel(entry, label)
        return self._wiped(self._volumes.extend(entry, size, layout), wait)

    def cancel(self, volume_id: str) -> None:
        """Raises Busy when the wipe does not end soon."""
        self._jobs.cancel(_key(volume_id))

    def _wiped(self, entry: Entry, wait: float) -> Entry:
        begin = entry.label.wiped_bytes
        if begin is None:
            return entry
        entry = self._afresh(entry)
        if begin < entry.size_bytes:
            self._volumes.ensure_active(entry)
            self._jobs.join(
                _key(entry.label.id),
                f"wipe of what volume {entry.label.id} grew by",
                lambda report: self._wipe(entry, begin, report),
                keep=True,  # its end is noted here, as tags change under the volume's lock only
                wait=wait,
            )
        return self._volumes.relabel(entry, replace(entry.label, wiped_bytes=None))

    def _wipe(self, entry: Entry, begin: int, report: Report) -> None:
        total = entry.size_bytes - begin
        block_worker.zero(
            self._runner, entry.path, lambda done: report(done - begin, total), begin=begin
        )

    def _afresh(self, entry: Entry) -> Entry:
        """As LVM has it: memory does not know of an extension whose answer was lost.

        What is wiped must be all that is new, and nothing else.
        """
        self._volumes.look(entry.pool.name)
        return self._volumes.require(Kind.VOLUME, entry.label.id)


def require_within(size_bytes: int, limit_bytes: int) -> None:
    """Raises OutOfRange."""
    if 0 < limit_bytes < size_bytes:
        raise OutOfRange(
            f"in whole extents it has {size_bytes} bytes, more than the limit of {limit_bytes}"
        )


def _key(volume_id: str) -> str:
    """Of its job, which is another one than that of the volume's creation."""
    return f"growth of {volume_id}"
