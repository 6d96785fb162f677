"""Searches through the worlds of ``membership_model``: all up to a bound, or at random beyond."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from replication import arbiter_rules
from replication.record import Disk, Role
from tests.unit import membership_changes as changes
from tests.unit import membership_kernel as kernel
from tests.unit import membership_model as model
from tests.unit.membership_world import NAMES, Budget, World, put


@dataclass(frozen=True)
class Found:
    what: str
    path: tuple[str, ...]

    def __str__(self) -> str:
        return "\n  ".join((self.what, *self.path))


@dataclass(frozen=True)
class Explored:
    states: int
    depth: int
    complete: bool  # nothing was left out within the budgets
    found: Found | None


def explore(start: World, states: int, depth: int = 1000, stuck: int = 0) -> Explored:
    """Breadth first, up to so many states. Every ``stuck``-th one is also healed and must serve."""
    before: dict[World, tuple[World, str] | None] = {start: None}
    queue = deque([(start, 0)])
    deepest = 0

    def path(world: World) -> tuple[str, ...]:
        steps = []
        while (link := before[world]) is not None:
            world, step = link
            steps.append(step)
        return tuple(reversed(steps))

    count = 0
    while queue:
        world, far = queue.popleft()
        deepest = max(deepest, far)
        count += 1
        if wrong := model.violation(world):
            return Explored(len(before), deepest, False, Found(wrong, path(world)))
        if stuck and count % stuck == 0 and (wrong := healed(world)):
            return Explored(len(before), deepest, False, Found(wrong, path(world)))
        if far == depth:
            continue
        for step, after in events(world):
            if after not in before:
                if len(before) >= states:
                    return Explored(len(before), deepest, False, None)
                before[after] = (world, step)
                queue.append((after, far + 1))
    return Explored(len(before), deepest, True, None)


def walk(start: World, seed: int, steps: int) -> Found | None:
    """One random path; ordinary progress is likelier than faults, so that much can happen."""
    choose = random.Random(seed)
    world, path = start, []
    for _ in range(steps):
        ordinary = list(_progress(world))
        rest = list(_interference(world))
        pool = ordinary if ordinary and (not rest or choose.random() < 0.8) else rest
        if not pool:
            break
        step, world = choose.choice(pool)
        path.append(step)
        if wrong := model.violation(world):
            return Found(f"seed {seed}: {wrong}", tuple(path))
    if wrong := healed(world):
        return Found(f"seed {seed}: {wrong}", tuple(path))
    return None


def healed(world: World) -> str:
    """Heal all faults and let everything go on fairly: what is wrong then, or nothing.

    Once with somebody who publishes the volume, when it has to serve; once without, when it has to
    come to rest with two complete replicas, so that it can be published on either; and with each
    node dead for good, when the other one has to serve if it is in the set.
    """
    nothing = Budget(*(0 for _ in world.budget))
    world = world._replace(link=True, arbiter=(True, True), go_alone=False, budget=nothing)
    one, other = (_mended(world, index) for index in (0, 1))
    whole = _mended(one, 1)
    wrong = _outcome(whole, _publish_somewhere, _serves) or _outcome(whole, _unpublish, _rests)
    for index, living in ((0, one), (1, other)):
        if not wrong and kernel.may_lose_power(living.nodes[1 - index]):
            dead = kernel.power_off(living, 1 - index)
            wrong = _outcome(dead, partial(_fail_over, to=index), partial(_survives, index=index))
    return wrong


def _mended(world: World, index: int) -> World:
    node = world.nodes[index]
    boot = node.boot if node.up else node.boot + 1
    world = put(world, index, up=True, broken=False, boot=boot)
    if not any(asked[:2] == (index, node.waiting) for asked in world.asks):
        world = put(world, index, waiting=None)  # by its deadline
    return world


def _outcome(
    world: World, decide: Callable[[World], World], reached: Callable[[World], bool]
) -> str:
    for _ in range(60):
        before = world
        world = decide(_round(world))
        if wrong := model.violation(world):
            return f"when healed: {wrong}"
        if reached(world):
            return ""
        if world == before:
            break
    reasons = [model.decide(world, index).reason for index in (0, 1) if world.nodes[index].up]
    if any("person" in reason for reason in reasons):
        return ""
    return f"stuck when healed: {reasons}, {world}"


def _progress(world: World) -> Iterator[tuple[str, World]]:
    yield from model.progress(world)
    yield from changes.progress(world)


def _interference(world: World) -> Iterator[tuple[str, World]]:
    yield from model.faults(world)
    yield from model.decisions(world)
    yield from changes.decisions(world)
    yield from changes.persons(world)


def events(world: World) -> Iterator[tuple[str, World]]:
    """All that may happen next: what it is called, and the world then."""
    yield from _progress(world)
    yield from _interference(world)


def _round(world: World) -> World:
    """Everything that can go on by itself goes on once."""
    for kind in range(200):
        steps = list(_progress(world))
        if not steps:
            return world
        # In turn, so that nothing is left out for ever.
        _, world = steps[kind % len(steps)]
    return world


def _publish_somewhere(world: World) -> World:
    record = world.held.record
    if record.primary == "" and record.members:
        node = record.active if record.active in record.members else record.members[0]
        return model.write(world, arbiter_rules.publish(record, node))
    if record.primary not in record.members and not record.quarantine:
        # Also a controller's task: what is published where no complete replica is fails over.
        index = NAMES.index(record.primary)
        through_peer = world.nodes[index].disk is Disk.DISKLESS and world.nodes[index].users
        if not through_peer:
            return model.write(world, arbiter_rules.fail_over(record, record.members[0]))
    return world


def _unpublish(world: World) -> World:
    record = world.held.record
    if not record.primary:
        return world
    return model.write(world, arbiter_rules.unpublish(record, record.primary))


def _fail_over(world: World, to: int) -> World:
    """The other node is dead for good, and a controller knows it."""
    if model.rolled_back(world):
        return world
    record = world.held.record
    if record.primary != NAMES[to]:
        world = model.write(world, arbiter_rules.fail_over(record, NAMES[to]))
    return world._replace(go_alone=True)


def _survives(world: World, index: int) -> bool:
    node, record = world.nodes[index], world.held.record
    complete = NAMES[index] in record.members and not node.notes.disk_failed
    return kernel.can_write(world, index) or not complete or model.rolled_back(world)


def _serves(world: World) -> bool:
    whole = _is_whole(world)
    for index, node in enumerate(world.nodes):
        # Through the peer until the disk is replaced: that is said, and a controller's task.
        if kernel.can_write(world, index) and (whole or node.disk is Disk.DISKLESS):
            return True
    return False


def _rests(world: World) -> bool:
    idle = all(node.role is Role.SECONDARY and not node.frozen for node in world.nodes)
    return idle and _is_whole(world)


def _is_whole(world: World) -> bool:
    return len(world.held.record.members) == len(world.held.record.replicas)
