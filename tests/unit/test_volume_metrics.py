"""What a node shows of its volumes, also while one of them hangs."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cluster.agents import Health, PoolReport, ReplicaReport, VerifyReport, VolumeReport
from node_agent import volume_metrics
from node_agent.metrics import Metrics
from node_agent.volume_metrics import MountedUsage, NodeCollector

POOL = PoolReport("default", "vg", 4 << 20, 1 << 30, 1 << 29)
VOLUMES = (
    VolumeReport("va", 1 << 30, "default", "{}", True, True, True, allocated_bytes=1 << 20),
    VolumeReport("vb", 2 << 30, "default", "{}", True, True, True, health=Health.DEGRADED),
)


def samples(collector: NodeCollector) -> dict[tuple[str, str], float]:
    metrics = Metrics("node")
    metrics.register(collector)
    return {
        (sample.name, sample.labels.get("volume", "")): sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
    }


def test_volumes_and_what_is_in_them(tmp_path: Path) -> None:
    found = samples(
        NodeCollector(
            "n1", lambda: [POOL], lambda: VOLUMES, lambda: 3, lambda: {"va": str(tmp_path)}
        )
    )
    assert found["xlss_stuck_commands", ""] == 3
    assert found["xlss_pool_used_bytes", ""] == 1 << 29
    assert found["xlss_volume_size_bytes", "va"] == 1 << 30
    assert found["xlss_volume_allocated_bytes", "va"] == 1 << 20
    assert ("xlss_volume_allocated_bytes", "vb") not in found
    assert (found["xlss_volume_healthy", "va"], found["xlss_volume_healthy", "vb"]) == (1, 0)
    usage = os.statvfs(tmp_path)
    assert found["xlss_volume_filesystem_size_bytes", "va"] == usage.f_blocks * usage.f_frsize
    assert found["xlss_volume_filesystem_inodes", "va"] == usage.f_files
    assert ("xlss_volume_filesystem_size_bytes", "vb") not in found


def test_what_is_unmounted_is_shown_no_more(tmp_path: Path) -> None:
    mounted = {"va": str(tmp_path), "vb": str(tmp_path)}
    usage = MountedUsage(lambda: mounted)
    assert set(usage.look()) == {"va", "vb"}
    del mounted["va"]
    mounted["vb"] = str(tmp_path / "gone")
    assert usage.look() == {}


def test_a_hanging_file_system_takes_neither_scrapes_nor_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(volume_metrics, "_WAIT_SECONDS", 0.1)
    goes_on = threading.Event()
    hangs: set[str] = set()

    def measure(path: str) -> os.statvfs_result:
        if path in hangs:
            goes_on.wait()
        return os.statvfs(tmp_path)

    usage = MountedUsage(lambda: {"va": "a", "vb": "b"}, measure)
    assert set(usage.look()) == {"va", "vb"}
    hangs.add("b")
    before = threading.active_count()
    try:
        for _ in range(3):
            assert set(usage.look()) == {"va", "vb"}, "what was known a moment ago is shown"
        assert threading.active_count() == before + 1
        monkeypatch.setattr(volume_metrics, "_STALE_SECONDS", 0.0)
        assert usage.look() == {}
    finally:
        goes_on.set()


def test_a_replica_is_shown_with_its_states(tmp_path: Path) -> None:
    replica = ReplicaReport(
        "Primary",
        "UpToDate",
        "DUnknown",
        "WFConnection",
        frozen="the other replica was lost",
        out_of_sync_bytes=4096,
        verify=VerifyReport(1234.5, 0),
    )
    volumes = [
        VolumeReport("va", 1 << 30, "p", "", True, True, True, replica=replica),
        VolumeReport("vb", 1 << 30, "p", "", True, True, True),
    ]
    metrics = Metrics("node")
    metrics.register(NodeCollector("n1", list, lambda: volumes, lambda: 0, dict))
    text = metrics.text().decode()
    states = 'connection="WFConnection",disk="UpToDate",peer_disk="DUnknown",role="Primary"'
    assert states in text
    assert 'xlss_replica_frozen{volume="va"} 1.0' in text
    assert 'xlss_replica_in_sync{volume="va"} 0.0' in text
    assert 'xlss_replica_out_of_sync_bytes{volume="va"} 4096.0' in text
    assert 'xlss_replica_verified_timestamp_seconds{volume="va"} 1234.5' in text
    assert 'xlss_replica_verify_out_of_sync_bytes{volume="va"} 0.0' in text
    assert 'xlss_replica_resync_total_bytes{volume="va"}' not in text
    assert 'xlss_replica_frozen{volume="vb"}' not in text
