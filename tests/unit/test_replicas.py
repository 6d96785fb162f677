"""The node's part in replication as it comes up: what DRBD's surroundings may do to it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from cluster.agents import Inventory
from cluster.errors import NotFound, Unavailable
from cluster.identifiers import Kind, new_id
from cluster.model import Phase, ReplicaPlace, Replication, Volume, VolumeSpec
from host.command import Result, Runner
from host.device_mapper import DeviceMapper
from host.errors import HostError
from node_agent import replicas as module
from node_agent.agent import NodeAgent
from node_agent.arbiter import Assignment
from node_agent.config import NodeConfig
from replication import fencing, preflight
from replication.updates import Update
from replication.watch import DrbdsetupObserver, NetlinkObserver
from tests.unit.arbiter_world import until
from tests.unit.fake_agent import GIB


class Machine(Runner):
    """Without LVM; DRBD's module loads once ``gate`` is open and ``trouble`` empty."""

    def __init__(self) -> None:
        super().__init__()
        self.trouble = ""
        self.gate = threading.Event()
        self.gate.set()

    def run(self, argv: Sequence[str], **options: Any) -> Result:
        if list(argv) != ["modprobe", "drbd"]:
            raise HostError(f"{argv[0]}: not found")
        self.gate.wait()
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
        self.version = "8.4.11"

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
def events(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Events]:
    found = Events()
    monkeypatch.setattr(NetlinkObserver, "events", lambda _: found)
    parameter = tmp_path / "usermode_helper"
    parameter.touch()
    monkeypatch.setattr(fencing, "_PARAMETER", parameter)
    monkeypatch.setattr(preflight, "loaded_version", lambda: found.version)
    install, configure = fencing.install, fencing.configure
    monkeypatch.setattr(DeviceMapper, "names", lambda mapper, prefix: [])
    monkeypatch.setattr(module, "_LOADING_SECONDS", 0.01)
    monkeypatch.setattr(module, "_EVENT_SECONDS", 0.01)
    with TemporaryDirectory() as short:  # the kernel takes no long path
        helper = Path(short, "fence_helper")
        monkeypatch.setattr(fencing, "install", lambda: install(helper))
        monkeypatch.setattr(fencing, "configure", lambda: configure(helper))
        yield found


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def agent(tmp_path: Path, events: Events, machine: Machine) -> Iterator[NodeAgent]:
    config = NodeConfig(
        name="n1",
        pools=(),
        run_directory=tmp_path / "run",
        state_directory=tmp_path / "state",
        arbiters=("127.0.0.1:1",),
        replication_address="10.0.0.1",
    )
    agent = NodeAgent(config, machine)
    yield agent
    agent.stop()


def replicated() -> Volume:
    places = (ReplicaPlace("n1", 0, "10.0.0.1"), ReplicaPlace("n2", 1, "10.0.0.2"))
    return Volume(
        new_id(Kind.VOLUME, "data"),
        "data",
        GIB,
        VolumeSpec("default", replicas=2),
        Phase.CREATING,
        ("n1", "n2"),
        replication=Replication(1000, 7000, "0123456789ABCDEE", places),
    )


def told_after_trying(agent: NodeAgent) -> Inventory:
    """What it reports once it has tried to set replication up."""
    assert agent.replicas is not None
    agent.replicas.start(NoArbiter())
    assert agent.replicas.tried.wait(10)
    return agent.inventory()


def test_while_the_module_cannot_be_loaded_the_node_says_so_and_takes_no_replica(
    agent: NodeAgent, machine: Machine
) -> None:
    machine.trouble = "modprobe: Module drbd not found"
    told = told_after_trying(agent)
    assert (told.replication_address, told.replication_trouble) == ("", machine.trouble)
    with pytest.raises(Unavailable, match="n1 takes no replicas now: modprobe: Module drbd not"):
        agent.create_volume(replicated())
    machine.trouble = ""
    until(lambda: agent.inventory().replication_address == "10.0.0.1")
    assert agent.inventory().replication_trouble == ""
    with pytest.raises(NotFound, match="pool"):  # it gets further now
        agent.create_volume(replicated())


def test_with_a_module_that_it_does_not_drive_it_takes_no_replica(
    agent: NodeAgent, events: Events
) -> None:
    events.version = "9.2.18"
    told = told_after_trying(agent)
    trouble = "DRBD 9.2.18 is loaded: this version drives 8.4 only"
    assert (told.replication_address, told.replication_trouble) == ("", trouble)


def test_an_agent_that_has_just_started_is_not_taken_for_one_in_trouble(
    agent: NodeAgent, machine: Machine
) -> None:
    machine.gate.clear()
    agent.start()
    assert agent.replicas is not None
    agent.replicas.start(NoArbiter())
    loaded = threading.Timer(0.2, machine.gate.set)
    loaded.start()
    told = agent.inventory()
    assert (told.replication_address, told.replication_trouble) == ("10.0.0.1", "")
    loaded.join()


def test_events_that_are_not_understood_are_taken_from_drbdsetup(
    agent: NodeAgent, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = Events()
    monkeypatch.setattr(DrbdsetupObserver, "events", lambda _: lines)
    events.surprises = [KeyError("of a module to come")]
    assert agent.replicas is not None
    agent.replicas.start(NoArbiter())
    events.looks.get(timeout=10)
    lines.looks.get(timeout=10)


def test_what_nobody_expected_does_not_end_the_following_of_events(
    agent: NodeAgent, events: Events, caplog: pytest.LogCaptureFixture
) -> None:
    events.surprises = [ZeroDivisionError("of a kernel to come")]
    assert agent.replicas is not None
    agent.replicas.start(NoArbiter())
    events.looks.get(timeout=10)
    events.looks.get(timeout=10)
    assert "ZeroDivisionError: of a kernel to come" in caplog.text
