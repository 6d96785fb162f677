"""Hostile requests to every call of the controller's socket: meant answers, no leak, no debris.

The requests are the same in every run. `XLSS_FUZZ_EXAMPLES=2000` asks for more of them.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from csi.rpc import csi_pb2 as pb
from tests.hostile_calls import (
    Answer,
    hold_against_drawn,
    hold_against_swept,
    judge,
    judge_log,
    send,
    whole_log,
)
from tests.hostile_messages import SECRET, Vocabulary, examples, methods_of
from tests.unit.controller_driver import BLOCK, GIB, MIB, MOUNT, ControllerDriver, controller_driver

EXAMPLES = int(os.environ.get("XLSS_FUZZ_EXAMPLES", "40"))
# The call with the most to parse gets more.
WIDE = {"CreateVolume": 4, "GetCapacity": 2}
METHODS = methods_of(
    *(
        pb.DESCRIPTOR.services_by_name[name]
        for name in ("Identity", "Controller", "GroupController")
    )
)
THICK = {"provision": "thick"}
CLASS = (
    ("pool", "default"),
    ("pool", "no-such-pool"),
    ("provision", "thin"),
    ("provision", "thick"),
    ("layout", "linear"),
    ("layout", "striped"),
    ("layout", "raid1"),
    ("stripes", "2"),
    ("stripeSize", "64Ki"),
    ("mirrors", "2"),
    ("replicas", "1"),
    ("replicas", "2"),
    ("fsType", "xfs"),
    ("mkfsOptions", "-m 0"),
    ("encryption", "luks2"),
    ("csi.storage.k8s.io/fstype", "btrfs"),
    ("csi.storage.k8s.io/pvc/name", "claim"),
)
LIMITS = (
    ("readIops", "100"),
    ("writeIops", "0"),
    ("readBandwidth", "10Mi"),
    ("writeBandwidth", "1e3"),
)


class Standing:
    """Volumes, a snapshot and a group that are there at the start of every call."""

    def __init__(self, driver: ControllerDriver) -> None:
        self.driver = driver
        self.volumes: list[str] = []
        self.snapshots: list[str] = []
        self.groups: list[str] = []
        self.stand_up()

    def stand_up(self) -> None:
        """Make anew what is missing, and what is cut from it."""
        create, stub, groups = self.driver.create, self.driver.stub, self.driver.groups
        for volume_id in self.volumes:
            stub.ControllerUnpublishVolume(pb.ControllerUnpublishVolumeRequest(volume_id=volume_id))
        if self.groups and {*self.volumes, *self.snapshots} <= self.there():
            return
        for group_id in self.groups:
            self._delete_group(group_id, self.snapshots[1:])
        for snapshot_id in self.snapshots[:1]:
            stub.DeleteSnapshot(pb.DeleteSnapshotRequest(snapshot_id=snapshot_id))
        self.volumes = [
            create("thin"),
            create("thick", parameters=THICK),
            create("block", volume_capabilities=[BLOCK]),
        ]
        cut = pb.CreateSnapshotRequest(source_volume_id=self.volumes[0], name="cut")
        group = pb.CreateVolumeGroupSnapshotRequest(
            name="group", source_volume_ids=[self.volumes[0], self.volumes[2]]
        )
        made = groups.CreateVolumeGroupSnapshot(group).group_snapshot
        self.groups = [made.group_snapshot_id]
        members = [each.snapshot_id for each in made.snapshots]
        self.snapshots = [stub.CreateSnapshot(cut).snapshot.snapshot_id, *members]

    def remove(self, answer: Answer) -> None:
        """Delete what a call made, unless it is one of ours."""
        made, stub = answer.message, self.driver.stub
        if isinstance(made, pb.CreateVolumeResponse):
            if made.volume.volume_id not in self.volumes:
                stub.DeleteVolume(pb.DeleteVolumeRequest(volume_id=made.volume.volume_id))
        elif isinstance(made, pb.CreateSnapshotResponse):
            if made.snapshot.snapshot_id not in self.snapshots:
                request = pb.DeleteSnapshotRequest(snapshot_id=made.snapshot.snapshot_id)
                stub.DeleteSnapshot(request)
        elif isinstance(made, pb.CreateVolumeGroupSnapshotResponse):
            group = made.group_snapshot
            if group.group_snapshot_id not in self.groups:
                self._delete_group(
                    group.group_snapshot_id, [each.snapshot_id for each in group.snapshots]
                )

    def _delete_group(self, group_id: str, members: Sequence[str]) -> None:
        request = pb.DeleteVolumeGroupSnapshotRequest(
            group_snapshot_id=group_id, snapshot_ids=members
        )
        self.driver.groups.DeleteVolumeGroupSnapshot(request)

    def there(self) -> set[str]:
        """Everything that is on the nodes."""
        agents = self.driver.agents
        return {*agents.volume_ids(), *agents.snapshot_ids()}

    def listed(self) -> set[str]:
        """Everything that the controller tells of."""
        stub = self.driver.stub
        volumes = stub.ListVolumes(pb.ListVolumesRequest()).entries
        snapshots = stub.ListSnapshots(pb.ListSnapshotsRequest()).entries
        return {entry.volume.volume_id for entry in volumes} | {
            entry.snapshot.snapshot_id for entry in snapshots
        }


@pytest.fixture(scope="module")
def log() -> Iterator[io.StringIO]:
    with whole_log() as stream:
        yield stream


@pytest.fixture(scope="module")
def standing(
    log: io.StringIO, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Standing, grpc.Channel]]:
    directory = tmp_path_factory.mktemp("fuzz")
    with (
        controller_driver(directory) as driver,
        grpc.insecure_channel(f"unix:{directory / 'csi.sock'}") as channel,
    ):
        yield Standing(driver), channel


def vocabulary(standing: Standing) -> Vocabulary:
    ids: Mapping[str, Sequence[object] | Callable[[], Sequence[object]]] = {
        "volume_id": lambda: standing.volumes,
        "source_volume_id": lambda: standing.volumes,
        "source_volume_ids": lambda: standing.volumes,
        "snapshot_id": lambda: standing.snapshots,
        "snapshot_ids": lambda: standing.snapshots,
        "group_snapshot_id": lambda: standing.groups,
        "starting_token": lambda: [each[:21] for each in standing.volumes + standing.snapshots],
        "node_id": ["n1", "n2", "n3"],
        "name": ["thin", "thick", "cut", "group", "a new one", "another"],
        "required_bytes": [0, 64 * MIB, 300 * MIB, 5 * GIB, 400 * GIB],
        "limit_bytes": [0, 64 * MIB, 300 * MIB, 301 * MIB],
        "max_entries": [0, 1, 2],
        "fs_type": ["", "ext4", "xfs", "btrfs", "ext3"],
        "mount_flags": ["noatime", "ro", "remount"],
        "volume_mount_group": ["1000", "root"],
        "volume_capability": [MOUNT, BLOCK],
        "volume_capabilities": [MOUNT, BLOCK],
    }
    topology = [("csi.xlss.io/node", "n1"), ("csi.xlss.io/node", "n9"), ("zone", "a")]
    return Vocabulary(
        ids,
        {
            "parameters": CLASS + LIMITS + (("kind", "snapshot"), ("kind", "backup")),
            "mutable_parameters": LIMITS,
            "segments": topology,
        },
    )


def hold_against(
    world: Standing, channel: grpc.Channel, method: MethodDescriptor, request: Message
) -> None:
    before = world.there()
    answer = send(channel, method, request)
    judge(answer)
    if answer.ok:
        world.remove(answer)
        world.stand_up()
    else:
        assert world.there() <= before, "a call that failed has made something"
    assert world.there() == world.listed()


def good_requests(standing: Standing) -> dict[str, list[Message]]:
    """For every call whose requests have fields, some that would be granted."""
    thin, thick, block = standing.volumes
    size = pb.CapacityRange(required_bytes=64 * MIB)
    new: dict[str, Any] = {"name": "new", "capacity_range": size}
    nodes = pb.TopologyRequirement(requisite=[pb.Topology(segments={"csi.xlss.io/node": "n1"})])
    source = pb.VolumeContentSource
    cut = source(snapshot=source.SnapshotSource(snapshot_id=standing.snapshots[0]))
    clone = source(volume=source.VolumeSource(volume_id=thin))
    secrets = {"key": SECRET}
    group: dict[str, Any] = {
        "group_snapshot_id": standing.groups[0],
        "snapshot_ids": standing.snapshots[1:],
    }
    publish: dict[str, Any] = {"volume_id": thick, "node_id": standing.driver.node_of(thick)}
    return {
        "CreateVolume": [
            pb.CreateVolumeRequest(**new, volume_capabilities=[MOUNT], secrets=secrets),
            pb.CreateVolumeRequest(
                **new,
                volume_capabilities=[BLOCK],
                parameters=THICK,
                mutable_parameters=dict(LIMITS),
                accessibility_requirements=nodes,
            ),
            pb.CreateVolumeRequest(
                **new, volume_capabilities=[MOUNT], volume_content_source=cut, secrets=secrets
            ),
            pb.CreateVolumeRequest(**new, volume_capabilities=[MOUNT], volume_content_source=clone),
        ],
        "DeleteVolume": [pb.DeleteVolumeRequest(volume_id=block, secrets=secrets)],
        "ControllerPublishVolume": [
            pb.ControllerPublishVolumeRequest(**publish, volume_capability=MOUNT, secrets=secrets)
        ],
        "ControllerUnpublishVolume": [
            pb.ControllerUnpublishVolumeRequest(**publish, secrets=secrets)
        ],
        "ValidateVolumeCapabilities": [
            pb.ValidateVolumeCapabilitiesRequest(
                volume_id=thin, volume_capabilities=[MOUNT], secrets=secrets
            )
        ],
        "ListVolumes": [pb.ListVolumesRequest(max_entries=1, starting_token=thin[:21])],
        "ControllerListVolumeHealth": [pb.ControllerListVolumeHealthRequest(max_entries=1)],
        "ControllerGetVolumeHealth": [pb.ControllerGetVolumeHealthRequest(volume_id=thin)],
        "GetCapacity": [
            pb.GetCapacityRequest(volume_capabilities=[MOUNT], parameters=THICK),
            pb.GetCapacityRequest(accessible_topology=nodes.requisite[0]),
        ],
        "CreateSnapshot": [
            pb.CreateSnapshotRequest(source_volume_id=thick, name="new", secrets=secrets)
        ],
        "DeleteSnapshot": [
            pb.DeleteSnapshotRequest(snapshot_id=standing.snapshots[0], secrets=secrets)
        ],
        "ListSnapshots": [pb.ListSnapshotsRequest(max_entries=1, source_volume_id=thin)],
        "GetSnapshot": [pb.GetSnapshotRequest(snapshot_id=standing.snapshots[0])],
        "ControllerExpandVolume": [
            pb.ControllerExpandVolumeRequest(
                volume_id=thin,
                capacity_range=pb.CapacityRange(required_bytes=80 * MIB),
                volume_capability=MOUNT,
                secrets=secrets,
            )
        ],
        "ControllerGetVolume": [pb.ControllerGetVolumeRequest(volume_id=thin)],
        "ControllerModifyVolume": [
            pb.ControllerModifyVolumeRequest(
                volume_id=thin, mutable_parameters=dict(LIMITS), secrets=secrets
            )
        ],
        "CreateVolumeGroupSnapshot": [
            pb.CreateVolumeGroupSnapshotRequest(
                name="new", source_volume_ids=[thin, block], secrets=secrets
            )
        ],
        "DeleteVolumeGroupSnapshot": [
            pb.DeleteVolumeGroupSnapshotRequest(**group, secrets=secrets)
        ],
        "GetVolumeGroupSnapshot": [pb.GetVolumeGroupSnapshotRequest(**group, secrets=secrets)],
    }


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_answer_is_meant_and_leaves_nothing_behind(
    method: MethodDescriptor, standing: tuple[Standing, grpc.Channel], log: io.StringIO
) -> None:
    world, channel = standing
    hold_against_drawn(
        method,
        vocabulary(world),
        good_requests(world).get(method.name, ()),
        EXAMPLES * WIDE.get(method.name, 1),
        lambda request: hold_against(world, channel, method, request),
    )
    judge_log(log.getvalue())


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_part_of_a_good_request_may_be_hostile(
    method: MethodDescriptor, standing: tuple[Standing, grpc.Channel], log: io.StringIO
) -> None:
    world, channel = standing
    hold_against_swept(
        lambda: good_requests(world).get(method.name, ()),
        lambda request: hold_against(world, channel, method, request),
    )
    judge_log(log.getvalue())


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_bytes_that_are_no_message_are_an_invalid_argument(
    method: MethodDescriptor, standing: tuple[Standing, grpc.Channel], log: io.StringIO
) -> None:
    world, channel = standing
    messages = good_requests(world).get(method.name, ())
    whole = [message.SerializeToString() for message in messages]
    cut_off = st.sampled_from(whole or [b"\x0a\x05"]).flatmap(
        lambda raw: st.integers(0, len(raw)).map(lambda length: raw[:length])
    )
    # A string field that is not UTF-8.
    not_text = st.just(b"\x0a\x02\xc3\x28")

    @examples(15)
    @given(st.one_of(st.binary(max_size=40), cut_off, not_text))
    def hold(raw: bytes) -> None:
        answer = send(channel, method, raw)
        judge(answer)
        world.remove(answer)
        world.stand_up()
        assert world.there() == world.listed()

    hold()
    judge_log(log.getvalue())


def test_afterwards_the_driver_does_its_work(tmp_path: Path) -> None:
    """The same on a driver of its own: a burst of nonsense, then a volume's whole life."""
    (create,) = (method for method in METHODS if method.name == "CreateVolume")
    with (
        controller_driver(tmp_path) as driver,
        grpc.insecure_channel(f"unix:{tmp_path / 'csi.sock'}") as channel,
    ):
        for size in (0, 10, 100_000):
            judge(send(channel, create, b"\xff" * size))
        volume_id = driver.create("after")
        driver.stub.DeleteVolume(pb.DeleteVolumeRequest(volume_id=volume_id))

        assert driver.agents.volume_ids() == []
