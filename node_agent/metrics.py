"""What both processes count, and how it is served to Prometheus. docs/metrics.md explains all.

Every process has a registry of its own: nothing is global, so that tests can have many. Metrics
that are a picture of some state (pools, volumes) are made at the scrape from what the process
knows already; a scrape never starts a command.
"""

from __future__ import annotations

import logging
import socket
import socketserver
import threading
from collections.abc import Iterable, Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from cluster.agents import PoolReport
from node_agent.version import VERSION

_log = logging.getLogger(__name__)
# From a look-up in memory to a copy of a large volume.
_CALL_BUCKETS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)
_COMMAND_BUCKETS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0)
# A client that neither reads nor closes holds the one thread of the server for this long.
_CLIENT_SECONDS = 5.0


class Metrics:
    """The counters of one process. All methods may be called from any thread."""

    def __init__(self, component: str) -> None:
        """``component`` is "controller" or "node"."""
        # A time stamp beside every counter would be a third of all samples.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self.registry)
        Gauge(
            "xlss_build_info",
            "Always 1; the labels say what runs.",
            ["component", "version"],
            registry=self.registry,
        ).labels(component, VERSION).set(1)
        self._calls = Histogram(
            "xlss_rpc_duration_seconds",
            "Calls served and made, by outcome.",
            ["side", "service", "method", "code"],
            buckets=_CALL_BUCKETS,
            registry=self.registry,
        )
        self._commands = Histogram(
            "xlss_command_duration_seconds",
            "External commands (LVM and others), by outcome: ok, failed or stuck.",
            ["command", "outcome"],
            buckets=_COMMAND_BUCKETS,
            registry=self.registry,
        )

    def observe_served(self, method: str, code: str, seconds: float) -> None:
        """A call that this process answered; ``method`` is gRPC's ``/package.Service/Method``."""
        self._observe_call("server", method, code, seconds)

    def observe_made(self, method: str, code: str, seconds: float) -> None:
        """A call that this process made to another one."""
        self._observe_call("client", method, code, seconds)

    def observe_command(self, command: str, outcome: str, seconds: float) -> None:
        """An external command, such as ``lvcreate``; outcome is ok, failed or stuck."""
        self._commands.labels(command, outcome).observe(seconds)

    def register(self, collector: Collector) -> None:
        """Add a picture of some state, made at the scrape."""
        self.registry.register(collector)

    def text(self) -> bytes:
        """All metrics in the text format of Prometheus."""
        return generate_latest(self.registry)

    def _observe_call(self, side: str, method: str, code: str, seconds: float) -> None:
        service, _, name = method.strip("/").rpartition("/")
        self._calls.labels(side, service, name, code).observe(seconds)


def pool_metrics(pools: Iterable[tuple[str, PoolReport]]) -> Iterator[Metric]:
    """The state of pools, each given with the name of its node."""
    labels = ["node", "pool", "provision"]
    size = GaugeMetricFamily("xlss_pool_size_bytes", "Room of the pool in all.", labels=labels)
    used = GaugeMetricFamily("xlss_pool_used_bytes", "Room that holds data.", labels=labels)
    metadata = GaugeMetricFamily(
        "xlss_pool_metadata_used_ratio", "Metadata of the thin pool in use, 0 to 1.", labels=labels
    )
    promised = GaugeMetricFamily(
        "xlss_pool_promised_bytes", "Sizes of all thin volumes and snapshots.", labels=labels
    )
    overcommit = GaugeMetricFamily(
        "xlss_pool_overcommit_ratio", "Promised bytes per byte of the thin pool.", labels=labels
    )
    limit = GaugeMetricFamily(
        "xlss_pool_promise_limit_bytes", "Most that may be promised to thin volumes.", labels=labels
    )
    healthy = GaugeMetricFamily(
        "xlss_pool_healthy", "1, or 0 when something is wrong with the pool.", labels=labels[:2]
    )
    for node, pool in pools:
        thick = [node, pool.name, "thick"]
        size.add_metric(thick, pool.thick_total_bytes)
        used.add_metric(thick, pool.thick_total_bytes - pool.thick_free_bytes)
        healthy.add_metric(thick[:2], 0 if pool.trouble else 1)
        if pool.thin is not None:
            thin = [node, pool.name, "thin"]
            size.add_metric(thin, pool.thin.total_bytes)
            used.add_metric(thin, pool.thin.used_bytes)
            metadata.add_metric(thin, pool.thin.metadata_used)
            promised.add_metric(thin, pool.thin.virtual_bytes)
            limit.add_metric(thin, pool.thin.virtual_limit_bytes)
            if pool.thin.total_bytes:
                overcommit.add_metric(thin, pool.thin.virtual_bytes / pool.thin.total_bytes)
    yield from (size, used, metadata, promised, limit, overcommit, healthy)


class MetricsServer:
    """Serves ``/metrics`` over HTTP from one thread of its own."""

    def __init__(self, metrics: Metrics, address: str) -> None:
        """``address`` is ``host:port``; port 0 takes a free one. Raises OSError."""
        host, _, port = address.rpartition(":")
        host = host.strip("[]")
        self._server = _Server(metrics, host, int(port))
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="metrics", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(socketserver.TCPServer):
    # Not http.server.HTTPServer: that one asks the DNS for its own name when it starts.
    allow_reuse_address = True

    def __init__(self, metrics: Metrics, host: str, port: int) -> None:
        self.metrics = metrics
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        _log.debug("a scrape from %s broke off", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    timeout = _CLIENT_SECONDS
    server: _Server

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(404, explain="the metrics are at /metrics")
            return
        body = self.server.metrics.text()
        self.send_response(200)
        self.send_header("Content-Type", CONTENT_TYPE_LATEST)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        _log.debug(format, *args)
