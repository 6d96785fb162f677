"""Replicated volumes through the admin service and ``xlss``: shown in words, and decided about."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cli.admin_client import AdminClient, connect
from cluster.agents import RESYNC, VERIFY, Health
from cluster.errors import Refused, Unsupported
from cluster.model import Volume
from csi.controller.admin import AdminService
from csi.controller.admin_changes import ReplicationParts
from csi.controller.metrics import ReplicationCollector
from csi.rpc import admin_pb2_grpc
from csi.server import UnixServer
from node_agent.metrics import Metrics
from recovery.arbiter import Arbiter
from recovery.decisions import Decisions
from recovery.verification import Verification
from tests.unit.cluster_world import THIN_PAIR, World
from tests.unit.fake_agent import IN_SYNC
from tests.unit.test_admin import Command
from tests.unit.test_workflows_replicas import change, membership, pair_world, publish

ADDRESSES = {"n1": "a:1", "n2": "b:2", "n3": "c:3"}


class Changes:
    """What was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def set_replicas(self, volume_id: str, count: int) -> None:
        self.asked.append((volume_id, count))

    def move_replica(self, volume_id: str, from_node: str, to_node: str) -> None:
        self.asked.append((volume_id, from_node, to_node))


class Site:
    """A controller with an arbiter, served on a socket, and one volume that n1 serves."""

    def __init__(self, world: World, directory: Path) -> None:
        self.world = world
        self.volume: Volume = publish(world, world.create(spec=THIN_PAIR), "n1")
        self.arbiter = Arbiter(world.store, lambda volume_id: "secret", gather_seconds=0.0)
        self.changes = Changes()
        parts = ReplicationParts(
            self.arbiter.followed,
            Decisions(world.store, world.locks, self.arbiter),
            Verification(world.store, world.agents, interval_seconds=0),
            self.changes,
        )
        self.service = AdminService(world.store, world.agents, ADDRESSES, world.reconciler, parts)
        self.socket = directory / "controller.sock"

    def replica(self, node: str, **states: Any) -> None:
        present = self.world.nodes.nodes[node].replicas.get(self.volume.id, IN_SYNC)
        self.world.nodes.nodes[node].replicas[self.volume.id] = replace(present, **states)

    def shown(self, client: AdminClient) -> Any:
        return client.volume("data")[2]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    found = Site(pair_world(tmp_path), tmp_path)
    found.arbiter.start()
    server = UnixServer(
        found.socket,
        [lambda server: admin_pb2_grpc.add_AdminServicer_to_server(found.service, server)],
    )
    yield found
    server.stop(0)
    found.service.close()
    found.arbiter.stop()
    found.world.store.close()


@pytest.fixture
def client(site: Site) -> Iterator[AdminClient]:
    with connect(site.socket) as found:
        yield found


