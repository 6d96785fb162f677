"""``xlss controller`` as a process: serves without its nodes, alone on its store, until SIGTERM."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest

from csi.rpc import csi_pb2, csi_pb2_grpc
from node_agent import certificates
from node_agent.arbiter_client import ArbiterClient
from tests.unit.arbiter_world import until

ROOT = Path(__file__).resolve().parents[2]
# Far more than it takes; only a failure waits so long.
PATIENCE_SECONDS = 60.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class ControllerProcess:
    """A controller whose only node does not answer."""

    def __init__(self, directory: Path, extra: str = "") -> None:
        self.directory = directory
        self.socket = directory / "run/controller.sock"
        self.store = directory / "state/store.sqlite"
        self.config = directory / "controller.toml"
        self.metrics_port = free_port()
        self.xlss("certs", "init", "--directory", str(directory / "certs"))
        self.config.write_text(
            f'csi_socket = "{self.socket}"\n'
            f'store = "{self.store}"\n'
            f'tls_directory = "{directory}/certs/controller"\n'
            f'metrics_listen = "127.0.0.1:{self.metrics_port}"\n'
            f"{extra}\n"
            f'[nodes]\nn1 = "127.0.0.1:{free_port()}"\n'
        )
        self.log = directory / "controller.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cli.main", "controller", "--config", str(self.config)],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self.ready():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def ready(self) -> bool:
        with grpc.insecure_channel(f"unix:{self.socket}") as channel:
            stub = csi_pb2_grpc.IdentityStub(channel)
            try:
                return bool(stub.Probe(csi_pb2.ProbeRequest(), timeout=5).ready.value)
            except grpc.RpcError:
                return False

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        if self.process is None:
            return 0
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE_SECONDS)
        self.process = None
        return code

    def xlss(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "cli.main", *arguments],
            cwd=ROOT,
            env={**os.environ, "COLUMNS": "200", "XLSS_SOCKET": str(self.socket)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[ControllerProcess]:
    controller = ControllerProcess(tmp_path)
    try:
        yield controller
    finally:
        controller.stop(signal.SIGKILL)


def test_it_serves_without_nodes_and_ends_at_sigterm(controller: ControllerProcess) -> None:
    controller.start()
    status = controller.xlss("status", "-o", "json")
    assert status.returncode == 2
    assert "n1" in json.loads(status.stdout)["nodes"][0]["trouble"]
    url = f"http://127.0.0.1:{controller.metrics_port}/metrics"
    with closing(urllib.request.urlopen(url)) as answer:
        metrics = answer.read().decode()
    assert 'xlss_node_reachable{node="n1"} 0.0' in metrics
    assert 'method="GetStatus",service="xlss.admin.v1.Admin",side="server"' in metrics
    assert controller.socket.stat().st_mode & 0o777 == 0o600
    assert controller.store.stat().st_mode & 0o777 == 0o600

    assert controller.stop() == 0
    assert not controller.socket.exists()
    messages = [line["message"] for line in controller.lines()]
    assert "serving" in messages
    assert "stopping" in messages
    (request,) = {
        line["request"] for line in controller.lines() if "GetStatus" in line.get("call", "")
    }
    assert request


def test_it_starts_again_after_sigkill(controller: ControllerProcess) -> None:
    controller.start()
    controller.stop(signal.SIGKILL)
    assert controller.socket.exists()
    controller.start()
    assert controller.stop() == 0


def test_a_second_one_on_the_store_is_refused(controller: ControllerProcess) -> None:
    controller.start()
    second = controller.xlss("controller", "--config", str(controller.config))
    assert second.returncode == 1
    assert f"{controller.store} is in use by process" in json.loads(second.stderr)["message"]
    assert controller.ready()


def test_a_lost_store_is_refused_and_rebuilt(controller: ControllerProcess) -> None:
    controller.start()
    in_use = controller.xlss("recover-store", "--config", str(controller.config))
    assert in_use.returncode == 1
    assert "is in use by process" in in_use.stderr
    controller.stop()
    controller.store.unlink()

    refused = controller.xlss("controller", "--config", str(controller.config))
    assert refused.returncode == 1
    assert "run `xlss recover-store`" in json.loads(refused.stderr)["message"]

    recover = ("recover-store", "--config", str(controller.config))
    needs_all = controller.xlss(*recover)
    assert needs_all.returncode == 1
    assert "all nodes are needed" in needs_all.stderr
    unknown = controller.xlss(*recover, "--allow-missing", "n2")
    assert "--allow-missing n2: the configuration has only n1" in unknown.stderr
    assert not controller.store.exists()

    rebuilt = controller.xlss(*recover, "--allow-missing", "n1")
    assert rebuilt.returncode == 0, rebuilt.stderr
    assert "0 volumes, 0 snapshots and 0 group snapshots" in rebuilt.stdout
    controller.start()
    assert controller.stop() == 0


def test_it_answers_the_agents_of_replicated_volumes_where_it_is_told_to(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    controller = ControllerProcess(tmp_path, f'arbiter_listen = "{address}"')
    certificates.issue_node(tmp_path / "certs/authority", tmp_path / "n1", "n1")
    client = ArbiterClient("n1", [address], tmp_path / "n1")
    try:
        controller.start()
        client.start()
        until(lambda: client.assignments() == {})
        assert controller.stop() == 0
        until(lambda: client.assignments() is None)

        key = tmp_path / "certs/controller/replication.key"
        secret = key.read_text().strip()
        assert secret not in controller.log.read_text()
        key.unlink()
        refused = controller.xlss("controller", "--config", str(controller.config))
        assert refused.returncode == 1
        message = json.loads(refused.stderr)["message"]
        assert message.startswith(f"{key} is missing: copy it from") and "openssl rand" in message
    finally:
        client.stop()
        controller.stop(signal.SIGKILL)
