"""Who uses a device, and the end of a volume's use, on a real kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.lab.stories import device_users
from tests.lab.stories.telling import MIB, stories_of, tell

if TYPE_CHECKING:
    from collections.abc import Callable

    from lab.node import Node

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def node(make_module_node: Callable[..., Node]) -> Node:
    return make_module_node(disks=(1024 * MIB, 1024 * MIB))


@pytest.mark.parametrize("story", stories_of(device_users))
def test_in_a_node(node: Node, story: str) -> None:
    tell(node, device_users, story)
