"""Whose turn it is to be compared: over a real store, with nodes in memory."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.agents import VERIFY, VerifyReport
from cluster.errors import Refused
from cluster.model import Volume
from cluster.records import volume_table
from recovery.verification import Verification
from tests.unit.cluster_world import THIN, THIN_PAIR, World, on
from tests.unit.fake_agent import IN_SYNC
from tests.unit.test_workflows_replicas import change, pair_world


def verification(world: World, interval: float = 3600.0) -> Verification:
    return Verification(world.store, world.agents, interval_seconds=interval)


def verifying(world: World) -> set[str]:
    return {
        volume_id
        for node in world.nodes.nodes.values()
        for volume_id, replica in node.replicas.items()
        if replica.activity == VERIFY
    }


def finished(world: World, volume: Volume, ago: float) -> None:
    for node in volume.nodes:
        world.nodes.nodes[node].replicas[volume.id] = replace(
            IN_SYNC, verify=VerifyReport(time.time() - ago)
        )


def age(world: World, volume: Volume, seconds: float) -> None:
    """As if it had been made so long ago."""
    table = volume_table(world.store)
    table.update(table.ready(volume.id), created_at=time.time() - seconds)


def test_a_person_has_a_volume_compared(tmp_path: Path) -> None:
    world = pair_world(tmp_path)
    volume = world.create(spec=THIN_PAIR)
    assert verification(world).verify(volume.id) in volume.nodes
    assert verifying(world) == {volume.id}


def test_what_is_not_in_sync_is_not_compared(tmp_path: Path) -> None:
    world = pair_world(tmp_path)
    volume = world.create(spec=THIN_PAIR)
    change(world, volume, members=("n1",))
    with pytest.raises(Refused, match="only n1 is in sync"):
        verification(world).verify(volume.id)
    single = world.create("single", THIN, requisite=on("n1"))
    with pytest.raises(Refused, match="not replicated"):
        verification(world).verify(single.id)


def test_one_comparison_a_node_the_longest_ago_first(tmp_path: Path) -> None:
    world = pair_world(tmp_path)
    volumes = [world.create(f"v{number}", THIN_PAIR) for number in range(3)]
    for ago, volume in zip((4000, 9000, 10), volumes, strict=True):
        finished(world, volume, ago)
    subject = verification(world)
    subject.look()
    assert verifying(world) == {volumes[1].id}
    subject.look()
    assert verifying(world) == {volumes[1].id}
    finished(world, volumes[1], 0)
    subject.look()
    assert verifying(world) == {volumes[0].id}
    finished(world, volumes[0], 0)
    subject.look()
    assert verifying(world) == set()


def test_one_that_is_interrupted_again_and_again_keeps_others_from_nothing(tmp_path: Path) -> None:
    world = pair_world(tmp_path)
    broken, other = (world.create(f"v{number}", THIN_PAIR) for number in range(2))
    finished(world, other, 9000)
    age(world, broken, 20000)
    for node in broken.nodes:
        world.nodes.nodes[node].replicas[broken.id] = replace(
            IN_SYNC, verify=VerifyReport(time.time() - 60, trouble="it was interrupted")
        )
    verification(world).look()
    assert verifying(world) == {other.id}


def test_a_new_volume_is_due_one_interval_after_its_creation(tmp_path: Path) -> None:
    world = pair_world(tmp_path)
    volume = world.create(spec=THIN_PAIR)
    verification(world).look()
    assert verifying(world) == set()
    age(world, volume, 3700)
    verification(world).look()
    assert verifying(world) == {volume.id}


def test_a_node_that_is_down_keeps_others_from_nothing(tmp_path: Path) -> None:
    world = pair_world(tmp_path)
    age(world, world.create(spec=THIN_PAIR), 9000)
    world.nodes.nodes["n2"].down = True
    verification(world).look()
    assert verifying(world) == set()
