"""LUKS2 on a real kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.lab.stories import encryption
from tests.lab.stories.telling import MIB, stories_of, tell

if TYPE_CHECKING:
    from collections.abc import Callable

    from lab.node import Node

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def node(make_module_node: Callable[..., Node]) -> Node:
    return make_module_node(disks=(1024 * MIB, 1024 * MIB))


@pytest.mark.parametrize("story", stories_of(encryption))
def test_in_a_node(node: Node, story: str) -> None:
    tell(node, encryption, story)


def test_udev_does_not_scan_an_opened_device_and_is_not_waited_for(
    make_node: Callable[..., Node],
) -> None:
    node = make_node(disks=(1024 * MIB, 1024 * MIB), udev=True)
    tell(node, encryption, "a_volume_is_encrypted_opened_and_closed_and_each_step_may_be_repeated")
    tell(node, encryption, "_a_face_and_its_crypt_device_are_left_open")
    node.sh(
        "udevadm settle; udevadm trigger --action=change /dev/mapper/xlss-crypt-v1; udevadm settle"
    )
    known = node.sh("udevadm info --query=all /dev/mapper/xlss-crypt-v1").text
    assert "ID_FS_" not in known
    assert "by-uuid" not in known
    tell(node, encryption, "_a_face_and_its_crypt_device_are_closed")
