"""What is remembered of pools, where LVM is slow."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from node_agent import logical_volumes
from node_agent.labels import Kind, Label, State
from node_agent.logical_volumes import LogicalVolumes
from tests.unit.fake_pool import SPEC, FakePool

MIB = 1 << 20


def test_after_a_slow_command_there_is_room_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logical_volumes, "_LOOK_SECONDS", 0.0)
    monkeypatch.setattr(logical_volumes, "_HANGING_SECONDS", 0.0)
    pool = FakePool(tmp_path)
    volumes = LogicalVolumes({SPEC.name: pool}, lambda _: None)

    def slow() -> None:
        volumes.look_everywhere()
        for thread in threading.enumerate():
            if thread.name == "look":
                thread.join()  # it has given up on the command before that ends

    pool.during = slow
    volumes.create_thin(SPEC.name, Label("v1", Kind.VOLUME, State.BLANK), MIB)
    assert volumes.report(SPEC.name).trouble == "LVM does not answer"
    pool.during = lambda: None
    volumes.create_thin(SPEC.name, Label("v2", Kind.VOLUME, State.BLANK), MIB)
    assert volumes.report(SPEC.name).trouble == ""
