"""Our logical volumes: what LVM holds, remembered, and the commands that change it.

The agent is the only one who changes them, so it looks once and then keeps account: a creation is
one command of LVM and no report. Whatever is surprising (a command that failed or was lost, a name
that is taken or gone) makes it look again, and that something is *not* there is never answered from
memory. Sizes are bytes.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from cluster.agents import PoolReport
from cluster.errors import NoSpace, NotFound, Unavailable
from cluster.placement import Footprint, less
from host import block_device
from host.device_mapper import device_number, major_minor
from host.errors import HostError
from host.lvm.model import LINEAR, Layout, Striped
from host.lvm.pool_spec import PoolSpec
from host.lvm.pools import Pools, PoolStatus
from node_agent.entries import Entry, sort_out
from node_agent.labels import Kind, Label, changed_tags, lv_name
from node_agent.pool_report import (
    ThinUsage,
    fullness,
    pool_report,
    with_usage,
    without_room,
)

_log = logging.getLogger(__name__)
# One command takes a fraction of a second. Where one takes so long, the disks hang, and those who
# come after it are not kept waiting: they would use up the threads that other pools need.
_HANGING_SECONDS = 15.0
_LOOK_SECONDS = 10.0
_NODE_SECONDS = 5.0


class _Pool:
    """What is known of one pool."""

    def __init__(self, spec: PoolSpec, source: Pools) -> None:
        self.spec = spec
        self.source = source
        self.fresh = False  # whether memory can be trusted
        self.status: PoolStatus | None = None
        self.entries: Mapping[str, Entry] = {}
        self.foreign: tuple[str, ...] = ()
        self.report = PoolReport(spec.name, spec.volume_group, 0, 0, 0, trouble="not opened yet")
        self.looking: threading.Thread | None = None
        self._turn = threading.Lock()
        self._turn_began = 0.0

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Held for every command and every look, so that the account agrees with LVM.

        Raises Unavailable when whoever has it has had it for too long.
        """
        while not self._turn.acquire(timeout=1.0):
            if (seconds := time.monotonic() - self._turn_began) > _HANGING_SECONDS:
                raise Unavailable(
                    f"pool {self.spec.name}: LVM has not answered for {seconds:.0f} s"
                )
        self._turn_began = time.monotonic()
        try:
            yield
        finally:
            self._turn.release()


