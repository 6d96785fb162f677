"""When a thin pool grows and how far, and what a person is told of a pool."""

from __future__ import annotations

from dataclasses import replace

import pytest

from host.lvm.growth import Growth, growth, troubles
from host.lvm.model import GroupState, Kind, LogicalVolume, PhysicalVolume, ThinPool, VolumeGroup
from host.lvm.pool_spec import PoolSpec, Share

MIB, GIB = 1 << 20, 1 << 30
SPEC = PoolSpec("fast", "vg0", thin_pool="thin")
GROUP = VolumeGroup(
    name="vg0",
    uuid="u",
    size_bytes=100 * GIB,
    free_bytes=50 * GIB,
    extent_bytes=4 * MIB,
    pv_count=2,
    missing_pv_count=0,
    metadata_bytes=32 * MIB,
    metadata_free_bytes=15 * MIB,
    tags=frozenset(),
)
THIN = ThinPool(
    vg="vg0",
    name="thin",
    size_bytes=40 * GIB,
    data_used=0.5,
    metadata_bytes=64 * MIB,
    metadata_used=0.1,
    chunk_bytes=64 << 10,
    virtual_bytes=80 * GIB,
    error_when_full=True,
    zeroes=True,
    active=True,
    needs_check=False,
    health="",
)
DISK = PhysicalVolume("d1", "/dev/sdb", 50 * GIB, 25 * GIB, missing=False)
STATE = GroupState(GROUP, (DISK,), (), (THIN,))
VOLUME = LogicalVolume(
    vg="vg0",
    name="v1",
    uuid="u",
    size_bytes=GIB,
    allocated_bytes=GIB,
    tags=frozenset(),
    kind=Kind.RAID1,
    pool=None,
    origin=None,
    active=True,
    open=False,
    suspended=False,
    read_only=False,
    device=(254, 1),
    data_percent=None,
    metadata_percent=None,
    health="",
)


def test_a_pool_with_room_is_left_alone() -> None:
    assert growth(SPEC, GROUP, THIN) == Growth()


def test_data_grows_by_a_share_of_the_pool() -> None:
    assert growth(SPEC, GROUP, replace(THIN, data_used=0.8)) == Growth(data_bytes=48 * GIB)


def test_data_grows_by_a_size_in_whole_extents() -> None:
    spec = replace(SPEC, grow_by=Share(size_bytes=5 * MIB))
    assert growth(spec, GROUP, replace(THIN, data_used=1.0)).data_bytes == 40 * GIB + 8 * MIB


def test_data_takes_what_is_left_in_the_group() -> None:
    group = replace(GROUP, free_bytes=13 * MIB)
    assert growth(SPEC, group, replace(THIN, data_used=0.9)).data_bytes == 40 * GIB + 12 * MIB


def test_metadata_grows_first_with_the_spare_that_repairs_need() -> None:
    full = replace(THIN, data_used=0.9, metadata_used=0.9)
    assert growth(SPEC, GROUP, full) == Growth(data_bytes=48 * GIB, metadata_bytes=96 * MIB)
    # 64 MiB for a spare that may not be there, 32 MiB for it to grow, 32 MiB for the metadata.
    group = replace(GROUP, free_bytes=128 * MIB)
    assert growth(SPEC, group, full) == Growth(
        metadata_bytes=96 * MIB, short="no room to grow its data"
    )


def test_metadata_takes_an_extent_where_there_is_no_more() -> None:
    group = replace(GROUP, free_bytes=8 * MIB)
    assert growth(SPEC, group, replace(THIN, metadata_used=0.9)).metadata_bytes == 68 * MIB


def test_without_room_it_says_what_is_short() -> None:
    group = replace(GROUP, free_bytes=0)
    plan = growth(SPEC, group, replace(THIN, data_used=0.9, metadata_used=0.9))
    assert plan == Growth(short="no room to grow its metadata and data")


def test_metadata_stops_at_the_kernels_limit() -> None:
    largest = 255 * (1 << 14) * 4096
    near = replace(THIN, metadata_used=0.9, metadata_bytes=largest - 8 * MIB)
    assert growth(SPEC, GROUP, near).metadata_bytes == largest
    assert growth(SPEC, GROUP, replace(near, metadata_bytes=largest)) == Growth()


def test_growing_can_be_turned_off() -> None:
    assert growth(replace(SPEC, grow_at=1.0), GROUP, replace(THIN, data_used=1.0)) == Growth()


def test_a_healthy_pool_is_silent() -> None:
    assert troubles(SPEC, STATE) == []


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (
            replace(
                STATE,
                volume_group=replace(GROUP, missing_pv_count=1),
                physical_volumes=(DISK, replace(DISK, uuid="d2", device=None, missing=True)),
            ),
            "1 of 2 disks missing (d2)",
        ),
        (replace(STATE, thin_pools=()), "thin pool thin is not there"),
        (replace(STATE, thin_pools=(replace(THIN, active=False),)), "not active"),
        (replace(STATE, thin_pools=(replace(THIN, zeroes=False),)), "lvchange --zero y vg0/thin"),
        (replace(STATE, thin_pools=(replace(THIN, data_used=0.96),)), "96% of its data used"),
        (replace(STATE, thin_pools=(replace(THIN, metadata_used=1.0),)), "100% of its metadata"),
        (
            replace(STATE, volume_group=replace(GROUP, metadata_free_bytes=1 * MIB)),
            "metadata area of the volume group is nearly full",
        ),
    ],
)
def test_what_is_wrong_is_said(state: GroupState, said: str) -> None:
    (text,) = troubles(SPEC, state)
    assert said in text


def test_a_volume_that_is_not_well_is_named() -> None:
    volume = replace(VOLUME, health="refresh needed")
    assert troubles(SPEC, replace(STATE, logical_volumes=(volume,))) == ["v1: refresh needed"]


def test_a_pool_of_thick_volumes_needs_no_thin_pool() -> None:
    assert troubles(replace(SPEC, thin_pool=""), replace(STATE, thin_pools=())) == []
