"""The loop carries out what membership decides, and asks an arbiter of the real rules."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from cluster import errors
from cluster.membership import Boot, Held, Membership
from cluster.model import Replication
from host.errors import CommandStuck
from node_agent.arbiter import Answer, Assignment
from node_agent.membership_loop import MembershipLoop
from node_agent.notes import NoteBook
from replication import arbiter_rules
from replication.actions import Do
from replication.record import Connection, Disk, Generations, Notes, Role, Statement, Users, View

RECORD = Membership(("a", "b"), ("a", "b"), "a", "", 1, "g1", (Boot("a", "1"), Boot("b", "1")))
RULES = {
    Do.ASK_ALONE: arbiter_rules.serve_alone,
    Do.ASK_CONNECTED: arbiter_rules.serve_connected,
    Do.ASK_LEAVE: arbiter_rules.leave,
    Do.ASK_FILL: arbiter_rules.fill_anew,
    Do.ASK_CONFIRM: arbiter_rules.confirm,
}


class RuledArbiter:
    """Holds the records in memory. ``lost``: nobody answers."""

    def __init__(self, *volumes: str) -> None:
        replication = Replication(1, 7001, "0" * 15 + "8", ())
        held = Held(RECORD, 5)
        self.assigned = {v: Assignment(v, held, replication, "s" * 32) for v in volumes}
        self.lost = False
        self.late = 0.0  # seconds that the next answer is on its way
        self.told: dict[str, Statement] = {}
        self.changed: Callable[[], None] | None = None

    def assignments(self) -> Mapping[str, Assignment] | None:
        return None if self.lost else dict(self.assigned)

    def ask(
        self, what: Do, volume_id: str, statement: Statement, noted: Membership | None = None
    ) -> Answer:
        if self.lost:
            raise errors.Unavailable("no controller answers")
        held = self.assigned[volume_id].held
        found = RULES[what](held, statement)
        if found.record != held.record:
            held = Held(found.record, held.revision + 1)
            self.assigned[volume_id] = replace(self.assigned[volume_id], held=held)
        late, self.late = self.late, 0.0
        time.sleep(late)
        return Answer(found.granted, held, found.reason)

    def tell(self, volume_id: str, statement: Statement) -> None:
        self.told[volume_id] = statement

    def notify(self, changed: Callable[[], None]) -> None:
        self.changed = changed

    def change(self, volume_id: str, **changes: object) -> None:
        self.assigned[volume_id] = replace(self.assigned[volume_id], **changes)  # type: ignore[arg-type]


class ScriptedSide:
    """A kernel whose peer is there and complete unless ``cut``."""

    def __init__(self) -> None:
        self.views: dict[str, View] = {}
        self.done: list[tuple[str, str]] = []
        self.failing: set[str] = set()
        self.present = True  # whether the node has anything of the volumes
        self.trouble = ""  # why it cannot be told
        self.looks = 0
        self.hanging: dict[str, threading.Event] = {}

    def view(self, assignment: Assignment) -> View:
        hanging = self.hanging.get(assignment.volume_id)
        if hanging is not None:
            hanging.wait(30.0)
        self.looks += 1
        return self.views.setdefault(assignment.volume_id, View("a", "1"))

    def flush(self, assignment: Assignment) -> None:
        self._note("flush", assignment)

    def carry_out(self, do: Do, assignment: Assignment) -> None:
        self._note(do.value, assignment)
        volume_id = assignment.volume_id
        self.views[volume_id] = replace(self.views[volume_id], **CHANGES[do])  # type: ignore[arg-type]

    def has_replica(self, volume_id: str) -> bool:
        if self.trouble:
            raise errors.Unavailable(self.trouble)
        return self.present

    def names(self, volume_id: str) -> list[str]:
        return [name for volume, name in self.done if volume == volume_id]

    def freeze(self, volume_id: str) -> None:
        lost = {"connection": Connection.CONNECTING, "peer_disk": Disk.UNKNOWN, "suspended": True}
        self.views[volume_id] = replace(self.views[volume_id], **lost)  # type: ignore[arg-type]

    def _note(self, name: str, assignment: Assignment) -> None:
        self.done.append((assignment.volume_id, name))
        if name in self.failing:
            raise CommandStuck(f"{name} hangs")


ATTACHED = {"disk": Disk.CONSISTENT, "generations": Generations("g1")}
MET = {"connection": Connection.CONNECTED, "peer_disk": Disk.UP_TO_DATE, "disk": Disk.UP_TO_DATE}
CHANGES: Mapping[Do, Mapping[str, object]] = {
    Do.ATTACH: ATTACHED,
    Do.CONNECT: {**MET, "peer_role": Role.SECONDARY, "suspended": False},
    Do.FORCE_DISCONNECT: {"connection": Connection.STANDALONE},
    Do.PROMOTE: {"role": Role.PRIMARY, "users": Users.ALIVE},
    Do.RESUME_IO: {"suspended": False},
}


class World:
    def __init__(
        self,
        folder: Path,
        *volumes: str,
        retry_seconds: float = 0.05,
        look_seconds: float = 0.1,
        missing_seconds: float = 20.0,
        permission_seconds: float = 15.0,
    ) -> None:
        self.arbiter = RuledArbiter(*volumes)
        self.side = ScriptedSide()
        self.notes = NoteBook(folder)
        self.loop = MembershipLoop(
            self.side,
            self.notes,
            threads=2,
            retry_seconds=retry_seconds,
            look_seconds=look_seconds,
            missing_seconds=missing_seconds,
            permission_seconds=permission_seconds,
        )

    def decided(self, volume_id: str) -> str:
        decision = self.loop.decision(volume_id)
        return "" if decision is None else decision.words

    def until(self, right: Callable[[], object]) -> None:
        end = time.monotonic() + 10
        while not right():
            assert time.monotonic() < end, (self.side.done, self.loop.decision("v"))
            time.sleep(0.01)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., World]]:
    made: list[World] = []

    def one(*volumes: str, **options: float) -> World:
        made.append(World(tmp_path / "notes", *volumes, **options))
        return made[-1]

    yield one
    for world in made:
        for hanging in world.side.hanging.values():
            hanging.set()
        world.loop.stop()


def test_an_assigned_volume_is_served_once_the_arbiter_has_permitted_it(
    make: Callable[..., World],
) -> None:
    world = make("v")
    world.loop.start(world.arbiter)
    world.loop.require_primary("v", 10.0)

    assert world.side.names("v") == ["attach", "connect", "flush", "promote"]
    assert world.arbiter.assigned["v"].held.record.active == "a"
    assert world.notes.of("v").epoch == world.arbiter.assigned["v"].held.record.epoch
    world.until(lambda: world.arbiter.told["v"].view.role is Role.PRIMARY)


def test_a_frozen_primary_goes_on_when_it_is_permitted_to(make: Callable[..., World]) -> None:
    world = make("v")
    world.loop.start(world.arbiter)
    world.loop.require_primary("v", 10.0)
    world.side.done.clear()
    # The peer's agent has said nothing since: it must not be connected to.
    world.side.freeze("v")
    world.loop.poke("v")
    world.until(lambda: "resume-io" in world.side.names("v"))

    assert world.side.names("v") == ["force-disconnect", "flush", "resume-io"]
    assert world.arbiter.assigned["v"].held.record.members == ("a",)
    assert world.notes.of("v").epoch == world.arbiter.assigned["v"].held.record.epoch


def test_an_old_answer_permits_nothing(make: Callable[..., World]) -> None:
    """An agent that stood still has missed what was decided meanwhile."""
    world = make("v", permission_seconds=1.0)
    world.loop.start(world.arbiter)
    world.loop.require_primary("v", 10.0)
    world.side.done.clear()
    world.arbiter.late = 1.1
    world.side.freeze("v")
    world.loop.poke("v")
    world.until(lambda: "resume-io" in world.side.names("v"))

    assert world.side.names("v") == ["force-disconnect", "flush", "flush", "resume-io"]


def test_without_an_arbiter_a_frozen_primary_is_not_resumed(make: Callable[..., World]) -> None:
    world = make("v")
    world.loop.start(world.arbiter)
    world.loop.require_primary("v", 10.0)
    world.side.done.clear()
    world.arbiter.lost = True
    world.until(lambda: "no arbiter" in world.decided("v"))
    world.loop.require_primary("v", 10.0)
    world.side.freeze("v")
    with pytest.raises(errors.Unavailable, match="frozen"):
        world.loop.require_primary("v", 0.5)
    assert world.side.names("v") == []


def test_a_primary_that_reaches_no_data_is_not_served(make: Callable[..., World]) -> None:
    world = make("v")
    world.loop.start(world.arbiter)
    world.loop.require_primary("v", 10.0)
    world.side.freeze("v")
    world.until(lambda: world.arbiter.assigned["v"].held.record.members == ("a",))
    world.loop.require_primary("v", 10.0)
    # Not frozen: then the kernel answers with errors, and does not wait.
    world.side.views["v"] = replace(world.side.views["v"], disk=Disk.DISKLESS)
    world.until(lambda: "let a person decide" in world.decided("v"))
    with pytest.raises(errors.Unavailable, match="let a person decide"):
        world.loop.require_primary("v", 0.5)


def test_a_failed_flush_costs_the_permission(make: Callable[..., World]) -> None:
    world = make("v")
    world.side.failing.add("flush")
    world.loop.start(world.arbiter)
    with pytest.raises(errors.Unavailable, match="published here: flush hangs"):
        world.loop.require_primary("v", 3.0)
    assert world.arbiter.assigned["v"].held.record.active == ""
    assert "promote" not in world.side.names("v")

    world.side.failing.clear()
    world.loop.require_primary("v", 10.0)


def test_a_permission_is_asked_for_anew_after_a_failure(make: Callable[..., World]) -> None:
    world = make("v")
    world.side.failing.add("promote")
    world.loop.start(world.arbiter)
    world.until(lambda: world.side.names("v").count("promote") >= 3)

    names = [name for name in world.side.names("v") if name in ("flush", "promote")]
    assert names[:4] == ["flush", "promote", "flush", "promote"]


def test_what_failed_is_told_until_something_is_done(
    make: Callable[..., World], caplog: pytest.LogCaptureFixture
) -> None:
    """Also while it is permitted anew, when the next action is a question."""
    caplog.set_level(logging.INFO, "node_agent.membership_loop")
    world = make("v")
    world.side.failing.add("promote")
    world.loop.start(world.arbiter)
    world.until(lambda: world.side.names("v").count("promote") >= 3)
    world.side.failing.clear()
    world.loop.require_primary("v", 10.0)

    lines = [record.getMessage() for record in caplog.records]
    told = ["promote hangs" in line for line in lines]
    first, last = told.index(True), len(told) - told[::-1].index(True)
    assert all(told[first:last]), lines
    assert any("ask-" in line for line in lines[first:last])
    assert not told[-1], lines


def _used(world: World) -> None:
    world.side.views["v"] = replace(world.side.views["v"], users=Users.ALIVE)
    world.loop.poke("v")


def _forced(world: World) -> None:
    held = world.arbiter.assigned["v"].held
    forced = replace(held.record, forced="a person says so")
    world.arbiter.change("v", held=Held(forced, held.revision + 1))
    assert world.arbiter.changed is not None
    world.arbiter.changed()


@pytest.mark.parametrize("change", [_used, _forced])
def test_what_failed_is_not_tried_at_full_speed(
    make: Callable[..., World], change: Callable[[World], None]
) -> None:
    """Nor asked for: each permission is a new record, which is a reason to look again.

    A change of the kernel, or of what is wanted, ends the wait.
    """
    world = make("v", retry_seconds=60.0, look_seconds=60.0)
    world.side.failing.add("promote")
    world.loop.start(world.arbiter)
    world.until(lambda: "promote" in world.side.names("v"))
    epoch = world.arbiter.assigned["v"].held.record.epoch
    for _ in range(5):
        looks = world.side.looks
        world.loop.poke("v")
        world.until(lambda looks=looks: world.side.looks > looks)  # type: ignore[misc]
    assert world.side.names("v").count("promote") == 1
    assert world.arbiter.assigned["v"].held.record.epoch == epoch

    world.side.failing.clear()
    change(world)
    world.until(lambda: world.side.names("v").count("promote") == 2)


def test_one_volume_that_hangs_keeps_no_other_from_its_turn(make: Callable[..., World]) -> None:
    world = make("stuck", "v")
    world.side.hanging["stuck"] = threading.Event()
    world.loop.start(world.arbiter)
    world.loop.require_primary("v", 10.0)

    assert world.loop.decision("stuck") is None
    with pytest.raises(errors.Unavailable, match="no arbiter has assigned"):
        world.loop.require_primary("other", 0.1)


def test_a_store_that_is_older_than_the_notes_permits_nothing(make: Callable[..., World]) -> None:
    world = make("v")
    world.notes.keep("v", Notes(replace(RECORD, epoch=9)))
    asked: list[Do] = []

    def refuse(what: Do, volume: str, statement: Statement, noted: Membership | None) -> Answer:
        asked.append(what)
        return Answer(False, world.arbiter.assigned[volume].held, "read it again")

    world.arbiter.ask = refuse  # type: ignore[method-assign]
    world.loop.start(world.arbiter)
    world.until(lambda: len(asked) >= 2)

    assert set(asked) == {Do.REPORT}
    assert world.side.done == []


def test_a_change_is_acted_on_as_soon_as_it_is_told(make: Callable[..., World]) -> None:
    world = make("v", look_seconds=3600.0)
    assigned, world.arbiter.assigned = world.arbiter.assigned, {}
    world.loop.start(world.arbiter)
    world.until(lambda: world.arbiter.changed)
    assert world.arbiter.changed is not None
    world.arbiter.assigned = assigned
    world.arbiter.changed()
    world.until(lambda: "promote" in world.side.names("v"))
    assigned, world.arbiter.assigned = dict(world.arbiter.assigned), {}
    world.arbiter.changed()
    world.until(lambda: not world.decided("v"))
    world.arbiter.assigned = assigned
    world.arbiter.changed()
    world.until(lambda: world.decided("v"))
    world.until(lambda: world.decided("v") and "no arbiter" not in world.decided("v"))
    world.arbiter.lost = True
    world.arbiter.changed()
    world.until(lambda: "no arbiter" in world.decided("v"))


def test_what_is_seen_is_told_again_after_a_volume_was_gone(make: Callable[..., World]) -> None:
    """The arbiter's client forgets what it was told of volumes that are gone."""
    world = make("v")
    world.loop.start(world.arbiter)
    world.loop.require_primary("v", 10.0)
    told = world.arbiter.told["v"]
    world.arbiter.told.clear()
    world.until(lambda: world.arbiter.told.get("v") == told)


