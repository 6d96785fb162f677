"""Both processes as those who run them see them: logs, metrics, status, preflight."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from lab.csi_client import mount
from lab.deployment import Deployment
from lab.paths import PYTHON

if TYPE_CHECKING:
    from csi.rpc import csi_pb2 as pb
    from lab.lab import Lab
    from lab.node import Node

pytestmark = pytest.mark.lab

GIB = 1 << 30
MIB = 1 << 20
SECRET = "a-passphrase-that-nobody-may-read"
STAGING = "/var/lib/kubelet/staging"


@pytest.fixture(scope="module")
def cluster(lab: Lab, make_module_node: Callable[..., Node]) -> Iterator[Deployment]:
    node = make_module_node(disks=(4 * GIB,))
    cluster = Deployment(lab, [node], agent={"log_level": "debug"}, name="processes")
    node.run(["mkdir", "-p", str(Path(STAGING).parent)])
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def volume(cluster: Deployment) -> Iterator[pb.Volume]:
    """An encrypted volume, staged on its node."""
    controller = cluster.controller()
    made = controller.create("processes", 256 * MIB, parameters={"encryption": "luks2"})
    node = cluster.node(name_of_node(cluster))
    controller.publish(made.volume_id, name_of_node(cluster))
    node.stage(made, STAGING, mount("ext4"), secrets={"encryptionKey": SECRET})
    yield made
    node.unstage(made.volume_id, STAGING)
    controller.unpublish(made.volume_id, name_of_node(cluster))
    controller.delete(made.volume_id)


def name_of_node(cluster: Deployment) -> str:
    return next(iter(cluster.nodes))


def logged(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def samples(text: str) -> dict[str, dict[str, float]]:
    """Name of a sample -> its label values, joined -> value."""
    found: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = " ".join(sample.labels[key] for key in sorted(sample.labels))
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


def node_metrics(cluster: Deployment) -> dict[str, dict[str, float]]:
    code = (
        "import urllib.request as r;"
        "print(r.urlopen('http://127.0.0.1:9812/metrics').read().decode())"
    )
    return samples(cluster.nodes[name_of_node(cluster)].run([str(PYTHON), "-c", code]).text)


def test_one_request_id_runs_from_the_csi_call_to_the_command(
    cluster: Deployment, volume: pb.Volume
) -> None:
    controller = logged(cluster.controller_log.read_text())
    (request,) = {
        line["request"]
        for line in controller
        if line["message"] == "CreateVolume begins" and "processes" in str(line["arguments"])
    }
    node = [
        line
        for line in logged(cluster.agent(name_of_node(cluster)).log())
        if line.get("request") == request
    ]
    assert "xlss.node.v1.NodeAgent/CreateVolume" in {line.get("call") for line in node}
    commands = [line["message"] for line in node if line["logger"] == "xlss.command"]
    assert [message for message in commands if "lvcreate" in message]


def test_no_secret_is_in_any_log(cluster: Deployment, volume: pb.Volume) -> None:
    node = cluster.agent(name_of_node(cluster)).log()
    assert "NodeStageVolume begins" in node
    assert SECRET not in node
    assert SECRET not in cluster.controller_log.read_text()


def test_a_node_shows_its_commands_pools_and_volumes(
    cluster: Deployment, volume: pb.Volume
) -> None:
    found = node_metrics(cluster)
    commands = found["xlss_command_duration_seconds_count"]
    assert commands["lvm lvcreate ok"] >= 1
    assert commands["cryptsetup luksFormat ok"] >= 1
    name = name_of_node(cluster)
    assert found["xlss_pool_size_bytes"][f"{name} default thin"] > GIB
    assert 0 < found["xlss_pool_metadata_used_ratio"][f"{name} default thin"] < 1
    assert found["xlss_stuck_commands"] == {"": 0}
    assert found["xlss_volume_size_bytes"][f"default {volume.volume_id}"] == 256 * MIB
    assert 0 < found["xlss_volume_filesystem_size_bytes"][volume.volume_id] <= 256 * MIB
    assert found["xlss_volume_filesystem_inodes"][volume.volume_id] > 0
    calls = found["xlss_rpc_duration_seconds_count"]
    assert calls["OK NodeStageVolume csi.v1.Node server"] >= 1
    assert calls["OK CreateVolume xlss.node.v1.NodeAgent server"] >= 1


def test_the_controller_shows_its_calls_nodes_and_writes(
    cluster: Deployment, volume: pb.Volume
) -> None:
    with closing(urllib.request.urlopen("http://127.0.0.1:9811/metrics")) as answer:
        found = samples(answer.read().decode())
    name = name_of_node(cluster)
    calls = found["xlss_rpc_duration_seconds_count"]
    assert calls["OK CreateVolume csi.v1.Controller server"] >= 1
    assert calls["OK CreateVolume xlss.node.v1.NodeAgent client"] >= 1
    assert found["xlss_node_reachable"] == {name: 1}
    assert found["xlss_volumes_published"] == {name: 1}
    assert found["xlss_records"]["volume ready"] == 1
    assert found["xlss_store_write_duration_seconds_count"]["create ok"] >= 1


def test_people_see_the_node_the_pool_and_the_volume(
    cluster: Deployment, volume: pb.Volume
) -> None:
    socket = ("--socket", str(cluster.socket), "-o", "json")
    (node,) = json.loads(cluster.xlss("status", *socket))["nodes"]
    assert (node["trouble"], node["volumes"]) == ("", 1)
    assert node["pools"][0]["thin"]["total_bytes"] > GIB
    found = json.loads(cluster.xlss("volume", "show", "processes", *socket))
    (there,) = found["nodes"]
    assert there["report"]["mounts"] == [STAGING]
    assert there["report"]["health"] == "ok"
    assert found["volume"]["published"][0]["node"] == name_of_node(cluster)


def test_a_lab_node_lacks_nothing(cluster: Deployment) -> None:
    node = cluster.nodes[name_of_node(cluster)]
    argv = [str(PYTHON), "-m", "cli.main", "preflight", "-o", "json"]
    findings = json.loads(node.run(argv).text)
    assert [one for one in findings if not one["found"]] == []
