"""The workflows of volumes: what a caller sees, and what is left on the nodes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.agents import Health
from cluster.errors import (
    AlreadyExists,
    Busy,
    ClusterError,
    DataLoss,
    InvalidArgument,
    NoSpace,
    NotFound,
    OutOfRange,
    Refused,
    Unavailable,
    Unsupported,
)
from cluster.identifiers import Kind, key_of_name, new_id
from cluster.model import AccessType, IoLimits, Phase, Publication, Source, SourceKind, VolumeSpec
from cluster.sqlite_store import SqliteStore
from cluster.store import RecordKind
from tests.unit.cluster_world import THICK, THIN, World, on, request, three_nodes
from tests.unit.fake_agent import GIB, MIB, Fault

WRITER = "SINGLE_NODE_WRITER"
SNAPSHOT = SourceKind.SNAPSHOT


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    store = SqliteStore(tmp_path / "store.db")
    world = World(store, three_nodes())
    yield world
    world.check()
    store.close()


def fails(call: str, error: Exception, *, node: str = "", when: str = "before") -> Fault:
    """A fault in every such call (to that node only, if one is named)."""

    def fault(on_node: str, on_call: str, moment: str) -> None:
        if (on_call, moment) == (call, when) and node in ("", on_node):
            raise error

    return fault


def no_faults(node: str, call: str, when: str) -> None:
    pass


# Creation


def test_a_volume_is_made_once_and_the_same_call_finds_it(world: World) -> None:
    first = world.create(size=GIB - 1, limits=IoLimits(read_iops=7))
    assert first.phase is Phase.READY
    assert first.size_bytes == GIB
    assert first.limits == IoLimits(read_iops=7)
    assert world.create(size=GIB - 1) == first
    assert world.volumes.get(first.id) == first
    world.check_settled()


@pytest.mark.parametrize(
    "other",
    [
        request(spec=THIN),
        request(spec=replace(THICK, filesystem="xfs")),
        request(size=2 * GIB),
        request(size=MIB, limit=GIB - 4 * MIB),
        request(source=Source(SNAPSHOT, "s")),
        request(requisite=on("n2")),
        request(requisite=({"zone": "b"},)),
    ],
)
def test_the_same_name_with_another_wish_is_an_error(world: World, other: object) -> None:
    world.create(requisite=on("n1"))
    with pytest.raises(AlreadyExists, match="'data' exists already, with"):
        world.volumes.create(other)  # type: ignore[arg-type]
    world.check_settled()


def test_a_wish_that_the_volume_meets_is_met(world: World) -> None:
    first = world.create(requisite=({"zone": "a"},), preferred=on("n2"))
    assert first.nodes == ("n2",)
    assert world.volumes.topology(first) == on("n2")
    assert world.create(size=GIB // 2, limit=2 * GIB, requisite=on("n2", "n3")) == first


def test_without_room_anywhere_nothing_is_left(world: World) -> None:
    for name in ("a", "b", "c"):
        world.create(name, size=9 * GIB)
    with pytest.raises(NoSpace, match=r"n3/default: 1\.0 GiB free, 2\.0 GiB needed"):
        world.create(size=2 * GIB)
    assert world.record() is None
    world.check_settled()
    world.create(size=GIB)


def test_a_node_that_turns_out_to_be_full_is_followed_by_the_next(world: World) -> None:
    """As when the room was taken behind our back, between the report and the creation."""
    full = fails("create_volume", NoSpace("full after all"), node="n1")
    world.nodes.set_fault(full)
    assert world.create(preferred=on("n1", "n2")).nodes == ("n2",)
    assert "delete_volume" in world.nodes.nodes["n1"].calls
    world.check_settled()


def test_all_nodes_turn_out_to_be_full(world: World) -> None:
    world.nodes.set_fault(fails("create_volume", NoSpace("full after all")))
    with pytest.raises(NoSpace, match="n2: full after all"):
        world.create()
    assert world.record() is None


@pytest.mark.parametrize("error", [InvalidArgument("no"), ClusterError("lvcreate: exit code 5")])
def test_a_final_failure_leaves_nothing(world: World, error: Exception) -> None:
    world.nodes.set_fault(fails("create_volume", error, when="after"))
    with pytest.raises(type(error)):
        world.create()
    assert world.record() is None
    world.check_settled()


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("error", [Unavailable("lost"), Busy("at it")])
def test_an_unknown_outcome_is_settled_by_the_same_call_on_the_same_node(
    world: World, error: Exception, when: str
) -> None:
    world.nodes.set_fault(fails("create_volume", error, when=when))
    with pytest.raises(type(error)):
        world.create()
    half_made = world.record()
    assert half_made is not None
    with pytest.raises(NotFound):
        world.volumes.get(half_made.id)
    assert world.volumes.list() == ([], "")
    world.nodes.set_fault(no_faults)
    made = world.create()
    assert (made.id, made.nodes) == (half_made.id, half_made.nodes)
    world.check_settled()


def test_a_long_copy_is_waited_for_where_it_goes_on(world: World) -> None:
    source = world.create("source", THIN)
    node = world.nodes.nodes[source.nodes[0]]
    node.copies = 2
    for _ in range(2):
        with pytest.raises(Unavailable, match="copied to 50%"):
            world.create(spec=THIN, source=Source(SourceKind.VOLUME, source.id))
    made = world.create(spec=THIN, source=Source(SourceKind.VOLUME, source.id))
    assert made.nodes == source.nodes
    world.check_settled()


def test_a_node_that_dies_in_the_middle_is_left_behind_and_cleaned_later(world: World) -> None:
    world.nodes.set_fault(fails("create_volume", Unavailable("lost"), when="after"))
    with pytest.raises(Unavailable):
        world.create(preferred=on("n1"))
    world.nodes.nodes["n1"].down = True
    world.nodes.set_fault(no_faults)
    made = world.create(preferred=on("n1", "n2"))
    assert (made.nodes, made.leftovers) == (("n2",), ("n1",))
    world.reconciler.run_once()
    assert world.volumes.get(made.id).leftovers == ("n1",)
    world.nodes.nodes["n1"].down = False
    world.reconciler.run_once()
    assert world.volumes.get(made.id) == replace(made, leftovers=())
    world.check_settled()


def test_a_volume_that_comes_back_to_its_first_node_is_not_its_own_leftover(world: World) -> None:
    world.nodes.set_fault(fails("create_volume", Unavailable("lost")))
    with pytest.raises(Unavailable):
        world.create(preferred=on("n1"))
    world.nodes.set_fault(no_faults)
    world.nodes.nodes["n1"].down = True
    world.nodes.nodes["n2"].fault = fails("create_volume", Unavailable("lost"))
    with pytest.raises(Unavailable):
        world.create(requisite=on("n1", "n2"))
    half_made = world.record()
    assert half_made is not None
    assert (half_made.nodes, half_made.leftovers) == (("n2",), ("n1",))
    world.nodes.nodes["n1"].down = False
    world.nodes.nodes["n2"].down = True
    world.pools.refresh()
    made = world.create(requisite=on("n1", "n2"))
    assert (made.nodes, made.leftovers) == (("n1",), ("n2",))


def test_a_failed_creation_does_not_wait_for_a_dead_node(world: World) -> None:
    """Its leftovers stay noted; the name can be used for the next attempt at once."""
    world.nodes.set_fault(fails("create_volume", Unavailable("lost"), when="after"))
    with pytest.raises(Unavailable):
        world.create(requisite=on("n1"))
    world.nodes.nodes["n1"].down = True
    world.nodes.set_fault(fails("create_volume", NoSpace("full")))
    with pytest.raises(NoSpace):
        world.create(requisite=on("n2"))
    given_up = world.record()
    assert given_up is not None
    assert (given_up.phase, given_up.nodes, given_up.leftovers) == (Phase.CREATING, (), ("n1",))
    world.nodes.set_fault(no_faults)
    assert world.create(requisite=on("n2")).nodes == ("n2",)


def test_a_pod_that_was_rescheduled_takes_its_half_made_volume_along(world: World) -> None:
    world.nodes.set_fault(fails("create_volume", Unavailable("lost"), when="after"))
    with pytest.raises(Unavailable):
        world.create(requisite=on("n1"))
    world.nodes.set_fault(no_faults)
    assert world.create(requisite=on("n3")).nodes == ("n3",)
    world.check_settled()


def test_a_node_that_is_no_longer_configured_counts_as_gone(world: World) -> None:
    world.nodes.set_fault(fails("create_volume", Unavailable("lost")))
    with pytest.raises(Unavailable):
        world.create(preferred=on("n1"))
    del world.nodes.nodes["n1"]
    world.nodes.set_fault(no_faults)
    world.restart()
    made = world.create(preferred=on("n1"))
    assert made.nodes != ("n1",)
    assert made.leftovers == ()


def test_what_is_not_supported_is_said(world: World) -> None:
    with pytest.raises(Unsupported, match="2 replicas"):
        world.create(spec=replace(THICK, replicas=2))
    with pytest.raises(OutOfRange):
        world.create(size=1 << 50)
    with pytest.raises(NoSpace, match="no pool 'other'"):
        world.create(spec=VolumeSpec("other"))
    assert world.record() is None


def test_fifty_at_once_on_room_for_thirty(world: World) -> None:
    for node in world.nodes.nodes.values():
        node.delay = 0.002
    started = threading.Barrier(50)

    def create(number: int) -> str:
        started.wait()
        try:
            return world.create(f"claim-{number}").id
        except NoSpace:
            return ""

    with ThreadPoolExecutor(50) as threads:
        made = [outcome for outcome in threads.map(create, range(50)) if outcome]
    assert len(made) == len(set(made)) == 30
    assert sorted(made) == sorted(world.nodes.volume_ids())
    world.check_settled()


def test_the_same_name_at_once_makes_one_volume(world: World) -> None:
    for node in world.nodes.nodes.values():
        node.delay = 0.01

    def create(_: int) -> str:
        while True:
            try:
                return world.create().id
            except Busy:
                pass

    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(create, range(8)))) == 1
    world.check_settled()


# Sources


def test_a_volume_from_a_snapshot_is_placed_with_it_and_at_least_as_large(world: World) -> None:
    origin = world.create("origin", THIN, size=2 * GIB, preferred=on("n3"))
    snapshot = world.snapshots.create("cut", origin.id)
    source = Source(SNAPSHOT, snapshot.id)
    made = world.create(spec=THIN, size=GIB, source=source, preferred=on("n1"))
    assert (made.nodes, made.size_bytes, made.source) == (("n3",), 2 * GIB, source)
    assert world.create(spec=THIN, size=GIB, source=source) == made
    with pytest.raises(OutOfRange, match="the source has"):
        world.create("small", THIN, size=GIB, limit=GIB, source=source)
    with pytest.raises(NoSpace, match="n1: does not hold the source; n2: "):
        world.create("elsewhere", THIN, size=2 * GIB, source=source, requisite=on("n1", "n2"))
    world.check_settled()


def test_a_volume_outlives_its_source(world: World) -> None:
    origin = world.create("origin", THIN)
    source = Source(SourceKind.VOLUME, origin.id)
    made = world.create(spec=THIN, source=source)
    world.volumes.delete(origin.id)
    assert world.create(spec=THIN, source=source) == made


@pytest.mark.parametrize(
    ("spec", "word"),
    [
        (replace(THIN, filesystem="xfs"), "file system"),
        (replace(THIN, access=AccessType.BLOCK, filesystem=""), "access type"),
        (replace(THIN, encrypted=True), "encryption"),
    ],
)
def test_a_source_that_does_not_fit_is_refused_at_once(
    world: World, spec: VolumeSpec, word: str
) -> None:
    origin = world.create("origin", THIN)
    with pytest.raises(InvalidArgument, match=f"the source has {word}"):
        world.create(spec=spec, source=Source(SourceKind.VOLUME, origin.id))
    assert world.record() is None


@pytest.mark.parametrize("kind", [SourceKind.SNAPSHOT, SourceKind.VOLUME])
def test_a_source_that_is_not_there(world: World, kind: SourceKind) -> None:
    missing = new_id(Kind.VOLUME if kind is SourceKind.VOLUME else Kind.SNAPSHOT, "missing")
    with pytest.raises(NotFound):
        world.create(source=Source(kind, missing))
    assert world.record() is None


def test_a_source_that_is_deleted_meanwhile(world: World) -> None:
    origin = world.create("origin", THIN)
    world.nodes.set_fault(fails("create_volume", Unavailable("lost")))
    with pytest.raises(Unavailable):
        world.create(spec=THIN, source=Source(SourceKind.VOLUME, origin.id))
    world.nodes.set_fault(no_faults)
    world.volumes.delete(origin.id)
    with pytest.raises(NotFound):
        world.create(spec=THIN, source=Source(SourceKind.VOLUME, origin.id))
    assert world.record() is None


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
        world.volumes.modify(made.id, limits)
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
    with world.locks.hold(key_of_name(Kind.VOLUME, "data"), "expansion"):
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
        with pytest.raises(Unsupported, match="newer version"):
            call()
    damaged = world.store.get(kind, record.key)
    world.store.update(kind, record.key, {"id": 1}, damaged.revision)
    with pytest.raises(DataLoss):
        world.volumes.get(made.id)
    world.store.update(kind, record.key, record.value, world.store.get(kind, record.key).revision)
