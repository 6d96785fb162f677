"""How a replicated volume is, in words: what people read when something is wrong."""

from __future__ import annotations

from dataclasses import replace

from cluster.agents import PERSON, REBOOT, RESYNC, Health, ReplicaReport, VerifyReport, VolumeReport
from cluster.errors import ClusterError, NotFound, Unavailable
from cluster.membership import Membership
from cluster.model import Phase, ReplicaPlace, Replication, Volume, VolumeSpec
from cluster.replicated_state import ReplicatedState, explain, judge, summary

PLACES = (ReplicaPlace("n1", 0, "10.0.0.1"), ReplicaPlace("n2", 1, "10.0.0.2"))
VOLUME = Volume(
    "vol-1",
    "data",
    1 << 30,
    VolumeSpec("default", replicas=2),
    Phase.READY,
    ("n1", "n2"),
    replication=Replication(1000, 7800, "0123456789abcdee", PLACES),
)
BOTH = Membership(("n1", "n2"), ("n1", "n2"), primary="n1", active="n1")
ALONE = replace(BOTH, members=("n1",))
WELL = ReplicaReport("Primary", "UpToDate", "UpToDate", "Connected", serving=True)
AWAY = Unavailable("n2 is down")


def report(
    replica: ReplicaReport = WELL, health: Health = Health.OK, trouble: str = ""
) -> VolumeReport:
    return VolumeReport(
        VOLUME.id, 1 << 30, "default", "", True, True, True, (), health, trouble, replica=replica
    )


def state(
    record: Membership | None,
    n1: VolumeReport | ClusterError,
    n2: VolumeReport | ClusterError,
    decision: str = "",
) -> ReplicatedState:
    return ReplicatedState(VOLUME, record, {"n1": n1, "n2": n2}, decision)


def test_in_sync_is_said_in_one_sentence() -> None:
    found = state(BOTH, report(), report(replace(WELL, role="Secondary", serving=False)))
    assert judge(found) == (Health.OK, "")
    assert summary(found) == "2/2 in sync"
    assert explain(found) == "Every acknowledged write is on n1 and n2."


def test_one_silent_replica_is_degraded_not_inaccessible() -> None:
    found = state(ALONE, report(replace(WELL, connection="WFConnection")), AWAY)
    health, text = judge(found)
    assert health is Health.DEGRADED
    assert "n2 does not answer: n2 is down" in text
    assert summary(found) == "1/2, n2 away"
    assert "only n1 has all that was acknowledged" in explain(found)
    assert "when it is back, its replica is brought up to date by itself" in explain(found)


def test_the_only_complete_replica_away_is_inaccessible() -> None:
    outdated = report(ReplicaReport("Secondary", "Outdated", connection="WFConnection"))
    assert judge(state(replace(ALONE, members=("n2",)), outdated, AWAY))[0] is Health.INACCESSIBLE
    # Also where the publisher is away and the other one complete: nothing is served now.
    assert judge(state(BOTH, Unavailable("n1 is down"), report()))[0] is Health.INACCESSIBLE


def test_replicas_that_are_gone() -> None:
    gone = NotFound("no volume")
    assert judge(state(BOTH, report(), gone))[0] is Health.DEGRADED
    assert judge(state(BOTH, gone, gone))[0] is Health.DATA_LOSS


def test_a_resync_is_told_with_percent_rate_and_time_left() -> None:
    target = ReplicaReport(
        "Secondary",
        "Inconsistent",
        "UpToDate",
        "Connected",
        RESYNC,
        resync_total_bytes=100 << 20,
        resync_done_bytes=43 << 20,
        bytes_per_second=1 << 20,
    )
    sick = report(target, Health.DEGRADED, "a resync goes on: 43 %")
    source = replace(WELL, peer_disk="Inconsistent", activity=RESYNC)
    found = state(ALONE, report(source, Health.DEGRADED, "a resync goes on"), sick)
    assert summary(found) == "1/2, resync 43 %"
    assert "n2 is brought up to date: 43 % of 100.0 MiB at 1.0 MiB/s, about 57 s left" in explain(
        found
    )


def test_frozen_writes_are_told_with_their_reason_and_the_way_out() -> None:
    frozen = replace(
        WELL, peer_disk="DUnknown", connection="WFConnection", frozen="the other replica was lost"
    )
    sick = report(frozen, Health.INACCESSIBLE, "its writes are held back")
    decision = "2 of 3 nodes are silent at once (n2, n3): standing down"
    found = state(BOTH, sick, AWAY, decision)
    assert judge(found)[0] is Health.INACCESSIBLE
    assert summary(found) == "frozen: the other replica was lost"
    words = explain(found)
    assert "Writes on n1 wait, and none is acknowledged: the other replica was lost." in words
    assert decision in words
    assert "`xlss volume fail-over data --to n1`" in words


def test_a_decision_of_a_person_is_named_by_its_command() -> None:
    waiting = ReplicaReport(
        "Secondary", "Inconsistent", connection="WFConnection", waits_for=PERSON
    )
    words = explain(state(replace(ALONE, members=("n2",)), report(waiting), AWAY))
    assert "`xlss volume force-primary data --node n1 --accept-data-loss`" in words
    stuck = replace(waiting, waits_for=REBOOT)
    assert "n1 has to be rebooted" in explain(state(BOTH, report(stuck), AWAY))


def test_a_disk_that_failed_is_offered_as_the_volume_where_there_is_no_other() -> None:
    failed = report(ReplicaReport("Primary", "Diskless", waits_for=PERSON))
    other = report(ReplicaReport("Secondary", "Inconsistent"))
    assert "force-primary data --node n2" in explain(state(ALONE, failed, other))
    assert "force-primary data --node n1" in explain(state(ALONE, failed, AWAY))


def test_without_a_complete_replica_it_is_said_what_is_waited_for_and_the_way_out() -> None:
    outdated = report(ReplicaReport("Secondary", "Outdated", connection="WFConnection"))
    away = Unavailable("n1 is down")
    words = explain(state(ALONE, away, outdated))
    assert "only n1 has all that was acknowledged" in words
    assert "nothing is served before it is back" in words
    assert "brought up to date" not in words
    assert "waits for the missing nodes, or for a person's decision" in words
    assert "`xlss volume force-primary data --node n2 --accept-data-loss`" in words
    gone = explain(state(ALONE, NotFound("no volume"), outdated))
    assert "force-primary data --node n2" in gone
    # One complete replica is there: nobody has to decide anything.
    assert "force-primary" not in explain(state(BOTH, away, outdated))
    assert "force-primary" not in explain(state(BOTH, away, AWAY))


def test_a_quarantine_permits_nothing() -> None:
    record = replace(BOTH, quarantine="the store is older: waiting for n2 to report")
    found = state(record, report(), AWAY)
    assert judge(found) == (Health.INACCESSIBLE, record.quarantine)
    assert "force-primary" in explain(found)
    assert judge(state(None, report(), AWAY))[0] is Health.INACCESSIBLE


def test_blocks_that_differ_are_followed_up() -> None:
    differing = replace(WELL, out_of_sync_bytes=8192, verify=VerifyReport(1.0, 8192))
    words = explain(state(BOTH, report(differing), report()))
    assert "found 8192 B that differ" in words
    assert "disconnect and connect again" in words
    mended = replace(differing, out_of_sync_bytes=0)
    assert "they are resynced" in explain(state(BOTH, report(mended), report()))
