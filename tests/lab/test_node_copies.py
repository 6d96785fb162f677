"""Snapshots, restores and clones on one node: what is in them, and what they cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cluster.errors import Busy, OutOfRange, Refused, Unavailable
from cluster.model import AccessType, Layout, LayoutKind, Provision
from tests.lab.agent_node import MIB, AgentNode, Served, until_done
from tests.lab.held_wipes import wipes_held

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lab.guest_process import GuestProcess
    from lab.node import Node

pytestmark = pytest.mark.lab

GIB = 1 << 30
BLOCK = AccessType.BLOCK
SIZES = {"ext4": 64 * MIB, "xfs": 300 * MIB, "btrfs": 256 * MIB}
POOLS = """
[[pools]]
name = "default"
volume_group = "vg0"
devices = ["/dev/ubdb", "/dev/ubdc"]
thin_pool = "thin"
thin_size = "1GiB"
grow_at = 1.0
overcommit = 3.0
"""


@pytest.fixture(scope="module")
def running(make_module_node: Callable[..., Node]) -> Iterator[AgentNode]:
    running = AgentNode(make_module_node(disks=(2 * GIB, 2 * GIB)), pools=POOLS)
    running.start()
    yield running
    running.close()


@pytest.fixture
def home(running: AgentNode) -> Iterator[AgentNode]:
    yield running
    running.wipe_clean()


@pytest.mark.parametrize("provision", [Provision.THIN, Provision.THICK])
@pytest.mark.parametrize("filesystem", ["ext4", "xfs", "btrfs"])
def test_a_snapshot_keeps_what_was_there_and_is_restored_larger_beside_its_source(
    home: AgentNode, filesystem: str, provision: Provision
) -> None:
    size = SIZES[filesystem]
    origin = home.create(filesystem=filesystem, provision=provision, size=size).serve()
    origin.write("then")
    (snapshot,) = home.snapshot(origin)
    origin.write("now!")
    restored = home.create(
        "restored", size + 64 * MIB, filesystem=filesystem, provision=provision, source=snapshot
    ).serve()
    assert (restored.read(), origin.read()) == ("then", "now!")
    total = home.csi.usage(restored.id, restored.target)["BYTES"].total
    assert total > home.csi.usage(origin.id, origin.target)["BYTES"].total
    clone = home.create(
        "clone", size, filesystem=filesystem, provision=provision, source=origin
    ).serve()
    assert clone.read() == "now!"
    clone.write("own.")
    assert origin.read() == "now!"
    clone.withdraw().serve()


@pytest.mark.parametrize(
    ("of", "to"),
    [(Provision.THIN, Provision.THICK), (Provision.THICK, Provision.THIN)],
)
def test_a_copy_may_be_of_the_other_kind(home: AgentNode, of: Provision, to: Provision) -> None:
    origin = home.create(access=BLOCK, provision=of).serve()
    origin.write("first")
    home.node.sh(
        f"dd if=/dev/urandom of={origin.target} bs=1M seek=60 count=4 oflag=direct status=none"
    )
    (snapshot,) = home.snapshot(origin)
    for number, source in enumerate((snapshot, origin)):
        copy = home.create(
            f"copy-{number}", 96 * MIB, access=BLOCK, provision=to, source=source
        ).serve()
        home.node.sh(f"cmp -n {64 * MIB} {origin.target} {copy.target}")
        home.node.sh(f"cmp -i {64 * MIB}:0 -n {32 * MIB} {copy.target} /dev/zero")
    left = home.node.run(["lvs", "--noheadings", "-o", "lv_name", "vg0"]).text
    assert "tmp-" not in left


def test_a_thin_copy_of_a_thick_volume_takes_no_room_for_its_holes(home: AgentNode) -> None:
    origin = home.create(size=256 * MIB, access=BLOCK, provision=Provision.THICK).serve()
    origin.write("a few bytes")
    copy = home.create("copy", 256 * MIB, access=BLOCK, source=origin)
    assert home.agent.get_volume(copy.id).allocated_bytes < MIB


def test_a_source_that_was_never_used_is_not_copied(home: AgentNode) -> None:
    origin = home.create(provision=Provision.THICK)
    (snapshot,) = home.snapshot(origin)
    copy = home.create("copy", provision=Provision.THICK, source=snapshot)
    assert copy.state() == "blank"
    copy.serve()


def test_a_copy_of_an_encrypted_volume_has_its_key(home: AgentNode) -> None:
    origin = home.create(encrypted=True).serve()
    origin.write("secret")
    (snapshot,) = home.snapshot(origin)
    for source in (snapshot, origin):
        copy = home.create("copy", 96 * MIB, encrypted=True, source=source).serve()
        assert copy.read() == "secret"
        assert home.csi.usage(copy.id, copy.target)["BYTES"].total > 80 * MIB


def test_a_copy_is_not_smaller_than_its_source(home: AgentNode) -> None:
    origin = home.create(size=128 * MIB).serve()
    with pytest.raises(OutOfRange):
        home.create("copy", 64 * MIB, source=origin)


@pytest.mark.parametrize("provision", [Provision.THIN, Provision.THICK])
def test_snapshots_of_a_busy_file_system_are_clean(home: AgentNode, provision: Provision) -> None:
    origin = home.create(size=128 * MIB, provision=provision).serve()
    writer = write_for_ever(home, origin)
    snapshots = [home.snapshot(origin)[0] for _ in range(2)]
    assert writer.alive
    writer.kill()
    for snapshot in snapshots:
        copy = home.create(f"copy-{snapshot.id}", 128 * MIB, provision=provision, source=snapshot)
        # Frozen when it was cut: nothing to recover, nothing to repair.
        assert "needs_recovery" not in home.node.run(["dumpe2fs", "-h", copy.logical]).text
        home.node.run(["e2fsck", "-fn", copy.logical])


def write_for_ever(home: AgentNode, volume: Served) -> GuestProcess:
    script = (
        'i=0; while :; do i=$((i+1)); dd if=/dev/zero of="$0/$((i % 20))" bs=64k count=8'
        ' status=none; echo $i >"$0/count"; done'
    )
    return home.node.spawn(["bash", "-c", script, volume.target], log="/run/writer.log")


@pytest.mark.parametrize("provision", [Provision.THIN, Provision.THICK])
def test_a_group_is_cut_at_one_instant(home: AgentNode, provision: Provision) -> None:
    first, second = (home.create(name, provision=provision).serve() for name in ("a", "b"))
    # Every number is on the first volume, on the disk, before it goes to the second.
    script = (
        'i=0; while :; do i=$((i+1)); for path in "$0" "$1"; do'
        ' printf %08d $i | dd of="$path/count" conv=fsync,notrunc status=none; done; done'
    )
    writer = home.node.spawn(["bash", "-c", script, first.target, second.target], log="/run/w.log")
    home.node.sh(f"until test -s {second.target}/count; do sleep 0.05; done")
    for _ in range(2):
        snapshots = home.snapshot(first, second)
        counts = []
        for snapshot in snapshots:
            copy = home.create(f"copy-{snapshot.id}", provision=provision, source=snapshot).serve()
            counts.append(int(copy.read("count")))
            copy.withdraw()
            home.agent.delete_volume(copy.id)
        assert 0 <= counts[0] - counts[1] <= 1, counts
        home.agent.delete_snapshots([snapshot.id for snapshot in snapshots])
    assert writer.alive
    writer.kill()


def test_a_suspension_holds_writers_and_lets_them_go_by_itself(home: AgentNode) -> None:
    volume = home.create().serve()
    suspension = home.agent.suspend_volumes([volume.id], 2.0)
    writer = home.node.spawn(
        ["dd", "if=/dev/zero", f"of={volume.path('x')}", "bs=1M", "count=1", "conv=fsync"],
        log="/run/held.log",
    )
    with pytest.raises(Busy):
        home.agent.expand_volume(volume.id, 128 * MIB, 0)
    assert writer.wait(60) == 0
    assert not home.agent.resume_volumes(suspension)
    assert home.agent.expand_volume(volume.id, 128 * MIB, 0)[0] == 128 * MIB


def test_a_thick_volume_with_snapshots_neither_grows_nor_goes(home: AgentNode) -> None:
    origin = home.create(provision=Provision.THICK).serve()
    origin.write("kept")
    (snapshot,) = home.snapshot(origin)
    # The store of the snapshot has room for everything that can change in the volume.
    home.node.sh(f"dd if=/dev/urandom of={origin.path('all')} bs=1M status=none || true")
    with pytest.raises(Refused, match=snapshot.id):
        home.agent.expand_volume(origin.id, 128 * MIB, 0)
    origin.withdraw()
    with pytest.raises(Refused, match=snapshot.id):
        home.agent.delete_volume(origin.id)
    copy = home.create("copy", provision=Provision.THICK, source=snapshot).serve()
    assert copy.read() == "kept"
    home.agent.delete_snapshots([snapshot.id])
    assert home.agent.expand_volume(origin.id, 128 * MIB, 0)[0] == 128 * MIB


@pytest.mark.parametrize(
    "layout",
    [Layout(LayoutKind.RAID1, copies=2), Layout(LayoutKind.STRIPED, copies=2)],
    ids=["raid1", "striped"],
)
def test_layouts_over_several_disks(home: AgentNode, layout: Layout) -> None:
    before = home.agent.pools(fresh=True)[0]
    origin = home.create(provision=Provision.THICK, layout=layout).serve()
    origin.write("kept")
    (snapshot,) = home.snapshot(origin)
    assert home.agent.pools(fresh=False) == home.agent.pools(fresh=True)
    copy = home.create("copy", provision=Provision.THICK, layout=layout, source=snapshot).serve()
    assert copy.read() == "kept"
    home.agent.delete_snapshots([snapshot.id])
    assert origin.expand(128 * MIB) == 128 * MIB
    for volume in (origin, copy):
        volume.withdraw()
        home.agent.delete_volume(volume.id)
    assert home.agent.pools(fresh=False)[0] == before


def test_a_long_copy_goes_on_behind_the_request_and_its_source_stays(home: AgentNode) -> None:
    size = 512 * MIB
    origin = home.create(size=size, access=BLOCK, provision=Provision.THICK).serve()
    origin.write("kept")
    (snapshot,) = home.snapshot(origin)
    # Whoever copies is stopped in the middle of it.
    stop = "until pkill -STOP -f '[b]lock_worker_process'; do sleep 0.01; done"
    home.node.spawn(["bash", "-c", stop], log="/run/stop.log")
    copy = home.create(
        "copy", size, access=BLOCK, provision=Provision.THICK, source=snapshot, wait=False
    )
    for _ in range(2):
        assert "% done" in home.progress(copy.record)
    with pytest.raises(Busy, match=f"snapshot {snapshot.id} is being read"):
        home.agent.delete_snapshots([snapshot.id])
    assert not home.agent.get_volume(copy.id).complete
    with pytest.raises(Unavailable, match="still being filled"):
        home.agent.expand_volume(copy.id, 2 * size, 0)
    home.node.run(["pkill", "-CONT", "-f", "[b]lock_worker_process"])
    until_done(lambda: home.agent.create_volume(copy.record))
    copy.serve()
    assert home.node.run(["head", "-c", "4", copy.target]).text == "kept"


def test_a_source_that_grew_while_its_copy_waited_is_copied_as_it_is_then(home: AgentNode) -> None:
    origin = home.create(access=BLOCK).serve()
    origin.write("first")
    with wipes_held(home.node):
        wipes = [
            home.spawn_create(name, access=BLOCK, provision=Provision.THICK) for name in ("a", "b")
        ]
        for wipe in wipes:
            assert isinstance(wipe.exception(), Unavailable)
        copy = home.create(
            "copy", 128 * MIB, access=BLOCK, provision=Provision.THICK, source=origin, wait=False
        )
        assert "waiting for its turn" in home.progress(copy.record)
        origin.expand(128 * MIB)
        home.node.sh(
            f"dd if=/dev/urandom of={origin.target} bs=1M seek=100 count=4 oflag=direct status=none"
        )
    until_done(lambda: home.agent.create_volume(copy.record))
    copy.serve()
    home.node.sh(f"cmp -n {128 * MIB} {origin.target} {copy.target}")


def test_a_half_made_copy_is_deleted_with_everything_that_it_needed(home: AgentNode) -> None:
    origin = home.create(access=BLOCK, provision=Provision.THICK).serve()
    origin.write("kept")
    copy = home.create("copy", access=BLOCK, provision=Provision.THICK, source=origin, wait=False)
    home.progress(copy.record)
    home.kill()
    assert f"vol-{copy.id}" in home.node.run(["lvs", "vg0"]).text
    home.start()
    home.agent.delete_volume(copy.id)
    inventory = home.agent.inventory()
    assert [volume.id for volume in inventory.volumes] == [origin.id]
    left = home.node.run(["lvs", "--noheadings", "-o", "lv_name", "vg0"]).text
    assert sorted(left.split()) == ["thin", f"vol-{origin.id}"]
