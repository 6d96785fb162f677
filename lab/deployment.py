"""XLSS in a lab: a controller on the host, an `xlss node` in each lab node, and CSI clients.

What the demo, the lab tests, the conformance runs and the benchmarks have in common. Everything
runs through the same entry point and the same configuration files that a person would use.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from lab.csi_client import ControllerClient, NodeClient, on
from lab.errors import LabError
from lab.paths import PROJECT, PYTHON
from node_agent import certificates

if TYPE_CHECKING:
    from lab.guest_process import GuestProcess
    from lab.host_process import HostProcess
    from lab.lab import Lab
    from lab.node import Node

AGENT_PORT = 9810
ARBITER_PORT = 9820
NODE_SOCKET = "/run/xlss/csi.sock"
NODE_STATE = "/var/lib/xlss"
SERVING_SECONDS = 90.0
_Client = TypeVar("_Client", ControllerClient, NodeClient)
_XLSS = [str(PYTHON), "-m", "cli.main"]


@dataclass(frozen=True)
class Pool:
    """A pool of a node's configuration; `settings` are further keys of its table."""

    name: str = "default"
    volume_group: str = "vg0"
    devices: Sequence[str] = ("/dev/ubdb",)
    thin_pool: str = "thin"
    settings: Mapping[str, object] = field(default_factory=dict)

    def toml(self) -> str:
        values: dict[str, object] = {
            "name": self.name,
            "volume_group": self.volume_group,
            "devices": list(self.devices),
            **({"thin_pool": self.thin_pool} if self.thin_pool else {}),
            **self.settings,
        }
        # JSON strings, numbers, booleans and lists read the same in TOML.
        return "[[pools]]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in values.items())


