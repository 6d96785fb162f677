"""How this node's replicas are, for reports and metrics: DRBD's table, and what the loop decided.

Nothing here asks the kernel: the thread that follows DRBD's events hands the table on, with figures
while something is copied or compared.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cluster.agents import (
    ARBITER,
    PERSON,
    REBOOT,
    RESYNC,
    VERIFY,
    Health,
    ReplicaReport,
    VerifyReport,
)
from node_agent.decision import Decision
from node_agent.endless_io import Endless
from node_agent.health import Problem
from node_agent.verified import Verified
from replication import status
from replication.actions import Do
from replication.observed import CONNECTIONS
from replication.record import Connection
from replication.status import (
    DiskState,
    PeerVolumeStatus,
    ReplicationState,
    ResourceStatus,
    Suspension,
)

_log = logging.getLogger(__name__)

_FIGURES_SECONDS = 1.0
_FROZEN = {
    Suspension.FENCING: "the other replica was lost, and going on without it is not settled",
    Suspension.NO_DATA: "no complete data can be reached",
    Suspension.USER: "suspended by hand",
    Suspension.QUORUM: "there is no quorum",
    Suspension.UNKNOWN: "for a reason that this version does not know",
}
_RESYNC = status.RESYNC | {
    ReplicationState.STARTING_SYNC_S,
    ReplicationState.STARTING_SYNC_T,
    ReplicationState.WF_BITMAP_S,
    ReplicationState.WF_BITMAP_T,
    ReplicationState.WF_SYNC_UUID,
}


@dataclass(frozen=True)
class _Begun:
    """The first figures of a resync, from which its rate follows."""

    at: float  # time.monotonic()
    total_bytes: int
    done_bytes: int


class ReplicaStatuses:
    """``decision``: what the membership loop decided last. ``see`` from one thread, else safe.

    ``endless``: what is known of requests that do not end.
    """

    def __init__(
        self,
        decision: Callable[[str], Decision | None],
        endless: Callable[[str], Endless | None],
        verified: Verified,
    ) -> None:
        self._decision = decision
        self._endless = endless
        self._verified = verified
        self._mutex = threading.Lock()
        self._table: Mapping[str, ResourceStatus] = {}
        self._begun: dict[str, _Begun] = {}
        self._rates: dict[str, int] = {}
        self._active: dict[str, str] = {}
        self._figures_at = 0.0

    def figures_due(self, table: Mapping[str, ResourceStatus]) -> bool | None:
        """Whether ``see`` wants figures that events do not bring; None: not now, a moment later."""
        active = {name: _activity(one) for name, one in table.items() if _activity(one)}
        if not active and not self._active:
            return False
        late = time.monotonic() - self._figures_at >= _FIGURES_SECONDS
        return True if late or active != self._active else None

    def see(self, table: Mapping[str, ResourceStatus]) -> None:
        """All resources as they are now; with figures where something goes on, or has ended."""
        now = time.monotonic()
        active = {name: _activity(one) for name, one in table.items() if _activity(one)}
        ended = [name for name, what in self._active.items() if what == VERIFY != active.get(name)]
        for name in ended:
            self._note_verified(name, table.get(name))
        begun: dict[str, _Begun] = {}
        rates: dict[str, int] = {}
        for name, what in active.items():
            peer = _peer(table[name])
            if what != RESYNC or peer is None or not peer.resync_total_bytes:
                continue
            done, total = peer.resync_done_bytes or 0, peer.resync_total_bytes
            first = self._begun.get(name)
            if first is None or first.total_bytes != total or done < first.done_bytes:
                first = _Begun(now, total, done)
            begun[name] = first
            if now > first.at:
                rates[name] = round((done - first.done_bytes) / (now - first.at))
        if active or ended:
            self._figures_at = now
        with self._mutex:
            self._table, self._active = dict(table), active
            self._begun, self._rates = begun, rates

    def of(self, volume_id: str) -> ReplicaReport:
        """A volume of which nothing is known has a replica that is not set up."""
        decision = self._decision(volume_id)
        with self._mutex:
            found = self._table.get(volume_id)
            rate = self._rates.get(volume_id, 0)
        verify = self._verified.of(volume_id)
        doing = decision.words if decision is not None else "no arbiter has assigned it yet"
        endless = self._endless(volume_id)
        waits_for = REBOOT if endless and endless.forgotten else _waits_for(decision)
        serving = decision is not None and decision.serving
        if found is None or not found.volumes:
            return ReplicaReport(doing=doing, waits_for=waits_for, verify=verify)
        peer, activity = _peer(found), _activity(found)
        total = done = 0
        if peer is not None and activity == RESYNC:
            total, done = peer.resync_total_bytes or 0, peer.resync_done_bytes or 0
        return ReplicaReport(
            role=found.role.value,
            disk=found.disk.value,
            peer_disk=peer.disk.value if peer is not None else DiskState.DUNKNOWN.value,
            connection=_connection(found),
            activity=activity,
            frozen=_frozen(found) or (endless.words if endless else ""),
            out_of_sync_bytes=(peer.out_of_sync_bytes or 0) if peer is not None else 0,
            resync_total_bytes=total,
            resync_done_bytes=done,
            bytes_per_second=rate,
            doing=doing,
            waits_for=waits_for,
            serving=serving,
            verify=verify,
        )

    def _note_verified(self, name: str, now: ResourceStatus | None) -> None:
        peer = _peer(now) if now is not None else None
        report = VerifyReport(time.time(), trouble="it was interrupted before its end")
        if peer is not None and peer.replication is ReplicationState.ESTABLISHED:
            report = VerifyReport(time.time(), peer.out_of_sync_bytes or 0)
        if report.out_of_sync_bytes:
            words = "volume %s: its replicas differ in %d bytes"
            _log.error(words, name, report.out_of_sync_bytes)
        try:
            self._verified.keep(name, report)
        except OSError as error:
            _log.error("volume %s: the result of its verify cannot be kept: %s", name, error)


def problems(replica: ReplicaReport) -> list[Problem]:
    """What is wrong with a replica, seen from its own node."""
    found = []
    doing = f" ({replica.doing})" if replica.doing else ""
    if replica.waits_for == PERSON:
        text = f"it waits for a person's decision: {replica.doing}"
        found.append(Problem(Health.INACCESSIBLE, "WaitsForPerson", text))
    elif replica.waits_for == REBOOT:
        text = f"the node has to be rebooted: {replica.doing}"
        found.append(Problem(Health.INACCESSIBLE, "WaitsForReboot", text))
    if replica.frozen:
        text = f"its writes are held back: {replica.frozen}{doing}"
        return [*found, Problem(Health.INACCESSIBLE, "ReplicaFrozen", text)]
    if replica.disk == "Diskless":
        reachable = replica.connection == "Connected" and replica.peer_disk == "UpToDate"
        health = Health.DEGRADED if reachable else Health.INACCESSIBLE
        found.append(Problem(health, "ReplicaDiskless", f"the replica has no disk{doing}"))
    elif replica.disk == "Absent":
        text = f"the replica is not set up{doing}"
        found.append(Problem(Health.DEGRADED, "ReplicaAbsent", text))
    elif replica.activity == RESYNC:
        share = replica.resync_share
        percent = "" if share is None else f": {100 * share:.0f} %"
        found.append(Problem(Health.DEGRADED, "ReplicaResyncing", f"a resync goes on{percent}"))
    elif not replica.in_sync:
        text = f"not in sync: {replica.connection}, {replica.disk}/{replica.peer_disk}{doing}"
        found.append(Problem(Health.DEGRADED, "ReplicaNotInSync", text))
    elif replica.out_of_sync_bytes and replica.verify is not None and replica.activity != VERIFY:
        text = f"the replicas differ in {replica.out_of_sync_bytes} bytes, as a verify found"
        found.append(Problem(Health.DEGRADED, "ReplicasDiffer", text))
    return found


def _waits_for(decision: Decision | None) -> str:
    if decision is None:
        return ARBITER
    if decision.do is Do.REPORT_REBOOT:
        return REBOOT
    if decision.person:
        return PERSON
    return ARBITER if decision.unheard else ""


def _frozen(found: ResourceStatus) -> str:
    return "; ".join(_FROZEN[one] for one in sorted(found.suspended))


def _peer(found: ResourceStatus) -> PeerVolumeStatus | None:
    return next(found.peer_volumes(), None)


def _activity(found: ResourceStatus) -> str:
    peer = _peer(found)
    if peer is None:
        return ""
    if peer.replication in _RESYNC:
        return RESYNC
    return VERIFY if peer.replication in status.VERIFY else ""


def _connection(found: ResourceStatus) -> str:
    """In membership's words, of which there are fewer: Connected, WFConnection, StandAlone."""
    state = CONNECTIONS[found.connection().state]
    return state.value if state is not Connection.UNKNOWN else found.connection().state.value
