"""The GroupController service through a real channel, with the real workflows behind it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from csi.rpc import csi_pb2 as pb
from tests.unit.controller_driver import ControllerDriver, controller_driver
from tests.unit.serving import refusal

Code = grpc.StatusCode


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[ControllerDriver]:
    with controller_driver(tmp_path) as made:
        yield made


def cut(name: str, *volume_ids: str) -> pb.CreateVolumeGroupSnapshotRequest:
    return pb.CreateVolumeGroupSnapshotRequest(name=name, source_volume_ids=volume_ids)


def test_the_capability_is_the_one_there_is(driver: ControllerDriver) -> None:
    answer = driver.groups.GroupControllerGetCapabilities(
        pb.GroupControllerGetCapabilitiesRequest()
    )
    kind = pb.GroupControllerServiceCapability.RPC
    assert [each.rpc.type for each in answer.capabilities] == [
        kind.CREATE_DELETE_GET_VOLUME_GROUP_SNAPSHOT
    ]


def test_a_group_is_cut_once_and_lives_and_dies_as_one(driver: ControllerDriver) -> None:
    volumes = [driver.create("a"), driver.create("b")]
    group = driver.groups.CreateVolumeGroupSnapshot(cut("nightly", *volumes)).group_snapshot
    again = driver.groups.CreateVolumeGroupSnapshot(cut("nightly", *volumes)).group_snapshot
    assert again == group
    assert group.ready_to_use
    assert group.creation_time.seconds > 0
    assert {each.source_volume_id for each in group.snapshots} == set(volumes)
    assert {each.group_snapshot_id for each in group.snapshots} == {group.group_snapshot_id}

    member = group.snapshots[0].snapshot_id
    code, text = refusal(driver.stub.DeleteSnapshot, pb.DeleteSnapshotRequest(snapshot_id=member))
    assert code is Code.INVALID_ARGUMENT
    assert "is part of group" in text

    members = [each.snapshot_id for each in group.snapshots]
    got = driver.groups.GetVolumeGroupSnapshot(
        pb.GetVolumeGroupSnapshotRequest(
            group_snapshot_id=group.group_snapshot_id, snapshot_ids=members
        )
    )
    assert got.group_snapshot == group
    for _ in range(2):
        driver.groups.DeleteVolumeGroupSnapshot(
            pb.DeleteVolumeGroupSnapshotRequest(
                group_snapshot_id=group.group_snapshot_id, snapshot_ids=members
            )
        )
    assert not driver.stub.ListSnapshots(pb.ListSnapshotsRequest()).entries


def test_members_that_are_not_those_of_the_group_are_refused(driver: ControllerDriver) -> None:
    volume_id = driver.create("a")
    group = driver.groups.CreateVolumeGroupSnapshot(cut("nightly", volume_id)).group_snapshot
    for call, message in (
        (driver.groups.GetVolumeGroupSnapshot, pb.GetVolumeGroupSnapshotRequest),
        (driver.groups.DeleteVolumeGroupSnapshot, pb.DeleteVolumeGroupSnapshotRequest),
    ):
        wrong = message(group_snapshot_id=group.group_snapshot_id, snapshot_ids=["s" + "0" * 28])
        assert refusal(call, wrong)[0] is Code.INVALID_ARGUMENT


def test_another_group_of_the_same_name_is_refused(driver: ControllerDriver) -> None:
    a, b = driver.create("a"), driver.create("b")
    driver.groups.CreateVolumeGroupSnapshot(cut("nightly", a))
    code, _ = refusal(driver.groups.CreateVolumeGroupSnapshot, cut("nightly", b))
    assert code is Code.ALREADY_EXISTS


def test_group_calls_say_what_is_wrong(driver: ControllerDriver) -> None:
    volume_id = driver.create("a")
    create = driver.groups.CreateVolumeGroupSnapshot
    for wrong, code in (
        (cut("", volume_id), Code.INVALID_ARGUMENT),
        (cut("nightly"), Code.INVALID_ARGUMENT),
        (cut("nightly", volume_id, volume_id), Code.INVALID_ARGUMENT),
        (cut("nightly", *map(str, range(65))), Code.INVALID_ARGUMENT),
        (cut("nightly", volume_id, "fake"), Code.NOT_FOUND),
        (cut("nightly", volume_id, "v" + "0" * 28), Code.NOT_FOUND),
        (
            pb.CreateVolumeGroupSnapshotRequest(
                name="nightly", source_volume_ids=[volume_id], parameters={"kind": "backup"}
            ),
            Code.INVALID_ARGUMENT,
        ),
    ):
        assert refusal(create, wrong)[0] is code
    assert not driver.stub.ListSnapshots(pb.ListSnapshotsRequest()).entries


def test_groups_that_are_not_there(driver: ControllerDriver) -> None:
    get, delete = (
        driver.groups.GetVolumeGroupSnapshot,
        driver.groups.DeleteVolumeGroupSnapshot,
    )
    assert refusal(get, pb.GetVolumeGroupSnapshotRequest())[0] is Code.INVALID_ARGUMENT
    assert refusal(delete, pb.DeleteVolumeGroupSnapshotRequest())[0] is Code.INVALID_ARGUMENT
    for gone in ("fake", "g" + "0" * 28):
        code, _ = refusal(get, pb.GetVolumeGroupSnapshotRequest(group_snapshot_id=gone))
        assert code is Code.NOT_FOUND
        delete(pb.DeleteVolumeGroupSnapshotRequest(group_snapshot_id=gone))