@pytest.fixture
def xlss(
    site: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Command:
    monkeypatch.setenv("XLSS_SOCKET", str(site.socket))
    # Its width is that of the moment at which the module was imported, by whichever test.
    monkeypatch.setattr("cli.output.console.width", 250)
    return Command(capsys)


def test_a_volume_in_sync_is_shown_with_its_membership(site: Site, client: AdminClient) -> None:
    found = site.shown(client)
    assert found.membership == membership(site.world, site.volume)
    assert (found.state.summary, found.state.health) == ("2/2 in sync", Health.OK)
    assert found.explanation == "Every acknowledged write is on n1 and n2."


def test_the_lists_have_a_column_for_replicas(site: Site, xlss: Command) -> None:
    assert "2/2 in sync" in xlss("volumes")[1]
    code, text = xlss("status")
    assert (code, "replicated volumes: 1, 1 in sync" in text) == (0, True)
    change(site.world, site.volume, members=("n1",))
    resyncing = {"activity": RESYNC, "resync_total_bytes": 100, "resync_done_bytes": 43}
    site.replica("n2", disk="Inconsistent", **resyncing)
    site.replica("n1", peer_disk="Inconsistent", **resyncing)
    assert "1/2, resync 43 %" in xlss("volumes")[1]
    (listed,) = xlss.json("volumes")
    assert listed["replicated"]["summary"] == "1/2, resync 43 %"
    code, text = xlss("status")
    assert (code, "1/2, resync 43 %" in text) == (0, True)  # it mends itself


def test_the_status_counts_what_people_make(site: Site, xlss: Command) -> None:
    """And not the records behind a replicated volume."""
    assert xlss("status")[1].splitlines()[1] == "volumes: 1 ready"


def test_frozen_writes_want_a_person(site: Site, xlss: Command) -> None:
    site.replica(
        "n1", connection="WFConnection", peer_disk="DUnknown", frozen="the other one was lost"
    )
    site.world.nodes.nodes["n1"].sick[site.volume.id] = (Health.INACCESSIBLE, "held back")
    site.world.nodes.nodes["n2"].down = True
    site.arbiter.followed.tell_words(
        {site.volume.id: "2 of 3 nodes are silent at once: standing down"}
    )
    code, text = xlss("status")
    assert code == 2
    assert "frozen: the other one was lost" in text
    text = xlss("volume", "show", "data")[1]
    assert "Writes on n1 wait, and none is acknowledged" in text
    assert "xlss volume fail-over data --to n1" in text
    shown = xlss.json("volume", "show", "data")
    assert shown["replication"]["decision"].endswith("standing down")
    reports = [each["report"] for each in shown["nodes"] if each["report"] is not None]
    (replica,) = [report["replica"] for report in reports if report["replica"] is not None]
    assert replica["frozen"] == "the other one was lost"


def test_a_node_that_can_take_no_replicas_wants_a_person(site: Site, xlss: Command) -> None:
    site.world.nodes.nodes["n2"].replication_trouble = "modprobe: Module drbd not found"
    code, text = xlss("status")
    assert code == 2
    assert "node n2 takes no replicas: modprobe: Module drbd not found" in text
    assert xlss.json("nodes")[1]["replication_trouble"] == "modprobe: Module drbd not found"


def test_a_person_fails_over(site: Site, xlss: Command) -> None:
    code, text = xlss("volume", "fail-over", "data", "--to", "n2")
    assert (code, "n2 need not wait" in text) == (0, True)
    assert membership(site.world, site.volume).primary == "n2"
    (published,) = site.world.volumes.get(site.volume.id).published
    assert (published.node, published.access_mode) == ("n2", "SINGLE_NODE_WRITER")
    # The orchestrator's own calls, whenever they come, change nothing of that.
    site.world.volumes.unpublish(site.volume.id, "n1")
    publish(site.world, site.volume, "n2")
    assert membership(site.world, site.volume).primary == "n2"


def test_force_primary_wants_the_flag_and_the_id(
    site: Site, xlss: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = membership(site.world, site.volume)
    code, text = xlss("volume", "force-primary", "data", "--node", "n2")
    assert (code, "are lost" in text, "n1 is in the set" in text) == (1, True, True)
    force = ("volume", "force-primary", "data", "--node", "n2", "--accept-data-loss")
    monkeypatch.setattr("typer.prompt", lambda text: "data")
    assert xlss(*force)[0] != 0
    assert membership(site.world, site.volume) == before
    monkeypatch.setattr("typer.prompt", lambda text: site.volume.id)
    assert xlss(*force)[0] == 0
    assert membership(site.world, site.volume).forced == "n2"
    assert xlss(*force[:-3], "--node", "n1", "--accept-data-loss", "--yes")[0] == 0
    assert membership(site.world, site.volume).forced == "n1"


def test_a_verify_is_begun_and_shown(site: Site, xlss: Command) -> None:
    assert "last verify never" in " ".join(xlss("volume", "show", "data")[1].split())
    assert "n2 compares" in xlss("volume", "verify", "data")[1]  # n1 serves it
    assert site.world.nodes.nodes["n2"].replicas[site.volume.id].activity == VERIFY
    change(site.world, site.volume, members=("n1",))
    code, text = xlss("volume", "verify", "data")
    assert (code, "only n1 is in sync" in text) == (1, True)


def test_replicas_are_changed_where_that_is_there(site: Site, xlss: Command) -> None:
    assert xlss("volume", "set-replicas", "data", "1")[0] == 0
    assert xlss("volume", "move-replica", "data", "--from", "n2", "--to", "n3")[0] == 0
    assert site.changes.asked == [(site.volume.id, 1), (site.volume.id, "n2", "n3")]
    assert xlss("volume", "set-replicas", "data", "3")[0] == 2


def test_without_an_arbiter_nothing_is_decided(site: Site, tmp_path: Path) -> None:
    world = site.world
    service = AdminService(world.store, world.agents, ADDRESSES, world.reconciler)
    path = tmp_path / "other.sock"
    server = UnixServer(
        path, [lambda server: admin_pb2_grpc.add_AdminServicer_to_server(service, server)]
    )
    try:
        with connect(path) as client, pytest.raises((Unsupported, Refused), match="arbiter_listen"):
            client.fail_over("data", "n2")
    finally:
        server.stop(0)
        service.close()


def test_the_controller_shows_replication_to_prometheus(site: Site) -> None:
    metrics = Metrics("controller")
    metrics.register(ReplicationCollector(site.arbiter))
    change(site.world, site.volume, members=("n1",))
    site.arbiter.followed._try_to_read_all()
    text = metrics.text().decode()
    assert f'xlss_volume_members{{volume="{site.volume.id}"}} 1.0' in text
    assert f'xlss_volume_replicas{{volume="{site.volume.id}"}} 2.0' in text
    assert "xlss_volumes_degraded 1.0" in text
    assert "xlss_failovers_decided_total 0.0" in text
    assert "xlss_nodes_silent 0.0" in text


def test_health_calls_judge_both_replicas(site: Site) -> None:
    site.world.nodes.nodes["n2"].down = True
    health, text = site.world.volumes.health(site.volume.id)
    assert (health, "n2 does not answer" in text) == (Health.DEGRADED, True)
