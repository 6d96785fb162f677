"""The admin service, and what the commands make of its answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cli import people
from cli.admin_client import AdminClient, connect
from cluster.differences import DifferenceKind
from cluster.errors import NotFound, Unavailable
from cluster.locks import ObjectLocks
from cluster.model import IoLimits, Phase, Provision, VolumeSpec
from cluster.pools import PoolLedger
from cluster.reconcile import Reconciler
from cluster.snapshots import Snapshots
from cluster.sqlite_store import SqliteStore
from cluster.volumes import CreateRequest, Volumes
from csi.controller import admin
from csi.rpc import admin_pb2_grpc
from csi.server import UnixServer
from node_agent.version import VERSION
from tests.unit.fake_agent import GIB, MIB, FakeAgents

THIN = VolumeSpec(pool="default", provision=Provision.THIN, filesystem="ext4")


@dataclass(frozen=True)
class Controller:
    """The workflows behind the service, and a client in front of it."""

    client: AdminClient
    socket: Path
    agents: FakeAgents
    volumes: Volumes
    snapshots: Snapshots
    reconciler: Reconciler

    def create(self, name: str, size: int = GIB, node: str = "") -> str:
        segments = ({"csi.xlss.io/node": node},) if node else ()
        request = CreateRequest(
            name=name,
            spec=THIN,
            limits=IoLimits(),
            required_bytes=size,
            limit_bytes=0,
            source=None,
            requisite=segments,
            preferred=(),
        )
        return self.volumes.create(request).id


class Command:
    """``xlss`` in this process: the exit code and what was printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str) -> tuple[int, str]:
        try:
            code = people.run(arguments)
        except SystemExit as ended:
            code = int(ended.code or 0)
        captured = self._capsys.readouterr()
        return code, captured.out + captured.err

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "-o", "json")[1])


@contextmanager
def serving_controller(directory: Path) -> Iterator[Controller]:
    agents = FakeAgents("n1", "n2")
    for name, node in agents.nodes.items():
        node.topology = {"csi.xlss.io/node": name, "csi.xlss.io/zone": "a"}
    store = SqliteStore(directory / "store.sqlite")
    pools = PoolLedger(agents)
    locks = ObjectLocks()
    reconciler = Reconciler(store, agents, pools, locks)
    service = admin.AdminService(store, agents, {"n1": "a:1", "n2": "b:2"}, reconciler)
    path = directory / "controller.sock"
    server = UnixServer(
        path, [lambda server: admin_pb2_grpc.add_AdminServicer_to_server(service, server)]
    )
    try:
        with connect(path) as client:
            yield Controller(
                client,
                path,
                agents,
                Volumes(store, agents, pools, locks),
                Snapshots(store, agents, locks),
                reconciler,
            )
    finally:
        server.stop(0)
        service.close()
        store.close()


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[Controller]:
    with serving_controller(tmp_path) as serving:
        yield serving


