"""Making volumes, blank and from sources: what a caller sees, and what is left on the nodes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.errors import (
    AlreadyExists,
    Busy,
    ClusterError,
    InvalidArgument,
    NoSpace,
    NotFound,
    OutOfRange,
    Unavailable,
    Unsupported,
)
from cluster.identifiers import Kind, new_id
from cluster.model import AccessType, IoLimits, Phase, Source, SourceKind, VolumeSpec
from cluster.sqlite_store import SqliteStore
from tests.unit.cluster_world import (
    THICK,
    THIN,
    World,
    fails,
    no_faults,
    on,
    request,
    three_nodes,
)
from tests.unit.fake_agent import GIB, MIB, FakePool

WRITER = "SINGLE_NODE_WRITER"
SNAPSHOT = SourceKind.SNAPSHOT


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    store = SqliteStore(tmp_path / "store.db")
    world = World(store, three_nodes())
    yield world
    world.check()
    store.close()


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


def test_a_volume_is_made_without_waiting_for_its_leftovers(world: World) -> None:
    """A node that hangs is noted as such, and then nobody's answer waits for it."""
    world.nodes.set_fault(fails("create_volume", Unavailable("lost"), when="after"))
    with pytest.raises(Unavailable):
        world.create(preferred=on("n1"))
    world.nodes.set_fault(no_faults)
    node = world.nodes.nodes["n1"]
    node.down = True
    node.calls.clear()
    made = world.create(requisite=on("n1", "n2"), preferred=on("n1"))
    assert (made.phase, made.nodes, made.leftovers) == (Phase.READY, ("n2",), ("n1",))
    assert "n1" in world.pools.troubled()
    assert "delete_volume" not in node.calls
    node.down = False
    world.reconciler.run_once()
    world.check_settled()


def test_a_node_that_dies_in_the_middle_does_not_hold_its_pod(world: World) -> None:
    """RESOURCE_EXHAUSTED lets the pod be scheduled elsewhere; what was made stays noted."""
    world.nodes.set_fault(fails("create_volume", Unavailable("lost"), when="after"))
    with pytest.raises(Unavailable):
        world.create(requisite=on("n1"))
    world.nodes.set_fault(no_faults)
    world.nodes.nodes["n1"].down = True
    with pytest.raises(NoSpace, match="n1: agent unreachable"):
        world.create(requisite=on("n1"))
    made = world.create(requisite=on("n2"))
    assert (made.nodes, made.leftovers) == (("n2",), ("n1",))
    world.nodes.nodes["n1"].down = False
    world.reconciler.run_once()
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
    with pytest.raises(Unsupported, match="3 replicas"):
        world.create(spec=replace(THICK, replicas=3))
    with pytest.raises(OutOfRange):
        world.create(size=1 << 50)
    with pytest.raises(NoSpace, match=r"no pool 'other'; .*known \(known: default\)"):
        world.create(spec=VolumeSpec("other"))
    assert world.record() is None


def test_the_nearest_pool_is_told_where_no_node_has_the_one_asked_for(world: World) -> None:
    world.nodes.nodes["n1"].pools_of["fast"] = FakePool()
    with pytest.raises(NoSpace, match=r"did you mean default\? \(known: default, fast\)"):
        world.create(spec=VolumeSpec("defualt"))
    with pytest.raises(NoSpace) as full:  # n1 has it: elsewhere there is nothing to be mended
        world.create(spec=VolumeSpec("fast"), requisite=on("n2"))
    assert "known" not in str(full.value)


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
