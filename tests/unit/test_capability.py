"""Volume capabilities: what a volume of one node can honour, and what is refused."""

from __future__ import annotations

import pytest

from cluster.errors import InvalidArgument
from cluster.model import AccessType
from csi.capability import Capability, parse_capability
from csi.rpc import csi_pb2 as pb

MODE = pb.VolumeCapability.AccessMode.Mode
WRITER = pb.VolumeCapability.AccessMode(mode=MODE.SINGLE_NODE_WRITER)


def mount(**fields: object) -> pb.VolumeCapability:
    return pb.VolumeCapability(
        access_mode=WRITER,
        mount=pb.VolumeCapability.MountVolume(**fields),  # type: ignore[arg-type]
    )


def test_a_mount_keeps_its_options_and_group() -> None:
    capability = parse_capability(
        mount(fs_type="xfs", mount_flags=["noatime", "logbsize=256k"], volume_mount_group="1000")
    )
    assert capability == Capability(
        AccessType.MOUNT, "SINGLE_NODE_WRITER", "xfs", ("noatime", "logbsize=256k"), 1000
    )
    assert not capability.read_only


def test_the_selinux_context_of_a_pod_is_one_option() -> None:
    context = 'context="system_u:object_r:container_file_t:s0:c1,c2"'
    assert parse_capability(mount(mount_flags=[context])).mount_flags == (context,)


def test_block_access_has_neither_file_system_nor_options() -> None:
    message = pb.VolumeCapability(
        access_mode=pb.VolumeCapability.AccessMode(mode=MODE.SINGLE_NODE_READER_ONLY),
        block=pb.VolumeCapability.BlockVolume(),
    )
    capability = parse_capability(message)
    assert capability == Capability(AccessType.BLOCK, "SINGLE_NODE_READER_ONLY")
    assert capability.read_only


@pytest.mark.parametrize(
    ("message", "named"),
    [
        (pb.VolumeCapability(), "no access_mode"),
        (pb.VolumeCapability(access_mode=WRITER), "no access_type"),
        (mount(fs_type="ext44"), "did you mean ext4"),
        (mount(mount_flags=["remount"]), "'remount' is not a mount option that a volume"),
        (mount(mount_flags=["loop=/dev/loop0"]), "not a mount option that a volume can have"),
        (mount(mount_flags=["noatime,bind"]), "'bind' is not a mount option"),
        (mount(mount_flags=["-o"]), "not a mount option"),
        (mount(mount_flags=["vg0/thin"]), "not a mount option"),
        (mount(mount_flags=["a" * 5000]), "longer than 4096"),
        (mount(volume_mount_group="wheel"), "no numeric group id"),
        (mount(volume_mount_group="4294967295"), "no numeric group id"),
        (mount(volume_mount_group="9" * 5000), "no numeric group id"),
    ],
)
def test_what_cannot_be_honoured_is_named(message: pb.VolumeCapability, named: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_capability(message)
    assert named in str(caught.value)


@pytest.mark.parametrize("mode", [0, 3, 4, 5, 99])
def test_access_from_several_nodes_is_refused(mode: int) -> None:
    message = mount()
    message.access_mode.mode = mode  # type: ignore[assignment]
    with pytest.raises(InvalidArgument, match="one node at a time"):
        parse_capability(message)