@pytest.fixture
def xlss(
    controller: Controller, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Command:
    monkeypatch.setenv("XLSS_SOCKET", str(controller.socket))
    # Its width is that of the moment at which the module was imported, by whichever test.
    monkeypatch.setattr("cli.output.console.width", 200)
    return Command(capsys)


def test_the_status_shows_nodes_pools_and_records(controller: Controller) -> None:
    volume = controller.create("data", node="n1")
    controller.snapshots.create("cut", volume)
    status = controller.client.status()
    assert status.version == VERSION
    n1, n2 = status.nodes
    assert (n1.name, n1.address, n1.trouble, n1.volumes, n1.snapshots) == ("n1", "a:1", "", 1, 1)
    assert (n2.name, n2.volumes) == ("n2", 0)
    assert n1.topology["csi.xlss.io/zone"] == "a"
    assert n1.pools == controller.agents.nodes["n1"].pools(fresh=True)
    assert status.counts == {"volume": {"ready": 1}, "snapshot": {"ready": 1}}
    assert status.compared_seconds_ago is None


def test_a_node_that_is_down_is_shown_with_the_reason(controller: Controller) -> None:
    controller.agents.nodes["n2"].down = True
    n1, n2 = controller.client.status().nodes
    assert n1.trouble == ""
    assert n2.trouble == "n2 is down"
    assert (n2.address, n2.pools) == ("b:2", ())


def test_a_node_that_hangs_does_not_hold_up_the_answer(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin, "_ANSWER_SECONDS", 0.2)
    hanging = threading.Event()
    controller.agents.nodes["n2"].fault = lambda node, call, when: hanging.wait(60) and None
    try:
        n1, n2 = controller.client.status().nodes
        assert n1.pools
        assert n2.trouble == "node n2: no answer within 0.2 s"
    finally:
        hanging.set()


def test_differences_come_from_the_last_comparison(controller: Controller) -> None:
    volume = controller.create("data", node="n1")
    controller.agents.nodes["n1"].volumes.clear()
    controller.reconciler.run_once()
    status = controller.client.status()
    (difference,) = status.differences
    assert (difference.kind, difference.node, difference.object, difference.mended) == (
        DifferenceKind.MISSING,
        "n1",
        volume,
        False,
    )
    assert status.compared_seconds_ago is not None


def test_volumes_come_in_pages(controller: Controller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "_LONGEST_PAGE", 3)
    made = {controller.create(f"data-{number}", 4 * MIB) for number in range(7)}
    listed = [volume.id for volume, _ in controller.client.volumes()]
    assert len(listed) == 7
    assert set(listed) == made


def test_a_volume_is_found_by_name_and_by_id(controller: Controller) -> None:
    volume_id = controller.create("data", node="n2")
    for name in ("data", volume_id):
        volume, (on_node,), _ = controller.client.volume(name)
        assert (volume.id, volume.phase, on_node.node) == (volume_id, Phase.READY, "n2")
        assert on_node.report == controller.agents.nodes["n2"].report(volume_id)
    for name in ("other", volume_id[:-1] + "x", volume_id[:-8] + "00000000", ""):
        with pytest.raises(NotFound, match="there is no volume"):
            controller.client.volume(name)


def test_a_volume_is_shown_while_its_node_is_down(controller: Controller) -> None:
    controller.create("data", node="n2")
    controller.agents.nodes["n2"].down = True
    volume, (on_node,), _ = controller.client.volume("data")
    assert volume.name == "data"
    assert (on_node.trouble, on_node.report) == ("n2 is down", None)


def test_snapshots_of_one_volume(controller: Controller) -> None:
    first, second = controller.create("first"), controller.create("second")
    cut = controller.snapshots.create("cut", first)
    controller.snapshots.create("other", second)
    assert [snapshot.id for snapshot in controller.client.snapshots(first)] == [cut.id]
    assert len(list(controller.client.snapshots())) == 2


def test_a_controller_that_ended_is_said_to_be_away(tmp_path: Path) -> None:
    with serving_controller(tmp_path) as controller:
        client = controller.client
        client.status()
    with pytest.raises(Unavailable):
        client.status()


def test_the_commands_print_tables_for_people(controller: Controller, xlss: Command) -> None:
    volume = controller.create("data", node="n1")
    controller.snapshots.create("cut", volume)
    code, text = xlss("status")
    assert code == 0
    assert "volumes: 1 ready; snapshots: 1 ready" in text
    assert "csi.xlss.io/zone=a" in text
    assert "The store has not been compared" in text
    assert "data  1 GiB  ready  n1    default  thin ext4" in xlss("volumes")[1]
    assert f"id       {volume}" in xlss("volume", "show", "data")[1]
    assert "cut   1 GiB  ready" in xlss("snapshots", "--volume", "data")[1]
    assert "2 GiB of 300 GiB" in xlss("nodes")[1]


def test_the_commands_print_json_for_scripts(controller: Controller, xlss: Command) -> None:
    volume = controller.create("data", node="n1")
    controller.snapshots.create("cut", volume)
    status = xlss.json("status")
    assert [node["name"] for node in status["nodes"]] == ["n1", "n2"]
    assert status["nodes"][0]["pools"][0]["thin"]["virtual_bytes"] == 2 * GIB
    (listed,) = xlss.json("volumes", "--node", "n1")
    assert (listed["name"], listed["size_bytes"], listed["id"]) == ("data", GIB, volume)
    assert xlss.json("volumes", "--node", "n2") == []
    assert xlss.json("volume", "show", "data")["nodes"][0]["report"]["complete"] is True
    assert [one["volume_id"] for one in xlss.json("snapshots")] == [volume]


def test_the_snapshots_of_a_deleted_volume_are_found_by_its_id(
    controller: Controller, xlss: Command
) -> None:
    volume = controller.create("data")
    cut = controller.snapshots.create("cut", volume)
    controller.create("other")
    controller.volumes.delete(volume)
    assert [one["id"] for one in xlss.json("snapshots", "--volume", volume)] == [cut.id]
    assert xlss.json("snapshots", "--volume", "other") == []
    code, text = xlss("snapshots", "--volume", "data")
    assert (code, "there is no volume 'data'" in text) == (1, True)


def test_a_node_that_answers_again_is_well_again(controller: Controller, xlss: Command) -> None:
    """Also before the next comparison of the store with the nodes."""
    controller.agents.nodes["n2"].down = True
    controller.reconciler.run_once()
    assert xlss("status")[0] == 2
    controller.agents.nodes["n2"].down = False
    code, text = xlss("status")
    assert (code, "The store agrees with the nodes" in text) == (0, True)


def test_the_exit_code_tells_scripts_that_a_person_should_look(
    controller: Controller, xlss: Command
) -> None:
    controller.agents.nodes["n2"].down = True
    code, text = xlss("status")
    assert code == 2
    assert "n2 is down" in text
    code, text = xlss("volume", "show", "none")
    assert code == 1
    assert "there is no volume 'none'" in text
