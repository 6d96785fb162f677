"""The loop that keeps each replicated volume of this node as its membership wants it.

For each volume: look at the kernel, ask ``membership.next_action``, carry that one action out, and
again, until there is nothing to do but to wait. A volume is worked on by one thread at a time; one
that hangs keeps no other from its turn as long as a thread is left.

What is remembered of a volume is the permission of its last request, and no more; it is dropped at
CONNECT and by any failure, and a restart of the agent begins without (rule 5 of
docs/membership.md).
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol

from cluster.errors import Busy, ClusterError, Unavailable
from cluster.membership import Held
from host.errors import HostError
from node_agent.arbiter import Arbiter, Assignment
from node_agent.decision import Circumstances, Decision, Failed
from node_agent.notes import NoteBook
from replication.actions import ASKED, FLUSHED_BEFORE, Action, Do, Situation, Yes
from replication.membership import WHOLE, next_action
from replication.record import Connection, Disk, Role, Statement, View

_log = logging.getLogger(__name__)

# More in one turn than any way from one rest to the next: then others have their turn first.
_ACTIONS_A_TURN = 30
_TURN_SECONDS = 30.0
# So many times in a row an action is tried again after `retry_seconds`, then less and less often: a
# disk that refuses has many volumes.
_SOON = 3
# Of the time between two looks where nothing happens: volumes that were poked together part.
_JITTER = 0.2


class Side(Protocol):
    """This node's side of replicated volumes. Each call ends by a deadline, and may be repeated.

    Raises the errors of host/errors.py and cluster/errors.py, and OSError.
    """

    def view(self, assignment: Assignment) -> View:
        """The volume as the kernel has it now."""
        ...

    def flush(self, assignment: Assignment) -> None:
        """All that the local replica's disk has acknowledged is on it when this returns."""
        ...

    def carry_out(self, do: Do, assignment: Assignment) -> None:
        """Any action that is neither a question, a note nor WAIT."""
        ...

    def has_replica(self, volume_id: str) -> bool:
        """Whether anything of the volume is on this node."""
        ...


@dataclass
class _Memory:
    """Of one volume. Only the thread that has its turn changes it."""

    assignment: Assignment
    answered: Held | None = None  # newer than that of the assignment
    yes: Yes | None = None
    yes_until: float = 0.0  # time.monotonic()
    decision: Decision | None = field(default=None)
    failed: Failed | None = None  # None once an action was carried out
    missing_since: float | None = None  # both sides try to connect: time.monotonic()


