"""Who may serve, who comes back, and what the agent does next: a story for each rule."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.membership import Boot, Held, Membership, Report
from cluster.model import from_object, to_object
from replication import arbiter_rules as arbiter
from replication.actions import Action, Do, Situation, Yes
from replication.membership import next_action
from replication.membership import surely_target as target
from replication.record import Connection, Disk, Generations, Notes, Role, Statement, Users, View

BOOTS = (Boot("a", "1"), Boot("b", "1"))
BOTH = Membership(("a", "b"), ("a", "b"), "a", "a", 5, "g1", BOOTS)
ONLY_A = replace(BOTH, members=("a",), boots=BOOTS[:1])
CUT = Connection.STANDALONE
NOTED = Notes(BOTH)


def view(node: str = "a", **changes: object) -> View:
    whole = View(node, "1", Role.SECONDARY, Role.SECONDARY, Disk.UP_TO_DATE, Disk.UP_TO_DATE)
    whole = replace(whole, connection=Connection.CONNECTED, generations=Generations("g1"))
    return replace(whole, **changes)  # type: ignore[arg-type]


def frozen(**changes: object) -> View:
    lost = view(role=Role.PRIMARY, suspended=True, users=Users.ALIVE, peer_disk=Disk.UNKNOWN)
    return replace(lost, **{"connection": CUT, **changes})  # type: ignore[arg-type]


def states(seen: View, revision: int = 9, epoch: int = 5) -> Statement:
    return Statement(seen, revision, epoch)


def held(record: Membership = BOTH) -> Held:
    return Held(record, 9)


def does(seen: View, record: Membership | None = BOTH, **more: object) -> Action:
    known = {"notes": Notes(record), "held": held(record) if record is not None else None, **more}
    return next_action(Situation(seen, **known))  # type: ignore[arg-type]


# ---- the arbiter ----


def test_a_frozen_primary_takes_its_peer_out() -> None:
    answer = arbiter.serve_alone(held(), states(frozen()))

    assert answer.granted
    assert (answer.record.members, answer.record.epoch) == (("a",), 6)


def test_the_epoch_rises_also_when_the_peer_is_out_already() -> None:
    assert arbiter.serve_alone(held(ONLY_A), states(frozen())).record.epoch == 6


@pytest.mark.parametrize(
    ("record", "stated", "words"),
    [
        (BOTH, states(frozen(), revision=8), "read it again"),
        (BOTH, states(frozen(), epoch=6), "has to report"),
        (BOTH, states(frozen(connection=Connection.CONNECTING)), "cut its connection"),
        (BOTH, states(frozen(disk=Disk.INCONSISTENT)), "complete replica"),
        (BOTH, states(frozen(generations=Generations("g0"))), "older than generation g1"),
        (BOTH, states(view("b", connection=CUT)), "published on a"),
        (replace(ONLY_A, primary="b"), states(view("b", connection=CUT)), "resync first"),
        (
            replace(BOTH, primary="b"),
            states(view("b", connection=CUT, boot_id="2")),
            "last primary",
        ),
        (replace(BOTH, quarantine="rolled back"), states(frozen()), "rolled back"),
    ],
)
def test_who_may_not_serve_alone_is_told_why(
    record: Membership, stated: Statement, words: str
) -> None:
    answer = arbiter.serve_alone(held(record), stated)

    assert not answer.granted
    assert words in answer.reason
    assert answer.record == record


def test_the_first_primary_takes_the_boot_of_its_peer_for_one_that_has_everything() -> None:
    new = replace(BOTH, active="", boots=())
    peer = states(view("b", boot_id="7"))

    first = arbiter.serve_connected(held(new), states(view()), peer).record
    later = arbiter.serve_connected(
        held(replace(first, active="")), states(view()), states(view("b", boot_id="8"))
    ).record

    assert first.boots == (Boot("a", "1"), Boot("b", "7"))
    assert later.boots == first.boots
    assert not later.trusts("b", "8")


def test_after_a_failover_only_the_new_primary_is_heard() -> None:
    record = arbiter.fail_over(BOTH, "b").record

    assert not arbiter.serve_alone(held(record), states(frozen(), epoch=6)).granted
    taken = arbiter.serve_alone(held(record), states(view("b", connection=CUT)))
    assert taken.record.members == ("b",)
    assert not arbiter.fail_over(taken.record, "a").granted


def test_a_node_is_back_on_the_revision_that_both_saw() -> None:
    one, other = states(view()), states(view("b"))

    assert arbiter.rejoin(held(ONLY_A), one, other).record.members == ("a", "b")
    assert not arbiter.rejoin(held(ONLY_A), one, states(view("b"), revision=8)).granted
    early = states(view("b", connection=Connection.SYNC_TARGET, disk=Disk.INCONSISTENT))
    assert "wait for both" in arbiter.rejoin(held(ONLY_A), one, early).reason
    elsewhere = states(view("b", generations=Generations("g2")))
    assert not arbiter.rejoin(held(ONLY_A), one, elsewhere).granted


def test_who_serves_when_both_are_back_is_the_one_whose_flushes_count() -> None:
    """A person may have chosen the other one meanwhile."""
    chosen = arbiter.force_primary(BOTH, "b", True).record
    both = (states(view(role=Role.PRIMARY), epoch=6), states(view("b"), epoch=6))
    assert arbiter.rejoin(held(chosen), *both).record.active == "a"
    idle = (states(view(), epoch=6), both[1])
    assert arbiter.rejoin(held(chosen), *idle).record.active == "b"


def test_the_last_replica_never_leaves() -> None:
    assert arbiter.leave(held(), states(view("b"))).record.members == ("a",)
    assert "last replica" in arbiter.leave(held(ONLY_A), states(view())).reason


def test_a_replica_is_given_up_only_for_a_complete_one() -> None:
    removed = arbiter.remove_replica(held(), "b", states(view()))
    assert (removed.record.members, removed.record.replicas) == (("a",), ("a",))
    assert arbiter.add_replica(removed.record, "c").record.replicas == ("a", "c")

    broken = states(view(disk=Disk.DISKLESS))
    assert not arbiter.remove_replica(held(), "b", broken).granted
    assert "unpublish" in arbiter.remove_replica(held(), "a", states(view("b"))).reason


def test_a_store_rolled_back_waits_for_all_replicas() -> None:
    newer = replace(ONLY_A, epoch=8)
    assert "b" in arbiter.rolled_back(held(), [states(view("b"), epoch=8)])

    first = arbiter.report(held(), "a", newer).record
    assert "waiting for b" in first.quarantine
    assert not arbiter.fail_over(first, "b").granted
    assert arbiter.report(held(first), "b", BOTH).record == replace(newer, epoch=9)


def test_reports_that_contradict_are_for_a_person() -> None:
    rivals = replace(ONLY_A, epoch=8), replace(BOTH, members=("b",), epoch=8)
    first = arbiter.report(held(), "a", rivals[0]).record
    second = arbiter.report(held(first), "b", rivals[1]).record
    assert "a person decides" in second.quarantine

    assert not arbiter.force_primary(second, "b", accept_data_loss=False).granted
    forced = arbiter.force_primary(second, "b", accept_data_loss=True).record
    assert (forced.members, forced.quarantine, forced.epoch) == (("b",), "", 9)


def test_a_person_may_choose_a_disk_that_had_failed() -> None:
    """What is on it is all that is left; whether it can be read, attaching it shows."""
    forced = arbiter.force_primary(ONLY_A, "a", accept_data_loss=True).record
    failed = Notes(forced, disk_failed=True)
    users = view(disk=Disk.DISKLESS, role=Role.PRIMARY, connection=CUT, users=Users.ALIVE)
    assert does(users, forced, notes=failed).do is Do.KILL_USERS
    nobody = replace(users, users=Users.NONE)
    assert does(nobody, forced, notes=failed).do is Do.TAKE_DOWN
    assert does(replace(nobody, role=Role.SECONDARY), forced, notes=failed).do is Do.TAKE_DOWN
    gone = view(disk=Disk.ABSENT, connection=CUT)
    noted = does(gone, forced, notes=failed)
    assert noted.do is Do.NOTE and noted.notes == Notes(forced)
    assert does(gone, forced, notes=Notes(forced)).do is Do.ATTACH
    # Nobody has chosen it: then it waits.
    assert does(gone, ONLY_A, notes=Notes(ONLY_A, disk_failed=True)).person


def test_what_a_person_forced_is_served_like_any_other_once_it_has_served() -> None:
    """Else its next publishing would wait for a failover, beside a peer that is connected."""
    forced = arbiter.force_primary(ONLY_A, "b", accept_data_loss=True).record
    behind = view("b", connection=CUT, disk=Disk.OUTDATED)
    permitted = arbiter.serve_alone(held(forced), states(behind, epoch=forced.epoch)).record
    yes = Yes(permitted.epoch, Do.ASK_ALONE)
    assert does(replace(behind, grant=True), permitted, yes=yes).do is Do.PROMOTE_BY_FORCE

    # As the kernel has it then (8.4.11): two generations later, g1 is forgotten.
    serving = view("b", role=Role.PRIMARY, connection=CUT, generations=Generations("g7", "g6"))
    assert does(serving, permitted).do is Do.ASK_CONFIRM
    unforced = held(replace(permitted, forced=""))
    assert not arbiter.confirm(unforced, states(serving, epoch=permitted.epoch)).granted
    confirmed = arbiter.confirm(held(permitted), states(serving, epoch=permitted.epoch)).record
    whole = [
        states(view(node, generations=Generations("g7")), epoch=confirmed.epoch)
        for node in ("a", "b")
    ]
    both = arbiter.rejoin(held(confirmed), *whole).record
    assert both.members == ("a", "b")
    unused = view("b", generations=Generations("g7"))
    for record in (confirmed, both):
        seen = replace(
            unused, peer_disk=Disk.INCONSISTENT if record is confirmed else Disk.UP_TO_DATE
        )
        assert does(seen, record).do is Do.ASK_CONNECTED


def test_records_travel_as_json() -> None:
    record = replace(BOTH, quarantine="why")

    assert from_object(Membership, to_object(record)) == record


# ---- the agent ----


def test_the_only_replica_lets_go_of_the_address_of_the_one_that_left() -> None:
    """A primary that is connected does not: the other takes itself down, without a freeze here."""
    only = replace(ONLY_A, replicas=("a",))
    for published in ("a", ""):
        record = replace(only, primary=published)
        role = Role.PRIMARY if published else Role.SECONDARY
        calling = view(role=role, connection=Connection.CONNECTING, peer_disk=Disk.UNKNOWN)
        assert does(calling, record).do is Do.FORCE_DISCONNECT
        assert does(replace(calling, connection=CUT), record).do is Do.WAIT
    assert does(view(role=Role.PRIMARY), only).do is Do.WAIT
    # That one may still be primary, and must not write through this one after the confirmation.
    left = replace(only, primary="", active="b")
    assert does(view(), left).do is Do.FORCE_DISCONNECT
    assert does(view(connection=CUT), left).do is Do.ASK_CONFIRM


def test_the_replica_that_takes_its_place_is_filled_from_the_one_that_stayed() -> None:
    only = replace(ONLY_A, replicas=("a",))
    added = arbiter.add_replica(only, "c").record
    kept = view(role=Role.PRIMARY, connection=CUT, peer_disk=Disk.UNKNOWN)
    blank = view("c", connection=CUT, disk=Disk.INCONSISTENT, generations=Generations())
    assert does(kept, added).do is Do.WAIT
    assert does(kept, added, peer=states(blank)).do is Do.CONNECT
    assert does(blank, added, peer=states(kept)).do is Do.CONNECT
    early = states(blank, revision=8)
    assert does(kept, added, peer=early).do is Do.WAIT


def test_a_frozen_primary_cuts_asks_notes_and_goes_on() -> None:
    assert does(frozen(connection=Connection.CONNECTING)).do is Do.FORCE_DISCONNECT
    assert does(frozen()).do is Do.ASK_ALONE
    permitted = replace(ONLY_A, epoch=6)
    yes = Yes(6, Do.ASK_ALONE)
    assert does(frozen(), permitted, notes=NOTED, yes=yes).do is Do.NOTE
    assert does(frozen(), permitted, yes=yes).do is Do.RESUME_IO


def test_a_restarted_agent_remembers_no_permission() -> None:
    assert does(frozen(), ONLY_A).do is Do.ASK_ALONE
    assert does(frozen(), ONLY_A, yes=Yes(4, Do.ASK_ALONE)).do is Do.ASK_ALONE


def test_without_an_arbiter_a_frozen_primary_only_tries_its_peer() -> None:
    assert does(frozen(), None).do is Do.CONNECT
    assert "frozen" in does(frozen(connection=Connection.CONNECTING), None).reason


def test_a_fenced_primary_loses_its_users_before_its_io_goes_on() -> None:
    fenced = replace(BOTH, members=("b",), primary="b")
    assert does(frozen(), fenced).do is Do.KILL_USERS
    assert does(frozen(users=Users.STUCK), fenced).do is Do.REPORT_REBOOT
    assert does(frozen(users=Users.NONE), fenced).do is Do.DETACH
    assert does(frozen(users=Users.NONE, disk=Disk.DISKLESS), fenced).do is Do.RESUME_IO


def test_the_only_member_goes_on_once_nobody_hears_of_it() -> None:
    """Or it would wait for the other node, which waits for it."""
    unpublished = replace(ONLY_A, primary="")
    assert does(frozen(), unpublished).do is Do.KILL_USERS
    idle = frozen(users=Users.NONE)
    calling = replace(idle, connection=Connection.CONNECTING)
    assert does(calling, unpublished).do is Do.FORCE_DISCONNECT
    assert does(idle, unpublished).do is Do.RESUME_IO
    assert does(calling, replace(BOTH, primary="")).do is Do.WAIT
    assert does(idle, replace(BOTH, primary="")).do is Do.CONNECT


def test_a_failed_disk_of_the_peer_holds_writes_back_first() -> None:
    seen = view(role=Role.PRIMARY, peer_disk=Disk.DISKLESS, users=Users.ALIVE)
    assert does(seen).do is Do.SUSPEND_FACE
    assert does(replace(seen, face_suspended=True)).do is Do.FORCE_DISCONNECT


def test_a_failed_disk_is_noted_then_leaves() -> None:
    seen = view("b", disk=Disk.DISKLESS)
    noted = does(seen)
    assert noted.notes is not None and noted.notes.disk_failed
    assert does(seen, notes=noted.notes).do is Do.ASK_LEAVE
    whole = states(view("a", peer_disk=Disk.DISKLESS))
    assert does(seen, ONLY_A, notes=Notes(ONLY_A, True), peer=whole).do is Do.ASK_FILL


@pytest.mark.parametrize("disk", [Disk.DISKLESS, Disk.ABSENT])
def test_a_failed_disk_is_filled_anew_only_from_a_complete_one(disk: Disk) -> None:
    """It may hold the last copy, where the other one was being filled from it."""
    seen, failed = view("b", disk=disk, connection=CUT), Notes(ONLY_A, True)
    for told in (None, states(view("a"), revision=8), states(frozen(users=Users.NONE))):
        waiting = does(seen, ONLY_A, notes=failed, peer=told)
        assert (waiting.do, waiting.person) == (Do.WAIT, False)
    half = states(view("a", disk=Disk.INCONSISTENT))
    left = replace(ONLY_A, active="b")
    rebooted = states(view("a", boot_id="2"))
    for record, told in ((ONLY_A, half), (left, rebooted)):
        assert does(seen, record, notes=failed, peer=told).person
    assert does(seen, left, notes=failed, peer=states(view("a"))).do is Do.ASK_FILL


def test_before_a_replica_is_filled_anew_the_member_says_once_more_that_it_is_complete() -> None:
    seen, whole = view("b", disk=Disk.DISKLESS, connection=CUT), view("a")
    asked = arbiter.fill_anew(held(ONLY_A), states(seen))
    assert (asked.granted, asked.record.epoch) == (True, ONLY_A.epoch + 1)
    assert not arbiter.fill_anew(held(BOTH), states(seen)).granted
    failed, yes = Notes(asked.record, True), Yes(asked.record.epoch, Do.ASK_FILL)
    known = {"notes": failed, "yes": yes}
    assert does(seen, asked.record, peer=states(whole, revision=8), **known).do is Do.WAIT
    assert does(seen, asked.record, peer=states(whole), **known).do is Do.INVALIDATE


def test_a_survivor_is_promoted_by_a_grant() -> None:
    record = replace(BOTH, primary="b")
    alone = view("b", connection=Connection.CONNECTING)
    assert does(alone, record).do is Do.WAIT
    assert does(alone, record, go_alone=True).do is Do.FORCE_DISCONNECT
    cut = replace(alone, connection=CUT)
    assert does(cut, record, go_alone=True).do is Do.ASK_ALONE
    taken = replace(record, members=("b",), active="b")
    yes = Yes(5, Do.ASK_ALONE)
    assert does(cut, taken, yes=yes).do is Do.WRITE_GRANT
    assert does(replace(cut, grant=True), taken, yes=yes).do is Do.PROMOTE


def test_a_sync_target_waits_for_its_source_or_a_person() -> None:
    seen = view("b", connection=Connection.CONNECTING, disk=Disk.INCONSISTENT)

    waiting = does(seen, replace(BOTH, primary="b"), go_alone=True)
    assert ("force-primary" in waiting.reason, waiting.person) == (True, True)


def test_the_survivor_stays_alone_until_the_other_is_no_primary() -> None:
    serving = view(role=Role.PRIMARY, connection=CUT, generations=Generations("g1", "g0"))
    assert does(serving, ONLY_A).do is Do.WAIT
    other = view("b", generations=Generations("g0"))
    assert does(serving, ONLY_A, peer=states(replace(other, role=Role.PRIMARY))).do is Do.WAIT
    assert does(serving, ONLY_A, peer=states(other, revision=8)).do is Do.WAIT
    assert does(serving, ONLY_A, peer=states(other)).do is Do.CONNECT
    for disk in (Disk.ABSENT, Disk.DISKLESS):
        assert does(serving, ONLY_A, peer=states(replace(other, disk=disk))).do is Do.WAIT
    assert does(replace(serving, grant=True), ONLY_A).do is Do.REMOVE_GRANT
    assert "only replica" in does(serving, replace(ONLY_A, replicas=("a",))).reason


def test_a_primary_leaves_a_peer_whose_disk_fails_before_that_one_can_freeze_it() -> None:
    """Outside the set as well: nothing that is written waits for it."""
    serving = view(role=Role.PRIMARY, peer_disk=Disk.DISKLESS, users=Users.ALIVE)
    assert does(serving, ONLY_A).do is Do.SUSPEND_FACE
    held_back = replace(serving, face_suspended=True)
    assert does(held_back, ONLY_A).do is Do.FORCE_DISCONNECT
    alone = replace(held_back, connection=CUT, peer_disk=Disk.UNKNOWN)
    assert does(alone, ONLY_A).do is Do.RESUME_FACE
    assert does(replace(alone, suspended=True), ONLY_A).do is Do.ASK_ALONE


@pytest.mark.parametrize("role", [Role.PRIMARY, Role.SECONDARY])
def test_the_record_follows_the_generation_before_a_resync_can_make_drbd_forget_the_old_one(
    role: Role,
) -> None:
    record = ONLY_A if role is Role.PRIMARY else replace(ONLY_A, primary="")
    ahead = view(role=role, connection=CUT, generations=Generations("g2", "g1"))
    assert does(ahead, record, peer=states(view("b"))).do is Do.ASK_CONFIRM

    confirmed = arbiter.confirm(held(record), states(ahead)).record
    assert confirmed.generation == "g2"
    assert does(ahead, confirmed, notes=Notes(confirmed), peer=states(view("b"))).do is Do.CONNECT

    resynced = replace(ahead, connection=Connection.CONNECTED, generations=Generations("g2", "g5"))
    back = replace(view("b"), generations=Generations("g2", "g5"))
    both = [states(one, epoch=confirmed.epoch) for one in (resynced, back)]
    assert arbiter.rejoin(held(confirmed), *both).granted


def test_a_replica_outside_comes_back_only_as_a_target() -> None:
    seen = view("b", connection=CUT)
    complete = view(role=Role.PRIMARY, generations=Generations("g2", "g1"))
    assert does(seen, ONLY_A).do is Do.OUTDATE
    seen = replace(seen, disk=Disk.OUTDATED)
    assert does(seen, ONLY_A).do is Do.WAIT
    assert does(seen, ONLY_A, peer=states(replace(complete, suspended=True))).do is Do.WAIT
    assert does(seen, ONLY_A, peer=states(complete)).do is Do.CONNECT
    handshake = replace(seen, connection=Connection.UNKNOWN, generations=Generations("g9"))
    assert does(handshake, ONLY_A, peer=states(complete)).do is Do.WAIT
    stray = replace(seen, generations=Generations("g3", "g1"))
    assert does(stray, ONLY_A, peer=states(complete)).do is Do.ASK_FILL


def test_equal_generations_outside_the_set_begin_a_new_one() -> None:
    outside = view("b", connection=CUT, disk=Disk.OUTDATED)
    member = view(connection=CUT)
    assert does(outside, ONLY_A, peer=states(member)).do is Do.WAIT
    unpublished = replace(ONLY_A, primary="")
    assert does(member, unpublished, peer=states(outside)).do is Do.NEW_GENERATION


def test_a_member_that_lost_power_leaves_unless_it_was_the_last_primary() -> None:
    assert does(view("b", boot_id="2", connection=CUT)).do is Do.ASK_LEAVE
    assert does(view("a", boot_id="2", connection=CUT)).do is Do.CONNECT
    alone = replace(BOTH, members=("b",))
    assert "person" in does(view("b", boot_id="2"), alone).reason
    assert does(view("b"), alone).do is Do.ASK_CONFIRM


FAILED = {"disk": Disk.DISKLESS, "generations": Generations()}


@pytest.mark.parametrize(
    "seen",
    [
        frozen(**FAILED),
        view(role=Role.PRIMARY, peer_disk=Disk.INCONSISTENT, **FAILED),
        view(connection=CUT, disk=Disk.ABSENT),
        view(connection=CUT, **FAILED),
    ],
    ids=["frozen", "through a peer that lacks something", "not set up", "set up"],
)
def test_the_failed_disk_of_the_last_replica_is_for_a_person(seen: View) -> None:
    found = does(seen, ONLY_A, notes=Notes(ONLY_A, True))
    assert (found.do, found.person) == (Do.WAIT, True)
    assert "force-primary" in found.reason


def test_what_else_only_a_person_ends_is_told_as_that() -> None:
    assert does(view("b", boot_id="2"), replace(BOTH, members=("b",))).person
    quarantined = replace(BOTH, quarantine="waiting for b", reports=(Report("a", None),))
    assert does(view(), quarantined).person
    assert not does(view()).person
    chosen = replace(BOTH, members=("b",), primary="", active="b", boots=(), forced="b")
    assert does(view("b", disk=Disk.OUTDATED, connection=Connection.CONNECTING), chosen).person


def test_an_older_store_is_reported_before_anything() -> None:
    assert does(frozen(), notes=Notes(replace(ONLY_A, epoch=8))).do is Do.REPORT


def test_only_what_begins_from_it_makes_a_target() -> None:
    assert target(Generations("g1"), Generations("g2", "g1"))
    assert target(Generations("g1"), Generations("g3", "g2", ("g1",)))
    assert not target(Generations("g1"), Generations("g1"))
    assert not target(Generations("g3", "g1"), Generations("g2", "g1"))
