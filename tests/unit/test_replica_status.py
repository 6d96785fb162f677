"""How an agent reports its replicas: DRBD's table, the loop's decision, and what a verify found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cluster.agents import ARBITER, PERSON, REBOOT, RESYNC, VERIFY, Health, ReplicaReport
from node_agent.decision import Decision
from node_agent.endless_io import Endless
from node_agent.replica_status import ReplicaStatuses, problems
from node_agent.verified import Verified
from replication.actions import Do
from replication.status import (
    ConnectionState,
    ConnectionStatus,
    DiskState,
    PeerVolumeStatus,
    ReplicationState,
    ResourceStatus,
    Role,
    Suspension,
    VolumeStatus,
)

NAME = "vol-1"
MIB = 1 << 20
SERVES = Decision(Do.WAIT, "it serves", serving=True)


def resource(
    replication: ReplicationState = ReplicationState.ESTABLISHED,
    disk: DiskState = DiskState.UP_TO_DATE,
    peer: DiskState = DiskState.UP_TO_DATE,
    *,
    out_of_sync: int = 0,
    total: int | None = None,
    state: ConnectionState = ConnectionState.CONNECTED,
    suspended: frozenset[Suspension] = frozenset(),
) -> ResourceStatus:
    other = PeerVolumeStatus(0, replication, peer, out_of_sync, total)
    return ResourceStatus(
        NAME,
        Role.PRIMARY,
        suspended,
        (VolumeStatus(0, 1000, disk, 64 * MIB),),
        (ConnectionStatus(0, state, Role.SECONDARY, None, (other,)),),
    )


def statuses(
    folder: Path, decision: Decision | None = SERVES, endless: Endless | None = None
) -> ReplicaStatuses:
    return ReplicaStatuses(lambda name: decision, lambda name: endless, Verified(folder))


def test_a_replica_in_sync_has_no_problems(tmp_path: Path) -> None:
    found = statuses(tmp_path)
    found.see({NAME: resource()})
    report = found.of(NAME)
    assert (report.role, report.in_sync, report.serving, report.frozen) == (
        "Primary",
        True,
        True,
        "",
    )
    assert problems(report) == []


def test_what_no_arbiter_has_assigned_is_not_set_up(tmp_path: Path) -> None:
    report = statuses(tmp_path, None).of(NAME)
    assert (report.disk, report.waits_for) == ("Absent", ARBITER)
    (problem,) = problems(report)
    assert problem.health is Health.DEGRADED
    assert "no arbiter has assigned it yet" in problem.message


def test_frozen_writes_have_a_reason(tmp_path: Path) -> None:
    waiting = Decision(Do.ASK_ALONE, "asking to go on alone", "no controller answers")
    found = statuses(tmp_path, waiting)
    found.see(
        {
            NAME: resource(
                ReplicationState.OFF,
                peer=DiskState.DUNKNOWN,
                state=ConnectionState.CONNECTING,
                suspended=frozenset({Suspension.FENCING}),
            )
        }
    )
    report = found.of(NAME)
    assert "the other replica was lost" in report.frozen
    (problem,) = problems(report)
    assert problem.health is Health.INACCESSIBLE
    assert "no controller answers" in problem.message


def test_a_forgotten_flush_waits_for_a_reboot(tmp_path: Path) -> None:
    found = statuses(tmp_path, endless=Endless("nothing has ended for 40 s", forgotten=True))
    found.see({NAME: resource()})
    report = found.of(NAME)
    assert (report.frozen, report.waits_for) == ("nothing has ended for 40 s", REBOOT)
    assert {problem.reason for problem in problems(report)} == {"WaitsForReboot", "ReplicaFrozen"}


def test_a_disk_that_does_not_answer_waits_for_nobody(tmp_path: Path) -> None:
    found = statuses(tmp_path, endless=Endless("its disk does not answer", forgotten=False))
    found.see({NAME: resource()})
    assert found.of(NAME).waits_for == ""
    (problem,) = problems(found.of(NAME))
    assert (problem.health, problem.reason) == (Health.INACCESSIBLE, "ReplicaFrozen")


def test_a_resync_has_a_share_and_a_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter((100.0, 110.0))
    monkeypatch.setattr("node_agent.replica_status.time.monotonic", lambda: next(clock))
    found = statuses(tmp_path)
    for left in (48 * MIB, 28 * MIB):
        found.see(
            {
                NAME: resource(
                    ReplicationState.SYNC_SOURCE,
                    peer=DiskState.INCONSISTENT,
                    out_of_sync=left,
                    total=64 * MIB,
                )
            }
        )
    report = found.of(NAME)
    assert report.activity == RESYNC
    assert report.resync_share == 36 / 64
    assert report.bytes_per_second == 2 * MIB
    assert report.seconds_left == 14
    (problem,) = problems(report)
    assert (problem.health, problem.message) == (Health.DEGRADED, "a resync goes on: 56 %")


@pytest.mark.parametrize("found_bytes", [0, 8192])
def test_the_result_of_a_verify_outlasts_the_agent(tmp_path: Path, found_bytes: int) -> None:
    found = statuses(tmp_path)
    found.see({NAME: resource(ReplicationState.VERIFY_S)})
    assert found.of(NAME).activity == VERIFY
    assert found.of(NAME).verify is None
    found.see({NAME: resource(out_of_sync=found_bytes)})
    again = statuses(tmp_path)
    again.see({NAME: resource(out_of_sync=found_bytes)})
    report = again.of(NAME)
    assert report.verify is not None
    assert (report.verify.out_of_sync_bytes, report.verify.trouble) == (found_bytes, "")
    assert [one.reason for one in problems(report)] == (["ReplicasDiffer"] if found_bytes else [])


def test_a_verify_that_loses_its_peer_tells_nothing(tmp_path: Path) -> None:
    found = statuses(tmp_path)
    found.see({NAME: resource(ReplicationState.VERIFY_S)})
    found.see({NAME: resource(ReplicationState.OFF, state=ConnectionState.CONNECTING)})
    verify = found.of(NAME).verify
    assert verify is not None
    assert "interrupted" in verify.trouble


def test_a_result_that_is_damaged_counts_as_none(tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.verify").write_text("{")
    assert statuses(tmp_path).of(NAME).verify is None


@pytest.mark.parametrize(
    ("decision", "whom"),
    [
        (Decision(Do.REPORT_REBOOT, "its users cannot be ended"), REBOOT),
        (Decision(Do.WAIT, "the disk of the last replica failed", person=True), PERSON),
        (Decision(Do.WAIT, "waiting for the other node", word="a person can decide: …"), ""),
        (Decision(Do.WAIT, "waiting", unheard=True), ARBITER),
    ],
)
def test_for_whom_it_waits(tmp_path: Path, decision: Decision, whom: str) -> None:
    found = statuses(tmp_path, decision)
    found.see({NAME: resource()})
    report = found.of(NAME)
    assert report.waits_for == whom
    reasons = [one.reason for one in problems(report)]
    assert reasons == {REBOOT: ["WaitsForReboot"], PERSON: ["WaitsForPerson"]}.get(whom, [])


def test_a_failed_disk_is_degraded_while_its_peer_serves_it() -> None:
    diskless = ReplicaReport("Primary", "Diskless", "UpToDate", "Connected")
    assert problems(diskless)[0].health is Health.DEGRADED
    assert problems(replace(diskless, connection="StandAlone"))[0].health is Health.INACCESSIBLE


def test_figures_are_wanted_only_while_something_goes_on(tmp_path: Path) -> None:
    found = statuses(tmp_path)
    quiet = {NAME: resource()}
    busy = {NAME: resource(ReplicationState.SYNC_SOURCE, total=MIB, out_of_sync=MIB)}
    assert found.figures_due(quiet) is False
    assert found.figures_due(busy) is True
    found.see(busy)
    assert found.figures_due(busy) is None  # not before a second has passed
    assert found.figures_due(quiet) is True  # it has ended: the last figures tell how
    found.see(quiet)
    assert found.figures_due(quiet) is False
