"""docs/metrics.md names what the processes show: all of it, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn, cast

import pytest

from cluster.errors import DataLoss
from cluster.locks import ObjectLocks
from cluster.model import IoLimits, VolumeSpec
from cluster.pools import PoolLedger
from cluster.reconcile import Reconciler
from cluster.sqlite_store import SqliteStore
from cluster.store import RecordKind, Store
from cluster.volumes import CreateRequest, Volumes
from csi.controller.metrics import ClusterCollector, ObservedStore, ReplicationCollector
from node_agent.metrics import Metrics
from node_agent.volume_metrics import NodeCollector
from recovery.arbiter import Arbiter
from tests.unit.fake_agent import GIB, FakeAgents

PAGE = Path(__file__).resolve().parents[2] / "docs/metrics.md"


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[Metrics]:
    metrics = Metrics("controller")
    agents = FakeAgents("n1")
    store = ObservedStore(SqliteStore(tmp_path / "store.sqlite"), metrics)
    pools = PoolLedger(agents)
    locks = ObjectLocks()
    reconciler = Reconciler(store, agents, pools, locks)
    metrics.register(ClusterCollector(store, pools, reconciler))
    metrics.register(ReplicationCollector(Arbiter(store, lambda volume_id: "")))
    spec = VolumeSpec("default", filesystem="ext4")
    volume = Volumes(store, agents, pools, locks).create(
        CreateRequest("data", spec, IoLimits(), GIB, 0, None, (), ())
    )
    Volumes(store, agents, pools, locks).publish(volume.id, "n1", False, "SINGLE_NODE_WRITER")
    reconciler.run_once()
    yield metrics
    store.close()


def node(directory: Path) -> Metrics:
    metrics = Metrics("node")
    inventory = FakeAgents("n1").agent("n1").inventory()
    metrics.register(
        NodeCollector(
            "n1",
            lambda: inventory.pools,
            lambda: inventory.volumes,
            lambda: 0,
            lambda: {"v": str(directory)},
        )
    )
    return metrics


def names(metrics: Metrics) -> set[str]:
    return {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in metrics.registry.collect()
        if family.name.startswith("xlss_")
    }


def test_the_page_and_the_processes_agree(controller: Metrics, tmp_path: Path) -> None:
    shown = names(controller) | names(node(tmp_path))
    documented = set(re.findall(r"`(xlss_[a-z_]+)`", PAGE.read_text()))
    assert shown - documented == set(), "not on the page"
    assert documented - shown == set(), "on the page, but nowhere else"


def test_the_controllers_own_figures(controller: Metrics) -> None:
    text = controller.text().decode()
    assert 'xlss_node_reachable{node="n1"} 1.0' in text
    assert 'xlss_records{kind="volume",phase="ready"} 1.0' in text
    assert 'xlss_volumes_published{node="n1"} 1.0' in text
    assert 'xlss_store_write_duration_seconds_count{operation="create",outcome="ok"} 1.0' in text
    assert 'xlss_reconcile_differences{kind="orphan"} 0.0' in text


def test_a_damaged_store_does_not_hide_the_nodes() -> None:
    class Damaged:
        def list(self, kind: RecordKind) -> NoReturn:
            raise DataLoss(f"{kind} is damaged")

    agents = FakeAgents("n1")
    pools, locks = PoolLedger(agents), ObjectLocks()
    pools.refresh()
    store = cast(Store, Damaged())
    metrics = Metrics("controller")
    metrics.register(ClusterCollector(store, pools, Reconciler(store, agents, pools, locks)))
    assert b'xlss_node_reachable{node="n1"} 1.0' in metrics.text()
