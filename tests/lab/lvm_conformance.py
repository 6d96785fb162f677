"""What every way of running LVM has to do. Runs inside a lab node, started by test_lvm.py.

The environment says which way: ``LVM_EXECUTOR`` is shell or fork. The node has two blank disks.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from host.command import Runner
from host.errors import AlreadyExists, DeviceFailed, InUse, Missing, NoSpace, Refused
from host.lvm.commands import Group, Lvm
from host.lvm.config import GroupDirectory
from host.lvm.executor import LvmExecutor
from host.lvm.fork import ForkExecutor
from host.lvm.model import Kind, Raid1, Striped
from host.lvm.shell import ShellExecutor

MIB = 1 << 20
DISKS = ("/dev/ubdb", "/dev/ubdc")


def executor(runner: Runner, directory: GroupDirectory) -> LvmExecutor:
    if os.environ["LVM_EXECUTOR"] == "shell":
        return ShellExecutor(runner, directory)
    return ForkExecutor(runner, directory)


@pytest.fixture(scope="module")
def lvm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lvm]:
    directory = GroupDirectory(tmp_path_factory.mktemp("lvm"), "vg0", udev=False)
    directory.write(DISKS)
    runner = Runner()
    made = ForkExecutor(runner, directory).execute(
        ("vgcreate", "--metadatasize", "4m", "vg0", *map(directory.name_of, DISKS))
    )
    assert made.ok, made
    lvm = Lvm([Group(directory, executor(runner, directory))])
    lvm.create_thin_pool("vg0", "pool", 256 * MIB, chunk_bytes=64 << 10)
    yield lvm
    lvm.remove("vg0", *(volume.name for volume in lvm.logical_volumes("vg0")))
    lvm.close()
    ForkExecutor(runner, directory).execute(("vgremove", "vg0"))
    subprocess.run(["wipefs", "-qa", *DISKS], check=True)


@pytest.fixture(autouse=True)
def clean(lvm: Lvm) -> Iterator[None]:
    yield
    names = [volume.name for volume in lvm.logical_volumes("vg0") if volume.name != "pool"]
    lvm.remove("vg0", *names)


def test_a_thick_volume_is_created_with_its_tags_and_looked_up(lvm: Lvm) -> None:
    tags = ("xlss.id=v1", "xlss.kind=volume", "a/b:c&d#e")
    lvm.create_thick("vg0", "v1", 100 * MIB + 1, tags=tags)
    volume = lvm.logical_volume("vg0", "v1")
    assert volume.size_bytes == 104 * MIB
    assert volume.tags == frozenset(tags)
    assert (volume.kind, volume.pool, volume.origin) == (Kind.LINEAR, None, None)
    assert volume.active and not volume.open and not volume.suspended and not volume.health
    assert volume.path.is_block_device()
    assert volume.device is not None
    assert volume.path.stat().st_rdev == os.makedev(*volume.device)


def test_a_name_is_taken_once(lvm: Lvm) -> None:
    lvm.create_thick("vg0", "v1", 8 * MIB)
    with pytest.raises(AlreadyExists):
        lvm.create_thick("vg0", "v1", 8 * MIB)
    with pytest.raises(AlreadyExists):
        lvm.create_thin("vg0", "pool", "v1", 8 * MIB)


def test_without_room_nothing_is_created(lvm: Lvm) -> None:
    with pytest.raises(NoSpace):
        lvm.create_thick("vg0", "v1", 100 << 30)
    with pytest.raises(NoSpace):
        lvm.create_thick("vg0", "v1", 800 * MIB, layout=Raid1())
    assert lvm.find("vg0", "v1") is None


def test_what_is_not_there_is_missing(lvm: Lvm) -> None:
    with pytest.raises(Missing):
        lvm.logical_volume("vg0", "nobody")
    with pytest.raises(Missing):
        lvm.create_thin("vg0", "no-pool", "t1", 8 * MIB)
    with pytest.raises(Missing):
        lvm.create_thin_snapshot("vg0", "nobody", "s1")
    with pytest.raises(Missing):
        lvm.create_cow_snapshot("vg0", "nobody", "s1")
    with pytest.raises(Missing):
        lvm.extend("vg0", "nobody", 8 * MIB)
    with pytest.raises(Missing):
        lvm.retag("vg0", "nobody", add=["x"])
    with pytest.raises(Missing):
        lvm.activate("vg0", "nobody")
    with pytest.raises(DeviceFailed):
        lvm.logical_volumes("vg1")


def test_removing_and_deactivating_what_is_gone_is_fine(lvm: Lvm) -> None:
    lvm.create_thick("vg0", "v1", 8 * MIB)
    lvm.remove("vg0", "nobody", "v1")
    lvm.remove("vg0", "v1")
    lvm.deactivate("vg0", "v1")
    assert lvm.find("vg0", "v1") is None


def test_more_volumes_are_removed_than_a_command_has_room_for(lvm: Lvm) -> None:
    names = [f"v{number}" for number in range(80)]
    for name in (names[0], names[40], names[79]):
        lvm.create_thick("vg0", name, 4 * MIB)
    lvm.remove("vg0", *names)
    assert [volume.name for volume in lvm.logical_volumes("vg0")] == ["pool"]


def test_an_open_volume_is_neither_removed_nor_deactivated(lvm: Lvm) -> None:
    lvm.create_thick("vg0", "v1", 8 * MIB)
    with lvm.logical_volume("vg0", "v1").path.open("rb"):
        assert lvm.logical_volume("vg0", "v1").open
        with pytest.raises(InUse):
            lvm.remove("vg0", "nobody", "v1")
        with pytest.raises(InUse):
            lvm.deactivate("vg0", "v1")
    assert lvm.logical_volume("vg0", "v1").active


def test_deactivating_and_activating_may_be_repeated(lvm: Lvm) -> None:
    lvm.create_thick("vg0", "v1", 8 * MIB)
    lvm.deactivate("vg0", "v1")
    lvm.deactivate("vg0", "v1")
    volume = lvm.logical_volume("vg0", "v1")
    assert not volume.active and volume.device is None
    assert not volume.path.exists()
    lvm.activate("vg0", "v1")
    lvm.activate("vg0", "v1")
    assert lvm.logical_volume("vg0", "v1").path.is_block_device()


def test_volumes_are_activated_by_tag(lvm: Lvm) -> None:
    lvm.create_thick("vg0", "v1", 8 * MIB, tags=["xlss.kind=volume"])
    lvm.create_thin("vg0", "pool", "t1", 8 * MIB, tags=["xlss.kind=volume"])
    lvm.create_thick("vg0", "other", 8 * MIB, tags=["xlss.kind=volumes"])
    lvm.deactivate("vg0", "v1", "t1", "other")
    assert lvm.activate_tagged("vg0", "xlss.kind=volume") == []
    active = {volume.name for volume in lvm.logical_volumes("vg0") if volume.active}
    assert active == {"pool", "v1", "t1"}
    assert lvm.activate_tagged("vg0", "no-such-tag") == []


def test_growing_to_the_same_size_or_less_changes_nothing(lvm: Lvm) -> None:
    lvm.create_thick("vg0", "v1", 8 * MIB)
    lvm.create_thin("vg0", "pool", "t1", 8 * MIB)
    for name in ("v1", "t1"):
        for size in (16 * MIB, 16 * MIB, 15 * MIB, 4 * MIB):
            lvm.extend("vg0", name, size)
            assert lvm.logical_volume("vg0", name).size_bytes == 16 * MIB
    with pytest.raises(NoSpace):
        lvm.extend("vg0", "v1", 100 << 30)


def test_a_volume_in_two_segments_is_one_volume(lvm: Lvm) -> None:
    lvm.create_thick("vg0", "v1", 8 * MIB)
    lvm.create_thick("vg0", "v2", 8 * MIB)
    lvm.extend("vg0", "v1", 16 * MIB)
    assert sorted(v.name for v in lvm.logical_volumes("vg0")) == ["pool", "v1", "v2"]


def test_tags_change_in_one_step_and_again(lvm: Lvm) -> None:
    lvm.create_thick("vg0", "v1", 8 * MIB, tags=["state=blank", "id=1"])
    for _ in range(2):
        lvm.retag("vg0", "v1", add=["state=used"], remove=["state=blank"])
        assert lvm.logical_volume("vg0", "v1").tags == {"state=used", "id=1"}
    lvm.retag("vg0", "v1")


def test_long_tags_fit(lvm: Lvm) -> None:
    tags = {f"xlss.record.{number}=" + "x" * 960 for number in range(12)}
    lvm.create_thin("vg0", "pool", "t1", 8 * MIB, tags=tags)
    assert lvm.logical_volume("vg0", "t1").tags == tags


def test_a_thin_volume_takes_room_as_it_is_written(lvm: Lvm) -> None:
    lvm.create_thin("vg0", "pool", "t1", 1 << 30)
    volume = lvm.logical_volume("vg0", "t1")
    assert (volume.kind, volume.pool, volume.size_bytes) == (Kind.THIN, "pool", 1 << 30)
    assert volume.allocated_bytes == 0
    (pool,) = lvm.state("vg0").thin_pools
    assert (pool.virtual_bytes, pool.chunk_bytes) == (1 << 30, 64 << 10)
    assert pool.active and pool.error_when_full and not pool.needs_check and not pool.health
    write(volume.path, 64 * MIB)
    assert lvm.logical_volume("vg0", "t1").allocated_bytes == pytest.approx(64 * MIB, rel=0.01)
    (pool,) = lvm.state("vg0").thin_pools
    assert pool.data_used_bytes == pytest.approx(64 * MIB, rel=0.05)
    assert 0 < pool.metadata_used < 1


def test_a_thin_snapshot_keeps_the_old_data_and_outlives_its_origin(lvm: Lvm) -> None:
    lvm.create_thin("vg0", "pool", "t1", 8 * MIB)
    write(Path("/dev/vg0/t1"), MIB, b"a")
    lvm.create_thin_snapshot("vg0", "t1", "s1", tags=["kind=snapshot"])
    with pytest.raises(AlreadyExists):
        lvm.create_thin_snapshot("vg0", "t1", "s1")
    write(Path("/dev/vg0/t1"), MIB, b"b")
    snapshot = lvm.logical_volume("vg0", "s1")
    assert (snapshot.kind, snapshot.origin, snapshot.tags) == (Kind.THIN, "t1", {"kind=snapshot"})
    assert snapshot.active and not snapshot.read_only
    assert read(snapshot.path) == b"a"
    lvm.remove("vg0", "t1")
    assert lvm.logical_volume("vg0", "s1").origin is None
    assert read(snapshot.path) == b"a"


def test_a_snapshot_may_be_read_only_and_inactive(lvm: Lvm) -> None:
    lvm.create_thin("vg0", "pool", "t1", 8 * MIB)
    lvm.create_thin_snapshot("vg0", "t1", "s1", read_only=True, activate=False)
    snapshot = lvm.logical_volume("vg0", "s1")
    assert snapshot.read_only and not snapshot.active


def test_a_copy_on_write_snapshot_has_room_for_everything(lvm: Lvm) -> None:
    lvm.create_thick("vg0", "v1", 64 * MIB)
    write(Path("/dev/vg0/v1"), 64 * MIB, b"a")
    lvm.create_cow_snapshot("vg0", "v1", "s1", tags=["kind=snapshot"])
    write(Path("/dev/vg0/v1"), 64 * MIB, b"b")
    snapshot = lvm.logical_volume("vg0", "s1")
    assert (snapshot.kind, snapshot.origin) == (Kind.COW_SNAPSHOT, "v1")
    assert not snapshot.health
    assert snapshot.data_percent is not None
    assert snapshot.data_percent < 100
    assert read(snapshot.path) == b"a"
    with pytest.raises(Refused):
        lvm.extend("vg0", "v1", 128 * MIB)
    lvm.remove("vg0", "s1")
    lvm.extend("vg0", "v1", 128 * MIB)


def test_layouts_are_kept(lvm: Lvm) -> None:
    lvm.create_thick("vg0", "st", 64 * MIB, layout=Striped(2))
    lvm.create_thick("vg0", "r1", 64 * MIB, layout=Raid1(2, initial_sync=False))
    assert lvm.logical_volume("vg0", "st").kind is Kind.STRIPED
    mirror = lvm.logical_volume("vg0", "r1")
    assert (mirror.kind, mirror.size_bytes) == (Kind.RAID1, 64 * MIB)
    assert mirror.active
    lvm.extend("vg0", "r1", 100 * MIB)
    with pytest.raises(Refused):
        lvm.create_thick("vg0", "st3", 64 * MIB, layout=Striped(3))


def test_a_pool_grows_in_data_and_metadata(lvm: Lvm) -> None:
    (before,) = lvm.state("vg0").thin_pools
    lvm.extend("vg0", "pool", before.size_bytes + 32 * MIB)
    lvm.extend_pool_metadata("vg0", "pool", before.metadata_bytes + 8 * MIB)
    (after,) = lvm.state("vg0").thin_pools
    assert after.size_bytes == before.size_bytes + 32 * MIB
    assert after.metadata_bytes == before.metadata_bytes + 8 * MIB


def test_the_group_tells_its_size_and_disks(lvm: Lvm) -> None:
    state = lvm.state("vg0")
    group = state.volume_group
    assert (group.name, group.pv_count, group.missing_pv_count) == ("vg0", 2, 0)
    assert group.extent_bytes == 4 * MIB
    assert [disk.device for disk in state.physical_volumes] == list(DISKS)
    assert sum(disk.free_bytes for disk in state.physical_volumes) == group.free_bytes
    assert 0 < group.metadata_free_bytes < group.metadata_bytes
    assert [pool.name for pool in state.thin_pools] == ["pool"]
    assert [volume.name for volume in state.logical_volumes] == ["pool"]


def test_a_changed_group_is_archived_once(lvm: Lvm, tmp_path: Path) -> None:
    lvm.create_thick("vg0", "v1", 8 * MIB)
    assert lvm.take_changed() == {"vg0"}
    assert lvm.take_changed() == set()
    lvm.write_metadata("vg0", tmp_path / "archive.vg")
    assert "v1 {" in (tmp_path / "archive.vg").read_text()


def test_impossible_arguments_never_reach_lvm(lvm: Lvm) -> None:
    for name in ("-f", "a b", "a;b", "", "..", "x" * 128, "a\nvgs"):
        with pytest.raises(ValueError, match="not a name"):
            lvm.remove("vg0", name)
    with pytest.raises(ValueError, match="not a tag"):
        lvm.retag("vg0", "v1", add=["a b"])
    with pytest.raises(ValueError, match="not a size"):
        lvm.create_thick("vg0", "v1", 0)


def write(path: Path, size: int, byte: bytes = b"x") -> None:
    with path.open("r+b", buffering=0) as device:
        for _ in range(size // MIB):
            device.write(byte * MIB)
        os.fsync(device.fileno())


def read(path: Path) -> bytes:
    with path.open("rb", buffering=0) as device:
        return device.read(1)
