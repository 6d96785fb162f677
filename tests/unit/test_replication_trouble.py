"""A node that is configured to take replicas and cannot, as where DRBD's module does not load."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.errors import NoSpace, Unavailable
from cluster.model import Phase
from tests.unit.changes_world import ChangingWorld, changing_world
from tests.unit.cluster_world import THIN, THIN_PAIR, World, on
from tests.unit.fake_agent import GIB
from tests.unit.test_pools import request
from tests.unit.test_workflows_replicas import pair_world, publish

TROUBLE = "modprobe: Module drbd not found"


def three(tmp_path: Path) -> World:
    world = pair_world(tmp_path)
    world.nodes.nodes["n3"].replication_address = "10.0.0.3"
    return world


def test_it_is_given_none_and_the_refusal_says_why(tmp_path: Path) -> None:
    world = three(tmp_path)
    world.nodes.nodes["n2"].replication_trouble = TROUBLE
    assert set(world.create("first", THIN_PAIR).nodes) == {"n1", "n3"}
    assert world.create("single", THIN, requisite=on("n2")).nodes == ("n2",)
    before = world.volumes.capacity(THIN_PAIR, None)[1]
    world.nodes.nodes["n3"].replication_trouble = TROUBLE
    world.pools.refresh(whole=True)
    with pytest.raises(NoSpace, match=f"n2: it takes no replicas: {TROUBLE}; n3: it takes no"):
        world.create("second", THIN_PAIR)
    assert before > 0
    assert world.volumes.capacity(THIN_PAIR, None)[1] == 0
    world.check_settled()


def test_it_is_asked_again_before_it_is_refused_for_a_trouble_that_is_over(
    tmp_path: Path,
) -> None:
    world = pair_world(tmp_path)
    world.nodes.nodes["n2"].replication_trouble = TROUBLE
    world.pools.refresh()
    world.nodes.nodes["n2"].replication_trouble = ""
    assert set(world.create(spec=THIN_PAIR).nodes) == {"n1", "n2"}


def test_a_trouble_that_nobody_has_heard_of_makes_no_half_a_pair(tmp_path: Path) -> None:
    """The controller heard last that all is well: the node itself refuses."""
    world = three(tmp_path)
    world.pools.refresh()
    world.nodes.nodes["n2"].replication_trouble = TROUBLE
    with pytest.raises(Unavailable, match=f"n2 takes no replicas now: {TROUBLE}"):
        world.create(spec=THIN_PAIR, preferred=on("n1", "n2"))
    assert not world.nodes.nodes["n2"].volumes
    volume = world.create(spec=THIN_PAIR, preferred=on("n1", "n2"))
    assert volume.nodes == ("n1", "n3")
    assert volume.replication is not None
    assert [place.address for place in volume.replication.places] == ["10.0.0.1", "10.0.0.3"]
    world.check_settled()


def test_a_trouble_of_a_moment_is_waited_out_on_the_same_nodes(tmp_path: Path) -> None:
    world = three(tmp_path)
    world.pools.refresh()
    world.nodes.nodes["n2"].replication_trouble = "replication is being set up"
    with pytest.raises(Unavailable):
        world.create(spec=THIN_PAIR, preferred=on("n1", "n2"))
    before = world.record()
    world.nodes.nodes["n2"].replication_trouble = ""
    volume = world.create(spec=THIN_PAIR, preferred=on("n1", "n2"))
    assert before is not None
    assert volume == replace(before, phase=Phase.READY)


def test_the_address_of_a_replica_is_the_one_that_its_node_was_chosen_by(tmp_path: Path) -> None:
    world = pair_world(tmp_path)
    chosen = world.pools.reserve(request("v1", spec=THIN_PAIR))
    world.nodes.nodes["n2"].replication_trouble = TROUBLE
    world.pools.refresh(whole=True)
    assert world.pools.replication_address("n2") == ""
    assert {one.node: one.replication_address for one in chosen} == {
        "n1": "10.0.0.1",
        "n2": "10.0.0.2",
    }


def test_the_volumes_that_are_there_stay_as_they_are(tmp_path: Path) -> None:
    world = pair_world(tmp_path)
    volume = world.create(spec=THIN_PAIR)
    for node in volume.nodes:
        world.nodes.nodes[node].replication_trouble = TROUBLE
    assert world.reconciler.run_once() == ()
    assert world.create(spec=THIN_PAIR) == volume
    publish(world, volume, "n1")
    assert world.volumes.expand(volume.id, 2 * GIB, 0) == 2 * GIB
    world.volumes.unpublish(volume.id, "n1")
    world.check_settled()
    world.volumes.delete(volume.id)
    world.check_settled()


@pytest.fixture
def changing(tmp_path: Path) -> Iterator[ChangingWorld]:
    with changing_world(tmp_path) as world:
        yield world


def test_a_single_volume_gets_no_second_replica_beside_a_first_that_cannot_be_one(
    changing: ChangingWorld,
) -> None:
    volume = changing.create(spec=THIN, requisite=on("n1"))
    changing.nodes.nodes["n1"].replication_trouble = TROUBLE
    with pytest.raises(Unavailable, match=f"n1 takes no replicas now: {TROUBLE}"):
        changing.changes.set_replicas(volume.id, 2)
    assert changing.now() == volume
    changing.check_settled()


def test_a_replica_goes_elsewhere_where_its_node_turns_out_to_take_none(
    changing: ChangingWorld,
) -> None:
    volume = changing.create(spec=THIN, requisite=on("n1"))
    changing.pools.refresh()
    troubled = changing.nodes.nodes
    for node in ("n2", "n3"):
        troubled[node].replication_trouble = TROUBLE
    with pytest.raises(Unavailable, match="takes no replicas now"):
        changing.changes.set_replicas(volume.id, 2)
    (chosen,) = set(changing.now().nodes) - {"n1"}
    other = ({"n2", "n3"} - {chosen}).pop()
    troubled[other].replication_trouble = ""
    assert set(changing.changes.set_replicas(volume.id, 2).nodes) == {"n1", other}
    changing.check_settled()
