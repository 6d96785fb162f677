"""The nodes in memory keep the promises that the workflows are tested with."""

from __future__ import annotations

import pytest

from tests.agent_suite import AgentSubject, AgentSuite
from tests.unit.fake_agent import MIB, FakeAgents, FakeNode, FakePool


class TestFakeAgent(AgentSuite):
    @pytest.fixture
    def subject(self) -> AgentSubject:
        pool = FakePool(disks=(256 * MIB, 256 * MIB), thin_limit=512 * MIB)
        agents = FakeAgents(FakeNode("n1", {"default": pool}))
        return AgentSubject(agents.agent("n1"), "n1", "default")
