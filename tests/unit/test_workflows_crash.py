"""The controller is killed at every step of every workflow, and finds its way.

The steps are not listed here: the test finds them by itself. Each write to the store and each call
to a node is two of them, right before and right after it takes effect. After each kill a new
controller either repeats the call, or only compares the store with the nodes. Both times nothing
half-made, doubled or unknown may be left.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster.agents import Agents
from cluster.errors import ClusterError, NoSpace, Unavailable
from cluster.identifiers import Kind, key_of_name
from cluster.memberships import Memberships
from cluster.model import IoLimits, Source, SourceKind, VolumeSpec
from cluster.records import group_table, snapshot_table
from cluster.sqlite_store import SqliteStore
from cluster.store import Store
from tests.unit.cluster_world import THICK, THICK_PAIR, THIN, THIN_PAIR, World, on, three_nodes
from tests.unit.fake_agent import GIB, MIB


class Killed(BaseException):
    """SIGKILL: nothing that catches errors may notice it."""


class Killer:
    """Kills at a step, or only loses that one call or its answer."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._steps_left: int | None = None
        self._error: BaseException = Killed()
        self._dead = False

    def arm(self, steps: int, error: BaseException | None = None) -> None:
        self._steps_left, self._error, self._dead = steps, error or Killed(), False

    def disarm(self) -> None:
        self._steps_left, self._dead = None, False

    @property
    def lost(self) -> bool:
        """Whether the step has come."""
        return self._steps_left is not None and self._steps_left <= 0

    def step(self) -> None:
        with self._mutex:
            if self._dead:  # whatever the dying process still tries to do
                raise Killed
            if self._steps_left is not None:
                self._steps_left -= 1
                if self._steps_left == 0:
                    self._dead = isinstance(self._error, Killed)
                    raise self._error


class Mortal:
    """Passes calls on, each with a step before and after it."""

    def __init__(self, target: object, killer: Killer, harmless: tuple[str, ...] = ()) -> None:
        self._target = target
        self._killer = killer
        self._harmless = harmless

    def __getattr__(self, name: str) -> object:
        attribute = getattr(self._target, name)
        if name in self._harmless:
            return attribute

        def call(*arguments: object, **options: object) -> object:
            self._killer.step()
            answer = attribute(*arguments, **options)
            self._killer.step()
            return answer

        return call


class MortalAgents:
    def __init__(self, agents: Agents, killer: Killer) -> None:
        self._agents = agents
        self._killer = killer

    def names(self) -> tuple[str, ...]:
        return self._agents.names()

    def agent(self, node: str) -> object:
        return Mortal(self._agents.agent(node), self._killer)


@dataclass(frozen=True)
class Story:
    """``prepare`` happens undisturbed; ``act`` is killed and repeated."""

    act: Callable[[World], object]
    prepare: Callable[[World], object] = lambda world: None
    outcome: Callable[[World], None] = lambda world: None


def volume_id(world: World, name: str = "data") -> str:
    volume = world.record(name)
    return "v" + "0" * 28 if volume is None else volume.id


def snapshot_id(world: World) -> str:
    entry = snapshot_table(world.store).find(key_of_name(Kind.SNAPSHOT, "cut"))
    return "s" + "0" * 28 if entry is None else entry.item.id


def group_id(world: World) -> str:
    entry = group_table(world.store).find(key_of_name(Kind.GROUP, "all"))
    return "g" + "0" * 28 if entry is None else entry.item.id


def has_volumes(count: int) -> Callable[[World], None]:
    def check(world: World) -> None:
        assert len(world.nodes.volume_ids()) == count

    return check


def has_snapshots(count: int) -> Callable[[World], None]:
    def check(world: World) -> None:
        assert len(world.nodes.snapshot_ids()) == count

    return check


def crowd(world: World) -> None:
    """n1 has room by its reports, but refuses when it comes to it."""

    def full(node: str, call: str, when: str) -> None:
        if (node, call, when) == ("n1", "create_volume", "before"):
            raise NoSpace("full after all")

    world.nodes.set_fault(full)


def create_in_vain(world: World) -> None:
    with pytest.raises(NoSpace):
        world.create(preferred=on("n1"), requisite=on("n1"))


def clone(world: World) -> None:
    origin = world.create("origin", THIN)
    world.snapshots.create("cut", origin.id)


def two_volumes(*nodes: str) -> Callable[[World], None]:
    def prepare(world: World) -> None:
        for number, node in enumerate(nodes):
            world.create(f"v{number}", THIN, size=MIB, requisite=on(node))

    return prepare


def cut_group(world: World) -> None:
    world.groups.create("all", [volume_id(world, "v0"), volume_id(world, "v1")])


def prepare_group(world: World) -> None:
    two_volumes("n1", "n2")(world)
    cut_group(world)


