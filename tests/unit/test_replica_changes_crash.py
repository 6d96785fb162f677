"""The controller is killed at every step of every change of replicas, and finds its way."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster.errors import ClusterError, Unavailable
from cluster.model import Volume
from cluster.sqlite_store import SqliteStore
from tests.unit.changes_world import ChangingWorld
from tests.unit.cluster_world import THIN, THIN_PAIR, on, three_nodes
from tests.unit.test_workflows_crash import Killed, Killer, Mortal, MortalAgents


@dataclass(frozen=True)
class Story:
    """``nodes``: where it is when that was repeated; () is anywhere, so many."""

    prepare: Callable[[ChangingWorld], object]
    act: Callable[[ChangingWorld], object]
    count: int
    nodes: tuple[str, ...] = ()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that an arbiter ends at once: there are hundreds."""
    monkeypatch.setattr("recovery.followed._WATCH_SECONDS", 0.01)


def single(world: ChangingWorld) -> None:
    world.create(spec=THIN, requisite=on("n1"))
    use(world)


def pair(world: ChangingWorld) -> None:
    world.create(spec=THIN_PAIR, preferred=on("n1", "n2"))
    use(world)


def use(world: ChangingWorld) -> None:
    world.volumes.publish(world.now().id, "n1", False, "SINGLE_NODE_WRITER")


def pair_without_n2(world: ChangingWorld) -> None:
    pair(world)
    world.nodes.nodes["n2"].down = True


def replace_n2(world: ChangingWorld) -> None:
    world.changes.move_replica(world.now().id, "n2")


STORIES = {
    "one to two": Story(single, lambda world: world.changes.set_replicas(world.now().id, 2), 2),
    "two to one": Story(
        pair, lambda world: world.changes.set_replicas(world.now().id, 1), 1, ("n1",)
    ),
    "move": Story(
        pair,
        lambda world: world.changes.move_replica(world.now().id, "n2", "n3"),
        2,
        ("n1", "n3"),
    ),
    "replace": Story(pair_without_n2, replace_n2, 2, ("n1", "n3")),
}


@contextmanager
def mortal_world(directory: Path, killer: Killer) -> Iterator[ChangingWorld]:
    directory.mkdir()
    store = SqliteStore(directory / "store.db")
    nodes = three_nodes()
    world = ChangingWorld(
        Mortal(store, killer, ("get", "list", "watch", "close")),  # type: ignore[arg-type]
        nodes,
        MortalAgents(nodes, killer),  # type: ignore[arg-type]
        lambda seeing: Mortal(seeing, killer, ("statements",)),
        base=store,
    )
    try:
        yield world
    finally:
        world.stop()
        store.close()


def in_use_and_whole(world: ChangingWorld) -> Volume:
    """Whatever happened: where the volume is used it is whole, and nothing live was removed."""
    world.check()
    volume = world.now()
    assert [one.node for one in volume.published] == ["n1"]
    assert "n1" in volume.nodes
    assert volume.id in world.nodes.nodes["n1"].volumes
    if volume.replication is not None:
        record = world.membership()
        assert record.primary == "n1" and "n1" in record.members
        for node in record.replicas:
            assert volume.id in world.nodes.nodes[node].volumes
    return volume


def settle(world: ChangingWorld) -> None:
    """What goes on by itself: comparing, repairing."""
    for _ in range(4):
        world.eyes.look()
        world.reconciler.run_once()
        world.repair.look()
        in_use_and_whole(world)


def finished(world: ChangingWorld, story: Story) -> None:
    volume = in_use_and_whole(world)
    assert len(volume.nodes) == story.count
    assert set(story.nodes) <= set(volume.nodes)


@pytest.mark.parametrize("repeats", [True, False])
@pytest.mark.parametrize("name", STORIES)
def test_killed_at_every_step(tmp_path: Path, name: str, repeats: bool) -> None:
    story = STORIES[name]
    for steps in itertools.count(1):
        killer = Killer()
        with mortal_world(tmp_path / str(steps), killer) as world:
            story.prepare(world)
            world.restart()
            killer.arm(steps)
            killed = False
            try:
                story.act(world)
            except Killed:
                killed = True
            killer.disarm()
            in_use_and_whole(world)
            world.restart()
            if repeats:
                story.act(world)
                finished(world, story)
            world.nodes.nodes["n2"].down = False
            settle(world)
            world.check_settled()
            volume = world.now()
            if volume.replication is not None:
                world.eyes.fill(volume.id)
            if repeats:
                finished(world, story)
        if not killed:
            break
    assert steps > 5


@pytest.mark.parametrize("name", STORIES)
def test_a_call_or_an_answer_lost_at_every_step(tmp_path: Path, name: str) -> None:
    story = STORIES[name]
    for steps in itertools.count(1):
        killer = Killer()
        with mortal_world(tmp_path / str(steps), killer) as world:
            story.prepare(world)
            killer.arm(steps, Unavailable("lost"))
            with suppress(ClusterError):
                story.act(world)
            lost = killer.lost
            killer.disarm()
            in_use_and_whole(world)
            story.act(world)
            finished(world, story)
            world.nodes.nodes["n2"].down = False
            settle(world)
            world.check_settled()
        if not lost:
            break
    assert steps > 5
