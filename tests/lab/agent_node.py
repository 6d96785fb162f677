"""An `xlss node` alone in a lab node, for tests of the agent and of the Node service."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import grpc

from lab.csi_client import NodeClient
from lab.paths import PYTHON
from node_agent import tls
from node_agent.client import GrpcAgent
from node_agent.interceptors import ObservedChannel

if TYPE_CHECKING:
    from lab.node import GuestProcess, Node

CSI_SOCKET = "/run/xlss/csi.sock"
AGENT_SOCKET = "/run/xlss/agent.sock"
CONFIG = "/run/node.toml"
_STARTING_SECONDS = 30.0


class AgentNode:
    """The process, and both of its interfaces as a client on the host sees them."""

    def __init__(self, node: Node, *, pools: str, settings: str = "") -> None:
        """``pools`` and ``settings`` are TOML; addresses are set here."""
        self.node = node
        self.csi = NodeClient(node.grpc_target(CSI_SOCKET))
        channel = grpc.insecure_channel(
            node.grpc_target(AGENT_SOCKET), options=tls.AGENT_CHANNEL_OPTIONS
        )
        self._channel = ObservedChannel(channel, node.name, deadline=60)
        self.agent = GrpcAgent(self._channel)
        self._config = (
            f"name = {json.dumps(node.name)}\n"
            f'listen = "unix:{AGENT_SOCKET}"\ncsi_socket = "{CSI_SOCKET}"\nmetrics_listen = ""\n'
            f"{settings}\n{pools}"
        )
        self._process: GuestProcess | None = None

    def start(self) -> None:
        self.node.put(CONFIG, self._config.encode())
        argv = [str(PYTHON), "-m", "cli.main", "node", "--config", CONFIG]
        self._process = self.node.spawn(argv, log="/run/xlss-node.log")
        until = time.monotonic() + _STARTING_SECONDS
        while not self.csi.probe():
            assert self._process.alive, self._process.log()
            assert time.monotonic() < until, self._process.log()
            time.sleep(0.05)

    @property
    def process(self) -> GuestProcess:
        assert self._process is not None
        return self._process

    def kill(self) -> None:
        """SIGKILL, as a crash."""
        self.process.kill()

    def restart(self) -> None:
        self.kill()
        self.start()

    def close(self) -> None:
        self.csi.close()
        self._channel.close()
