"""What an agent can do for a replicated volume, and all that its next action follows from.

The words between the rules of ``membership.py``, which choose, and the agent's loop, which looks
and carries out; what it may ask of an arbiter is among them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from cluster.membership import Held, Membership
from replication.record import Notes, Statement, View


class Do(StrEnum):
    """What the loop can carry out; each may be repeated."""

    WAIT = "wait"  # nothing to do now; the reason is for people
    NOTE = "note"  # write the notes given with it durably
    ASK_ALONE = "ask-alone"  # flush the disk's cache, then arbiter_rules.serve_alone
    ASK_CONNECTED = "ask-connected"  # flush the disk's cache, then arbiter_rules.serve_connected
    ASK_LEAVE = "ask-leave"  # arbiter_rules.leave
    ASK_FILL = "ask-fill"  # arbiter_rules.fill_anew
    ASK_CONFIRM = "ask-confirm"  # flush the disk's cache, then arbiter_rules.confirm
    REPORT = "report"  # arbiter_rules.report, with the record of the notes
    ATTACH = "attach"  # set the resource up without connecting it
    CONNECT = "connect"  # drop the remembered permission, then connect
    FORCE_DISCONNECT = "force-disconnect"
    RESUME_IO = "resume-io"
    WRITE_GRANT = "write-grant"  # volume, epoch, boot id; for the fence helper
    REMOVE_GRANT = "remove-grant"
    PROMOTE = "promote"
    PROMOTE_BY_FORCE = "promote-by-force"
    DEMOTE = "demote"
    SUSPEND_FACE = "suspend-face"
    RESUME_FACE = "resume-face"
    NEW_GENERATION = "new-generation"  # while StandAlone: drbdsetup new-current-uuid
    OUTDATE = "outdate"
    INVALIDATE = "invalidate"  # take down, make the metadata anew, attach: all has to be resynced
    DETACH = "detach"  # by force
    TAKE_DOWN = "take-down"
    KILL_USERS = "kill-users"
    REPORT_REBOOT = "report-reboot"  # nothing but a reboot ends this node's users


FLUSHED_BEFORE = (Do.ASK_ALONE, Do.ASK_CONNECTED, Do.ASK_CONFIRM)
"""Questions that are answered for what is on the disk."""
ASKED = (*FLUSHED_BEFORE, Do.ASK_LEAVE, Do.ASK_FILL, Do.REPORT)
"""What is asked of the arbiter, and leaves the kernel as it is."""


@dataclass(frozen=True)
class Action:
    do: Do
    reason: str  # in words, for events and status
    notes: Notes | None = None  # of NOTE
    person: bool = False  # of WAIT: until a person decides, or something that is lost comes back


@dataclass(frozen=True)
class Yes:
    """A permission that the agent's loop remembers: that of the record's present epoch."""

    epoch: int
    asked: Do


@dataclass(frozen=True)
class Situation:
    """All that the next action follows from.

    ``held``: the record as just read, or None where that failed. ``peer``: what the other replica's
    agent last told a controller, however long ago. ``go_alone``: a controller has decided that a
    survivor need not wait for its peer.
    """

    view: View
    notes: Notes
    held: Held | None
    yes: Yes | None = None
    peer: Statement | None = None
    go_alone: bool = False

    @property
    def record(self) -> Membership:
        assert self.held is not None  # next_action goes no further without one
        return self.held.record

    @property
    def peer_in_set(self) -> bool:
        return bool(self.record.others(self.view.node))
