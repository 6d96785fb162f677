"""What the controller shows to Prometheus besides its calls. docs/metrics.md explains all."""

from __future__ import annotations

import time
from collections import Counter as Tally
from collections.abc import Callable, Iterator
from typing import TypeVar

from prometheus_client import Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from cluster.differences import DifferenceKind
from cluster.errors import ClusterError
from cluster.pools import PoolLedger
from cluster.reconcile import Reconciler
from cluster.store import Event, JsonObject, Record, RecordKind, Store
from node_agent.metrics import Metrics, pool_metrics
from recovery.arbiter import Arbiter

_WRITE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5)

_Result = TypeVar("_Result")


class ClusterCollector(Collector):
    """Nodes, pools and records as the controller knows them: a scrape asks no node."""

    def __init__(self, store: Store, pools: PoolLedger, reconciler: Reconciler) -> None:
        self._store = store
        self._pools = pools
        self._reconciler = reconciler

    def collect(self) -> Iterator[Metric]:
        reachable = GaugeMetricFamily(
            "xlss_node_reachable", "1, or 0 when the node did not answer last.", labels=["node"]
        )
        views = self._pools.views()
        for view in views:
            reachable.add_metric([view.name], 0 if view.trouble else 1)
        yield reachable
        yield from pool_metrics((view.name, pool) for view in views for pool in view.pools)
        yield from self._differences()
        yield from self._records()

    def _differences(self) -> Iterator[Metric]:
        differences = GaugeMetricFamily(
            "xlss_reconcile_differences",
            "What the last comparison of the store with the nodes found, less what it mended.",
            labels=["kind"],
        )
        found = Tally(one.kind for one in self._reconciler.differences if not one.mended)
        # All kinds, so that an alert sees a zero rather than nothing.
        for kind in DifferenceKind:
            differences.add_metric([kind], found[kind])
        yield differences
        age = self._reconciler.compared_seconds_ago()
        if age is not None:
            yield GaugeMetricFamily(
                "xlss_reconcile_age_seconds", "Since the end of the last comparison.", value=age
            )

    def _records(self) -> Iterator[Metric]:
        records = GaugeMetricFamily(
            "xlss_records", "Records in the store.", labels=["kind", "phase"]
        )
        published = GaugeMetricFamily(
            "xlss_volumes_published", "Volumes published on the node.", labels=["node"]
        )
        phases: Tally[tuple[str, str]] = Tally()
        nodes: Tally[str] = Tally()
        try:
            for kind in RecordKind:
                for record in self._store.list(kind)[0]:
                    phases[kind, str(record.value.get("phase", ""))] += 1
                    nodes.update(one["node"] for one in record.value.get("published", ()))
        except ClusterError:  # a damaged store is told elsewhere; all else is still shown
            return
        for (name, phase), count in phases.items():
            records.add_metric([name, phase], count)
        for node, count in nodes.items():
            published.add_metric([node], count)
        yield from (records, published)


class ReplicationCollector(Collector):
    """Replicated volumes as the arbiter knows them; a scrape asks nobody."""

    def __init__(self, arbiter: Arbiter) -> None:
        self._arbiter = arbiter

    def collect(self) -> Iterator[Metric]:
        members = GaugeMetricFamily(
            "xlss_volume_members", "Replicas in the in-sync set.", labels=["volume"]
        )
        replicas = GaugeMetricFamily("xlss_volume_replicas", "Replicas in all.", labels=["volume"])
        degraded = quarantined = 0
        for volume_id, record in self._arbiter.followed.records().items():
            members.add_metric([volume_id], len(record.members))
            replicas.add_metric([volume_id], len(record.replicas))
            degraded += len(record.members) < len(record.replicas)
            quarantined += bool(record.quarantine)
        yield from (members, replicas)
        yield GaugeMetricFamily(
            "xlss_volumes_degraded", "Volumes with a replica outside the set.", value=degraded
        )
        yield GaugeMetricFamily(
            "xlss_volumes_quarantined",
            "Volumes of which the store is older than the nodes.",
            value=quarantined,
        )
        yield GaugeMetricFamily(
            "xlss_nodes_silent",
            "Nodes that have spoken to the arbiter, and do not now.",
            value=len(self._arbiter.followed.silent()),
        )
        yield CounterMetricFamily(
            "xlss_failovers_decided",
            "How often a survivor was told that it need not wait.",
            value=self._arbiter.followed.failovers,
        )
        answers = CounterMetricFamily(
            "xlss_arbiter_answers",
            "Answers to agents: granted, refused, or the error.",
            labels=["question", "outcome"],
        )
        for (question, outcome), count in self._arbiter.answers().items():
            answers.add_metric([question, outcome], count)
        yield answers


class ObservedStore:
    """A store whose writes are counted and timed (``cluster.store.Store``)."""

    def __init__(self, store: Store, metrics: Metrics) -> None:
        self._store = store
        self._writes = Histogram(
            "xlss_store_write_duration_seconds",
            "Writes to the store by operation and outcome.",
            ["operation", "outcome"],
            buckets=_WRITE_BUCKETS,
            registry=metrics.registry,
        )

    def get(self, kind: RecordKind, key: str) -> Record:
        return self._store.get(kind, key)

    def list(
        self, kind: RecordKind, *, after: str = "", limit: int = 0
    ) -> tuple[list[Record], int]:
        return self._store.list(kind, after=after, limit=limit)

    def create(self, kind: RecordKind, key: str, value: JsonObject) -> Record:
        return self._timed("create", lambda: self._store.create(kind, key, value))

    def update(self, kind: RecordKind, key: str, value: JsonObject, revision: int) -> Record:
        return self._timed("update", lambda: self._store.update(kind, key, value, revision))

    def delete(self, kind: RecordKind, key: str, revision: int) -> None:
        self._timed("delete", lambda: self._store.delete(kind, key, revision))

    def watch(
        self, kind: RecordKind, revision: int, *, timeout: float | None = None
    ) -> Iterator[Event]:
        return self._store.watch(kind, revision, timeout=timeout)

    def close(self) -> None:
        self._store.close()

    def _timed(self, operation: str, write: Callable[[], _Result]) -> _Result:
        started = time.monotonic()
        outcome = "ok"
        try:
            return write()
        except ClusterError as error:
            outcome = type(error).__name__
            raise
        finally:
            self._writes.labels(operation, outcome).observe(time.monotonic() - started)
