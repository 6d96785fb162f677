"""Device-mapper devices and the guard over suspended ones, on a real kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.lab.stories import device_mapper
from tests.lab.stories.telling import MIB, stories_of, tell

if TYPE_CHECKING:
    from collections.abc import Callable

    from lab.node import Node

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def node(make_module_node: Callable[..., Node]) -> Node:
    return make_module_node(disks=(1024 * MIB, 1024 * MIB))


@pytest.mark.parametrize("story", stories_of(device_mapper))
def test_in_a_node(node: Node, story: str) -> None:
    tell(node, device_mapper, story)


def test_udev_neither_scans_a_face_nor_is_needed(make_node: Callable[..., Node]) -> None:
    node = make_node(disks=(1024 * MIB, 1024 * MIB), udev=True)
    node.sh("mkfs.ext4 -q -U 11111111-2222-3333-4444-555555555555 /dev/ubdc 64M; udevadm settle")
    for _ in range(2):
        tell(node, device_mapper, "a_face_is_there_when_it_is_made_and_gone_when_it_is_removed")
    tell(node, device_mapper, "a_cut_holds_all_devices_and_says_so")
    code = (
        "from host.command import Runner; from host.device_mapper import DeviceMapper;"
        "from host.linear_device import ensure_linear as make;"
        "print(make(DeviceMapper(Runner()), 'xlss-v1', '/dev/ubdc', 64 << 20))"
    )
    node.sh("mkfs.ext4 -q -U 11111111-2222-3333-4444-555555555555 /dev/ubdc 64M")
    face = node.run([".venv/bin/python", "-c", code]).text.strip()
    # Also after a swap and a resume, after an event that ends a write, and after one by hand.
    code = (
        "from host.command import Runner; from host.device_mapper import DeviceMapper;"
        "from host.linear_device import resize_linear; mapper = DeviceMapper(Runner());"
        "resize_linear(mapper, 'xlss-v1', 96 << 20); mapper.suspend('xlss-v1', deadline=9);"
        "mapper.resume('xlss-v1', deadline=9)"
    )
    node.run([".venv/bin/python", "-c", code])
    node.sh(
        f"udevadm settle; : >> {face}; udevadm settle;"
        f"udevadm trigger --action=change {face}; udevadm settle"
    )
    known = node.sh(f"udevadm info --query=all {face}").text
    assert "ID_FS_" not in known
    assert "by-uuid" not in known
    assert "DM_UDEV_DISABLE_DISK_RULES_FLAG=1" in known
    assert node.sh(f"test -b {face} && dmsetup remove xlss-v1 && echo gone").text.strip() == "gone"
