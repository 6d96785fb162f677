"""A cluster in memory for the tests of the workflows: store, nodes and a controller to restart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cluster.agents import Agents
from cluster.groups import Groups
from cluster.identifiers import Kind, key_of_name
from cluster.locks import ObjectLocks
from cluster.memberships import Memberships
from cluster.model import (
    TOPOLOGY_NODE_KEY,
    IoLimits,
    Phase,
    Provision,
    Source,
    Volume,
    VolumeSpec,
)
from cluster.pools import PoolLedger
from cluster.reconcile import Reconciler
from cluster.records import group_table, snapshot_table, volume_table
from cluster.replicas import FIRST_MINOR, Slots
from cluster.snapshots import Snapshots
from cluster.store import Store
from cluster.volumes import CreateRequest, Volumes
from replication import arbiter_rules
from tests.unit.fake_agent import GIB, FakeAgents, FakeNode, FakePool, Fault

THICK = VolumeSpec("default", Provision.THICK, filesystem="ext4")
THIN = VolumeSpec("default", Provision.THIN, filesystem="ext4")
THICK_PAIR = replace(THICK, replicas=2)
THIN_PAIR = replace(THIN, replicas=2)


class World:
    """``store`` and ``agents`` are what the controller uses; ``nodes`` is what is really there."""

    def __init__(
        self, store: Store, nodes: FakeAgents, agents: Agents | None = None, grace: float = 0.0
    ) -> None:
        self.store = store
        self.nodes = nodes
        self.agents = agents or nodes
        self.grace = grace
        self.restart()

    def restart(self) -> None:
        """A new controller process: all that it held in memory is gone."""
        self.pools = PoolLedger(self.agents, wait_seconds=5.0)
        self.locks = ObjectLocks()
        self.volumes = Volumes(self.store, self.agents, self.pools, self.locks, arbiter_rules)
        self.snapshots = Snapshots(self.store, self.agents, self.locks)
        self.groups = Groups(self.store, self.agents, self.locks)
        self.reconciler = Reconciler(
            self.store, self.agents, self.pools, self.locks, grace_seconds=self.grace
        )

    def create(self, name: str = "data", spec: VolumeSpec = THICK, **fields: Any) -> Volume:
        return self.volumes.create(request(name, spec, **fields))

    def record(self, name: str = "data") -> Volume | None:
        """The record of the volume of that name, whatever its phase."""
        entry = volume_table(self.store).find(key_of_name(Kind.VOLUME, name))
        return None if entry is None else entry.item

    def put(self, volume: Volume) -> None:
        """Write a record as it is."""
        table = volume_table(self.store)
        entry = table.find(key_of_name(Kind.VOLUME, volume.name))
        if entry is None:
            table.create(volume)
        else:
            table.delete(entry)
            table.create(replace(volume))

    def check(self) -> None:
        """Whatever happened: no logical volume without a record that names its node."""
        places = {
            (node, entry.item.id)
            for entry in volume_table(self.store).list()[0]
            for node in (*entry.item.nodes, *entry.item.leftovers)
        }
        cuts = {
            (node, entry.item.id)
            for entry in snapshot_table(self.store).list()[0]
            for node in entry.item.nodes
        }
        for name, node in self.nodes.nodes.items():
            assert {(name, volume) for volume in node.volumes} <= places
            assert {(name, snapshot) for snapshot in node.snapshots} <= cuts

    def check_settled(self) -> None:
        """As ``check``, and nothing is half-made: what is recorded is there, and only that."""
        self.check()
        volumes = [entry.item for entry in volume_table(self.store).list()[0]]
        snapshots = [entry.item for entry in snapshot_table(self.store).list()[0]]
        groups = [entry.item for entry in group_table(self.store).list()[0]]
        phases = [item.phase for item in volumes] + [item.phase for item in snapshots]
        assert {*phases, *(item.phase for item in groups)} <= {Phase.READY}
        assert not any(volume.leftovers for volume in volumes)
        assert sorted(self.nodes.volume_ids()) == sorted(
            volume.id for volume in volumes for _ in volume.nodes
        )
        assert sorted(self.nodes.snapshot_ids()) == sorted(
            cut.id for cut in snapshots for _ in cut.nodes
        )
        for volume in volumes:
            assert len(volume.nodes) == volume.spec.replicas
            sizes = [self.nodes.nodes[n].volumes[volume.id].size_bytes for n in volume.nodes]
            assert min(sizes) == volume.size_bytes  # one alone may have grown
            for node in volume.nodes:
                there = self.nodes.nodes[node].volumes[volume.id]
                assert there.complete
                assert there.record.replication == volume.replication
                assert there.record.cut == volume.cut
                assert there.record.limits == volume.limits
        pairs = {volume.id: volume for volume in volumes if volume.replication}
        assert {volume for volume, _ in Memberships(self.store).list()[0]} == set(pairs)
        slots = Slots(self.store).list()
        assert sorted(slots.values()) == sorted(pairs)
        for number, owner in slots.items():
            replication = pairs[owner].replication
            assert replication is not None
            assert replication.minor == FIRST_MINOR + number
        assert sorted(cut.id for cut in snapshots if cut.group_id) == sorted(
            member for group in groups for member in group.snapshot_ids
        )


def leave_set(world: World, volume: Volume, node: str) -> None:
    """The arbiter takes that replica out of the in-sync set."""
    memberships = Memberships(world.store)
    held = memberships.find(volume.id)
    assert held is not None
    record = replace(held.record, members=held.record.others(node), epoch=held.record.epoch + 1)
    memberships.write(volume.id, record, held.revision)


def three_nodes(size: int = 10 * GIB) -> FakeAgents:
    pool = FakePool((size,), thin_limit=size)
    return FakeAgents(
        *(
            FakeNode(
                name,
                {"default": replace(pool)},
                {"zone": zone},
                replication_address=f"10.0.0.{name[1:]}",
            )
            for name, zone in (("n1", "a"), ("n2", "a"), ("n3", "b"))
        )
    )


def request(
    name: str = "data",
    spec: VolumeSpec = THICK,
    *,
    size: int = GIB,
    limit: int = 0,
    source: Source | None = None,
    requisite: tuple[Mapping[str, str], ...] = (),
    preferred: tuple[Mapping[str, str], ...] = (),
    limits: IoLimits = IoLimits(),  # noqa: B008 (frozen)
) -> CreateRequest:
    return CreateRequest(name, spec, limits, size, limit, source, requisite, preferred)


def on(*names: str) -> tuple[Mapping[str, str], ...]:
    return tuple({TOPOLOGY_NODE_KEY: name} for name in names)


def fails(call: str, error: Exception, *, node: str = "", when: str = "before") -> Fault:
    """A fault in every such call (to that node only, if one is named)."""

    def fault(on_node: str, on_call: str, moment: str) -> None:
        if (on_call, moment) == (call, when) and node in ("", on_node):
            raise error

    return fault


def no_faults(node: str, call: str, when: str) -> None:
    pass
