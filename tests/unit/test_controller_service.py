"""The Controller service through a real channel, with the real workflows behind it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from cluster.agents import Health
from csi.rpc import csi_pb2 as pb
from tests.unit.controller_driver import (
    BLOCK,
    GIB,
    MIB,
    MOUNT,
    ControllerDriver,
    capability,
    controller_driver,
)
from tests.unit.serving import refusal

Code = grpc.StatusCode
Mode = pb.VolumeCapability.AccessMode


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[ControllerDriver]:
    with controller_driver(tmp_path) as made:
        yield made


def request(name: str = "data", **fields: Any) -> pb.CreateVolumeRequest:
    fields.setdefault("volume_capabilities", [MOUNT])
    fields.setdefault("capacity_range", pb.CapacityRange(required_bytes=64 * MIB))
    return pb.CreateVolumeRequest(name=name, **fields)


def test_capabilities_are_those_that_are_kept(driver: ControllerDriver) -> None:
    answer = driver.stub.ControllerGetCapabilities(pb.ControllerGetCapabilitiesRequest())
    kinds = {each.rpc.type for each in answer.capabilities}
    known = set(pb.ControllerServiceCapability.RPC.Type.values())
    kind = pb.ControllerServiceCapability.RPC
    assert known - kinds == {kind.UNKNOWN, kind.GET_VOLUME_HEALTH, kind.LIST_VOLUME_HEALTH}


def test_health_calls_are_advertised_to_those_who_want_it(tmp_path: Path) -> None:
    with controller_driver(tmp_path, advertise_health=True) as driver:
        answer = driver.stub.ControllerGetCapabilities(pb.ControllerGetCapabilitiesRequest())
    kinds = {each.rpc.type for each in answer.capabilities}
    kind = pb.ControllerServiceCapability.RPC
    assert {kind.GET_VOLUME_HEALTH, kind.LIST_VOLUME_HEALTH} <= kinds


# CreateVolume


def test_a_volume_is_made_once_however_often_it_is_asked_for(driver: ControllerDriver) -> None:
    first = driver.stub.CreateVolume(request()).volume
    again = driver.stub.CreateVolume(request()).volume
    assert first == again
    assert first.capacity_bytes == 64 * MIB
    assert not first.volume_context
    assert [dict(each.segments) for each in first.accessible_topology] in (
        [{"csi.xlss.io/node": "n1"}],
        [{"csi.xlss.io/node": "n2"}],
    )


def test_without_a_size_a_volume_has_one_gib(driver: ControllerDriver) -> None:
    made = driver.stub.CreateVolume(pb.CreateVolumeRequest(name="a", volume_capabilities=[MOUNT]))
    assert made.volume.capacity_bytes == GIB
    limited = request("b", capacity_range=pb.CapacityRange(limit_bytes=128 * MIB))
    assert driver.stub.CreateVolume(limited).volume.capacity_bytes == 128 * MIB


def test_a_volume_is_never_too_small_for_its_file_system(driver: ControllerDriver) -> None:
    small = pb.CapacityRange(required_bytes=1)
    xfs = driver.stub.CreateVolume(
        request("xfs", parameters={"fsType": "xfs"}, capacity_range=small)
    )
    assert xfs.volume.capacity_bytes >= 300 * MIB
    block = request("block", volume_capabilities=[BLOCK], capacity_range=small)
    assert MIB <= driver.stub.CreateVolume(block).volume.capacity_bytes <= 16 * MIB
    limited = request(
        "limited",
        parameters={"fsType": "xfs"},
        capacity_range=pb.CapacityRange(limit_bytes=100 * MIB),
    )
    code, text = refusal(driver.stub.CreateVolume, limited)
    assert code is Code.OUT_OF_RANGE
    assert "a xfs volume needs" in text


@pytest.mark.parametrize(
    ("wrong", "code", "text"),
    [
        (pb.CreateVolumeRequest(volume_capabilities=[MOUNT]), Code.INVALID_ARGUMENT, "name is"),
        (pb.CreateVolumeRequest(name="a"), Code.INVALID_ARGUMENT, "volume_capabilities are"),
        (request("a" * 129), Code.INVALID_ARGUMENT, "name is longer than 128 bytes"),
        (request("a\x07"), Code.INVALID_ARGUMENT, "control characters"),
        (
            request(volume_capabilities=[pb.VolumeCapability(mount={})]),
            Code.INVALID_ARGUMENT,
            "no access_mode",
        ),
        (
            request(
                volume_capabilities=[
                    pb.VolumeCapability(access_mode=Mode(mode=Mode.SINGLE_NODE_WRITER))
                ]
            ),
            Code.INVALID_ARGUMENT,
            "no access_type",
        ),
        (request(volume_capabilities=[MOUNT, BLOCK]), Code.INVALID_ARGUMENT, "a block and a mount"),
        *(
            (request(volume_capabilities=[capability(mode)]), Code.INVALID_ARGUMENT, "access mode")
            for mode in (
                Mode.UNKNOWN,
                Mode.MULTI_NODE_READER_ONLY,
                Mode.MULTI_NODE_SINGLE_WRITER,
                Mode.MULTI_NODE_MULTI_WRITER,
            )
        ),
        (
            request(capacity_range=pb.CapacityRange(required_bytes=-1)),
            Code.INVALID_ARGUMENT,
            "negative",
        ),
        (
            request(capacity_range=pb.CapacityRange(required_bytes=2 * GIB, limit_bytes=GIB)),
            Code.INVALID_ARGUMENT,
            "more than limit",
        ),
        (
            request(capacity_range=pb.CapacityRange(required_bytes=(1 << 63) - 1)),
            Code.OUT_OF_RANGE,
            "more than any volume can have",
        ),
        (request(parameters={"replicas": "2"}), Code.INVALID_ARGUMENT, "replicas 2"),
        (request(parameters={"poool": "x"}), Code.INVALID_ARGUMENT, "did you mean pool"),
        (request(mutable_parameters={"readIop": "1"}), Code.INVALID_ARGUMENT, "mean readIops"),
        (
            request(volume_content_source=pb.VolumeContentSource()),
            Code.INVALID_ARGUMENT,
            "neither a snapshot nor a volume",
        ),
        (
            request(volume_content_source={"snapshot": {"snapshot_id": "non-existing"}}),
            Code.NOT_FOUND,
            "source snapshot 'non-existing'",
        ),
        (
            request(volume_content_source={"volume": {"volume_id": "v" + "0" * 28}}),
            Code.NOT_FOUND,
            "",
        ),
        (
            request(accessibility_requirements={"requisite": [{}]}),
            Code.INVALID_ARGUMENT,
            "a topology has no segments",
        ),
    ],
)
def test_a_volume_that_cannot_be_is_not_made(
    driver: ControllerDriver, wrong: pb.CreateVolumeRequest, code: grpc.StatusCode, text: str
) -> None:
    found, message = refusal(driver.stub.CreateVolume, wrong)
    assert found is code
    assert text in message
    assert not driver.stub.ListVolumes(pb.ListVolumesRequest()).entries


def test_another_volume_of_the_same_name_is_refused(driver: ControllerDriver) -> None:
    driver.stub.CreateVolume(request())
    for other in (
        request(capacity_range=pb.CapacityRange(required_bytes=128 * MIB)),
        request(parameters={"fsType": "xfs"}),
        request(volume_capabilities=[BLOCK]),
    ):
        code, _ = refusal(driver.stub.CreateVolume, other)
        assert code is Code.ALREADY_EXISTS


def test_topology_is_respected(driver: ControllerDriver) -> None:
    for node in ("n1", "n2"):
        there = {"segments": {"csi.xlss.io/node": node}}
        made = driver.stub.CreateVolume(
            request(node, accessibility_requirements={"requisite": [there], "preferred": [there]})
        )
        assert [dict(each.segments) for each in made.volume.accessible_topology] == [
            {"csi.xlss.io/node": node}
        ]


def test_a_copy_is_as_large_as_its_source_and_names_it(driver: ControllerDriver) -> None:
    source = driver.create("source")
    snapshot = driver.stub.CreateSnapshot(
        pb.CreateSnapshotRequest(name="cut", source_volume_id=source)
    ).snapshot
    for name, content in (
        ("restored", {"snapshot": {"snapshot_id": snapshot.snapshot_id}}),
        ("cloned", {"volume": {"volume_id": source}}),
    ):
        made = driver.stub.CreateVolume(
            pb.CreateVolumeRequest(
                name=name, volume_capabilities=[MOUNT], volume_content_source=content
            )
        ).volume
        assert made.capacity_bytes == 64 * MIB
        assert made.content_source == pb.VolumeContentSource(**content)


def test_a_copy_has_the_file_system_of_its_source(driver: ControllerDriver) -> None:
    """Said at the creation, and not by a mount that fails for ever."""
    source = {"volume": {"volume_id": driver.create("source")}}
    code, text = refusal(
        driver.stub.CreateVolume,
        request("copy", parameters={"fsType": "btrfs"}, volume_content_source=source),
    )
    assert code is Code.INVALID_ARGUMENT
    assert "btrfs" in text
    assert "ext4" in text


def test_a_copy_is_never_smaller_than_its_source(driver: ControllerDriver) -> None:
    source = {"volume": {"volume_id": driver.create("source")}}
    small = pb.CapacityRange(limit_bytes=32 * MIB)
    code, _ = refusal(
        driver.stub.CreateVolume,
        request("copy", capacity_range=small, volume_content_source=source),
    )
    assert code is Code.OUT_OF_RANGE


# DeleteVolume, ControllerPublishVolume


def test_deleting_what_is_gone_or_never_was_is_success(driver: ControllerDriver) -> None:
    volume_id = driver.create()
    for gone in (volume_id, volume_id, "reallyfakevolumeid"):
        driver.stub.DeleteVolume(pb.DeleteVolumeRequest(volume_id=gone))
    assert refusal(driver.stub.DeleteVolume, pb.DeleteVolumeRequest())[0] is Code.INVALID_ARGUMENT


def publish_request(volume_id: str, node: str, **fields: Any) -> pb.ControllerPublishVolumeRequest:
    fields.setdefault("volume_capability", MOUNT)
    return pb.ControllerPublishVolumeRequest(volume_id=volume_id, node_id=node, **fields)


def test_a_volume_is_published_on_its_node_and_released(driver: ControllerDriver) -> None:
    volume_id = driver.create()
    publish = driver.stub.ControllerPublishVolume
    for _ in range(2):
        publish(publish_request(volume_id, driver.node_of(volume_id)))
    assert driver.published(volume_id) == [driver.node_of(volume_id)]
    code, _ = refusal(driver.stub.DeleteVolume, pb.DeleteVolumeRequest(volume_id=volume_id))
    assert code is Code.FAILED_PRECONDITION
    code, _ = refusal(publish, publish_request(volume_id, driver.node_of(volume_id), readonly=True))
    assert code is Code.ALREADY_EXISTS
    unpublish = pb.ControllerUnpublishVolumeRequest(volume_id=volume_id)
    for _ in range(2):
        driver.stub.ControllerUnpublishVolume(unpublish)
    assert driver.published(volume_id) == []


def test_publishing_names_what_is_missing_or_does_not_fit(driver: ControllerDriver) -> None:
    volume_id = driver.create()
    node = driver.node_of(volume_id)
    xfs = pb.VolumeCapability(
        mount={"fs_type": "xfs"}, access_mode=Mode(mode=Mode.SINGLE_NODE_WRITER)
    )
    for wrong, code in (
        (pb.ControllerPublishVolumeRequest(), Code.INVALID_ARGUMENT),
        (pb.ControllerPublishVolumeRequest(volume_id="fake"), Code.INVALID_ARGUMENT),
        (
            pb.ControllerPublishVolumeRequest(volume_id="fake", node_id="fake"),
            Code.INVALID_ARGUMENT,
        ),
        (publish_request("fake", "fake"), Code.NOT_FOUND),
        (publish_request(volume_id, "fake"), Code.NOT_FOUND),
        (publish_request(volume_id, node, volume_capability=BLOCK), Code.INVALID_ARGUMENT),
        (publish_request(volume_id, node, volume_capability=xfs), Code.INVALID_ARGUMENT),
    ):
        assert refusal(driver.stub.ControllerPublishVolume, wrong)[0] is code


def test_unpublishing_what_is_gone_is_success(driver: ControllerDriver) -> None:
    unpublish = driver.stub.ControllerUnpublishVolume
    unpublish(pb.ControllerUnpublishVolumeRequest(volume_id="fake", node_id="n1"))
    unpublish(pb.ControllerUnpublishVolumeRequest(volume_id="v" + "0" * 28, node_id="n1"))
    code, _ = refusal(unpublish, pb.ControllerUnpublishVolumeRequest())
    assert code is Code.INVALID_ARGUMENT


# Lists and single volumes


def test_volumes_are_listed_in_pages_with_their_nodes(driver: ControllerDriver) -> None:
    ids = {driver.create(f"volume-{number}") for number in range(5)}
    published = min(ids)
    driver.stub.ControllerPublishVolume(publish_request(published, driver.node_of(published)))
    listed: dict[str, list[str]] = {}
    token, pages = "", 0
    while not pages or token:
        page = driver.stub.ListVolumes(pb.ListVolumesRequest(max_entries=2, starting_token=token))
        assert len(page.entries) <= 2
        for entry in page.entries:
            listed[entry.volume.volume_id] = list(entry.status.published_node_ids)
        token, pages = page.next_token, pages + 1
    assert pages == 3
    assert set(listed) == ids
    assert [each for each in ids if listed[each]] == [published]


@pytest.mark.parametrize("call", ["ListVolumes", "ListSnapshots", "ControllerListVolumeHealth"])
def test_a_token_of_no_list_is_aborted(driver: ControllerDriver, call: str) -> None:
    message = getattr(pb, f"{call}Request")
    code, text = refusal(getattr(driver.stub, call), message(starting_token="invalid-token"))
    assert code is Code.ABORTED
    assert "start again" in text
    code, _ = refusal(getattr(driver.stub, call), message(max_entries=-1))
    assert code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "call",
    [
        "ControllerGetVolume",
        "ControllerGetVolumeHealth",
        "ControllerModifyVolume",
    ],
)
def test_a_volume_that_is_not_there_is_not_found(driver: ControllerDriver, call: str) -> None:
    message, method = getattr(pb, f"{call}Request"), getattr(driver.stub, call)
    assert refusal(method, message())[0] is Code.INVALID_ARGUMENT
    for volume_id in ("fake", "v" + "0" * 28):
        assert refusal(method, message(volume_id=volume_id))[0] is Code.NOT_FOUND


def test_capacity_is_that_of_the_class_and_the_place(driver: ControllerDriver) -> None:
    anywhere = driver.stub.GetCapacity(pb.GetCapacityRequest())
    assert anywhere.available_capacity > 0
    assert anywhere.maximum_volume_size.value > 0
    xfs = driver.stub.GetCapacity(pb.GetCapacityRequest(parameters={"fsType": "xfs"}))
    assert xfs.minimum_volume_size.value >= 300 * MIB
    nowhere = {"segments": {"csi.xlss.io/node": "elsewhere"}}
    there = driver.stub.GetCapacity(pb.GetCapacityRequest(accessible_topology=nowhere))
    assert there.available_capacity == 0
    code, _ = refusal(driver.stub.GetCapacity, pb.GetCapacityRequest(parameters={"a": "b"}))
    assert code is Code.INVALID_ARGUMENT


def validate(volume_id: str, **fields: Any) -> pb.ValidateVolumeCapabilitiesRequest:
    fields.setdefault("volume_capabilities", [MOUNT])
    return pb.ValidateVolumeCapabilitiesRequest(volume_id=volume_id, **fields)


def test_a_volume_is_confirmed_for_what_it_can_do(driver: ControllerDriver) -> None:
    volume_id = driver.create()
    asked = validate(
        volume_id,
        parameters={"pool": "default"},
        mutable_parameters={"readIops": "5"},
        volume_context={"storage.kubernetes.io/csiProvisionerIdentity": "1-csi.xlss.io"},
    )
    confirmed = driver.stub.ValidateVolumeCapabilities(asked).confirmed
    assert list(confirmed.volume_capabilities) == [MOUNT]
    assert confirmed.parameters == {"pool": "default"}


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"volume_capabilities": [BLOCK]}, "was made for mount access"),
        ({"volume_capabilities": [capability(Mode.MULTI_NODE_MULTI_WRITER)]}, "access mode"),
        ({"volume_capabilities": [capability(Mode.SINGLE_NODE_WRITER, "xfs")]}, "ext4, not xfs"),
        ({"parameters": {"pool": "other"}}, "parameters differ"),
        ({"parameters": {"poool": "other"}}, "did you mean pool"),
        ({"mutable_parameters": {"readIop": "5"}}, "did you mean readIops"),
        ({"volume_context": {"device": "/dev/sda"}}, "volume_context"),
    ],
)
def test_a_volume_is_not_confirmed_for_what_it_cannot_do(
    driver: ControllerDriver, fields: dict[str, Any], text: str
) -> None:
    answer = driver.stub.ValidateVolumeCapabilities(validate(driver.create(), **fields))
    assert not answer.HasField("confirmed")
    assert text in answer.message


def test_validating_needs_a_volume_and_complete_capabilities(driver: ControllerDriver) -> None:
    call = driver.stub.ValidateVolumeCapabilities
    volume_id = driver.create()
    incomplete = [pb.VolumeCapability(mount={})]
    for wrong, code in (
        (validate(""), Code.INVALID_ARGUMENT),
        (validate(volume_id, volume_capabilities=[]), Code.INVALID_ARGUMENT),
        (validate(volume_id, volume_capabilities=incomplete), Code.INVALID_ARGUMENT),
        (validate("fake"), Code.NOT_FOUND),
    ):
        assert refusal(call, wrong)[0] is code


# ControllerExpandVolume, ControllerModifyVolume


def expand(volume_id: str, required: int = 0, limit: int = 0, **fields: Any) -> Any:
    size = pb.CapacityRange(required_bytes=required, limit_bytes=limit)
    return pb.ControllerExpandVolumeRequest(volume_id=volume_id, capacity_range=size, **fields)


def test_a_volume_grows_and_never_shrinks(driver: ControllerDriver) -> None:
    volume_id = driver.create()
    for _ in range(2):
        grown = driver.stub.ControllerExpandVolume(expand(volume_id, 96 * MIB))
        assert grown.capacity_bytes == 96 * MIB
        assert grown.node_expansion_required
    smaller = driver.stub.ControllerExpandVolume(expand(volume_id, 64 * MIB))
    assert smaller.capacity_bytes == 96 * MIB
    code, text = refusal(driver.stub.ControllerExpandVolume, expand(volume_id, limit=64 * MIB))
    assert code is Code.OUT_OF_RANGE
    assert "never shrink" in text


def test_a_block_volume_needs_nothing_of_its_node_to_grow(driver: ControllerDriver) -> None:
    plain = driver.create("plain", volume_capabilities=[BLOCK])
    grown = driver.stub.ControllerExpandVolume(expand(plain, 96 * MIB, volume_capability=BLOCK))
    assert not grown.node_expansion_required
    locked = driver.create(
        "locked", volume_capabilities=[BLOCK], parameters={"encryption": "luks2"}
    )
    assert driver.stub.ControllerExpandVolume(expand(locked, 96 * MIB)).node_expansion_required


def test_expanding_says_what_is_wrong(driver: ControllerDriver) -> None:
    volume_id = driver.create()
    call = driver.stub.ControllerExpandVolume
    for wrong, code in (
        (expand("", GIB), Code.INVALID_ARGUMENT),
        (pb.ControllerExpandVolumeRequest(volume_id=volume_id), Code.INVALID_ARGUMENT),
        (expand(volume_id), Code.INVALID_ARGUMENT),
        (expand("fake", GIB), Code.NOT_FOUND),
        (expand(volume_id, -1), Code.INVALID_ARGUMENT),
        (expand(volume_id, GIB, volume_capability=BLOCK), Code.INVALID_ARGUMENT),
    ):
        assert refusal(call, wrong)[0] is code


def test_a_copy_is_found_again_when_its_source_is_gone(driver: ControllerDriver) -> None:
    """A final error would let the provisioner forget a volume that is there."""
    source = driver.create(parameters={"provision": "thin"})
    kept = {
        "parameters": {"provision": "thin"},
        "capacity_range": None,
        "volume_content_source": {"volume": {"volume_id": source}},
    }
    copy = driver.create("copy", **kept)
    driver.stub.DeleteVolume(pb.DeleteVolumeRequest(volume_id=source))
    assert driver.create("copy", **kept) == copy
    assert driver.volumes.get(copy).size_bytes == 64 * MIB
    assert driver.create("copy", **kept | {"capacity_range": {"required_bytes": MIB}}) == copy


def test_limits_are_changed_one_by_one(driver: ControllerDriver) -> None:
    volume_id = driver.create(mutable_parameters={"readIops": "500", "writeIops": "600"})
    modify = driver.stub.ControllerModifyVolume
    modify(
        pb.ControllerModifyVolumeRequest(
            volume_id=volume_id, mutable_parameters={"writeIops": "700"}
        )
    )
    limits = driver.volumes.get(volume_id).limits
    assert (limits.read_iops, limits.write_iops) == (500, 700)
    code, _ = refusal(
        modify,
        pb.ControllerModifyVolumeRequest(
            volume_id=volume_id, mutable_parameters={"readIops": "1", "XXX_FakeKey": "x"}
        ),
    )
    assert code is Code.INVALID_ARGUMENT
    assert driver.volumes.get(volume_id).limits == limits


def test_a_node_that_is_gone_does_not_keep_a_volume_from_having_one_replica(tmp_path: Path) -> None:
    asked: list[tuple[str, int]] = []

    class Changes:
        def set_replicas(self, volume_id: str, count: int) -> None:
            asked.append((volume_id, count))

        def move_replica(self, volume_id: str, from_node: str, to_node: str) -> None:
            raise AssertionError

    with controller_driver(tmp_path, changes=Changes()) as driver:
        volume_id = driver.create()
        driver.agents.nodes[driver.node_of(volume_id)].down = True
        modify = driver.stub.ControllerModifyVolume

        def wanted(**parameters: str) -> pb.ControllerModifyVolumeRequest:
            return pb.ControllerModifyVolumeRequest(
                volume_id=volume_id, mutable_parameters=parameters
            )

        modify(wanted(replicas="1"))
        code, _ = refusal(modify, wanted(replicas="1", readIops="5"))
        assert code is Code.UNAVAILABLE
        code, _ = refusal(modify, wanted(replicas="1", readIop="5"))
        assert code is Code.INVALID_ARGUMENT
        assert asked == [(volume_id, 1)] * 2


# Snapshots


def cut(name: str, volume_id: str, **fields: Any) -> pb.CreateSnapshotRequest:
    return pb.CreateSnapshotRequest(name=name, source_volume_id=volume_id, **fields)


def test_a_snapshot_is_cut_once_listed_and_deleted(driver: ControllerDriver) -> None:
    volume_id = driver.create()
    first = driver.stub.CreateSnapshot(cut("cut", volume_id)).snapshot
    again = driver.stub.CreateSnapshot(cut("cut", volume_id)).snapshot
    assert first == again
    assert (first.size_bytes, first.source_volume_id) == (64 * MIB, volume_id)
    assert first.ready_to_use
    assert first.creation_time.seconds > 0
    other = driver.create("other")
    assert refusal(driver.stub.CreateSnapshot, cut("cut", other))[0] is Code.ALREADY_EXISTS
    got = driver.stub.GetSnapshot(pb.GetSnapshotRequest(snapshot_id=first.snapshot_id))
    assert got.snapshot == first
    driver.stub.CreateSnapshot(cut("other", other))
    for question in (
        pb.ListSnapshotsRequest(snapshot_id=first.snapshot_id),
        pb.ListSnapshotsRequest(source_volume_id=volume_id),
    ):
        assert [each.snapshot for each in driver.stub.ListSnapshots(question).entries] == [first]
    for gone in (first.snapshot_id, first.snapshot_id, "reallyfakesnapshotid"):
        driver.stub.DeleteSnapshot(pb.DeleteSnapshotRequest(snapshot_id=gone))
    assert len(driver.stub.ListSnapshots(pb.ListSnapshotsRequest()).entries) == 1


def test_snapshots_are_listed_in_pages(driver: ControllerDriver) -> None:
    volume_id = driver.create()
    for number in range(5):
        driver.stub.CreateSnapshot(cut(f"cut-{number}", volume_id))
    first = driver.stub.ListSnapshots(pb.ListSnapshotsRequest(max_entries=2))
    rest = driver.stub.ListSnapshots(pb.ListSnapshotsRequest(starting_token=first.next_token))
    assert (len(first.entries), len(rest.entries), rest.next_token) == (2, 3, "")


def test_snapshots_of_nothing_known_are_an_empty_list(driver: ControllerDriver) -> None:
    for question in (
        pb.ListSnapshotsRequest(snapshot_id="none-exist-id"),
        pb.ListSnapshotsRequest(source_volume_id="none-exist-id"),
        pb.ListSnapshotsRequest(snapshot_id="s" + "0" * 28),
        pb.ListSnapshotsRequest(source_volume_id="v" + "0" * 28),
    ):
        assert not driver.stub.ListSnapshots(question).entries


def test_snapshot_calls_say_what_is_wrong(driver: ControllerDriver) -> None:
    volume_id = driver.create()
    create = driver.stub.CreateSnapshot
    for wrong, code in (
        (cut("", volume_id), Code.INVALID_ARGUMENT),
        (cut("cut", ""), Code.INVALID_ARGUMENT),
        (cut("cut", "fake"), Code.NOT_FOUND),
        (cut("cut", volume_id, parameters={"kind": "backup"}), Code.INVALID_ARGUMENT),
        (cut("cut", volume_id, parameters={"what": "ever"}), Code.INVALID_ARGUMENT),
        (
            cut("cut", volume_id, accessibility_requirements=pb.TopologyRequirement()),
            Code.INVALID_ARGUMENT,
        ),
    ):
        assert refusal(create, wrong)[0] is code
    delete = refusal(driver.stub.DeleteSnapshot, pb.DeleteSnapshotRequest())
    get = refusal(driver.stub.GetSnapshot, pb.GetSnapshotRequest())
    unknown = refusal(driver.stub.GetSnapshot, pb.GetSnapshotRequest(snapshot_id="fake"))
    assert (delete[0], get[0]) == (Code.INVALID_ARGUMENT, Code.INVALID_ARGUMENT)
    assert unknown[0] is Code.NOT_FOUND


# Health


def test_only_ailing_volumes_are_in_the_list_of_health(driver: ControllerDriver) -> None:
    well, ill = driver.create("well"), driver.create("ill")
    driver.ail(ill, Health.DEGRADED, "an image of the mirror is missing")
    listed = driver.stub.ControllerListVolumeHealth(pb.ControllerListVolumeHealthRequest())
    [entry] = listed.entries
    [status] = entry.health_statuses
    assert entry.volume_id == ill
    assert (status.status, status.reason) == (pb.DEGRADED, "VolumeDegraded")
    assert status.message == "an image of the mirror is missing"
    alone = driver.stub.ControllerGetVolumeHealth(
        pb.ControllerGetVolumeHealthRequest(volume_id=ill)
    )
    assert alone.volume_health == entry
    healthy = driver.stub.ControllerGetVolumeHealth(
        pb.ControllerGetVolumeHealthRequest(volume_id=well)
    )
    assert healthy.volume_health == pb.VolumeHealth(volume_id=well)


def test_the_list_of_health_has_pages(driver: ControllerDriver) -> None:
    ids = {driver.create(f"volume-{number}") for number in range(3)}
    for volume_id in ids:
        driver.ail(volume_id, Health.DEGRADED, "")
    question = pb.ControllerListVolumeHealthRequest
    first = driver.stub.ControllerListVolumeHealth(question(max_entries=2))
    rest = driver.stub.ControllerListVolumeHealth(question(starting_token=first.next_token))
    assert {each.volume_id for each in [*first.entries, *rest.entries]} == ids
    assert len(first.entries) == 2
    assert rest.next_token == ""
