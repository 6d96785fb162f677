"""In the worlds of ``membership_model``: one replica or two, and what a person decides."""

from __future__ import annotations

from collections.abc import Iterator

from replication import arbiter_rules
from replication.record import Disk, Notes
from tests.unit.membership_model import rolled_back, tell, write
from tests.unit.membership_world import NAMES, World, put, spend


def decisions(world: World) -> Iterator[tuple[str, World]]:
    """One replica instead of two, by what the keeper has stated; and two again."""
    if not world.budget.replicas or rolled_back(world):
        return
    record = world.held.record
    for index, name in enumerate(NAMES):
        asked = world.nodes[1 - index].up and world.arbiter[1 - index]
        if name in record.replicas and len(record.replicas) == 2 and asked:
            keeper = tell(world, 1 - index).told[1 - index]
            assert keeper is not None
            answer = arbiter_rules.remove_replica(world.held, name, keeper)
            if answer.granted:
                yield f"{name} removed", write(spend(world, "replicas"), answer)
        if name not in record.replicas and _is_blank(world, index):
            answer = arbiter_rules.add_replica(record, name)
            yield f"{name} added", write(spend(world, "replicas"), answer)


def persons(world: World) -> Iterator[tuple[str, World]]:
    """That replica is the volume, as it would be after a loss of power."""
    record = world.held.record
    if not world.budget.persons:
        return
    above = 1000 + max(record.epoch, *(node.notes.epoch for node in world.nodes))
    for index, name in enumerate(NAMES):
        node, other = world.nodes[index], NAMES[1 - index]
        answer = arbiter_rules.force_primary(record, name, True, at_least=above)
        if answer.granted:
            after = write(spend(world, "persons"), answer)
            budget = after.budget._replace(rollbacks=0)
            after = after._replace(acknowledged=world.acknowledged & node.stable, budget=budget)
            yield f"{name} forced", after._replace(go_alone=True, forsaken=other, hopeless=True)


def progress(world: World) -> Iterator[tuple[str, World]]:
    """What a node keeps of a replica that it has no more is removed once it is not set up.

    And once the one that is left has all, whatever becomes of its power.
    """
    record = world.held.record
    if not record.confirmed:
        return
    for index, name in enumerate(NAMES):
        node = world.nodes[index]
        gone = name not in record.replicas and node.up and node.disk is Disk.ABSENT
        if gone and not rolled_back(world) and not _is_blank(world, index):
            kernel = {"current": "", "bitmap": "", "history": frozenset(), "was_primary": False}
            blank = {"meta": Disk.INCONSISTENT, "data": 0, "stable": 0, "exposed": "", **kernel}
            yield f"{name} wiped", put(world, index, **blank, notes=Notes(), broken=False)


def _is_blank(world: World, index: int) -> bool:
    node = world.nodes[index]
    return node.meta is Disk.INCONSISTENT and not node.current and node.notes == Notes()