def clone_pair(world: World) -> None:
    origin = world.create("origin", THIN_PAIR)
    world.snapshots.create("cut", origin.id)


def of_cut(world: World) -> Source:
    return Source(SourceKind.SNAPSHOT, snapshot_id(world))


def of_origin(world: World) -> Source:
    return Source(SourceKind.VOLUME, volume_id(world, "origin"))


def is_a_copy(*, equal: bool | None) -> Callable[[World], None]:
    """``equal``: of two replicas, whether they began with the same blocks."""

    def check(world: World) -> None:
        volume = world.record()
        assert volume is not None
        replication = volume.replication
        assert (None if replication is None else replication.equal) is equal
        origin = world.record("origin")
        assert origin is not None
        complete = volume.nodes if replication is None else replication.complete
        assert set(complete) <= set(origin.nodes)

    return check


def expand(world: World) -> None:
    assert world.volumes.expand(volume_id(world), 2 * GIB, 0) == 2 * GIB


def publish(world: World) -> None:
    volume = world.record()
    assert volume is not None
    world.volumes.publish(volume.id, volume.nodes[0], False, "SINGLE_NODE_WRITER")


def publish_new(world: World, spec: VolumeSpec = THICK) -> None:
    world.create(spec=spec)
    publish(world)


def was_published(world: World) -> None:
    volume = world.record()
    assert volume is not None
    assert len(volume.published) == 1


def expand_pair(world: World) -> None:
    expand(world)
    volume = world.record()
    assert volume is not None
    assert {world.nodes.nodes[node].volumes[volume.id].size_bytes for node in volume.nodes} == {
        2 * GIB
    }


def create_pair_in_vain(world: World) -> None:
    with pytest.raises(NoSpace):
        world.create(spec=THICK_PAIR, requisite=on("n1", "n2"))


def primary(world: World) -> str:
    held = Memberships(world.store).find(volume_id(world))
    assert held is not None
    return held.record.primary


def was_published_pair(world: World) -> None:
    was_published(world)
    volume = world.record()
    assert volume is not None
    assert primary(world) == volume.published[0].node


def was_unpublished_pair(world: World) -> None:
    assert primary(world) == ""


STORIES = {
    "create a pair": Story(lambda world: world.create(spec=THICK_PAIR), outcome=has_volumes(2)),
    "create a thin pair, one node full": Story(
        lambda world: world.create(spec=THIN_PAIR, preferred=on("n1")), crowd, has_volumes(2)
    ),
    "create a pair in vain": Story(create_pair_in_vain, crowd, has_volumes(0)),
    "delete a pair": Story(
        lambda world: world.volumes.delete(volume_id(world)),
        lambda world: world.create(spec=THIN_PAIR),
        has_volumes(0),
    ),
    "publish a pair": Story(
        publish, lambda world: world.create(spec=THICK_PAIR), was_published_pair
    ),
    "unpublish a pair": Story(
        lambda world: world.volumes.unpublish(volume_id(world), ""),
        lambda world: publish_new(world, THIN_PAIR),
        was_unpublished_pair,
    ),
    "expand a pair": Story(
        expand_pair, lambda world: world.create(spec=THICK_PAIR), has_volumes(2)
    ),
    "create": Story(lambda world: world.create(), outcome=has_volumes(1)),
    "create, the first node full": Story(
        lambda world: world.create(preferred=on("n1")), crowd, has_volumes(1)
    ),
    "create in vain": Story(create_in_vain, crowd, has_volumes(0)),
    "restore": Story(
        lambda world: world.create(
            spec=THIN, source=Source(SourceKind.SNAPSHOT, snapshot_id(world))
        ),
        clone,
        has_volumes(2),
    ),
    "snapshot of a pair": Story(
        lambda world: world.snapshots.create("cut", volume_id(world)),
        lambda world: world.create(spec=THIN_PAIR),
        has_snapshots(2),
    ),
    "delete a snapshot of a pair": Story(
        lambda world: world.snapshots.delete(snapshot_id(world)), clone_pair, has_snapshots(0)
    ),
    "restore a pair": Story(
        lambda world: world.create(spec=THIN_PAIR, source=of_cut(world)),
        clone_pair,
        is_a_copy(equal=True),
    ),
    "restore a pair as one": Story(
        lambda world: world.create(spec=THIN, source=of_cut(world)),
        clone_pair,
        is_a_copy(equal=None),
    ),
    "restore a thick pair": Story(
        lambda world: world.create(spec=THICK_PAIR, source=of_cut(world)),
        clone_pair,
        is_a_copy(equal=False),
    ),
    "restore one as a pair": Story(
        lambda world: world.create(spec=THIN_PAIR, source=of_cut(world)),
        clone,
        is_a_copy(equal=False),
    ),
    "clone a pair": Story(
        lambda world: world.create(spec=THIN_PAIR, source=of_origin(world)),
        lambda world: world.create("origin", THIN_PAIR),
        is_a_copy(equal=True),
    ),
    "clone a pair as one": Story(
        lambda world: world.create(spec=THIN, source=of_origin(world)),
        lambda world: world.create("origin", THIN_PAIR),
        is_a_copy(equal=None),
    ),
    "delete": Story(
        lambda world: world.volumes.delete(volume_id(world)),
        lambda world: world.create(),
        has_volumes(0),
    ),
    "publish": Story(publish, lambda world: world.create(), was_published),
    "unpublish": Story(
        lambda world: world.volumes.unpublish(volume_id(world), ""),
        publish_new,
    ),
    "expand": Story(expand, lambda world: world.create(), has_volumes(1)),
    "modify": Story(
        lambda world: world.volumes.modify(volume_id(world), lambda _: IoLimits(read_iops=5)),
        lambda world: world.create(),
    ),
    "snapshot": Story(
        lambda world: world.snapshots.create("cut", volume_id(world)),
        lambda world: world.create(spec=THIN),
        has_snapshots(1),
    ),
    "snapshot of a thick volume": Story(
        lambda world: world.snapshots.create("cut", volume_id(world)),
        lambda world: world.create(spec=THICK),
        has_snapshots(1),
    ),
    "delete a snapshot": Story(
        lambda world: world.snapshots.delete(snapshot_id(world)), clone, has_snapshots(0)
    ),
    "group on one node": Story(cut_group, two_volumes("n1", "n1"), has_snapshots(2)),
    "group on two nodes": Story(cut_group, two_volumes("n1", "n2"), has_snapshots(2)),
    "delete a group": Story(
        lambda world: world.groups.delete(group_id(world), []), prepare_group, has_snapshots(0)
    ),
}


