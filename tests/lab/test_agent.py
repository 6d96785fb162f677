"""The real agent on a real kernel: the suite of all agents, and what only a real one can show."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.agent_suite import AgentSubject, AgentSuite
from tests.lab.agent_node import AgentNode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lab.node import Node

pytestmark = pytest.mark.lab

MIB = 1 << 20
GIB = 1 << 30
POOLS = """
[[pools]]
name = "default"
volume_group = "vg0"
devices = ["/dev/ubdb"]
thin_pool = "thin"
thin_size = "400MiB"
grow_at = 1.0
overcommit = 2.0
"""


@pytest.fixture(scope="module")
def running(make_module_node: Callable[..., Node]) -> Iterator[AgentNode]:
    running = AgentNode(make_module_node(disks=(GIB,)), pools=POOLS)
    running.start()
    yield running
    running.close()


@pytest.fixture
def served(running: AgentNode) -> Iterator[AgentNode]:
    """The same node, empty again after the test."""
    yield running
    running.wipe_clean()


class TestRealAgent(AgentSuite):
    @pytest.fixture
    def subject(self, served: AgentNode) -> AgentSubject:
        return AgentSubject(served.agent, served.node.name, "default")
