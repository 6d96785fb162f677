"""What a process counts, and that Prometheus can read it at any time."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cluster.agents import PoolReport, ThinPoolReport
from node_agent.metrics import Metrics, MetricsServer, pool_metrics


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("node")


@pytest.fixture
def server(metrics: Metrics) -> Iterator[MetricsServer]:
    server = MetricsServer(metrics, "127.0.0.1:0")
    yield server
    server.close()


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Name and label values (in the order of the label names) -> value."""
    return {
        (sample.name, *(sample.labels[key] for key in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def get(port: int, path: str = "/metrics") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def test_calls_are_counted_by_service_method_and_outcome(metrics: Metrics) -> None:
    metrics.observe_served("/csi.v1.Controller/CreateVolume", "OK", 0.2)
    metrics.observe_served("/csi.v1.Controller/CreateVolume", "RESOURCE_EXHAUSTED", 0.1)
    metrics.observe_made("/xlss.node.v1.NodeAgent/CreateVolume", "OK", 0.1)
    found = samples(metrics.text().decode())
    calls = {key[1:]: value for key, value in found.items() if key[0].endswith("seconds_count")}
    assert calls == {
        ("OK", "CreateVolume", "csi.v1.Controller", "server"): 1,
        ("RESOURCE_EXHAUSTED", "CreateVolume", "csi.v1.Controller", "server"): 1,
        ("OK", "CreateVolume", "xlss.node.v1.NodeAgent", "client"): 1,
    }


def test_commands_are_counted_with_their_time(metrics: Metrics) -> None:
    metrics.observe_command("lvcreate", "ok", 0.25)
    metrics.observe_command("lvcreate", "ok", 0.75)
    found = samples(metrics.text().decode())
    assert found["xlss_command_duration_seconds_count", "lvcreate", "ok"] == 2
    assert found["xlss_command_duration_seconds_sum", "lvcreate", "ok"] == 1.0


def test_a_pool_shows_room_metadata_and_what_is_promised() -> None:
    thin = ThinPoolReport("thin", 1000, 400, 0.25, 1500, 2000, 65536)
    pool = PoolReport("fast", "vg", 4, 5000, 4000, thin=thin, trouble="a disk is missing")
    families = {family.name: family.samples for family in pool_metrics([("n1", pool)])}
    values = {
        name: {sample.labels.get("provision", ""): sample.value for sample in found}
        for name, found in families.items()
    }
    assert values == {
        "xlss_pool_size_bytes": {"thick": 5000, "thin": 1000},
        "xlss_pool_used_bytes": {"thick": 1000, "thin": 400},
        "xlss_pool_metadata_used_ratio": {"thin": 0.25},
        "xlss_pool_promised_bytes": {"thin": 1500},
        "xlss_pool_promise_limit_bytes": {"thin": 2000},
        "xlss_pool_overcommit_ratio": {"thin": 1.5},
        "xlss_pool_healthy": {"": 0},
    }


def test_the_metrics_are_served_at_one_path_only(server: MetricsServer) -> None:
    status, text = get(server.port)
    assert status == 200
    assert ("xlss_build_info", "node", "0.1.0") in samples(text)
    assert get(server.port, "/")[0] == 404
    assert get(server.port, "/metrics?name[]=xlss_build_info")[0] == 200


def test_clients_leave_no_threads_behind(server: MetricsServer) -> None:
    before = threading.active_count()
    for _ in range(5):
        get(server.port)
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(b"GET /met")  # and gone
    assert get(server.port)[0] == 200
    assert threading.active_count() == before


def test_a_closed_server_frees_its_port(metrics: Metrics) -> None:
    first = MetricsServer(metrics, "127.0.0.1:0")
    port = first.port
    first.close()
    second = MetricsServer(metrics, f"127.0.0.1:{port}")
    second.close()
    assert "metrics" not in {thread.name for thread in threading.enumerate()}
