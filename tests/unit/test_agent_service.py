"""The agent's service: what a request becomes before the agent itself has to do with it."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from cluster.errors import Unavailable
from cluster.identifiers import Kind, new_id
from cluster.model import Phase, Volume, VolumeSpec
from node_agent.agent import NodeAgent
from node_agent.client import GrpcAgent
from node_agent.interceptors import ObservedChannel
from node_agent.rpc.node_agent_pb2_grpc import add_NodeAgentServicer_to_server
from node_agent.server import NodeAgentService
from tests.unit.serving import serving


class Wiping:
    """An agent whose wipes outlast every wait."""

    def create_volume(self, volume: Volume, *, wait: float) -> object:
        raise Unavailable(f"not done within {wait:g} s; repeat the request")


def test_a_caller_with_time_does_not_keep_a_worker_for_all_of_it(tmp_path: Path) -> None:
    service = NodeAgentService(cast(NodeAgent, Wiping()))
    with serving(tmp_path, lambda server: add_NodeAgentServicer_to_server(service, server)) as made:
        agent = GrpcAgent(ObservedChannel(made, "node n1", deadline=300))
        wanted = Volume(
            new_id(Kind.VOLUME, "v"), "v", 1 << 20, VolumeSpec("default"), Phase.CREATING, ("n1",)
        )
        with pytest.raises(Unavailable, match="not done within 5 s; repeat the request"):
            agent.create_volume(wanted)