class LogicalVolumes:
    """All pools of the node. Thread safe; the caller keeps apart who works on the same volume.

    What changes something raises the errors of host/lvm/commands.py, and Unavailable.
    """

    def __init__(
        self,
        pools: Mapping[str, Pools],
        usage: Callable[[PoolSpec], ThinUsage | None],
    ) -> None:
        """Each pool by its name, in a ``Pools`` of its own, so that none waits for another.

        ``usage`` asks the kernel how full a thin pool is, without waiting; None: not active.
        """
        self.usage = usage
        self._look_mutex = threading.Lock()
        self._pools = {
            spec.name: _Pool(spec, source) for source in pools.values() for spec in source.specs
        }

    # Looking

    def look(self, pool_name: str) -> None:
        """Look afresh at one pool. Raises Unavailable when it cannot be looked at."""
        pool = self._pool(pool_name)
        with pool.turn():
            self._look(pool)

    def look_everywhere(self) -> None:
        """Look afresh at all pools; one that hangs or cannot be looked at says so in its report."""
        until = time.monotonic() + _LOOK_SECONDS
        looks = [(pool, self._looking(pool)) for pool in self._pools.values()]
        for pool, looking in looks:
            looking.join(max(0.0, until - time.monotonic()))
            if looking.is_alive():
                pool.report = without_room(pool.report, "LVM does not answer")
                pool.fresh = False  # once it answers, the next creation finds what room there is

    def _looking(self, pool: _Pool) -> threading.Thread:
        """The look at a pool that is under way, for all who ask; started where there is none."""
        with self._look_mutex:
            if pool.looking is None or not pool.looking.is_alive():
                looking = threading.Thread(
                    target=self._try_to_look, args=(pool,), name="look", daemon=True
                )
                looking.start()
                pool.looking = looking
            return pool.looking

    def find(self, kind: Kind, identifier: str) -> Entry | None:
        """What memory has. None says nothing about what is there."""
        name = lv_name(kind, identifier)
        found = (pool.entries.get(name) for pool in self._pools.values())
        return next((entry for entry in found if entry is not None), None)

    def find_fresh(self, kind: Kind, identifier: str, pool_name: str = "") -> Entry | None:
        """What is there. Raises Unavailable when a pool that may hold it cannot be looked at.

        Where ``pool_name`` is given, that is the one with that name.
        """
        if pool_name and pool_name not in self._pools:
            raise Unavailable(
                f"pool {pool_name[:64]!r} is not in this node's configuration: put it back, or"
                " remove the node from the controller's"
            )
        for name in (pool_name,) if pool_name else self._pools:
            self.look(name)
        return self.find(kind, identifier)

    def locate(self, kind: Kind, identifier: str, pool_name: str = "") -> Entry | None:
        """From memory where it is known; None only when a fresh look has not found it."""
        return self.find(kind, identifier) or self.find_fresh(kind, identifier, pool_name)

    def require(self, kind: Kind, identifier: str) -> Entry:
        """As ``locate``; raises NotFound in place of None."""
        entry = self.locate(kind, identifier)
        if entry is None:
            raise NotFound(f"there is no {kind} {identifier} on this node")
        return entry

    def entries(self, kind: Kind) -> tuple[Entry, ...]:
        """All of that kind, as memory has them."""
        return tuple(
            entry
            for pool in self._pools.values()
            for entry in pool.entries.values()
            if entry.label.kind is kind
        )

    def dependents(self, entry: Entry) -> tuple[Entry, ...]:
        """The copy-on-write snapshots of a thick volume: LVM ties their lives together."""
        entries = self._pool(entry.pool.name).entries.values()
        return tuple(other for other in entries if other.origin == entry.name)

    def foreign(self) -> tuple[str, ...]:
        """Logical volumes in our groups that carry no label, as ``group/name``."""
        return tuple(name for pool in self._pools.values() for name in pool.foreign)

    def status(self, pool_name: str) -> PoolStatus | None:
        """As last seen."""
        return self._pool(pool_name).status

    def report(self, pool_name: str) -> PoolReport:
        """The pool by our own account, how full it is by the kernel's."""
        pool = self._pool(pool_name)
        usage = self.usage(pool.spec) if pool.report.thin else None
        return with_usage(pool.report, usage) if usage else pool.report

    def chunk_bytes(self, entry: Entry) -> int:
        """The piece in which its thin pool gives out room; 0 for a thick volume."""
        thin = self._pool(entry.pool.name).report.thin
        return thin.chunk_bytes if entry.thin and thin is not None else 0

    def reports(self) -> tuple[PoolReport, ...]:
        return tuple(map(self.report, self._pools))

    # Changing

    def create_thick(
        self, pool_name: str, label: Label, size_bytes: int, layout: Layout = LINEAR
    ) -> Entry:
        """Active, and not wiped."""
        pool = self._pool(pool_name)
        with self._change(pool):
            size = rounded(size_bytes, pool.report, layout)
            entry = Entry(pool.spec, label, size, thin=False)
            pool.source.lvm.create_thick(
                entry.group, entry.name, size, tags=label.tags, layout=layout
            )
            self._account(pool, entry, size)
        return entry

    def create_thin(self, pool_name: str, label: Label, size_bytes: int) -> Entry:
        """Active. Raises NoSpace beyond the over-commit limit, or when the pool is nearly full."""
        pool = self._pool(pool_name)
        with self._change(pool):
            size = rounded(size_bytes, pool.report)
            entry = Entry(pool.spec, label, size, thin=True)
            self._require_thin_room(pool, size)
            pool.source.lvm.create_thin(
                entry.group, pool.spec.thin_pool, entry.name, size, tags=label.tags
            )
            self._account(pool, entry, size)
        return entry

    def create_thin_snapshot(self, source: Entry, label: Label, *, read_only: bool) -> Entry:
        """Of a thin volume or snapshot. Active unless it is read-only: nobody opens that one."""
        pool = self._pool(source.pool.name)
        with self._change(pool):
            entry = Entry(pool.spec, label, source.size_bytes, thin=True)
            self._require_thin_room(pool, entry.size_bytes)
            pool.source.lvm.create_thin_snapshot(
                entry.group,
                source.name,
                entry.name,
                tags=label.tags,
                read_only=read_only,
                activate=not read_only,
            )
            self._account(pool, entry, entry.size_bytes)
        return entry

    def create_cow_snapshot(self, source: Entry, label: Label) -> Entry:
        """Of a thick volume: with room for all of it, so that it can never overflow."""
        pool = self._pool(source.pool.name)
        with self._change(pool):
            entry = Entry(pool.spec, label, source.size_bytes, thin=False, origin=source.name)
            pool.source.lvm.create_cow_snapshot(
                entry.group, source.name, entry.name, tags=label.tags, read_only=True
            )
            self._account(pool, entry, entry.size_bytes)
        return entry

    def extend(self, entry: Entry, size_bytes: int, layout: Layout = LINEAR) -> Entry:
        """Raises NoSpace as a creation does. A volume that is larger already stays as it is."""
        pool = self._pool(entry.pool.name)
        with self._change(pool):
            size = max(entry.size_bytes, rounded(size_bytes, pool.report, layout))
            if entry.thin:
                self._require_thin_room(pool, size - entry.size_bytes)
            pool.source.lvm.extend(entry.group, entry.name, size)
            grown = replace(entry, size_bytes=size)
            self._account(pool, grown, size - entry.size_bytes)
        return grown

    def relabel(self, entry: Entry, label: Label) -> Entry:
        """Change what the tags say, all at once."""
        remove, add = changed_tags(entry.label, label)
        pool = self._pool(entry.pool.name)
        with self._change(pool):
            pool.source.lvm.retag(entry.group, entry.name, add=add, remove=remove)
            changed = replace(entry, label=label)
            self._account(pool, changed, 0)
        return changed

    def remove(self, entry: Entry) -> None:
        """Gone already is success. Raises InUse while somebody has it open."""
        pool = self._pool(entry.pool.name)
        with self._change(pool):
            pool.source.lvm.remove(entry.group, entry.name)
            others = {name: other for name, other in pool.entries.items() if name != entry.name}
            pool.entries = others
            self._account_room(pool, entry, -entry.size_bytes)

    def ensure_active(self, entry: Entry) -> None:
        """Make its device node, if it is not there. Raises Missing, DeviceFailed, InTransition."""
        if not Path(entry.path).is_block_device():
            self._pool(entry.pool.name).source.lvm.activate(entry.group, entry.name)
            block_device.wait_for_node(entry.path, _NODE_SECONDS)

    def activate_all(self, pool_name: str) -> list[str]:
        """Activate the volumes that are not, as after a reboot; returns what hinders any."""
        pool = self._pool(pool_name)
        volumes = [e.seen for e in pool.entries.values() if e.label.kind is Kind.VOLUME]
        if all(volume is None or volume.active for volume in volumes):
            return []
        lvm = pool.source.lvm
        with pool.turn():
            return lvm.activate_tagged(pool.spec.volume_group, Kind.VOLUME.tag)

    # The parts

    def _pool(self, name: str) -> _Pool:
        pool = self._pools.get(name)
        if pool is None:
            known = ", ".join(self._pools)
            raise NotFound(f"there is no pool {name!r} on this node (there are: {known})")
        return pool

    @contextmanager
    def _change(self, pool: _Pool) -> Iterator[None]:
        """Around a command of LVM and the account of it."""
        with pool.turn():
            if not pool.fresh:
                self._look(pool)
            try:
                yield
            except HostError:
                pool.fresh = False
                raise

    def _try_to_look(self, pool: _Pool) -> None:
        try:
            with pool.turn():
                self._look(pool)
        except (Unavailable, HostError) as error:
            _log.warning("cannot look at pool %s: %s", pool.spec.name, error)

    def _look(self, pool: _Pool) -> None:
        try:
            status = pool.source.status(pool.spec.name)
        except HostError as error:
            status = PoolStatus(pool.spec, None, str(error))
        pool.status, pool.report = status, pool_report(status, _block_bytes(status))
        pool.fresh = status.state is not None
        if status.state is None:
            raise Unavailable(f"pool {pool.spec.name}: {status.trouble}")
        pool.entries, pool.foreign = sort_out(pool.spec, status.state)

    def _account(self, pool: _Pool, entry: Entry, taken_bytes: int) -> None:
        pool.entries = {**pool.entries, entry.name: entry}
        if taken_bytes:
            self._account_room(pool, entry, taken_bytes)

    def _account_room(self, pool: _Pool, entry: Entry, taken_bytes: int) -> None:
        if entry.thin:
            pool.report = less(pool.report, Footprint(virtual_bytes=taken_bytes))
        elif len(pool.report.disk_free_bytes) == 1 and not entry.origin:
            pool.report = less(
                pool.report, Footprint(thick_bytes=taken_bytes, disk_bytes=taken_bytes)
            )
        else:
            # Which disks LVM took, and how much a copy-on-write store needs, LVM alone knows.
            self._look(pool)

    def _require_thin_room(self, pool: _Pool, size_bytes: int) -> None:
        """Raises NoSpace. In the pool's turn, so that no two requests count on the same room."""
        thin = pool.report.thin
        if thin is None:
            trouble = pool.report.trouble or "it has no thin pool"
            raise NoSpace(f"pool {pool.spec.name} takes no thin volumes: {trouble}")
        usage = self.usage(pool.spec) or ThinUsage(
            thin.used_bytes / max(1, thin.total_bytes), thin.metadata_used
        )
        if reason := fullness(pool.spec, usage):
            raise NoSpace(f"pool {pool.spec.name}: {reason}")
        if not thin.virtual_limit_bytes:
            raise NoSpace(f"pool {pool.spec.name} takes no thin volumes: {pool.report.trouble}")
        free = max(0, thin.virtual_limit_bytes - thin.virtual_bytes)
        if size_bytes > free:
            raise NoSpace(
                f"pool {pool.spec.name}: {size_bytes} bytes are more than the {free} bytes that its"
                f" over-commit limit ({thin.virtual_limit_bytes} bytes) leaves"
            )


def rounded(size_bytes: int, pool: PoolReport, layout: Layout = LINEAR) -> int:
    """The size that LVM gives: whole extents on each stripe."""
    unit = pool.extent_bytes * (layout.stripes if isinstance(layout, Striped) else 1)
    return -(-size_bytes // unit) * unit


def _block_bytes(status: PoolStatus) -> int:
    """The largest logical block of the pool's disks; those that are missing have none."""
    sizes = []
    for disk in status.state.physical_volumes if status.state is not None else ():
        with suppress(HostError):
            number = major_minor(device_number(disk.device)) if disk.device else ""
            sizes.append(block_device.block_size_of_number(number) if number else 0)
    return max(sizes, default=0)