class MembershipLoop:
    """Thread safe. ``retry_seconds`` after a failure; ``look_seconds`` where nothing happens, and
    at most after many failures.

    ``missing_seconds``: for so long both sides may try to connect before one begins anew.
    ``permission_seconds``: after its question a permission counts no longer. Nothing is lost where
    it does, but an agent that stood still has missed that the volume was unpublished, or that a
    person has chosen the other replica; more than a question, a note and a look take.

    New assignments are acted on at once, as the arbiter notifies of them, and so are DRBD's events,
    by ``poke``. Nothing else ends a WAIT: while users, a suspended face or a grant count, there is
    always something to do. The look in between only makes good what was missed.
    """

    def __init__(
        self,
        side: Side,
        notes: NoteBook,
        *,
        threads: int = 4,
        retry_seconds: float = 2.0,
        look_seconds: float = 15.0,
        missing_seconds: float = 20.0,
        permission_seconds: float = 15.0,
    ) -> None:
        self._side = side
        self._notes = notes
        self._retry_seconds = retry_seconds
        self._look_seconds = look_seconds
        self._missing_seconds = missing_seconds
        self._permission_seconds = permission_seconds
        self._changed = threading.Condition()
        self._memory: dict[str, _Memory] = {}
        self._due: dict[str, float] = {}  # volume -> time.monotonic()
        self._busy: set[str] = set()
        self._kept: set[str] = set()  # not assigned any more, and their notes could not be removed
        self._present: Mapping[str, Assignment] | None = None
        self._woken = False
        self._stopped = False
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="membership")
        self._thread = threading.Thread(target=self._run, name="membership", daemon=True)

    def start(self, arbiter: Arbiter) -> None:
        """Begin. Once."""
        self._arbiter = arbiter
        arbiter.notify(self._wake)
        self._thread.start()

    def stop(self) -> None:
        """Begin no more turns; those under way end by their own deadlines."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def poke(self, volume_id: str) -> None:
        """Something of the volume has changed: look at it now."""
        with self._changed:
            if volume_id in self._memory:
                self._due[volume_id] = time.monotonic()
                self._changed.notify_all()

    def poke_all(self) -> None:
        """Look at all of them now."""
        with self._changed:
            self._due.update(dict.fromkeys(self._memory, time.monotonic()))
            self._changed.notify_all()

    @contextmanager
    def paused(self, volume_id: str) -> Iterator[None]:
        """The volume is left alone in the block. Raises Busy where its turn does not end."""
        with self._changed:
            if not self._changed.wait_for(lambda: volume_id not in self._busy, _TURN_SECONDS):
                raise Busy(f"volume {volume_id}: a step of its membership is under way")
            self._busy.add(volume_id)
        try:
            yield
        finally:
            with self._changed:
                self._busy.discard(volume_id)
                if (memory := self._memory.get(volume_id)) is not None:
                    memory.yes = None  # its kernel's side may have been changed meanwhile
                    self._due[volume_id] = time.monotonic()
                self._changed.notify_all()

    def assignment(self, volume_id: str) -> Assignment | None:
        """The newest; None where there was none yet."""
        with self._changed:
            memory = self._memory.get(volume_id)
            return None if memory is None else memory.assignment

    def decision(self, volume_id: str) -> Decision | None:
        """What was last decided; None where the volume was never assigned, or not yet looked at."""
        with self._changed:
            memory = self._memory.get(volume_id)
            return None if memory is None else memory.decision

    def require_primary(self, volume_id: str, seconds: float) -> None:
        """Wait until this node serves the volume. Raises Unavailable, which says why it does not.

        What was decided before the call does not count.
        """
        until = time.monotonic() + seconds
        with self._changed:
            memory = self._memory.get(volume_id)
            before = memory.decision if memory is not None else None
        self.poke(volume_id)
        with self._changed:
            while True:
                memory = self._memory.get(volume_id)
                found = memory.decision if memory is not None else None
                if found is not None and found is not before and found.serving:
                    return
                left = until - time.monotonic()
                if left <= 0:
                    why = found.words if found is not None else "no arbiter has assigned it yet"
                    raise Unavailable(f"volume {volume_id} is not served on this node: {why}")
                self._changed.wait(left)

    # Turns

    def _wake(self) -> None:
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._woken = False
            present = self._arbiter.assignments()
            with self._changed:
                if self._stopped:
                    return
                self._take(present)
                now = time.monotonic()
                for volume_id in [one for one, due in self._due.items() if due <= now]:
                    if volume_id not in self._busy:
                        del self._due[volume_id]
                        self._busy.add(volume_id)
                        self._pool.submit(self._turn, volume_id)
                waiting = [due - now for one, due in self._due.items() if one not in self._busy]
                if not self._woken:
                    self._changed.wait(max(0.0, min([self._look_seconds, *waiting])))

    def _take(self, present: Mapping[str, Assignment] | None) -> None:
        """Under the lock. Those volumes whose assignment is new are due."""
        now = time.monotonic()
        known = self._memory.keys() | self._kept
        if (present is None) != (self._present is None):
            self._due.update(dict.fromkeys(known, now))
            # Some may have been withdrawn while this agent was not running.
            known |= self._notes.volumes()
        self._present = present
        for volume_id, assignment in (present or {}).items():
            memory = self._memory.get(volume_id)
            if memory is None:
                self._memory[volume_id] = _Memory(assignment)
            elif memory.assignment == assignment:
                continue
            self._due[volume_id] = now
        if present is not None:
            for volume_id in known - present.keys() - self._busy:
                self._memory.pop(volume_id, None)
                self._due.pop(volume_id, None)
                self._kept.discard(volume_id)
                self._pool.submit(self._forget, volume_id)

    def _forget(self, volume_id: str) -> None:
        """A volume that is not assigned any more: without a replica its notes are of no use.

        With one they are all that tells who has everything, should the store have lost it.
        """
        try:
            if not self._side.has_replica(volume_id):
                self._notes.remove(volume_id)
        except (HostError, ClusterError, OSError) as error:
            _log.warning("volume %s: its notes are kept for now: %s", volume_id, error)
            with self._changed:
                self._kept.add(volume_id)

    def _turn(self, volume_id: str) -> None:
        seconds = self._retry_seconds
        try:
            seconds = self._work(volume_id)
        except Exception:
            self._memory[volume_id].yes = None
            _log.exception("volume %s: its membership could not be worked on", volume_id)
        finally:
            with self._changed:
                self._busy.discard(volume_id)
                due = time.monotonic() + seconds
                self._due[volume_id] = min(self._due.get(volume_id, due), due)
                self._changed.notify_all()

    def _work(self, volume_id: str) -> float:
        """As many actions as there are. Returns after how many seconds to look again."""
        memory = self._memory[volume_id]
        before: tuple[Action, Situation] | None = None
        for _ in range(_ACTIONS_A_TURN):
            action = Action(Do.WAIT, "looking at it")
            try:
                situation = self._situation(volume_id, memory)
                action = next_action(situation)
                serving = action.do is Do.WAIT and _serves(situation)
                if action.do is Do.WAIT and self._miss_each_other(memory, situation):
                    action = Action(Do.FORCE_DISCONNECT, "both sides try to connect in vain: anew")
                elif action.do is Do.WAIT:
                    if serving:
                        memory.failed = None
                    decision = Decision(
                        action.do, action.reason, serving=serving, person=action.person
                    )
                    self._decide(volume_id, memory, decision)
                    return self._look_seconds * random.uniform(1 - _JITTER, 1 + _JITTER)
                self._decide(volume_id, memory, Decision(action.do, action.reason))
                if memory.failed and memory.failed.holds_back(action.do, situation):
                    return memory.failed.until - time.monotonic()
                if before == (action, situation):
                    # It was done, and changed nothing that can be seen: not at full speed.
                    return self._retry_seconds
                before = (action, situation)
                self._do(action, volume_id, memory, situation)
            except (HostError, ClusterError, OSError) as error:
                memory.yes = None
                self._decide(volume_id, memory, Decision(action.do, action.reason, str(error)))
                return self._retry_seconds
        return 0.0

    def _situation(self, volume_id: str, memory: _Memory) -> Situation:
        with self._changed:
            present = self._present
        assignment = (present or {}).get(volume_id)
        if assignment is not None and assignment != memory.assignment:
            # Also where it is the older one: a store that was rolled back has to be seen as it is.
            # One that was on its way while the answer came does no harm: a permission counts only
            # once its epoch is noted, and below the noted epoch the next action is to report.
            memory.assignment, memory.answered = assignment, None
        notes = self._notes.of(volume_id)
        view = self._side.view(memory.assignment)
        held = None
        if assignment is not None:
            held = memory.answered or assignment.held
            self._arbiter.tell(volume_id, Statement(view, held.revision, notes.epoch))
        if time.monotonic() >= memory.yes_until:
            memory.yes = None
        known = memory.assignment
        return Situation(view, notes, held, memory.yes, known.peer, known.go_alone)

    def _miss_each_other(self, memory: _Memory, now: Situation) -> bool:
        """Whether both have tried to connect for so long that one of them should begin anew.

        DRBD 8.4 makes a connection of two sockets, each side dials and listens at once, and they
        can go on missing each other. Who is no primary loses nothing by being alone for a moment.
        """
        trying = (
            now.view.role is Role.SECONDARY
            and now.view.connection is Connection.CONNECTING
            and now.peer is not None
            and now.peer.view.connection is Connection.CONNECTING
        )
        since, moment = memory.missing_since, time.monotonic()
        long = trying and since is not None and moment - since >= self._missing_seconds
        if not trying or long:
            memory.missing_since = None
        elif since is None:
            memory.missing_since = moment
        return long

    def _do(self, action: Action, volume_id: str, memory: _Memory, seen: Situation) -> None:
        if action.do is Do.NOTE:
            assert action.notes is not None  # Action: those of NOTE
            self._notes.keep(volume_id, action.notes)
        elif action.do in ASKED:
            self._ask(action.do, volume_id, memory, seen)
        else:
            if action.do is Do.CONNECT:
                memory.yes = None
            held = seen.held or memory.assignment.held
            try:
                self._side.carry_out(action.do, replace(memory.assignment, held=held))
            except (HostError, ClusterError, OSError) as error:
                memory.failed = self._failed(action.do, error, seen, memory.failed)
                raise
            memory.failed = None

    def _failed(self, do: Do, error: Exception, seen: Situation, before: Failed | None) -> Failed:
        """A few times it is tried again soon, as most of what refuses is about to end."""
        times = 1 + (before.times if before is not None and before.do is do else 0)
        pause = self._retry_seconds * 2 ** min(10, max(0, times - _SOON))
        until = time.monotonic() + min(pause, self._look_seconds)
        return Failed(do, f"{do}: {error}", Circumstances.of(seen), times, until)

    def _ask(self, what: Do, volume_id: str, memory: _Memory, seen: Situation) -> None:
        assert seen.held is not None  # next_action asks nothing without one
        memory.yes = None
        if what in FLUSHED_BEFORE:
            self._side.flush(memory.assignment)
        statement = Statement(seen.view, seen.held.revision, seen.notes.epoch)
        memory.yes_until = time.monotonic() + self._permission_seconds
        answer = self._arbiter.ask(what, volume_id, statement, seen.notes.record)
        memory.answered = answer.held
        if not answer.granted:
            raise Unavailable(answer.reason)
        memory.yes = Yes(answer.held.record.epoch, what)

    def _decide(self, volume_id: str, memory: _Memory, decision: Decision) -> None:
        old = memory.decision
        with self._changed:
            unheard = self._present is None
        word = "" if decision.serving or unheard else memory.assignment.word
        before = memory.failed.words if memory.failed is not None else ""
        decision = replace(decision, before=before, word=word, unheard=unheard)
        if old is None or (old.do, old.words) != (decision.do, decision.words):
            _log.info("volume %s: %s: %s", volume_id, decision.do, decision.words)
        with self._changed:
            memory.decision = decision
            self._changed.notify_all()


def _serves(now: Situation) -> bool:
    """Whether the volume can be used here; while no arbiter answers, as the kernel has it."""
    view = now.view
    published = now.held is None or now.held.record.primary == view.node
    frozen = view.suspended or view.face_suspended
    # Without a disk and without its peer it fails whatever it is asked for, once it is thawed.
    in_reach = view.disk in WHOLE or (view.connected and view.peer_disk is Disk.UP_TO_DATE)
    return view.role is Role.PRIMARY and published and in_reach and not frozen
