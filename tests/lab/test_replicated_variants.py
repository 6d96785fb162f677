"""Replicated volumes of the other kinds: xfs and btrfs, and encrypted ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lab.deployment import Pool
from lab.node import MIB
from tests.lab.filesystem_check import check_filesystem
from tests.lab.replicated import KUBELET, ONE, SIZE, TWO

if TYPE_CHECKING:
    from lab.node import Node
    from tests.lab.replica_group import Group
    from tests.lab.replicated import Service

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

# The least xfs takes 300 MiB.
DISKS = (1024 * MIB,)
POOLS = (Pool(settings={"overcommit": 2.0}),)
_KNOWN = "what nobody but the owner of the key may read"
_RECORD = "XLSSREC1"  # at the beginning of each record


@pytest.mark.parametrize(
    "service", [{"filesystem": "xfs"}, {"filesystem": "btrfs"}], ids=["xfs", "btrfs"], indirect=True
)
def test_a_file_system_outlives_the_node_that_served_it(service: Service) -> None:
    service.start(ONE).wait_for(50)
    service.power_off(ONE)
    service.fail_over(TWO).wait_for(50)
    service.power_on(ONE)
    service.until_in_sync()
    service.check()
    service.serve(ONE)
    check_filesystem(service, ONE)


def test_an_encrypted_volume_outlives_its_node_and_grows_and_no_disk_has_plain_text(
    group: Group,
) -> None:
    with group.service(filesystem="ext4", key="a key that comes with each request") as service:
        service.start(ONE).wait_for(50)
        known = f"{KUBELET}/pod-{service.id}/known"
        service.node(ONE).sh(f"seq 20000 | sed 's/.*/{_KNOWN}/' >{known}; sync {known}")
        service.power_off(ONE)
        survivor = service.fail_over(TWO)
        survivor.wait_for(50)
        assert service.node(TWO).sh(f"grep -c '{_KNOWN}' {known}").text == "20000"
        service.power_on(ONE)
        service.until_in_sync()

        grow_without_the_key(service, TWO)
        survivor.wait_for(50)
        service.until_in_sync()
        service.check()
        service.serve(ONE)

        # What is looked for is found where it is readable, and nowhere below.
        assert is_found(service.node(ONE), f"/dev/mapper/xlss-crypt-{service.id}")
        for name in service.nodes:
            disk = f"/dev/vg0/vol-{service.id}"
            assert service.node(name).sh(f"head -c 4 {disk}").text == "LUKS"
            assert not is_found(service.node(name), disk), name
        check_filesystem(service, ONE)


MADE = {
    "xfs": "mkfs.xfs -q {0}; printf '\\001' | dd of={0} bs=1 seek=126 conv=notrunc status=none",
    "ext4": "echo -n key | cryptsetup luksFormat -q --type luks2 --pbkdf pbkdf2 --key-file - {0};"
    " cryptsetup luksErase -q {0}",
}


@pytest.mark.parametrize(
    "options",
    [{"filesystem": "xfs"}, {"filesystem": "ext4", "key": "a key of its own"}],
    ids=["xfs", "LUKS"],
)
def test_formatting_that_was_interrupted_on_the_other_node_is_done_again(
    group: Group, options: dict[str, str]
) -> None:
    with group.service(**options) as service:
        half = "/run/half-made"
        begun = MADE[options["filesystem"]].format(half)
        service.node(ONE).sh(f"truncate -s {SIZE + 256 * MIB} {half}; {begun}")
        header = service.node(ONE).sh(f"head -c 32768 {half} | base64").text
        for name in service.nodes:
            service.node(name).run(
                ["sh", "-c", f"base64 -d | dd of=/dev/vg0/vol-{service.id} conv=fsync status=none"],
                input=header.encode(),
            )
        service.start(ONE).wait_for(20)
        service.check()


def grow_without_the_key(service: Service, name: str) -> None:
    agent, path = service.cluster.node(name), f"{KUBELET}/pod-{service.id}"
    before = agent.usage(service.id, path)["BYTES"].total
    controller = service.cluster.controller()
    service.repeat("expand it", lambda: controller.expand(service.id, 2 * SIZE))
    service.repeat(
        "expand what is in it",
        lambda: agent.expand(service.id, path, 2 * SIZE, staging=service.staging),
    )
    assert agent.usage(service.id, path)["BYTES"].total >= before + SIZE // 2


def is_found(node: Node, path: str) -> bool:
    """Whether anything that was written can be read there, past the page cache."""
    read = f"dd if={path} bs=1M iflag=direct status=none"
    find = f"grep -a -c -e '{_KNOWN}' -e '{_RECORD}'"
    return node.sh(f"{read} | {find} || true").text != "0"
