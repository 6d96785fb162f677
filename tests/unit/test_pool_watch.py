"""What is done once when a pool has come to life."""

from __future__ import annotations

import threading
from pathlib import Path

from host.errors import CommandStuck
from node_agent.logical_volumes import LogicalVolumes
from node_agent.watch import PoolWatch
from tests.unit.fake_pool import SPEC, FakePool

_PATIENCE = 10.0


def test_what_fails_when_a_pool_comes_to_life_is_done_again(tmp_path: Path) -> None:
    pool = FakePool(tmp_path)
    volumes = LogicalVolumes({SPEC.name: pool}, lambda _: None)
    tried, done = threading.Event(), threading.Event()

    def opened() -> None:
        if not tried.is_set():
            tried.set()
            raise CommandStuck("a disk hangs")
        done.set()

    watch = PoolWatch(SPEC, pool, volumes, seconds=0.01, opened=opened)
    watch.start()
    try:
        assert done.wait(_PATIENCE)
    finally:
        watch.stop()
