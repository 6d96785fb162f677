"""The node's process: the agent for controllers, CSI for kubelet, metrics; put together and served.

It serves before its pools are open, so that a disk that hangs does not keep it from telling so. But
the pools come first: loading gRPC takes as long as opening them, and neither waits for the other.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack

from csi.stop_signal import StopSignal
from host.command import Runner
from node_agent.agent import NodeAgent
from node_agent.config import NodeConfig
from node_agent.inventory import mounts_by_volume
from node_agent.metrics import Metrics, MetricsServer
from node_agent.version import VERSION
from node_agent.volume_metrics import NodeCollector

_log = logging.getLogger(__name__)
# Calls under way when SIGTERM comes get so long to end. Kubernetes kills after 30 seconds.
_GRACE_SECONDS = 10.0


def run_node(config: NodeConfig) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code.

    Raises SocketError when the CSI socket cannot be served, TlsFilesError when the agent's
    certificate cannot be read, OSError when an address is taken.
    """
    with StopSignal() as stop, ExitStack() as stack:
        _start(config, stack)
        _log.info("serving", extra={"socket": str(config.csi_socket), "version": VERSION})
        stop.wait()
        _log.info("stopping")
    return 0


def _start(config: NodeConfig, stack: ExitStack) -> None:
    """Start all parts; the stack ends them in the opposite order."""
    metrics = Metrics("node")
    config.run_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    config.lvm_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    agent = NodeAgent(config, Runner(observers=[metrics.observe_command]))
    stack.callback(agent.stop)
    agent.start()
    metrics.register(
        NodeCollector(
            config.name,
            lambda: agent.pools(fresh=False),
            agent.reporter.volumes,
            lambda: agent.runner.stuck,
            _mounted,
        )
    )
    if config.metrics_listen:
        stack.callback(MetricsServer(metrics, config.metrics_listen).close)
    _serve(config, agent, metrics, stack)


def _serve(config: NodeConfig, agent: NodeAgent, metrics: Metrics, stack: ExitStack) -> None:
    from csi.identity import Identity
    from csi.node.service import NodeService
    from csi.server import serve_node
    from node_agent.arbiter_client import ArbiterClient
    from node_agent.server import AgentServer

    if agent.replicas is not None:
        arbiter = ArbiterClient(
            config.name, config.arbiters, config.tls_directory, observe=metrics.observe_made
        )
        arbiter.start()
        stack.callback(arbiter.stop)
        agent.replicas.start(arbiter)
    if config.listen:
        server = AgentServer(agent, config, observe=metrics.observe_served)
        stack.callback(server.stop, _GRACE_SECONDS)
    csi = serve_node(
        config.csi_socket,
        Identity(lambda: agent.ready),
        NodeService(agent),
        observe=metrics.observe_served,
    )
    stack.callback(csi.stop, _GRACE_SECONDS)


def _mounted() -> dict[str, str]:
    return {volume: mounts[0].path for volume, mounts in mounts_by_volume().items()}
