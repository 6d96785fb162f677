"""A cluster in memory whose volumes change their replicas: a real arbiter over a real store.

Agents' loops are played by ``look``: each node that is up states what its kernel would have become.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cluster.agents import Agents
from cluster.membership import Held, Membership
from cluster.memberships import Memberships
from cluster.model import Volume
from cluster.sqlite_store import SqliteStore
from cluster.store import Store
from recovery.arbiter import Arbiter
from recovery.asking import Rule
from recovery.repair_loop import RepairLoop
from recovery.replica_changes import ReplicaChanges
from replication.arbiter_rules import Answer
from replication.record import Connection, Disk, Generations, Role, Statement, View
from tests.unit.cluster_world import World, three_nodes
from tests.unit.fake_agent import FakeAgents


class Seeing:
    """An arbiter that is told what the nodes see, right before it is asked."""

    def __init__(self, store: Store, nodes: FakeAgents) -> None:
        self.arbiter = Arbiter(store, lambda volume: f"secret of {volume}", gather_seconds=0.0)
        self.arbiter.start()
        self.store = store
        self.nodes = nodes
        self.sees: dict[str, dict[str, object]] = {}  # what a node sees besides, by name

    def change(self, volume_id: str, rule: Rule) -> Answer:
        self.look()
        return self.arbiter.change(volume_id, rule)

    def statements(self, volume_id: str) -> Mapping[str, Statement]:
        self.look()
        return self.arbiter.statements(volume_id)

    def look(self) -> None:
        for volume_id, held in Memberships(self.store).list()[0]:
            for node in held.record.replicas:
                if not self.nodes.nodes[node].down:
                    self.arbiter.tell(node, {volume_id: self._statement(held, node)})

    def _statement(self, held: Held, node: str) -> Statement:
        record = held.record
        inside = node in record.members
        settled = set(record.members) == set(record.replicas)
        connection = Connection.SYNC_SOURCE if inside else Connection.SYNC_TARGET
        if settled:
            connection = Connection.CONNECTED
        if len(record.replicas) == 1:
            connection = Connection.STANDALONE
        fields: dict[str, object] = {
            "role": Role.PRIMARY if record.primary == node else Role.SECONDARY,
            "disk": Disk.UP_TO_DATE if inside else Disk.INCONSISTENT,
            "peer_disk": Disk.UP_TO_DATE if settled else Disk.INCONSISTENT,
            "connection": connection,
            "generations": Generations(record.generation),
            **self.sees.get(node, {}),
        }
        return Statement(View(node, "1", **fields), held.revision, record.epoch)  # type: ignore[arg-type]

    def fill(self, volume_id: str) -> None:
        """The resync ends: both come to be in the set."""
        whole = {
            "disk": Disk.UP_TO_DATE,
            "peer_disk": Disk.UP_TO_DATE,
            "connection": Connection.CONNECTED,
        }
        self.sees = {name: dict(whole) for name in self.nodes.nodes}
        self.look()
        self.look()
        self.sees = {}
        held = Memberships(self.store).find(volume_id)
        assert held is not None
        assert held.record.members == held.record.replicas


class ChangingWorld(World):
    def __init__(
        self,
        store: Store,
        nodes: FakeAgents,
        agents: Agents | None = None,
        decider_of: object = lambda seeing: seeing,
        base: Store | None = None,
    ) -> None:
        self.base = base or store
        self.decider_of = decider_of
        self.seeing: Seeing | None = None
        super().__init__(store, nodes, agents)

    def restart(self) -> None:
        super().restart()
        self.stop()
        self.seeing = Seeing(self.base, self.nodes)
        self.changes = ReplicaChanges(
            self.store,
            self.agents,
            self.pools,
            self.locks,
            self.decider_of(self.seeing),  # type: ignore[operator]
            patience_seconds=2.0,
        )
        self.repair = RepairLoop(
            self.base,
            self.seeing.arbiter.followed,
            self.changes,
            self.nodes.names(),
            repair_after_seconds=1e-9,
        )

    def stop(self) -> None:
        if self.seeing is not None:
            self.seeing.arbiter.stop()

    @property
    def eyes(self) -> Seeing:
        assert self.seeing is not None
        return self.seeing

    def now(self) -> Volume:
        volume = self.record()
        assert volume is not None
        return volume

    def membership(self) -> Membership:
        held = Memberships(self.base).find(self.now().id)
        assert held is not None
        return held.record


@contextmanager
def changing_world(directory: Path) -> Iterator[ChangingWorld]:
    store = SqliteStore(directory / "store.db")
    world = ChangingWorld(store, three_nodes())
    try:
        yield world
    finally:
        world.stop()
        store.close()
