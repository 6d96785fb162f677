"""Every interleaving up to a bound, and random ones beyond: nothing acknowledged is lost.

``XLSS_EXPLORE_STATES`` and ``XLSS_EXPLORE_SEEDS`` set other bounds (docs/membership.md says what
larger ones have found). Each rule is then taken away alone: the search has to find the loss.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

import pytest

from cluster.membership import Held, Membership
from replication import arbiter_rules, membership
from replication.actions import Action, Do, Situation
from replication.arbiter_rules import Answer
from replication.record import Connection, Disk, Notes, Role, Statement
from tests.unit import membership_explorer as explorer
from tests.unit import membership_kernel as kernel
from tests.unit import membership_model as model
from tests.unit.membership_kernel import Kernel
from tests.unit.membership_world import Budget, World, both, put, running

STATES = int(os.environ.get("XLSS_EXPLORE_STATES", "12000"))
SEEDS = int(os.environ.get("XLSS_EXPLORE_SEEDS", "80"))

NARROW = Budget(writes=1, faults=1, crashes=0, pauses=0, decisions=0)
MANY = Budget(writes=6, faults=6, crashes=2, pauses=2, decisions=3, rollbacks=1, replicas=4)
WIDE = MANY._replace(persons=1)
Patch = pytest.MonkeyPatch


def resynced(budget: Budget) -> World:
    """``a`` serves alone; ``b`` has just caught up and is not in the set yet."""
    record = replace(both(), members=("a",), boots=both().boots[:1], epoch=2)
    world = running(budget, record)
    return world._replace(backup=Held(both(), 1))


def frozen(budget: Budget) -> World:
    """The link is cut under a write, and both sides have noticed."""
    world = kernel.write_one(running(budget), 0)._replace(link=False, session=False)
    for index in (0, 1):
        world = kernel.notice_loss(world, index, Connection.CONNECTING)
    return world


def powerless(budget: Budget) -> World:
    """A write is acknowledged; then both nodes lose their power."""
    world = kernel.write_one(running(budget), 0)
    world = put(world, 1, data=1)
    world = kernel.acknowledge(world, 0)
    return kernel.power_off(kernel.power_off(world, 0), 1)


def unpublished(budget: Budget) -> World:
    """``a`` is not demoted yet; of what it has acknowledged ``b`` has written out nothing."""
    world = running(budget, replace(both(), primary=""))
    world = kernel.write_one(world, 0)
    return kernel.acknowledge(put(world, 1, data=1), 0)


def behind(budget: Budget) -> World:
    """``a`` was permitted to serve alone and has acknowledged a write that ``b`` does not have."""
    record = replace(both(), members=("a",), boots=both().boots[:1], epoch=2)
    world = running(budget, record)._replace(link=False, session=False)
    for index in (0, 1):
        world = put(world, index, connection=Connection.CONNECTING)
    return kernel.write_one(kernel.fresh(world, 0), 0)._replace(backup=Held(both(), 1))


def syncing(budget: Budget) -> World:
    """The primary has crashed after a write and come back: ``b``, in the set, is its target."""
    world = put(powerless(budget), 1, stable=1)
    for index in (0, 1):
        world = put(world, index, up=True, boot=2 - index, disk=Disk.CONSISTENT)
    return kernel.handshake(world)


def new(budget: Budget) -> World:
    """Just made and published on ``a``: nobody was primary yet."""
    world = running(budget, replace(both(), active="", boots=()))
    return put(world, 0, role=Role.SECONDARY)


STARTS = [running, unpublished, resynced, frozen, powerless, behind, syncing, new]


@pytest.mark.parametrize("start", STARTS)
def test_one_fault_at_any_moment_loses_nothing(start: Callable[[Budget], World]) -> None:
    explored = explorer.explore(start(NARROW), STATES, stuck=40)

    assert explored.found is None, str(explored.found)


@pytest.mark.parametrize("start", STARTS)
def test_many_faults_at_random_lose_nothing(start: Callable[[Budget], World]) -> None:
    for seed in range(SEEDS):
        found = explorer.walk(start(WIDE), seed, 150)
        assert found is None, str(found)


# ---- each rule taken away ----


def rule_1(patch: Patch) -> None:
    """Any replica may be primary."""

    def of_anyone(
        decide: Callable[[Membership, str], Answer],
    ) -> Callable[[Membership, str], Answer]:
        def decided(record: Membership, node: str) -> Answer:
            answer = decide(replace(record, members=record.replicas), node)
            return replace(answer, record=replace(answer.record, members=record.members))

        return decided

    patch.setattr(arbiter_rules, "publish", of_anyone(arbiter_rules.publish))
    patch.setattr(arbiter_rules, "fail_over", of_anyone(arbiter_rules.fail_over))
    patch.setattr(arbiter_rules, "_may_not_serve", lambda record, view: "")
    patch.setattr(membership, "_outside", membership._promote)


def rule_2(patch: Patch) -> None:
    """The kernel does not freeze: fencing dont-care."""
    patch.setattr(Kernel, "freezes", False)


def rule_3(patch: Patch) -> None:
    """The survivor is promoted with the old primary still in the set."""
    served_by = arbiter_rules._served_by
    patch.setattr(
        arbiter_rules, "_served_by", lambda record, view, _: served_by(record, view, record.members)
    )


def rule_4(patch: Patch) -> None:
    """Back into the set on whatever revision there is."""
    rejoin = arbiter_rules.rejoin

    def at_any_time(held: Held, one: Statement, other: Statement) -> Answer:
        now = {"revision": held.revision, "epoch": 0}
        return rejoin(held, replace(one, **now), replace(other, **now))  # type: ignore[arg-type]

    patch.setattr(arbiter_rules, "rejoin", at_any_time)


def without_standalone(patch: Patch) -> None:
    refusal, may_alone = arbiter_rules.serve_alone, membership._may_alone

    def alone(held: Held, asked: Statement) -> Answer:
        view = replace(asked.view, connection=Connection.STANDALONE)
        return refusal(held, replace(asked, view=view))

    def allowed(now: Situation) -> bool:
        return may_alone(replace(now, view=replace(now.view, connection=Connection.STANDALONE)))

    patch.setattr(arbiter_rules, "serve_alone", alone)
    patch.setattr(membership, "_may_alone", allowed)


def rule_5(patch: Patch) -> None:
    """A frozen primary asks without cutting its connection first."""
    without_standalone(patch)
    going_on = membership._go_on_alone

    def connected(now: Situation) -> Action:
        return going_on(replace(now, view=replace(now.view, connection=Connection.STANDALONE)))

    patch.setattr(membership, "_go_on_alone", connected)


def rule_7(patch: Patch) -> None:
    """What has left is removed before the one that is left has all on its disk."""
    patch.setattr(Membership, "confirmed", True)


def rule_8(patch: Patch) -> None:
    """The fence helper says yes to everybody."""
    patch.setattr(kernel, "fence_helper", lambda _: 7)


def rule_9(patch: Patch) -> None:
    """A survivor asks without cutting its connection first."""
    without_standalone(patch)
    promote = membership._promote_alone

    def connected(now: Situation) -> Action:
        return promote(replace(now, view=replace(now.view, connection=Connection.STANDALONE)))

    patch.setattr(membership, "_promote_alone", connected)


def rule_11(patch: Patch) -> None:
    """Nobody remembers that a disk has failed."""
    decide = membership.next_action

    def forgetful(now: Situation) -> Action:
        action = decide(now)
        if action.notes is not None and action.notes.disk_failed:
            return decide(replace(now, notes=Notes(now.notes.record, True)))
        return action

    patch.setattr(membership, "next_action", forgetful)


def last_copy(patch: Patch) -> None:
    """A disk that had failed is filled anew, whatever the other replica is."""
    patch.setattr(membership, "_fill_anew", lambda now, why: Action(Do.INVALIDATE, why))


def rule_12(patch: Patch) -> None:
    """Any disk, of any generation, is good enough to go on alone with."""
    decide, serve = membership.next_action, arbiter_rules.serve_alone

    def by_force(now: Situation) -> Action:
        action = decide(now)
        return replace(action, do=Do.PROMOTE_BY_FORCE) if action.do is Do.PROMOTE else action

    def any_disk(held: Held, asked: Statement) -> Answer:
        return serve(held, replace(asked, view=replace(asked.view, disk=Disk.UP_TO_DATE)))

    patch.setattr(membership, "next_action", by_force)
    patch.setattr(membership, "WHOLE", tuple(Disk))
    patch.setattr(arbiter_rules, "serve_alone", any_disk)
    patch.setattr(arbiter_rules, "_carries", lambda record, view: True)


def rule_15(patch: Patch) -> None:
    """A node outside the set connects as it is."""

    def at_once(now: Situation) -> Action:
        if now.view.connection is Connection.STANDALONE:
            return Action(Do.CONNECT, "")
        return Action(Do.WAIT, "")

    patch.setattr(membership, "_outside", at_once)
    patch.setattr(membership, "_equal_outside", lambda now: False)


def rule_16(patch: Patch) -> None:
    """A node that has lost power is trusted as before."""
    patch.setattr(Membership, "trusts", lambda *_: True)


def rule_17(patch: Patch) -> None:
    """Nobody compares what was seen with what the store holds."""
    decide, refusal = membership.next_action, arbiter_rules._refusal

    def believing(now: Situation) -> Action:
        known = now.held.record if now.held is not None else now.notes.record
        return decide(replace(now, notes=replace(now.notes, record=known)))

    patch.setattr(membership, "next_action", believing)
    patch.setattr(
        arbiter_rules, "_refusal", lambda held, asked: refusal(held, replace(asked, epoch=0))
    )
    patch.setattr(Kernel, "compares_epochs", False)


RULES = [rule_2, rule_3, rule_8, rule_11, last_copy, rule_15, rule_16, rule_17]


@pytest.mark.parametrize("rule", RULES)
def test_without_a_rule_the_loss_is_found(
    rule: Callable[[Patch], None], monkeypatch: Patch
) -> None:
    rule(monkeypatch)

    assert any(
        lost(explorer.walk(start(MANY), seed, 150)) for seed in range(500) for start in STARTS
    )


def lost(found: explorer.Found | None) -> bool:
    return found is not None and "stuck" not in found.what


DECISION = Budget(writes=0, faults=0, crashes=0, pauses=0, decisions=1)
ONE_WRITE = NARROW._replace(decisions=1)
SEARCHED = [
    (rule_1, behind(DECISION._replace(writes=1))),
    (rule_4, model.tell(model.tell(resynced(NARROW), 0), 1)),
    (rule_7, unpublished(NARROW._replace(writes=0, replicas=1))),
    (rule_9, running(ONE_WRITE)),
    (rule_12, kernel.power_off(syncing(DECISION._replace(writes=1)), 0)),
]


@pytest.mark.parametrize("rule, start", SEARCHED, ids=[rule.__name__ for rule, _ in SEARCHED])
def test_without_a_rule_the_shortest_loss_is_found(
    rule: Callable[[Patch], None], start: World, monkeypatch: Patch
) -> None:
    rule(monkeypatch)

    assert lost(explorer.explore(start, 60_000).found)


STALE_YES = (
    "link cut",
    "a notices the loss",
    "a ask-alone",
    "arbiter answers a ask-alone",
    "a note",
    "a pauses before resume-io",
    "link back",
    "b notices the loss",
    "handshake",
    "a tells",
    "b tells",
    "rejoin",
    "a writes",
    "link cut",
    "a notices the loss",
    "a at last does resume-io",
)


def test_without_rule_5_a_stale_permission_loses_a_write(monkeypatch: Patch) -> None:
    """Longer than the search goes; with the rule, the path ends where the agent asks at once."""
    start = resynced(Budget(writes=1, faults=2, crashes=0, pauses=1, decisions=0))
    assert "a ask-alone" not in dict(explorer.events(follow(start, STALE_YES[:2])))
    rule_5(monkeypatch)

    assert "promoted without" in model.violation(follow(start, STALE_YES))


def follow(world: World, steps: tuple[str, ...]) -> World:
    for step in steps:
        possible = dict(explorer.events(world))
        assert step in possible, f"{step}: only {sorted(possible)}"
        world = possible[step]
    return world