def mortal_world(directory: Path, killer: Killer) -> tuple[World, Store]:
    store = SqliteStore(directory / "store.db")
    nodes = three_nodes()
    mortal_store = Mortal(store, killer, ("get", "list", "watch", "close"))
    world = World(
        mortal_store,  # type: ignore[arg-type]
        nodes,
        MortalAgents(nodes, killer),  # type: ignore[arg-type]
    )
    return world, store


def repeat(world: World, story: Story) -> None:
    story.act(world)
    story.outcome(world)


def only_compare(world: World, story: Story) -> None:
    for _ in range(3):  # what was freed in one run may let the next go on
        world.reconciler.run_once()
    assert world.reconciler.differences == ()


@pytest.mark.parametrize("afterwards", [repeat, only_compare])
@pytest.mark.parametrize("name", STORIES)
def test_killed_at_every_step(
    tmp_path: Path, name: str, afterwards: Callable[[World, Story], None]
) -> None:
    story = STORIES[name]
    for steps in itertools.count(1):
        directory = tmp_path / str(steps)
        directory.mkdir()
        killer = Killer()
        world, store = mortal_world(directory, killer)
        story.prepare(world)
        world.restart()
        killer.arm(steps)
        try:
            story.act(world)
        except Killed:
            killed = True
        else:
            killed = False
        killer.disarm()
        world.check()
        world.restart()
        afterwards(world, story)
        world.check_settled()
        store.close()
        if not killed:
            break
    assert steps > 2


@pytest.mark.parametrize("name", STORIES)
def test_a_call_or_an_answer_lost_at_every_step(tmp_path: Path, name: str) -> None:
    """Nobody dies; the store or a node cannot be reached once. The same controller goes on."""
    story = STORIES[name]
    for steps in itertools.count(1):
        directory = tmp_path / str(steps)
        directory.mkdir()
        killer = Killer()
        world, store = mortal_world(directory, killer)
        story.prepare(world)
        killer.arm(steps, Unavailable("lost"))
        with suppress(ClusterError):
            story.act(world)
        lost = killer.lost
        killer.disarm()
        world.check()
        repeat(world, story)
        world.reconciler.run_once()
        world.check_settled()
        store.close()
        if not lost:
            break
    assert steps > 2


@pytest.mark.parametrize("name", STORIES)
def test_killed_twice(tmp_path: Path, name: str) -> None:
    """Once in the call and once in its repetition, at steps that are not in line."""
    story = STORIES[name]
    for first, second in ((3, 2), (4, 4), (5, 3), (6, 6), (7, 2), (9, 5)):
        directory = tmp_path / f"{first}-{second}"
        directory.mkdir()
        killer = Killer()
        world, store = mortal_world(directory, killer)
        story.prepare(world)
        for steps in (first, second):
            world.restart()
            killer.arm(steps)
            with suppress(Killed):
                story.act(world)
            killer.disarm()
            world.check()
        world.restart()
        repeat(world, story)
        world.check_settled()
        store.close()
