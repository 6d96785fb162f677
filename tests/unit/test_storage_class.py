"""Parameters of classes: what is understood, and what is refused by name."""

from __future__ import annotations

import re

import pytest

from cluster.errors import InvalidArgument
from cluster.model import AccessType, IoLimits, Layout, LayoutKind, Provision, VolumeSpec
from csi.capability import Capability
from csi.storage_class import (
    change_limits,
    changed_replicas,
    check_snapshot_class,
    parse_class,
    parse_limits,
)

BLOCK = Capability(AccessType.BLOCK, "SINGLE_NODE_WRITER")
MOUNT = Capability(AccessType.MOUNT, "SINGLE_NODE_WRITER")
XFS = Capability(AccessType.MOUNT, "SINGLE_NODE_WRITER", filesystem="xfs")


def test_an_empty_class_is_a_thin_ext4_volume_of_the_default_pool() -> None:
    assert parse_class({}, [MOUNT]) == VolumeSpec(
        pool="default", provision=Provision.THIN, access=AccessType.MOUNT, filesystem="ext4"
    )


def test_a_class_with_everything() -> None:
    parameters = {
        "pool": "nvme",
        "provision": "thick",
        "layout": "striped",
        "stripes": "4",
        "stripeSize": "128Ki",
        "replicas": "1",
        "fsType": "xfs",
        "mkfsOptions": "-i size=1024  -s size=4096",
        "encryption": "luks2",
        "csi.storage.k8s.io/pvc/name": "database",
        "csi.storage.k8s.io/fstype": "xfs",
        "csi.storage.k8s.io/what-comes-next-year": "yes",
    }
    assert parse_class(parameters, [XFS]) == VolumeSpec(
        pool="nvme",
        provision=Provision.THICK,
        layout=Layout(LayoutKind.STRIPED, copies=4, stripe_bytes=128 << 10),
        access=AccessType.MOUNT,
        filesystem="xfs",
        mkfs_options=("-i", "size=1024", "-s", "size=4096"),
        encrypted=True,
    )


def test_layouts_have_their_defaults() -> None:
    striped = parse_class({"provision": "thick", "layout": "striped"})
    assert striped.layout == Layout(LayoutKind.STRIPED, 2, 64 << 10)
    mirrored = parse_class({"provision": "thick", "layout": "raid1", "mirrors": "3"})
    assert mirrored.layout == Layout(LayoutKind.RAID1, 3)
    assert parse_class({"layout": "linear"}).layout == Layout()