class Deployment:
    """One XLSS cluster over nodes of a lab."""

    def __init__(
        self,
        lab: Lab,
        nodes: Sequence[Node],
        *,
        pools: Sequence[Pool] = (Pool(),),
        topology: Mapping[str, Mapping[str, str]] | None = None,
        controller: Mapping[str, object] | None = None,
        agent: Mapping[str, object] | None = None,
        replication: bool = False,
        arbiter: str = "",
        name: str = "xlss",
    ) -> None:
        """`controller` and `agent` are further keys of the two configurations.

        `replication`: volumes of two replicas can be had; `arbiter`: the address of the machine of
        the controller, where that is not the host. `name` keeps several in one lab apart.
        """
        self.lab = lab
        self.nodes = {node.name: node for node in nodes}
        self.folder = lab.share / name
        self.tls = self.folder / "tls"
        self.socket = self.folder / "controller.sock"
        self.store = self.folder / "store" / "store.sqlite"
        self.config = self.folder / "controller.toml"
        self.controller_log = lab.folder / f"{name}-controller.log"
        self._controller: HostProcess | None = None
        self._agents: dict[str, GuestProcess] = {}
        self._clients: dict[str, ControllerClient | NodeClient] = {}
        self._pools = tuple(pools)
        self._topology = topology or {}
        self._agent_settings = agent or {}
        self._arbiter = f"{arbiter or lab.host_address}:{ARBITER_PORT}" if replication else ""
        # How `xlss` is started: tests put a program that injects faults in front.
        self.controller_entry = self.agent_entry = _XLSS
        self.folder.mkdir(parents=True)
        self.store.parent.mkdir()
        certificates.init(self.tls)
        for name in self.nodes:
            certificates.issue_node(self.tls / "authority", self.tls / "nodes" / name, name)
            self._node_config(name).write_text(self._node_toml(name))
        self.config.write_text(self._controller_toml(controller or {}))

    # Processes

    def start(self, *, pools_open: bool = True) -> None:
        """Start all agents, then the controller, which so finds all of them; wait for each.

        `pools_open`: and until the first pool of each node has room, as an agent that has waited
        for that for long serves without it.
        """
        for name in self.nodes:
            self.spawn_agent(name)
        for name in self.nodes:
            self.wait_for_agent(name)
        self.start_controller()
        for name in self.nodes if pools_open else ():
            self._wait_for_pool(name)

    def spawn_controller(self) -> None:
        argv = [*self.controller_entry, "controller", "--config", str(self.config)]
        self._controller = self.lab.spawn(argv, log=self.controller_log.name)

    @property
    def controller_pid(self) -> int:
        if self._controller is None:
            raise LabError("the controller does not run")
        return self._controller.pid

    def wait_for_controller(self) -> None:
        self._until(
            "controller",
            lambda: self.controller().probe(),
            self._controller_alive,
            self.controller_log.read_text,
        )

    def start_controller(self) -> None:
        self.spawn_controller()
        self.wait_for_controller()

    def stop_controller(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal the controller and wait for its end; returns its exit code."""
        if self._controller is None:
            return 0
        if self._controller.alive:
            self._controller.signal(number)
        code = self._controller.wait(timeout=30)
        self._controller = None
        return code

    @contextmanager
    def controller_with(self, lines: str) -> Iterator[None]:
        """The controller is started anew with further lines of TOML; afterwards without them."""
        before = self.config.read_text()
        self.stop_controller()
        self.config.write_text(f"{lines}\n{before}")
        try:
            self.start_controller()
            yield
        finally:
            self.stop_controller()
            self.config.write_text(before)
            self.start_controller()

    def controller_ended(self) -> bool:
        return self._controller is None or not self._controller.alive

    def spawn_agent(self, name: str) -> None:
        argv = [*self.agent_entry, "node", "--config", str(self._node_config(name))]
        log = f"/run/xlss-{len(self._agents)}.log"
        self._agents[name] = self.nodes[name].spawn(argv, log=log)

    def wait_for_agent(self, name: str) -> None:
        agent = self._agents[name]
        self._until(name, lambda: self.node(name).probe(), lambda: agent.alive, agent.log)

    def _wait_for_pool(self, name: str) -> None:
        pool, agent = self._pools[0], self._agents[name]
        provision = "thin" if pool.thin_pool else "thick"
        parameters = {"pool": pool.name, "provision": provision}

        def has_room() -> bool:
            return self.controller().capacity(on(name), parameters) > 0

        self._until(f"pool {pool.name} of {name}", has_room, lambda: agent.alive, agent.log)

    def start_agent(self, name: str) -> None:
        self.spawn_agent(name)
        self.wait_for_agent(name)

    def agent(self, name: str) -> GuestProcess:
        return self._agents[name]

    def stop_agent(self, name: str, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal an agent and wait for its end; returns its exit code."""
        process = self._agents.pop(name)
        process.signal(number)
        return process.wait(30)

    def reboot(self, name: str) -> None:
        """Power-off without warning, on again, agent started."""
        node = self.nodes[name]
        node.kill()
        self._agents.pop(name, None)
        node.start()
        self.start_agent(name)

    def close(self) -> None:
        """End the controller and the agents, and remove the files."""
        for name in list(self._agents):
            if self.nodes[name].running and self._agents[name].alive:
                self.stop_agent(name, signal.SIGKILL)
        self.stop_controller(signal.SIGKILL)
        for client in self._clients.values():
            client.close()
        self._clients.clear()
        shutil.rmtree(self.folder)

    def remove(self) -> None:
        """`close`, and its nodes are gone: powered off first, so that nothing waits for them."""
        for node in self.nodes.values():
            node.kill()
        self.close()
        for node in self.nodes.values():
            self.lab.remove_node(node)

    # Clients, which live as long as the deployment

    def controller(self) -> ControllerClient:
        return self._client(ControllerClient, f"unix:{self.socket}")

    def node(self, name: str) -> NodeClient:
        return self._client(NodeClient, self.nodes[name].grpc_target(NODE_SOCKET))

    def _client(self, kind: type[_Client], target: str) -> _Client:
        client = self._clients.get(target)
        if not isinstance(client, kind):
            client = self._clients[target] = kind(target)
        return client

    def xlss(self, *arguments: str, check: bool = True) -> str:
        """Run the `xlss` command on the host; returns what it printed.

        Raises LabError, with both outputs, when it fails.
        """
        result = subprocess.run(
            [*_XLSS, *arguments], cwd=PROJECT, capture_output=True, text=True, check=False
        )
        if check and result.returncode != 0:
            raise LabError(f"xlss {' '.join(arguments)}: {result.stdout}{result.stderr}")
        return result.stdout

    # Configuration

    def _node_config(self, name: str) -> Path:
        return self.folder / f"{name}.toml"

    def _node_toml(self, name: str) -> str:
        topology = "".join(
            f"{json.dumps(k)} = {json.dumps(v)}\n" for k, v in self._topology.get(name, {}).items()
        )
        values = {
            "name": name,
            "listen": f"{self.nodes[name].address}:{AGENT_PORT}",
            "tls_directory": str(self.tls / "nodes" / name),
            "csi_socket": NODE_SOCKET,
            "lvm_directory": f"{NODE_STATE}/lvm",
            "watch_seconds": 1.0,
            **self._replica_settings(name),
            **self._agent_settings,
        }
        return (
            "".join(f"{k} = {json.dumps(v)}\n" for k, v in values.items())
            + "".join(pool.toml() for pool in self._pools)
            + (f"[topology]\n{topology}" if topology else "")
        )

    def _replica_settings(self, name: str) -> dict[str, object]:
        if not self._arbiter:
            return {}
        # What a node has to keep over a loss of power: its own files are in memory.
        state = self.folder / "state" / name
        state.mkdir(parents=True, exist_ok=True)
        return {
            "arbiters": [self._arbiter],
            "replication_address": self.nodes[name].address,
            "state_directory": str(state),
        }

    def _controller_toml(self, settings: Mapping[str, object]) -> str:
        values = {
            "csi_socket": str(self.socket),
            "store": str(self.store),
            "tls_directory": str(self.tls / "controller"),
            "metrics_listen": "127.0.0.1:9811",
            **({"arbiter_listen": self._arbiter} if self._arbiter else {}),
            **settings,
        }
        nodes = "".join(
            f'{name} = "{node.address}:{AGENT_PORT}"\n' for name, node in self.nodes.items()
        )
        lines = "".join(f"{k} = {json.dumps(v)}\n" for k, v in values.items())
        return f"{lines}[nodes]\n{nodes}"

    # Waiting

    def _until(
        self,
        what: str,
        ready: Callable[[], bool],
        alive: Callable[[], bool],
        log: Callable[[], str],
    ) -> None:
        deadline = time.monotonic() + SERVING_SECONDS
        while not ready():
            runs = alive()
            if not runs or time.monotonic() > deadline:
                state = "serves nothing" if runs else "has ended"
                raise LabError(f"{what} {state}: {log()[-4000:]}")
            time.sleep(0.1)

    def _controller_alive(self) -> bool:
        return self._controller is None or self._controller.poll() is None