@pytest.mark.parametrize("present", [False, True])
def test_notes_go_with_the_replica_and_not_with_the_assignment(
    make: Callable[..., World], present: bool
) -> None:
    world = make("v", "other")
    world.loop.start(world.arbiter)
    world.loop.require_primary("v", 10.0)
    world.side.present = present
    world.arbiter.assigned = {"other": world.arbiter.assigned["other"]}
    assert world.arbiter.changed is not None
    world.arbiter.changed()
    world.until(lambda: not world.decided("v"))
    if present:
        world.loop.require_primary("other", 10.0)
    else:
        world.until(lambda: world.notes.of("v") == Notes())
    assert (world.notes.of("v") == Notes()) is not present


def test_notes_of_what_was_withdrawn_while_the_agent_was_down_go_as_well(
    make: Callable[..., World],
) -> None:
    """The node that notes an assignment and dies before it has a replica keeps no orphan."""
    world = make("other")
    world.side.present = False
    world.notes.keep("v", Notes(RECORD))
    world.arbiter.lost = True
    world.loop.start(world.arbiter)
    world.until(lambda: world.arbiter.changed)
    assert world.notes.of("v") == Notes(RECORD)

    world.arbiter.lost = False
    world.arbiter.changed()
    world.until(lambda: world.notes.of("v") == Notes())


