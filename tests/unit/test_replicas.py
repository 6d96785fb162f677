"""The node's part in replication as it comes up: what DRBD's surroundings may do to it."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from host.command import Result, Runner
from host.errors import HostError
from node_agent import replicas as module
from node_agent.agent import NodeAgent
from node_agent.arbiter import Assignment
from node_agent.config import NodeConfig
from replication import fencing
from replication.updates import Update
from replication.watch import NetlinkObserver


class Machine(Runner):
    """The module can be loaded once ``trouble`` is empty."""

    trouble = ""

    def run(self, argv: Sequence[str], **options: Any) -> Result:
        assert list(argv) == ["modprobe", "drbd"]
        if self.trouble:
            raise HostError(self.trouble)
        return Result(b"", b"", 0)


class NoArbiter:
    """None answers."""

    def assignments(self) -> Mapping[str, Assignment] | None:
        return None

    def notify(self, changed: Callable[[], None]) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} is not asked for without an assignment")


class Events:
    """The kernel's, where nothing happens; the first look finds what no version has known."""

    def __init__(self) -> None:
        self.looks: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.surprises: list[Exception] = []

    def snapshot(self) -> list[Update]:
        self.looks.put(None)
        if self.surprises:
            raise self.surprises.pop()
        return []

    def receive(self, seconds: float) -> list[Update]:
        return []

    def close(self) -> None:
        pass


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Events:
    found = Events()
    monkeypatch.setattr(NetlinkObserver, "events", lambda _: found)
    parameter = tmp_path / "usermode_helper"
    parameter.touch()
    monkeypatch.setattr(fencing, "_PARAMETER", parameter)
    install, configure = fencing.install, fencing.configure
    monkeypatch.setattr(fencing, "install", lambda: install(tmp_path / "fence_helper"))
    monkeypatch.setattr(fencing, "configure", lambda: configure(tmp_path / "fence_helper"))
    monkeypatch.setattr(module, "_LOADING_SECONDS", 0.01)
    monkeypatch.setattr(module, "_EVENT_SECONDS", 0.01)
    return found


@pytest.fixture
def agent(tmp_path: Path, events: Events) -> Iterator[NodeAgent]:
    config = NodeConfig(
        name="n1",
        pools=(),
        run_directory=tmp_path / "run",
        state_directory=tmp_path / "state",
        arbiters=("127.0.0.1:1",),
        replication_address="10.0.0.1",
    )
    agent = NodeAgent(config, Machine())
    yield agent
    assert agent.replicas is not None
    agent.replicas.stop()


def test_what_nobody_expected_does_not_end_the_following_of_events(
    agent: NodeAgent, events: Events, caplog: pytest.LogCaptureFixture
) -> None:
    events.surprises = [ZeroDivisionError("of a kernel to come")]
    assert agent.replicas is not None
    agent.replicas.start(NoArbiter())
    events.looks.get(timeout=10)
    events.looks.get(timeout=10)
    assert "ZeroDivisionError: of a kernel to come" in caplog.text
