"""The lab itself: nodes boot, obey, fail and vanish as the other tests need it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lab.errors import CommandFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from lab.node import Node

pytestmark = pytest.mark.lab

MIB = 1 << 20


@pytest.fixture(scope="module")
def node(make_module_node: Callable[..., Node]) -> Node:
    return make_module_node(disks=(64 * MIB,))


def test_a_command_gets_its_input_and_gives_its_output_and_exit_code(node: Node) -> None:
    result = node.run(["sh", "-c", "cat; echo oops >&2; exit 3"], input=b"in\n", check=False)
    assert (result.returncode, result.stdout, result.stderr) == (3, b"in\n", b"oops\n")
    with pytest.raises(CommandFailed) as failed:
        node.run(["sh", "-c", "echo oops >&2; exit 3"])
    assert failed.value.returncode == 3
    assert "oops" in str(failed.value)


def test_what_was_fsynced_survives_a_power_off(make_node: Callable[..., Node]) -> None:
    node = make_node(disks=(64 * MIB,))
    node.sh(
        "mkfs.ext4 -q /dev/ubdb; mkdir -p /data; mount /dev/ubdb /data;"
        "dd if=/dev/zero of=/data/file bs=1M count=5 conv=fsync status=none; cp /bin/true /run"
    )
    node.kill()
    assert not node.running
    node.start()
    node.sh("mkdir -p /data; mount /dev/ubdb /data; test $(stat -c %s /data/file) = 5242880")
    node.sh("test ! -e /run/true")