def test_the_file_system_is_that_of_the_capability_or_of_the_class() -> None:
    assert parse_class({}, [XFS]).filesystem == "xfs"
    assert parse_class({"fsType": "btrfs"}, [MOUNT]).filesystem == "btrfs"
    assert parse_class({"csi.storage.k8s.io/fstype": "xfs"}, [MOUNT, XFS]).filesystem == "xfs"
    assert parse_class({}, [BLOCK]) == VolumeSpec("default", access=AccessType.BLOCK)


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"provison": "thin"}, "unknown StorageClass parameter 'provison'; did you mean provision"),
        ({"fstype": "xfs"}, "'fstype'; did you mean fsType"),
        ({"provision": "tick"}, "provision 'tick' is unknown; did you mean thick"),
        ({"layout": "raid5"}, "layout 'raid5' is unknown"),
        ({"encryption": "luks"}, "encryption 'luks' is unknown; did you mean luks2"),
        ({"pool": "../vg"}, "pool '../vg' is no name of a pool"),
        ({"pool": ""}, "pool '' is no name of a pool"),
        ({"replicas": "2"}, "replicas 2: replicated volumes are not in this version"),
        ({"replicas": "0"}, "replicas '0' is no number of replicas"),
        ({"replicas": "two"}, "replicas 'two' is no number of replicas"),
        ({"layout": "striped"}, "layout striped contradicts provision thin"),
        ({"layout": "raid1", "provision": "thin"}, "layout raid1 contradicts provision thin"),
        (
            {"provision": "thick", "layout": "raid1", "stripes": "2"},
            "stripes contradicts layout raid1",
        ),
        ({"provision": "thick", "mirrors": "2"}, "mirrors contradicts layout linear"),
        ({"stripeSize": "64Ki"}, "stripeSize contradicts layout linear"),
        (
            {"provision": "thick", "layout": "striped", "stripes": "1"},
            "stripes '1' must be a number from 2 to 64",
        ),
        (
            {"provision": "thick", "layout": "striped", "stripeSize": "96Ki"},
            "stripeSize '96Ki' must be a power of two",
        ),
        ({"fsType": "ext3"}, "fsType 'ext3' is not supported; did you mean ext4"),
        (
            {"fsType": "ext4", "csi.storage.k8s.io/fstype": "xfs"},
            "csi.storage.k8s.io/fstype and fsType contradict each other: ext4, xfs",
        ),
        ({"mkfsOptions": "x" * 201}, "mkfsOptions is longer than 200 bytes"),
        ({"mkfsOptions": "/dev/sda"}, "mkfsOptions: .*/dev/sda"),
        ({"x" * 1000: "y"}, "unknown StorageClass parameter 'x{64}'"),
    ],
)
def test_a_wrong_class_is_refused_by_the_name_of_the_parameter(
    parameters: dict[str, str], text: str
) -> None:
    with pytest.raises(InvalidArgument, match=text):
        parse_class(parameters, [MOUNT])


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"fsType": "xfs"}, "fsType 'xfs' contradicts block access"),
        ({"csi.storage.k8s.io/fstype": "xfs"}, "fstype 'xfs' contradicts block access"),
        ({"mkfsOptions": "-m 0"}, "mkfsOptions contradicts block access"),
    ],
)
def test_a_block_volume_has_no_file_system(parameters: dict[str, str], text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        parse_class(parameters, [BLOCK])


def test_capabilities_that_contradict_each_other_are_refused() -> None:
    ext4 = Capability(AccessType.MOUNT, "SINGLE_NODE_WRITER", filesystem="ext4")
    with pytest.raises(InvalidArgument, match="a block and a mount volume"):
        parse_class({}, [BLOCK, MOUNT])
    with pytest.raises(InvalidArgument, match="contradict each other: ext4, xfs"):
        parse_class({}, [ext4, XFS])
    with pytest.raises(InvalidArgument, match="fsType and fs_type of the capability contradict"):
        parse_class({"fsType": "ext4"}, [XFS])


def test_limits_come_from_both_classes_and_the_attributes_have_precedence() -> None:
    in_class = {"readIops": "500", "writeIops": "1k", "pool": "nvme"}
    attributes = {"writeIops": "2k", "readBandwidth": "100Mi", "writeBandwidth": "1.5G"}
    assert parse_limits(in_class, attributes) == IoLimits(
        read_iops=500, write_iops=2000, read_bytes=100 << 20, write_bytes=1_500_000_000
    )
    assert parse_limits({}, {}) == IoLimits()


def test_a_change_of_limits_changes_what_it_names() -> None:
    before = IoLimits(read_iops=500, write_iops=700)
    after = change_limits(before, {"readIops": "0", "readBandwidth": "1e6"})
    assert after == IoLimits(read_iops=0, write_iops=700, read_bytes=1_000_000)
    assert change_limits(before, {"writeIops": ""}) == IoLimits(read_iops=500)
    assert change_limits(before, {}) == before


@pytest.mark.parametrize(
    ("mutable", "text"),
    [
        ({"readIop": "5"}, "unknown VolumeAttributesClass parameter 'readIop'; did you mean readI"),
        ({"pool": "nvme"}, "unknown VolumeAttributesClass parameter 'pool'"),
        ({"readIops": "1"}, "readIops '1': the least limit is 2"),
        ({"readIops": "-1"}, "readIops '-1' must be a quantity"),
        ({"readIops": "many"}, "readIops 'many' must be a quantity"),
        ({"readIops": "1.5"}, "readIops '1.5' is not a whole number"),
        ({"readIops": "500m"}, "readIops '500m' must be a quantity"),
        ({"readIops": "٣"}, "must be a quantity"),
        ({"writeBandwidth": "9999999999Ei"}, "larger than any limit can be"),
        ({"writeBandwidth": "1e99"}, "larger than any limit can be"),
    ],
)
def test_wrong_limits_are_refused(mutable: dict[str, str], text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        change_limits(IoLimits(), mutable)


def test_replicas_are_mutable_and_have_precedence_over_the_class() -> None:
    assert parse_class({"replicas": "1"}, (), {"replicas": "2"}, replication=True).replicas == 2
    assert parse_class({"replicas": "2"}, (), {"readIops": "5"}, replication=True).replicas == 2
    assert changed_replicas({"readIops": "5"}, replication=True) == 0
    assert changed_replicas({"replicas": "2"}, replication=True) == 2
    assert change_limits(IoLimits(read_iops=5), {"replicas": "2"}) == IoLimits(read_iops=5)
    with pytest.raises(InvalidArgument, match="replicated volumes are not in this version"):
        changed_replicas({"replicas": "2"}, replication=False)
    with pytest.raises(InvalidArgument, match="nearest is 2"):
        changed_replicas({"replicas": "3"}, replication=True)


def test_a_snapshot_class_is_for_local_snapshots_only() -> None:
    check_snapshot_class({})
    check_snapshot_class({"kind": "snapshot", "csi.storage.k8s.io/volumesnapshot/name": "s"})
    for parameters, text in (
        ({"kind": "backup"}, "kind backup: backups are not in this version"),
        ({"kind": "local"}, "kind 'local' must be snapshot"),
        ({"repository": "s3"}, "unknown snapshot class parameter 'repository'"),
    ):
        with pytest.raises(InvalidArgument, match=re.escape(text)):
            check_snapshot_class(parameters)


def test_two_replicas_where_the_controller_is_configured_for_them() -> None:
    assert parse_class({"replicas": "2"}, replication=True).replicas == 2
    assert parse_class({}, replication=True).replicas == 1
    with pytest.raises(InvalidArgument, match="replicas 3: 1 or 2 are supported; nearest is 2"):
        parse_class({"replicas": "3"}, replication=True)
    with pytest.raises(InvalidArgument, match="layout raid1 contradicts replicas 2"):
        parse_class({"replicas": "2", "provision": "thick", "layout": "raid1"}, replication=True)
