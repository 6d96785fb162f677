"""The workflows of volumes: what a caller sees, and what is left on the nodes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.agents import Health
from cluster.errors import (
    AlreadyExists,
    Busy,
    DataLoss,
    InvalidArgument,
    NoSpace,
    NotFound,
    OutOfRange,
    Refused,
    Unavailable,
)
from cluster.identifiers import Kind, key_of_name, new_id
from cluster.model import IoLimits, Publication, SourceKind
from cluster.sqlite_store import SqliteStore
from cluster.store import RecordKind
from tests.unit.cluster_world import (
    THIN,
    World,
    fails,
    no_faults,
    on,
    three_nodes,
)
from tests.unit.fake_agent import GIB, MIB

WRITER = "SINGLE_NODE_WRITER"
SNAPSHOT = SourceKind.SNAPSHOT


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    store = SqliteStore(tmp_path / "store.db")
    world = World(store, three_nodes())
    yield world
    world.check()
    store.close()


# Deletion


def test_what_is_deleted_is_gone_and_may_be_deleted_again(world: World) -> None:
    made = world.create()
    for _ in range(2):
        world.volumes.delete(made.id)
    with pytest.raises(NotFound):
        world.volumes.get(made.id)
    assert world.nodes.volume_ids() == []


def test_a_late_deletion_of_a_former_volume_spares_its_successor(world: World) -> None:
    former = world.create()
    world.volumes.delete(former.id)
    present = world.create()
    world.volumes.delete(former.id)
    world.volumes.unpublish(former.id, "")
    assert world.volumes.get(present.id) == present
    with pytest.raises(NotFound):
        world.volumes.get(former.id)


@pytest.mark.parametrize("foreign", ["no-such-volume", "../x", "v" + "0" * 28])
def test_deleting_what_is_not_ours_is_success(world: World, foreign: str) -> None:
    world.volumes.delete(foreign)
    world.volumes.unpublish(foreign, "n1")
    with pytest.raises(NotFound):
        world.volumes.get(foreign)


def test_a_volume_in_use_is_not_deleted_and_not_changed(world: World) -> None:
    made = world.create()
    world.volumes.publish(made.id, made.nodes[0], False, WRITER)
    with pytest.raises(Refused, match=f"published on {made.nodes[0]}"):
        world.volumes.delete(made.id)
    world.volumes.unpublish(made.id, made.nodes[0])
    world.snapshots.create("cut", made.id)
    with pytest.raises(Refused, match="depends on volume"):
        world.volumes.delete(made.id)
    assert world.volumes.get(made.id) == made


def test_a_deletion_that_does_not_reach_the_node_is_not_forgotten(world: World) -> None:
    made = world.create()
    node = world.nodes.nodes[made.nodes[0]]
    node.down = True
    for _ in range(2):
        with pytest.raises(Unavailable, match=f"{node.name} is down"):
            world.volumes.delete(made.id)
    with pytest.raises(NotFound):
        world.volumes.get(made.id)
    with pytest.raises(Unavailable):  # the name is still taken
        world.create()
    node.down = False
    world.volumes.delete(made.id)
    world.check_settled()


def test_what_is_in_a_pool_that_is_no_longer_configured_is_not_forgotten(world: World) -> None:
    made = world.create(spec=THIN, preferred=on("n1"))
    cut = world.snapshots.create("cut", made.id)
    node = world.nodes.nodes["n1"]
    pools, node.pools_of = node.pools_of, {}
    for delete in (lambda: world.snapshots.delete(cut.id), lambda: world.volumes.delete(made.id)):
        with pytest.raises(Unavailable, match="pool 'default' is not in the configuration"):
            delete()
    node.pools_of = pools
    world.snapshots.delete(cut.id)
    world.volumes.delete(made.id)
    world.check_settled()


def test_a_node_that_does_not_find_what_it_needs_has_not_deleted_anything(world: World) -> None:
    made = world.create(spec=THIN)
    cut = world.snapshots.create("cut", made.id)
    for call, delete in [
        ("delete_snapshots", lambda: world.snapshots.delete(cut.id)),
        ("delete_volume", lambda: world.volumes.delete(made.id)),
    ]:
        world.nodes.set_fault(fails(call, NotFound("the program lvm is not installed")))
        with pytest.raises(Unavailable, match="lvm is not installed"):
            delete()
        world.nodes.set_fault(no_faults)
        delete()
    world.check_settled()


def test_deleting_from_a_node_that_is_no_longer_configured(world: World) -> None:
    made = world.create(preferred=on("n1"))
    del world.nodes.nodes["n1"]
    world.restart()
    world.volumes.delete(made.id)
    assert world.record() is None


# Publication


def test_a_volume_is_published_on_one_node_in_one_way(world: World) -> None:
    made = world.create(preferred=on("n1"))
    published = world.volumes.publish(made.id, "n1", False, WRITER)
    assert published.published == (Publication("n1", False, WRITER),)
    assert world.volumes.publish(made.id, "n1", False, WRITER) == published
    with pytest.raises(AlreadyExists):
        world.volumes.publish(made.id, "n1", True, WRITER)
    with pytest.raises(AlreadyExists, match=f"as {WRITER}"):
        world.volumes.publish(made.id, "n1", False, "SINGLE_NODE_SINGLE_WRITER")
    world.volumes.unpublish(made.id, "n2")
    assert world.volumes.get(made.id) == published
    for node in ("n1", ""):
        world.volumes.unpublish(made.id, node)
    assert world.volumes.get(made.id) == made


def test_where_a_volume_cannot_be_published(world: World) -> None:
    made = world.create(preferred=on("n1"))
    with pytest.raises(NotFound, match="no node 'n9'"):
        world.volumes.publish(made.id, "n9", False, WRITER)
    with pytest.raises(Refused, match="is on n1, not on n2"):
        world.volumes.publish(made.id, "n2", False, WRITER)
    with pytest.raises(NotFound):
        world.volumes.publish(new_id(Kind.VOLUME, "data"), "n1", False, WRITER)
    world.put(replace(made, nodes=("n1", "n2")))
    world.volumes.publish(made.id, "n2", False, WRITER)
    with pytest.raises(Refused, match="published on n2"):
        world.volumes.publish(made.id, "n1", False, WRITER)
    world.put(made)


def test_a_publication_from_a_rebuilt_store_takes_any_mode_once(world: World) -> None:
    made = world.create(preferred=on("n1"))
    world.put(replace(made, published=(Publication("n1", False, ""),)))
    published = world.volumes.publish(made.id, "n1", True, WRITER)
    assert published.published == (Publication("n1", True, WRITER),)


# Growth, limits, health


def test_a_volume_grows_within_its_limit(world: World) -> None:
    made = world.create()
    assert world.volumes.expand(made.id, 2 * GIB - 1, 0) == 2 * GIB
    assert world.volumes.expand(made.id, GIB, 3 * GIB) == 2 * GIB
    assert world.volumes.get(made.id).size_bytes == 2 * GIB
    with pytest.raises(OutOfRange):
        world.volumes.expand(made.id, GIB, GIB)
    with pytest.raises(NoSpace):
        world.volumes.expand(made.id, 11 * GIB, 0)
    assert world.volumes.get(made.id).size_bytes == 2 * GIB


def test_growth_that_was_cut_off_is_repeated_on_the_node(world: World) -> None:
    made = world.create()
    world.nodes.set_fault(fails("expand_volume", Unavailable("lost"), when="after"))
    with pytest.raises(Unavailable):
        world.volumes.expand(made.id, 2 * GIB, 0)
    assert world.volumes.get(made.id).size_bytes == GIB
    world.nodes.set_fault(no_faults)
    (mended,) = world.reconciler.run_once()
    assert (mended.kind, mended.mended) == ("size", True)
    calls = world.nodes.nodes[made.nodes[0]].calls
    calls.clear()
    assert world.volumes.expand(made.id, 2 * GIB, 0) == 2 * GIB
    assert calls == ["expand_volume"]


def test_limits_are_kept_and_reach_the_node_in_the_end(world: World) -> None:
    made = world.create()
    node = world.nodes.nodes[made.nodes[0]]
    limits = IoLimits(write_iops=100)
    world.nodes.set_fault(fails("set_limits", Unavailable("lost")))
    with pytest.raises(Unavailable):
        world.volumes.modify(made.id, lambda _: limits)
    assert world.volumes.get(made.id).limits == limits
    world.nodes.set_fault(no_faults)
    (mended,) = world.reconciler.run_once()
    assert (mended.kind, mended.mended) == ("limits", True)
    assert node.volumes[made.id].record.limits == limits
    assert world.reconciler.run_once() == ()


def test_health_says_what_is_wrong(world: World) -> None:
    made = world.create(preferred=on("n1"))
    node = world.nodes.nodes["n1"]
    assert world.volumes.health(made.id) == (Health.OK, "")
    node.sick[made.id] = (Health.DEGRADED, "one leg of the mirror is gone")
    assert world.volumes.health(made.id)[0] is Health.DEGRADED
    node.down = True
    assert world.volumes.health(made.id) == (
        Health.INACCESSIBLE,
        "node n1 does not answer: n1 is down",
    )
    node.down = False
    node.volumes.clear()
    assert world.volumes.health(made.id)[0] is Health.DATA_LOSS
    del world.nodes.nodes["n1"]
    assert world.volumes.health(made.id)[0] is Health.INACCESSIBLE


def test_of_many_volumes_each_node_is_asked_once(world: World) -> None:
    made = [world.create(f"v{number}", requisite=on("n1")) for number in range(4)]
    elsewhere = world.create("elsewhere", requisite=on("n2"))
    node = world.nodes.nodes["n1"]
    node.sick[made[0].id] = (Health.DEGRADED, "one leg of the mirror is gone")
    del node.volumes[made[1].id]
    world.nodes.nodes["n2"].down = True
    node.calls.clear()
    volumes = [*made, elsewhere]
    world.volumes.delete(made[2].id)  # after it was listed
    found = {volume.id: health for volume, health, _ in world.volumes.ailing(volumes)}
    assert found == {
        made[0].id: Health.DEGRADED,
        made[1].id: Health.DATA_LOSS,
        elsewhere.id: Health.INACCESSIBLE,
    }
    assert node.calls == ["delete_volume", "inventory"]


def test_two_changes_of_limits_at_once_are_both_kept(world: World) -> None:
    """The limits are read under the lock: a change is made to what is there, or refused."""
    made = world.create()

    def second(limits: IoLimits) -> IoLimits:
        with pytest.raises(Busy):
            world.volumes.modify(made.id, lambda present: replace(present, read_iops=1))
        return replace(limits, write_iops=2)

    world.volumes.modify(made.id, second)
    world.volumes.modify(made.id, lambda present: replace(present, read_iops=1))
    assert world.volumes.get(made.id).limits == IoLimits(read_iops=1, write_iops=2)


def test_pages_of_volumes(world: World) -> None:
    made = sorted(world.create(f"v{number}", size=MIB).id for number in range(7))
    found: list[str] = []
    token = ""
    while True:
        page, token = world.volumes.list(after=token, limit=3)
        found += [volume.id for volume in page]
        assert len(page) <= 3
        if not token:
            break
    assert found == made
    assert world.volumes.list(after=key_of_name(Kind.VOLUME, "v0"), limit=0)[1] == ""
    with pytest.raises(InvalidArgument):
        world.volumes.list(after="nonsense", limit=1)


def test_an_exact_last_page_has_no_token(world: World) -> None:
    for number in range(4):
        world.create(f"v{number}", size=MIB)
    page, token = world.volumes.list(limit=2)
    page, token = world.volumes.list(after=token, limit=2)
    assert (len(page), token) == (2, "")


def test_who_comes_second_is_told_to_come_back(world: World) -> None:
    made = world.create()
    with world.locks.hold(key_of_name(Kind.VOLUME, "data"), purpose="expansion"):
        for call in (
            lambda: world.create(),
            lambda: world.volumes.delete(made.id),
            lambda: world.volumes.publish(made.id, "n1", False, WRITER),
            lambda: world.volumes.expand(made.id, GIB, 0),
        ):
            with pytest.raises(Busy, match="expansion is under way"):
                call()


def test_a_record_of_a_newer_version_is_left_alone(world: World) -> None:
    made = world.create()
    record = world.store.list(kind := RecordKind.VOLUME)[0][0]
    world.store.update(kind, record.key, {**record.value, "phase": "moving"}, record.revision)
    for call in (lambda: world.create(), lambda: world.volumes.delete(made.id)):
        with pytest.raises(Refused, match="newer version"):
            call()
    damaged = world.store.get(kind, record.key)
    world.store.update(kind, record.key, {"id": 1}, damaged.revision)
    with pytest.raises(DataLoss):
        world.volumes.get(made.id)
    world.store.update(kind, record.key, record.value, world.store.get(kind, record.key).revision)
