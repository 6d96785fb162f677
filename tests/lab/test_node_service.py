"""The Node service: volumes staged and published as kubelet asks for it, on a real kernel.

There is no controller here: a node has to do all of this alone.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import grpc
import pytest

from cluster.errors import Unavailable
from cluster.model import AccessType, IoLimits, Provision
from csi.rpc import csi_pb2 as pb
from lab.errors import CommandFailed
from tests.lab.agent_node import MIB, AgentNode, until_done
from tests.lab.held_wipes import wipes_held
from tests.lab.test_agent import POOLS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lab.node import Node

pytestmark = pytest.mark.lab

GIB = 1 << 30
BLOCK = AccessType.BLOCK
CODE = grpc.StatusCode
SIZES = {"ext4": 64 * MIB, "xfs": 300 * MIB, "btrfs": 256 * MIB}


@pytest.fixture(scope="module")
def running(make_module_node: Callable[..., Node]) -> Iterator[AgentNode]:
    running = AgentNode(make_module_node(disks=(2 * GIB,)), pools=POOLS)
    running.start()
    yield running
    running.close()


@pytest.fixture
def home(running: AgentNode) -> Iterator[AgentNode]:
    yield running
    running.wipe_clean()


def code_of(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error = caught.value
    return error.code(), error.details()  # type: ignore[attr-defined]


@pytest.mark.parametrize("provision", [Provision.THIN, Provision.THICK])
@pytest.mark.parametrize("filesystem", ["ext4", "xfs", "btrfs"])
def test_what_a_pod_wrote_is_there_when_it_comes_back(
    home: AgentNode, filesystem: str, provision: Provision
) -> None:
    volume = home.create(filesystem=filesystem, provision=provision, size=SIZES[filesystem])
    assert volume.state() == "blank"
    for _ in range(2):  # each call twice: kubelet repeats what it has not heard of
        volume.stage()
    for _ in range(2):
        volume.publish()
    assert volume.state() == "used"
    volume.write("kept")
    usage = home.csi.usage(volume.id, volume.target)["BYTES"]
    assert 0 < usage.used < usage.total <= SIZES[filesystem]
    for _ in range(2):
        volume.unpublish()
    for _ in range(2):
        volume.unstage()
    assert "xlss-" not in home.node.run(["dmsetup", "ls"]).text
    home.node.run(["test", "!", "-e", volume.target])
    volume.serve()
    assert volume.read() == "kept"


@pytest.mark.parametrize("provision", [Provision.THIN, Provision.THICK])
def test_a_raw_device_is_as_large_as_asked_and_empty(home: AgentNode, provision: Provision) -> None:
    home.node.sh("lvcreate -q -y -Zn -L 256m -n former vg0")
    home.node.sh("tr '\\0' x </dev/zero | dd of=/dev/vg0/former bs=1M status=none || true")
    home.node.sh("lvremove -q -y vg0/former")
    volume = home.create(access=BLOCK, provision=provision).serve()
    assert home.node.run(["blockdev", "--getsize64", volume.target]).text == str(64 * MIB)
    home.node.sh(f"cmp -n {64 * MIB} {volume.target} /dev/zero")
    usage = home.csi.usage(volume.id, volume.target)
    assert usage["BYTES"].total == 64 * MIB
    volume.write("raw bytes")
    volume.withdraw().serve()
    assert home.node.run(["head", "-c", "9", volume.target]).text == "raw bytes"


def test_a_device_that_carries_anything_is_never_formatted(home: AgentNode) -> None:
    volume = home.create(size=320 * MIB)
    home.node.run(["mkfs.xfs", "-q", volume.logical])
    code, text = code_of(volume.stage)
    assert code is CODE.FAILED_PRECONDITION
    assert "xfs" in text
    assert home.node.run(["blkid", "-o", "value", "-s", "TYPE", volume.logical]).text == "xfs"


def test_a_used_volume_without_its_file_system_is_left_as_it_is(home: AgentNode) -> None:
    volume = home.create().serve()
    volume.withdraw()
    home.node.run(["wipefs", "-q", "-a", volume.logical])
    code, text = code_of(volume.stage)
    assert code is CODE.FAILED_PRECONDITION
    assert "no known signature" in text


def test_formatting_that_was_interrupted_is_done_again(home: AgentNode) -> None:
    volume = home.create(size=320 * MIB, filesystem="xfs")
    tags = ["--deltag", "xlss.state=blank", "--addtag", "xlss.state=formatting"]
    home.kill()
    home.node.run(["mkfs.ext4", "-q", volume.logical])
    home.node.run(["lvchange", "-q", *tags, f"vg0/vol-{volume.id}"])
    home.start()
    volume.serve()
    assert home.node.run(["stat", "-f", "-c", "%T", volume.target]).text == "xfs"


def test_capabilities_that_a_volume_was_not_made_for(home: AgentNode) -> None:
    volume = home.create()
    assert code_of(lambda: volume.stage(filesystem="xfs"))[0] is CODE.FAILED_PRECONDITION
    raw = pb.VolumeCapability(
        block=pb.VolumeCapability.BlockVolume(), access_mode=volume.capability().access_mode
    )
    request = pb.NodeStageVolumeRequest(
        volume_id=volume.id, staging_target_path=volume.staging, volume_capability=raw
    )
    assert code_of(lambda: home.csi.stub.NodeStageVolume(request))[0] is CODE.FAILED_PRECONDITION
    assert volume.state() == "blank"


def test_publishing_needs_a_staged_volume(home: AgentNode) -> None:
    volume = home.create()
    assert code_of(volume.publish)[0] is CODE.FAILED_PRECONDITION
    home.node.run(["test", "!", "-e", volume.target])


def test_unstaging_waits_for_the_last_pod(home: AgentNode) -> None:
    volume = home.create().serve()
    code, text = code_of(volume.unstage)
    assert code is CODE.FAILED_PRECONDITION
    assert volume.target in text
    volume.withdraw()


def test_a_read_only_pod_reads_and_cannot_write(home: AgentNode) -> None:
    volume = home.create().serve()
    volume.write("kept")
    other = f"{volume.target}-other"
    volume.publish(other, readonly=True)
    assert home.node.run(["cat", f"{other}/file"]).text == "kept"
    with pytest.raises(CommandFailed, match="Read-only"):
        home.node.run(["touch", f"{other}/new"])
    assert code_of(lambda: volume.publish(other))[0] is CODE.ALREADY_EXISTS
    volume.write("more")


def test_a_read_only_device_takes_no_writes(home: AgentNode) -> None:
    volume = home.create(access=BLOCK).serve()
    volume.write("raw")
    other = f"{volume.target}-other"
    volume.publish(other, readonly=True)
    assert home.node.run(["head", "-c", "3", other]).text == "raw"
    with pytest.raises(CommandFailed):
        home.node.run(["dd", f"of={other}", "conv=notrunc,fsync"], input=b"x" * 512)
    volume.unpublish(other)
    assert "xlss-ro-" not in home.node.run(["dmsetup", "ls"]).text
    volume.write("still writable")


def test_a_single_writer_has_no_second_place(home: AgentNode) -> None:
    volume = home.create()
    volume.stage(mode="SINGLE_NODE_SINGLE_WRITER")
    volume.publish(mode="SINGLE_NODE_SINGLE_WRITER")
    volume.publish(mode="SINGLE_NODE_SINGLE_WRITER")
    second = f"{volume.target}-second"
    for mode in ("SINGLE_NODE_SINGLE_WRITER", "SINGLE_NODE_MULTI_WRITER"):
        code, _ = code_of(functools.partial(volume.publish, second, mode=mode))
        assert code is CODE.FAILED_PRECONDITION
    volume.unpublish()
    volume.publish(second, mode="SINGLE_NODE_MULTI_WRITER")
    volume.publish(mode="SINGLE_NODE_MULTI_WRITER")


def test_mount_options_and_the_group_of_the_pod(home: AgentNode) -> None:
    volume = home.create()
    volume.stage(flags=["noatime", "data=ordered"])
    volume.publish(group="4711")
    assert "noatime" in home.node.run(["findmnt", "-n", "-o", "OPTIONS", volume.target]).text
    assert home.node.run(["stat", "-c", "%g %a", volume.target]).text == "4711 2775"
    home.node.run(["touch", volume.path("new")])
    assert home.node.run(["stat", "-c", "%g", volume.path("new")]).text == "4711"
    other = home.create("other")
    code, text = code_of(lambda: other.stage(flags=["no-such-option"]))
    assert code is CODE.FAILED_PRECONDITION
    assert "no-such-option" in text


@pytest.mark.parametrize("filesystem", ["ext4", "xfs", "btrfs"])
def test_a_mounted_volume_grows_with_its_file_system(home: AgentNode, filesystem: str) -> None:
    volume = home.create(filesystem=filesystem, size=SIZES[filesystem]).serve()
    volume.write("kept")
    before = home.csi.usage(volume.id, volume.target)["BYTES"].total
    code, text = code_of(lambda: home.csi.expand(volume.id, volume.target, 512 * MIB))
    assert (code, "ControllerExpandVolume" in text) == (CODE.OUT_OF_RANGE, True)
    assert volume.expand(512 * MIB) == 512 * MIB
    after = home.csi.usage(volume.id, volume.target)["BYTES"].total
    assert after - before >= (512 * MIB - SIZES[filesystem]) * 0.9
    assert volume.read() == "kept"


def test_a_volume_that_grew_while_nobody_used_it_is_full_size_when_staged(home: AgentNode) -> None:
    volume = home.create(provision=Provision.THICK).serve()
    volume.withdraw()
    home.agent.expand_volume(volume.id, 256 * MIB, 0)
    volume.serve()
    assert home.csi.usage(volume.id, volume.target)["BYTES"].total > 200 * MIB


def test_a_raw_device_grows_under_its_pods(home: AgentNode) -> None:
    volume = home.create(access=BLOCK).serve()
    other = f"{volume.target}-other"
    volume.publish(other, readonly=True)
    assert volume.expand(128 * MIB) == 128 * MIB
    for path in (volume.target, other):
        assert home.node.run(["blockdev", "--getsize64", path]).text == str(128 * MIB)


def test_nobody_is_shown_what_a_raw_device_grows_by_before_it_is_wiped(home: AgentNode) -> None:
    home.node.sh("lvcreate -q -y -Zn -L 256m -n former vg0")
    home.node.sh("tr '\\0' x </dev/zero | dd of=/dev/vg0/former bs=1M status=none || true")
    home.node.sh("lvremove -q -y vg0/former")
    volume = home.create(access=BLOCK, provision=Provision.THICK).serve()
    with wipes_held(home.node):
        with pytest.raises(Unavailable, match="0 % done"):
            home.agent.expand_volume(volume.id, 128 * MIB, 0)
        with pytest.raises(Unavailable, match="still to be wiped"):
            home.snapshot(volume, wait=False)
        home.restart()
        for _ in range(2):  # also under a face that is made anew, as after a reboot
            assert home.node.run(["blockdev", "--getsize64", volume.target]).text == str(64 * MIB)
            volume.withdraw().serve()
    until_done(lambda: home.agent.expand_volume(volume.id, 128 * MIB, 0))
    assert home.csi.expand(volume.id, volume.target, 128 * MIB) == 128 * MIB
    home.node.sh(f"cmp -n {128 * MIB} {volume.target} /dev/zero")
    home.snapshot(volume)


def test_an_encrypted_volume_opens_with_its_key_only(home: AgentNode) -> None:
    volume = home.create(encrypted=True)
    key, volume.secrets = volume.secrets, {}
    assert code_of(volume.stage)[0] is CODE.INVALID_ARGUMENT
    volume.secrets = key
    volume.serve()
    volume.write("a secret that is nowhere in the clear")
    volume.withdraw()
    assert "crypto_LUKS" in home.node.run(["blkid", "-p", volume.logical]).text
    grep = home.node.run(["grep", "-c", "nowhere in the clear", volume.logical], check=False)
    assert grep.text == "0"
    volume.secrets = {"encryptionKey": "something else"}
    code, text = code_of(volume.stage)
    assert code is CODE.UNAUTHENTICATED
    assert "something else" not in text
    volume.secrets = key
    volume.serve()
    assert volume.read() == "a secret that is nowhere in the clear"
    assert "correct horse" not in home.process.log()


@pytest.mark.parametrize("access", [AccessType.MOUNT, BLOCK])
def test_an_encrypted_volume_has_the_size_asked_for_and_grows(
    home: AgentNode, access: AccessType
) -> None:
    volume = home.create(encrypted=True, access=access).serve()
    volume.write("kept")
    assert home.node.run(["blockdev", "--getsize64", volume.top]).text == str(64 * MIB)
    assert volume.expand(128 * MIB) == 128 * MIB
    assert home.node.run(["blockdev", "--getsize64", volume.top]).text == str(128 * MIB)
    assert home.agent.get_volume(volume.id).size_bytes == 128 * MIB
    volume.withdraw().serve()
    if access is AccessType.MOUNT:
        assert volume.read() == "kept"
        assert home.csi.usage(volume.id, volume.target)["BYTES"].total > 100 * MIB


def test_limits_of_io_follow_the_pod_and_the_record(home: AgentNode) -> None:
    volume = home.create(limits=IoLimits(write_iops=100))
    cgroup = f"/sys/fs/cgroup/kubepods/besteffort/pod{volume.pod}"
    home.node.run(["mkdir", "-p", cgroup])
    volume.serve()
    number = home.node.sh(f"lsblk -dno MAJ:MIN {volume.top}").text.strip()
    assert f"{number} rbps=max wbps=max riops=max wiops=100" in limits(home, cgroup)
    home.agent.set_limits(volume.id, IoLimits(read_bytes=MIB))
    assert f"{number} rbps={MIB} wbps=max riops=max wiops=max" in limits(home, cgroup)
    home.node.sh(f"echo '{number} rbps=max' >{cgroup}/io.max")
    home.restart()
    home.node.sh(f"until grep -q rbps={MIB} {cgroup}/io.max; do sleep 0.1; done")
    volume.unpublish()
    assert f"{number} " not in limits(home, cgroup)
    home.node.run(["rmdir", cgroup])


def limits(home: AgentNode, cgroup: str) -> str:
    return home.node.run(["cat", f"{cgroup}/io.max"]).text


def test_limits_reach_a_pod_whose_cgroup_comes_later(home: AgentNode) -> None:
    volume = home.create(limits=IoLimits(write_iops=100)).serve()
    cgroup = f"/sys/fs/cgroup/kubepods/pod{volume.pod}"
    home.node.run(["mkdir", "-p", cgroup])
    home.node.sh(f"until grep -q wiops=100 {cgroup}/io.max; do sleep 0.1; done")
    volume.unpublish()
    home.node.run(["rmdir", cgroup])


def test_paths_that_are_not_of_the_volume(home: AgentNode) -> None:
    volume, other = home.create().serve(), home.create("other").serve()
    stats = home.csi.usage
    assert code_of(lambda: stats(volume.id, other.target))[0] is CODE.NOT_FOUND
    assert code_of(lambda: stats(volume.id, "/proc"))[0] is CODE.NOT_FOUND
    assert code_of(lambda: stats(volume.id, "some/path"))[0] is CODE.NOT_FOUND
    assert code_of(lambda: home.csi.expand(volume.id, "/proc", 1))[0] is CODE.NOT_FOUND
    # Nothing that is not the volume's is ever unmounted.
    for path in (other.target, "/proc"):
        unpublish = pb.NodeUnpublishVolumeRequest(volume_id=volume.id, target_path=path)
        unstage = pb.NodeUnstageVolumeRequest(volume_id=volume.id, staging_target_path=path)
        node = home.csi.stub
        refused = [
            code_of(functools.partial(node.NodeUnpublishVolume, unpublish))[0],
            code_of(functools.partial(node.NodeUnstageVolume, unstage))[0],
        ]
        assert refused == [CODE.FAILED_PRECONDITION] * 2
    assert home.node.run(["ls", "/proc/self/status", other.target]).text
