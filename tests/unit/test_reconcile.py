"""Comparing the store with the nodes: what is mended, what is only reported, what is left alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.differences import Difference, DifferenceKind
from cluster.errors import Busy, NoSpace, Refused, Unavailable
from cluster.identifiers import Kind, key_of_id, key_of_name, new_id
from cluster.locks import ObjectLocks
from cluster.model import Phase
from cluster.reconcile_loop import ReconcileLoop
from cluster.sqlite_store import SqliteStore
from tests.unit.cluster_world import THIN, World, on, three_nodes
from tests.unit.fake_agent import GIB, MIB, FakeSnapshot, FakeVolume


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    store = SqliteStore(tmp_path / "store.db")
    yield World(store, three_nodes())
    store.close()


def kinds(differences: tuple[Difference, ...]) -> list[tuple[str, str, bool]]:
    return [(found.kind, found.node, found.mended) for found in differences]


def lose(call: str) -> Callable[[str, str, str], None]:
    def fault(node: str, on_call: str, when: str) -> None:
        if (on_call, when) == (call, "after"):
            raise Unavailable("lost")

    return fault


def no_fault(node: str, call: str, when: str) -> None:
    pass


def test_where_all_is_well_nothing_is_found(world: World) -> None:
    origin = world.create(spec=THIN)
    world.snapshots.create("cut", origin.id)
    world.groups.create("all", [origin.id])
    assert world.reconciler.compared_seconds_ago() is None
    assert world.reconciler.run_once() == ()
    assert world.reconciler.compared_seconds_ago() is not None


def test_what_no_record_knows_is_reported_and_never_deleted(world: World) -> None:
    made = world.create(preferred=on("n1"))
    cut = world.snapshots.create("cut", made.id)
    one, two = world.nodes.nodes["n1"], world.nodes.nodes["n2"]
    two.volumes[made.id] = one.volumes[made.id]  # the same on a node that the record does not name
    stray = replace(made, id=new_id(Kind.VOLUME, "data"))  # another incarnation of the name
    two.volumes[stray.id] = FakeVolume(stray, GIB, one.volumes[made.id].taken)
    lost = replace(cut, id=new_id(Kind.SNAPSHOT, "lost"))
    two.snapshots[lost.id] = FakeSnapshot(lost, one.snapshots[cut.id].taken)
    two.foreign = ("vg0/root",)
    for _ in range(2):
        found = world.reconciler.run_once()
        assert {(each.kind, each.object_id) for each in found} == {
            (DifferenceKind.ORPHAN, made.id),
            (DifferenceKind.ORPHAN, stray.id),
            (DifferenceKind.ORPHAN, lost.id),
            (DifferenceKind.FOREIGN, "vg0/root"),
        }
        assert {each.node for each in found} == {"n2"}
    assert world.reconciler.differences == found
    assert len(two.volumes) == 2


def test_what_is_recorded_and_not_there_is_reported(world: World) -> None:
    made = world.create("gone", preferred=on("n1"))
    half = world.create("half", preferred=on("n1"))
    small = world.create("small", size=2 * GIB, preferred=on("n1"))
    origin = world.create("origin", THIN, preferred=on("n2"))
    cut = world.snapshots.create("cut", origin.id)
    node = world.nodes.nodes["n1"]
    del node.volumes[made.id]
    node.volumes[half.id].complete = False
    node.volumes[small.id].size_bytes = GIB
    world.nodes.nodes["n2"].snapshots.clear()
    found = world.reconciler.run_once()
    assert {(each.kind, each.object_id, each.mended) for each in found} == {
        ("missing", made.id, False),
        ("incomplete", half.id, False),
        ("size", small.id, False),
        ("missing", cut.id, False),
    }
    assert world.volumes.get(made.id) == made


def test_what_is_on_a_node_that_left_the_configuration_is_reported(world: World) -> None:
    origin = world.create("origin", THIN, preferred=on("n2"))
    cut = world.snapshots.create("cut", origin.id)
    del world.nodes.nodes["n2"]
    found = world.reconciler.run_once()
    assert {(each.kind, each.node, each.object_id, each.mended) for each in found} == {
        ("missing", "n2", origin.id, False),
        ("missing", "n2", cut.id, False),
    }


def test_of_a_node_that_does_not_answer_nothing_is_said(world: World) -> None:
    for name in ("n1", "n2"):
        volume = world.create(name, THIN, requisite=on(name))
        world.snapshots.create(name, volume.id)
    world.nodes.nodes["n1"].down = True
    assert kinds(world.reconciler.run_once()) == [("unreachable", "n1", False)]
    world.nodes.nodes["n1"].down = False
    world.nodes.nodes["n1"].name = "n8"
    (found,) = world.reconciler.run_once()
    assert (found.kind, found.node, found.text) == ("unreachable", "n1", "it is n8")


def test_a_node_that_does_not_answer_gets_no_new_volumes(world: World) -> None:
    world.create()
    world.nodes.nodes["n1"].down = True
    world.reconciler.run_once()
    assert world.pools.troubled() == ("n1",)
    assert world.create("other", preferred=on("n1")).nodes != ("n1",)
    world.nodes.nodes["n1"].down = False
    world.reconciler.run_once()
    assert world.pools.troubled() == ()


def test_what_waits_for_a_silent_node_is_reported_and_costs_it_no_call(world: World) -> None:
    """Each call to a node that hangs lasts for its whole deadline, and others wait to be mended."""
    node = world.nodes.nodes["n1"]
    volumes = [world.create(name, THIN, requisite=on("n1")) for name in ("a", "b")]
    cut = world.snapshots.create("cut", volumes[0].id)
    group, _ = world.groups.create("all", [volumes[1].id])
    node.down = True
    for call in (
        lambda: world.snapshots.delete(cut.id),
        lambda: world.groups.delete(group.id, ()),
        lambda: world.volumes.delete(volumes[0].id),
    ):
        with pytest.raises(Unavailable):
            call()
    node.calls.clear()
    found = world.reconciler.run_once()
    assert {(each.kind, each.object_id, each.mended) for each in found} == {
        ("unreachable", "", False),
        ("deleting", cut.id, False),
        ("deleting", group.id, False),
        ("deleting", volumes[0].id, False),
    }
    assert node.calls == ["inventory"]
    node.down = False
    world.reconciler.run_once()
    world.volumes.delete(volumes[1].id)
    world.check_settled()


def test_a_half_made_volume_is_removed_after_its_grace(world: World) -> None:
    world.nodes.set_fault(lose("create_volume"))
    with pytest.raises(Unavailable):
        world.create(preferred=on("n1"))
    world.nodes.set_fault(no_fault)
    world.grace = 3600.0
    world.restart()
    assert world.reconciler.run_once() == ()
    assert len(world.nodes.volume_ids()) == 1
    world.grace = 0.0
    world.restart()
    assert kinds(world.reconciler.run_once()) == [("half-made", "n1", True)]
    world.check_settled()
    assert world.record() is None


def test_a_restart_begins_the_grace_anew_and_so_does_every_attempt(world: World) -> None:
    locks = ObjectLocks()
    assert locks.idle_seconds("v1") < 60
    with locks.hold("v1", purpose="creation"):
        assert locks.idle_seconds("v1") == 0.0
        time.sleep(0.01)
    held_last = locks.idle_seconds("v1")
    assert held_last < locks.idle_seconds("v2")
    locks.forget_idle(0.0)
    assert locks.idle_seconds("v1") > held_last


def test_a_volume_that_is_being_made_is_left_alone(world: World) -> None:
    """Even with no grace at all, and even in the very moment that it is looked at."""
    found: list[Difference] = []
    compared = threading.Event()

    def compare(node: str, call: str, when: str) -> None:
        if call == "create_volume" and not compared.is_set():
            compared.set()
            found.extend(world.reconciler.run_once())

    world.nodes.set_fault(compare)
    made = world.create(preferred=on("n1"))
    assert compared.is_set()
    assert found == []
    assert world.volumes.get(made.id) == made


def test_a_group_that_is_being_cut_is_left_alone(world: World) -> None:
    volumes = [world.create(name, THIN, requisite=on(name)) for name in ("n1", "n2")]
    world.restart()
    found: list[Difference] = []
    compared = threading.Event()

    def compare(node: str, call: str, when: str) -> None:
        if (node, call, when) == ("n2", "create_snapshots", "after"):
            compared.set()
            found.extend(world.reconciler.run_once())

    world.nodes.set_fault(compare)
    world.groups.create("all", [volume.id for volume in volumes])
    assert compared.is_set()
    assert found == []
    world.check_settled()


@pytest.mark.parametrize("act", ["create", "delete", "replace", "expand", "snapshot", "move"])
def test_what_changes_during_the_comparison_is_not_judged_by_old_inventories(
    world: World, act: str
) -> None:
    """Right after the nodes have told what they have, something happens."""
    present = world.create("present", THIN, preferred=on("n1"))
    late = threading.Event()

    def change(node: str, call: str, when: str) -> None:
        if (node, call, when) == ("n3", "inventory", "after") and not late.is_set():
            late.set()
            match act:
                case "create":
                    world.create("new", preferred=on("n1"))
                case "delete":
                    world.volumes.delete(present.id)
                case "replace":
                    world.volumes.delete(present.id)
                    world.create("present", THIN, preferred=on("n2"))
                case "expand":
                    world.volumes.expand(present.id, 2 * GIB, 0)
                case "snapshot":
                    cut = world.snapshots.create("cut", present.id)
                    world.snapshots.delete(cut.id)
                    world.groups.create("all", [present.id])
                case "move":
                    world.nodes.nodes["n1"].down = True
                    world.create("other", requisite=on("n2"))
                    world.nodes.nodes["n1"].down = False

    world.nodes.set_fault(change)
    world.pools.refresh()
    assert world.reconciler.run_once() == ()
    assert late.is_set()
    world.check_settled()
    assert world.reconciler.run_once() == ()


def test_a_mend_is_dropped_when_the_record_has_changed_meanwhile(world: World) -> None:
    """A half-made volume that a repeated call completes after the nodes were asked."""
    world.nodes.set_fault(lose("create_volume"))
    for name in ("first", "second"):
        with pytest.raises(Unavailable):
            world.create(name)
    names = sorted(("first", "second"), key=lambda name: key_of_name(Kind.VOLUME, name))

    def complete_the_other(node: str, call: str, when: str) -> None:
        # While the first is being removed, the second is completed.
        if (call, when) == ("delete_volume", "before"):
            world.nodes.set_fault(no_fault)
            world.create(names[1])

    world.nodes.set_fault(complete_the_other)
    assert [kind for kind, _, _ in kinds(world.reconciler.run_once())] == ["half-made"]
    assert world.record(names[0]) is None
    completed = world.record(names[1])
    assert completed is not None
    assert completed.phase is Phase.READY
    world.check_settled()


def test_a_mend_that_fails_is_reported_and_tried_again(world: World) -> None:
    made = world.create()
    node = world.nodes.nodes[made.nodes[0]]
    world.nodes.set_fault(lose("delete_volume"))
    with pytest.raises(Unavailable):
        world.volumes.delete(made.id)
    (found,) = world.reconciler.run_once()
    assert (found.kind, found.mended) == ("deleting", False)
    assert "lost" in found.text
    world.nodes.set_fault(no_fault)
    assert kinds(world.reconciler.run_once()) == [("deleting", node.name, True)]
    assert world.record() is None


def test_a_deletion_that_the_node_refuses_is_undone(world: World) -> None:
    made = world.create()
    node = world.nodes.nodes[made.nodes[0]]
    node.down = True
    with pytest.raises(Unavailable):
        world.volumes.delete(made.id)
    node.down = False
    node.volumes[made.id].mounts = ("/somewhere",)
    (found,) = world.reconciler.run_once()
    assert (found.kind, found.mended) == ("deleting", False)
    assert "mounted at /somewhere" in found.text
    assert world.volumes.get(made.id) == made


def test_who_works_on_an_object_is_not_disturbed(world: World) -> None:
    made = world.create()
    world.nodes.set_fault(lose("delete_volume"))
    with pytest.raises(Unavailable):
        world.volumes.delete(made.id)
    world.nodes.set_fault(no_fault)
    with world.locks.hold(key_of_id(made.id), purpose="deletion"):
        assert world.reconciler.run_once() == ()
    assert kinds(world.reconciler.run_once())[0][0] == "deleting"


def test_inventories_bring_the_pools_up_to_date(world: World) -> None:
    world.pools.refresh()
    world.nodes.nodes["n1"].pools_of.clear()
    world.nodes.nodes["n2"].down = True
    world.reconciler.run_once()
    views = {view.name: view for view in world.pools.views()}
    assert views["n1"].pools == ()


def test_comparing_all_the_time_does_no_harm(world: World) -> None:
    """Creations, deletions and losses of answers, against a reconciler without any grace."""
    stop = threading.Event()
    strange: list[Difference] = []

    def compare() -> None:
        while not stop.is_set():
            strange.extend(
                found
                for found in world.reconciler.run_once()
                if found.kind in ("orphan", "missing", "incomplete", "size")
            )

    def work(worker: int) -> None:
        for number in range(12):
            name = f"{worker}-{number % 3}"
            try:
                volume = world.create(name, THIN, size=MIB)
                cut = world.snapshots.create(name, volume.id)
                world.volumes.expand(volume.id, 2 * MIB, 0)
                if number % 2:
                    world.snapshots.delete(cut.id)
                    world.volumes.delete(volume.id)
            except (Busy, Refused, NoSpace):
                pass

    with ThreadPoolExecutor(5) as threads:
        comparing = threads.submit(compare)
        try:
            list(threads.map(work, range(4)))
        finally:
            stop.set()
        comparing.result()
    world.reconciler.run_once()
    assert strange == []
    world.check_settled()


def test_the_loop_runs_when_woken_and_stops_cleanly(world: World) -> None:
    runs: list[tuple[Difference, ...]] = []
    ran = threading.Semaphore(0)

    def on_result(found: tuple[Difference, ...]) -> None:
        runs.append(found)
        ran.release()

    loop = ReconcileLoop(world.reconciler, world.pools, interval_seconds=3600, on_result=on_result)
    loop.start()
    assert ran.acquire(timeout=30)
    world.nodes.nodes["n2"].foreign = ("vg0/root",)
    loop.wake()
    assert ran.acquire(timeout=30)
    loop.stop()
    assert [len(found) for found in runs] == [0, 1]


def test_the_loop_survives_a_failure_and_finds_a_node_that_comes_back(world: World) -> None:
    ran = threading.Semaphore(0)
    failures = iter([Unavailable("the store is away"), RuntimeError("a mistake of ours")])

    def on_result(found: tuple[Difference, ...]) -> None:
        ran.release()
        for failure in failures:
            raise failure

    world.nodes.nodes["n1"].down = True
    loop = ReconcileLoop(
        world.reconciler,
        world.pools,
        interval_seconds=3600,
        retry_seconds=0.01,
        on_result=on_result,
    )
    loop.start()
    for _ in range(2):
        assert ran.acquire(timeout=30)
        loop.wake()
    assert ran.acquire(timeout=30)
    assert world.pools.troubled() == ("n1",)
    world.nodes.nodes["n1"].down = False
    assert ran.acquire(timeout=30), "what it missed is made good at once"
    assert world.pools.troubled() == ()
    loop.stop()


def test_a_node_that_missed_a_call_and_answers_again_is_brought_up_to_date(world: World) -> None:
    ran = threading.Semaphore(0)
    loop = ReconcileLoop(
        world.reconciler,
        world.pools,
        interval_seconds=3600,
        retry_seconds=0.01,
        on_result=lambda _: ran.release(),
    )
    loop.start()
    assert ran.acquire(timeout=30)
    world.pools.doubt("n1")
    assert ran.acquire(timeout=30)
    loop.stop()