def test_notes_are_removed_once_it_can_be_told_that_there_is_no_replica(
    make: Callable[..., World], caplog: pytest.LogCaptureFixture
) -> None:
    """An agent that starts hears of its volumes before its pools are open."""
    world = make(look_seconds=0.05)
    world.side.present, world.side.trouble = False, "pool default: not opened yet"
    world.notes.keep("v", Notes(RECORD))
    world.loop.start(world.arbiter)
    world.until(lambda: "its notes are kept for now" in caplog.text)
    assert world.notes.of("v") == Notes(RECORD)
    world.side.trouble = ""
    world.until(lambda: world.notes.of("v") == Notes())


@pytest.mark.parametrize("peer", [Connection.CONNECTING, Connection.STANDALONE, None])
def test_who_misses_its_peer_for_long_begins_anew(
    make: Callable[..., World], peer: Connection | None
) -> None:
    world = make("v", look_seconds=0.02, missing_seconds=0.1)
    unused = Held(replace(RECORD, primary=""), 5)
    stated = None if peer is None else Statement(View("b", "1", connection=peer), 5, 1)
    world.arbiter.change("v", held=unused, peer=stated)
    trying = replace(View("a", "1"), **ATTACHED, connection=Connection.CONNECTING)
    world.side.views["v"] = trying
    world.loop.start(world.arbiter)
    if peer is Connection.CONNECTING:
        world.until(lambda: world.side.names("v") == ["force-disconnect", "connect"])
        assert world.decided("v") == "in the set"
    else:
        looks = world.side.looks
        world.until(lambda: world.side.looks > looks + 20)
        assert world.side.names("v") == []


def test_a_primary_does_not_leave_its_peer_to_begin_anew(make: Callable[..., World]) -> None:
    world = make("v", look_seconds=0.02, missing_seconds=0.0)
    world.loop.start(world.arbiter)
    world.loop.require_primary("v", 10.0)
    alone = replace(world.side.views["v"], connection=Connection.CONNECTING)
    world.side.views["v"] = replace(alone, peer_disk=Disk.OUTDATED)
    stated = Statement(View("b", "1", connection=Connection.CONNECTING), 5, 1)
    world.arbiter.change("v", peer=stated, held=_alone(world.arbiter.assigned["v"].held))
    looks = world.side.looks
    world.until(lambda: world.side.looks > looks + 20)
    assert "force-disconnect" not in world.side.names("v")


def _alone(held: Held) -> Held:
    return Held(replace(held.record, members=("a",)), held.revision + 1)
