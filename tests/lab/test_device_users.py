"""Who uses a device, and the end of a volume's use, on a real kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from replication.status import DiskState
from tests.lab.drbd_sides import DISKS, SIZE, Side, replicated
from tests.lab.stories import device_users
from tests.lab.stories.telling import MIB, stories_of, tell

if TYPE_CHECKING:
    from collections.abc import Callable

    from lab.node import Node
    from replication.model import Resource

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def node(make_module_node: Callable[..., Node]) -> Node:
    return make_module_node(disks=(1024 * MIB, 1024 * MIB))


@pytest.mark.parametrize("story", stories_of(device_users))
def test_in_a_node(node: Node, story: str) -> None:
    tell(node, device_users, story)


def evict(side: Side, resource: Resource, **options: bool) -> str:
    given = ", ".join(f"{name}={value}" for name, value in options.items())
    code = (
        "from tests.lab.stories import device_users as story;"
        f"story._evict({resource.name!r}, {given})"
    )
    return side.node.run([".venv/bin/python", "-c", code]).text.strip()


def test_a_fenced_primary_is_freed_without_a_reboot_and_no_write_of_its_is_heard_of(
    make_node: Callable[..., Node],
) -> None:
    one, two = (Side(make_node(disks=DISKS, memory=320 * MIB), number) for number in range(2))
    with replicated((one, two)) as resource:
        one.until(resource.name, lambda s: s.disk is DiskState.UP_TO_DATE)
        one.do("promote", resource)
        code = (
            "from tests.lab.stories import device_users as story;"
            f"story._serve({resource.name!r}, {resource.device!r}, {SIZE})"
        )
        one.node.run([".venv/bin/python", "-c", code])
        script = (
            "n=0; while echo $n > /tmp/served/x && sync /tmp/served/x;"
            " do echo heard $n; n=$((n+1)); done"
        )
        writer = one.node.spawn(["sh", "-c", script], log="/run/writer.log")
        one.wait_until(
            lambda: one.node.run(["grep", "-q", "heard 9", "/run/writer.log"], check=False)
        )
        two.node.cut()
        one.until(resource.name, lambda s: s.frozen)
        heard = one.node.sh("sleep 1; grep heard /run/writer.log").text
        assert evict(one, resource, frozen=True, kill=False) == "alive"
        assert evict(one, resource, frozen=True, kill=True) == "none"
        one.do("disconnect", resource, two.replica, force=True)
        one.do("detach", resource, force=True)
        assert evict(one, resource, frozen=True, kill=False) == "none"
        one.do("resume_io", resource)
        writer.wait()
        assert one.node.sh("grep heard /run/writer.log").text == heard
        assert evict(one, resource, frozen=False, kill=False) == "alive"
        assert evict(one, resource, frozen=False, kill=True) == "none"
        one.do("down", resource.name)
        left = one.node.sh("dmsetup ls; cat /proc/mounts; grep cs: /proc/drbd || true").text
        assert resource.name not in left
        assert "served" not in left
        assert "cs:" not in left
        two.node.join()
