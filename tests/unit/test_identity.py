"""The Identity service, and the unix socket that both processes serve it on."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from csi.identity import Identity
from csi.rpc import csi_pb2, csi_pb2_grpc
from csi.server import SocketError, UnixServer, serve_controller, serve_node
from node_agent.version import VERSION

ROOT = Path(__file__).resolve().parents[2]


def start(path: Path, identity: Identity | None = None) -> UnixServer:
    return serve_node(path, identity or Identity(), csi_pb2_grpc.NodeServicer())


@contextmanager
def running(path: Path, identity: Identity | None = None) -> Iterator[UnixServer]:
    server = start(path, identity)
    try:
        yield server
    finally:
        server.stop(0)


@contextmanager
def asking(path: Path) -> Iterator[csi_pb2_grpc.IdentityStub]:
    with grpc.insecure_channel(f"unix:{path}") as channel:
        yield csi_pb2_grpc.IdentityStub(channel)


def name_at(path: Path) -> str:
    with asking(path) as identity:
        return identity.GetPluginInfo(csi_pb2.GetPluginInfoRequest()).name


def test_the_plugin_says_who_it_is_and_what_it_has(tmp_path: Path) -> None:
    path = tmp_path / "csi.sock"
    with running(path), asking(path) as identity:
        info = identity.GetPluginInfo(csi_pb2.GetPluginInfoRequest())
        answer = identity.GetPluginCapabilities(csi_pb2.GetPluginCapabilitiesRequest())
    assert (info.name, info.vendor_version) == ("csi.xlss.io", VERSION)
    service = csi_pb2.PluginCapability.Service
    kinds = [each.service.type for each in answer.capabilities if each.HasField("service")]
    assert kinds == [
        service.CONTROLLER_SERVICE,
        service.VOLUME_ACCESSIBILITY_CONSTRAINTS,
        service.GROUP_CONTROLLER_SERVICE,
    ]
    expansion = csi_pb2.PluginCapability.VolumeExpansion
    assert answer.capabilities[-1].volume_expansion.type == expansion.ONLINE


def test_both_processes_answer_alike(tmp_path: Path) -> None:
    """Orchestrators ask the node's process whether there is a controller."""
    controller = serve_controller(
        tmp_path / "controller.sock",
        Identity(),
        csi_pb2_grpc.ControllerServicer(),
        csi_pb2_grpc.GroupControllerServicer(),
    )
    request = csi_pb2.GetPluginCapabilitiesRequest()
    with (
        running(tmp_path / "node.sock"),
        asking(tmp_path / "node.sock") as at_node,
        asking(tmp_path / "controller.sock") as at_controller,
    ):
        assert at_node.GetPluginCapabilities(request) == at_controller.GetPluginCapabilities(
            request
        )
    controller.stop(0)


def test_probe_says_whether_the_process_can_work(tmp_path: Path) -> None:
    path = tmp_path / "csi.sock"
    ready = threading.Event()
    with running(path, Identity(ready.is_set)), asking(path) as identity:
        before = identity.Probe(csi_pb2.ProbeRequest())
        ready.set()
        after = identity.Probe(csi_pb2.ProbeRequest())
    assert before.HasField("ready")
    assert (before.ready.value, after.ready.value) == (False, True)


def test_only_root_may_open_the_socket_and_it_is_gone_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "new" / "csi.sock"
    former = os.umask(0)
    try:
        with running(path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert os.umask(0) == 0, "the umask was not put back"
    finally:
        os.umask(former)
    assert not path.exists()


def test_the_socket_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "csi.sock"
    program = f"""
import signal
from pathlib import Path
from tests.unit.test_identity import start
server = start(Path({str(path)!r}))
print("serving", flush=True)
signal.pause()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "serving\n"
        process.send_signal(signal.SIGKILL)
    assert path.is_socket()
    with running(path):
        assert name_at(path) == "csi.xlss.io"


def test_the_socket_of_a_living_process_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "csi.sock"
    with running(path):
        with pytest.raises(SocketError, match="is served by another process"):
            start(path)
        assert name_at(path) == "csi.xlss.io"


def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "csi.sock"
    path.write_text("precious")
    with pytest.raises(SocketError, match="is no socket"):
        start(path)
    assert path.read_text() == "precious"


def test_a_path_that_no_socket_can_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SocketError, match="too long for a socket"):
        start(tmp_path / ("x" * 100) / "csi.sock")


class SlowIdentity(Identity):
    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Event()
        self.leave = threading.Event()

    def Probe(self, request, context):
        self.entered.set()
        self.leave.wait(30)
        return super().Probe(request, context)


def test_a_call_under_way_may_end_while_a_successor_serves_already(tmp_path: Path) -> None:
    path = tmp_path / "csi.sock"
    identity = SlowIdentity()
    server = start(path, identity)
    with asking(path) as stub:
        answer = stub.Probe.future(csi_pb2.ProbeRequest())
        assert identity.entered.wait(30)
        stopping = threading.Thread(target=server.stop, args=(30,))
        stopping.start()
        while path.exists():
            time.sleep(0.01)
        with running(path):
            identity.leave.set()
            assert answer.result(timeout=30).ready.value
            stopping.join(30)
            assert name_at(path) == "csi.xlss.io"
    assert not stopping.is_alive()


class HangingController(csi_pb2_grpc.ControllerServicer):
    def __init__(self) -> None:
        self.entered = threading.Event()
        self.leave = threading.Event()

    def ListVolumes(self, request, context):
        self.entered.set()
        self.leave.wait(30)
        return csi_pb2.ListVolumesResponse()


def test_probe_answers_while_all_other_threads_wait_for_nodes_that_hang(tmp_path: Path) -> None:
    """Or else the whole driver would be killed because of one node."""
    path = tmp_path / "csi.sock"
    controller = HangingController()
    groups = csi_pb2_grpc.GroupControllerServicer()
    server = serve_controller(path, Identity(), controller, groups, max_workers=1)
    try:
        with asking(path) as identity, grpc.insecure_channel(f"unix:{path}") as channel:
            hanging = csi_pb2_grpc.ControllerStub(channel).ListVolumes.future(
                csi_pb2.ListVolumesRequest()
            )
            assert controller.entered.wait(30)
            assert identity.Probe(csi_pb2.ProbeRequest(), timeout=20).ready.value
            assert not hanging.done()
            controller.leave.set()
            hanging.result(timeout=30)
    finally:
        controller.leave.set()
        server.stop(0)
