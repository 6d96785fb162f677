"""What every agent has to do: the promises of ``cluster.agents.Agent``.

A test class inherits from ``AgentSuite`` and brings a fixture ``subject``. Its node has a pool with
thin and thick room for some volumes of 64 MiB each, and nothing in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import pytest

from cluster.agents import Agent, PoolReport, SnapshotReport, VolumeReport
from cluster.errors import NoSpace, NotFound, OutOfRange, Refused, Unavailable
from cluster.identifiers import Kind, new_id
from cluster.model import (
    IoLimits,
    Phase,
    Provision,
    Snapshot,
    Source,
    SourceKind,
    Volume,
    VolumeSpec,
    snapshot_from_json,
    volume_from_json,
)

MIB = 1 << 20
_T = TypeVar("_T")


@dataclass(frozen=True)
class AgentSubject:
    agent: Agent
    node: str
    pool: str


class AgentSuite:
    @pytest.fixture(params=[Provision.THIN, Provision.THICK])
    def provision(self, request: pytest.FixtureRequest) -> Provision:
        chosen: Provision = request.param
        return chosen

    def test_a_new_volume_is_complete_and_unused(
        self, subject: AgentSubject, provision: Provision
    ) -> None:
        wanted = volume(subject, provision)
        report, _ = made(subject, wanted)
        assert (report.id, report.pool) == (wanted.id, subject.pool)
        assert report.size_bytes == 64 * MIB
        assert report.complete
        assert not report.used
        assert not report.mounts
        assert volume_from_json(report.record).spec == wanted.spec
        assert volume_from_json(report.record).name == wanted.name
        assert subject.agent.get_volume(wanted.id).size_bytes == 64 * MIB

    def test_a_repeated_creation_finds_what_is_there(
        self, subject: AgentSubject, provision: Provision
    ) -> None:
        wanted = volume(subject, provision)
        first, _ = made(subject, wanted)
        again, _ = made(subject, wanted)
        assert again.logical_volume_uuid == first.logical_volume_uuid
        assert [report.id for report in subject.agent.inventory().volumes] == [wanted.id]

    def test_a_size_is_rounded_up_but_not_over_the_limit(self, subject: AgentSubject) -> None:
        odd = volume(subject, Provision.THICK, size_bytes=62 * MIB + 1)
        report, _ = made(subject, odd)
        assert report.size_bytes == 64 * MIB
        limited = volume(subject, Provision.THICK, size_bytes=62 * MIB, limit_bytes=63 * MIB)
        with pytest.raises(OutOfRange):
            made(subject, limited)
        assert [report.id for report in subject.agent.inventory().volumes] == [odd.id]

    def test_without_room_nothing_is_made(
        self, subject: AgentSubject, provision: Provision
    ) -> None:
        pool = pool_of(subject)
        assert pool.thin is not None
        limit = pool.thin.virtual_limit_bytes - pool.thin.virtual_bytes
        too_much = max(limit, pool.thick_free_bytes) + 64 * MIB
        with pytest.raises(NoSpace):
            made(subject, volume(subject, provision, size_bytes=too_much))
        assert subject.agent.inventory().volumes == ()
        assert pool_of(subject) == pool

    def test_thin_volumes_keep_to_the_over_commit_limit(self, subject: AgentSubject) -> None:
        thin = pool_of(subject).thin
        assert thin is not None
        left = thin.virtual_limit_bytes - thin.virtual_bytes
        most = volume(subject, Provision.THIN, size_bytes=left // (4 * MIB) * 4 * MIB)
        made(subject, most)
        with pytest.raises(NoSpace):
            made(subject, volume(subject, Provision.THIN))
        subject.agent.delete_volume(most.id)
        made(subject, volume(subject, Provision.THIN))

    def test_the_answer_has_the_pool_with_the_volume_in_it(self, subject: AgentSubject) -> None:
        before = pool_of(subject)
        thick = volume(subject, Provision.THICK)
        _, pool = made(subject, thick)
        assert before.thick_free_bytes - pool.thick_free_bytes == 64 * MIB
        assert pool_of(subject).thick_free_bytes == pool.thick_free_bytes
        thin = volume(subject, Provision.THIN)
        _, pool = made(subject, thin)
        assert before.thin is not None
        assert pool.thin is not None
        assert pool.thin.virtual_bytes - before.thin.virtual_bytes == 64 * MIB
        subject.agent.delete_volume(thick.id)
        subject.agent.delete_volume(thin.id)
        assert pool_of(subject).thick_free_bytes == before.thick_free_bytes

    def test_what_is_deleted_is_gone_and_may_be_deleted_again(
        self, subject: AgentSubject, provision: Provision
    ) -> None:
        wanted = volume(subject, provision)
        made(subject, wanted)
        for _ in range(2):
            subject.agent.delete_volume(wanted.id, subject.pool)
        assert subject.agent.inventory().volumes == ()

    def test_what_may_be_in_a_pool_that_is_not_configured_is_not_told_to_be_gone(
        self, subject: AgentSubject
    ) -> None:
        with pytest.raises(Unavailable, match="configuration"):
            subject.agent.delete_volume(new_id(Kind.VOLUME, "retired"), "retired")
        with pytest.raises(Unavailable, match="configuration"):
            subject.agent.delete_snapshots([new_id(Kind.SNAPSHOT, "retired")], "retired")

    def test_what_is_not_there(self, subject: AgentSubject) -> None:
        missing = new_id(Kind.VOLUME, "missing")
        with pytest.raises(NotFound):
            subject.agent.get_volume(missing)
        with pytest.raises(NotFound):
            subject.agent.expand_volume(missing, 64 * MIB, 0)
        with pytest.raises(NotFound):
            subject.agent.set_limits(missing, IoLimits())
        subject.agent.delete_snapshots([new_id(Kind.SNAPSHOT, "missing")])

    def test_a_volume_grows_and_never_shrinks(
        self, subject: AgentSubject, provision: Provision
    ) -> None:
        wanted = volume(subject, provision)
        made(subject, wanted)
        size, pool = subject.agent.expand_volume(wanted.id, 96 * MIB - 1, 0)
        assert size == 96 * MIB
        assert pool.name == subject.pool
        assert subject.agent.expand_volume(wanted.id, 64 * MIB, 0)[0] == 96 * MIB
        with pytest.raises(OutOfRange):
            subject.agent.expand_volume(wanted.id, 97 * MIB, 98 * MIB)
        assert subject.agent.get_volume(wanted.id).size_bytes == 96 * MIB

    def test_growing_without_room_changes_nothing(
        self, subject: AgentSubject, provision: Provision
    ) -> None:
        wanted = volume(subject, provision)
        made(subject, wanted)
        pool = pool_of(subject)
        assert pool.thin is not None
        with pytest.raises(NoSpace):
            subject.agent.expand_volume(
                wanted.id, 64 * MIB + max(pool.thin.virtual_limit_bytes, pool.thick_total_bytes), 0
            )
        assert subject.agent.get_volume(wanted.id).size_bytes == 64 * MIB

    def test_limits_are_kept_in_the_record(self, subject: AgentSubject) -> None:
        wanted = volume(subject, Provision.THIN)
        made(subject, wanted)
        limits = IoLimits(read_iops=100, write_bytes=10 * MIB)
        subject.agent.set_limits(wanted.id, limits)
        assert volume_from_json(subject.agent.get_volume(wanted.id).record).limits == limits

    def test_a_changed_record_is_kept(self, subject: AgentSubject, provision: Provision) -> None:
        wanted = volume(subject, provision)
        made(subject, wanted)
        changed = replace(wanted, nodes=(subject.node, "other"), leftovers=("third",))
        for _ in range(2):
            assert subject.agent.update_volume(changed).name == subject.pool
        assert volume_from_json(subject.agent.get_volume(wanted.id).record) == changed
        with pytest.raises(Refused):
            subject.agent.update_volume(replace(changed, spec=replace(wanted.spec, encrypted=True)))
        with pytest.raises(NotFound):
            subject.agent.update_volume(volume(subject, provision, name="missing"))

    def test_a_snapshot_is_cut_once_and_deleted(
        self, subject: AgentSubject, provision: Provision
    ) -> None:
        origin = volume(subject, provision)
        made(subject, origin)
        wanted = snapshot(origin, "cut")
        (first,) = cut(subject, wanted)
        assert (first.id, first.volume_id) == (wanted.id, origin.id)
        assert first.size_bytes == 64 * MIB
        assert first.complete
        assert snapshot_from_json(first.record).name == "cut"
        later = replace(wanted, created_at=wanted.created_at + 60)
        (again,) = cut(subject, later)
        assert again.record == first.record
        assert [report.id for report in subject.agent.inventory().snapshots] == [wanted.id]
        subject.agent.delete_snapshots([wanted.id], subject.pool)
        subject.agent.delete_snapshots([wanted.id], subject.pool)
        assert subject.agent.inventory().snapshots == ()

    def test_snapshots_of_one_call_are_cut_all_or_none(self, subject: AgentSubject) -> None:
        origins = [volume(subject, Provision.THIN, name=name) for name in ("a", "b")]
        for origin in origins:
            made(subject, origin)
        missing = volume(subject, Provision.THIN, name="missing")
        with pytest.raises(NotFound):
            cut(subject, snapshot(origins[0], "1"), snapshot(missing, "2"))
        assert subject.agent.inventory().snapshots == ()
        wanted = [snapshot(origin, origin.name) for origin in origins]
        reports = cut(subject, *wanted)
        assert [report.id for report in reports] == [one.id for one in wanted]

    def test_a_thin_snapshot_outlives_its_volume(self, subject: AgentSubject) -> None:
        origin = volume(subject, Provision.THIN)
        made(subject, origin)
        wanted = snapshot(origin, "cut")
        cut(subject, wanted)
        subject.agent.delete_volume(origin.id)
        inventory = subject.agent.inventory()
        assert inventory.volumes == ()
        assert [report.id for report in inventory.snapshots] == [wanted.id]

    def test_a_thick_volume_is_not_deleted_under_its_snapshot(self, subject: AgentSubject) -> None:
        origin = volume(subject, Provision.THICK)
        made(subject, origin)
        wanted = snapshot(origin, "cut")
        cut(subject, wanted)
        with pytest.raises(Refused):
            subject.agent.delete_volume(origin.id)
        assert subject.agent.get_volume(origin.id).complete
        subject.agent.delete_snapshots([wanted.id])
        subject.agent.delete_volume(origin.id)

    @pytest.mark.parametrize("kind", [SourceKind.SNAPSHOT, SourceKind.VOLUME])
    def test_a_volume_is_filled_from_a_source(
        self, subject: AgentSubject, provision: Provision, kind: SourceKind
    ) -> None:
        origin = volume(subject, provision)
        made(subject, origin)
        source = origin.id
        if kind is SourceKind.SNAPSHOT:
            (report,) = cut(subject, snapshot(origin, "cut"))
            source = report.id
        copy = replace(
            volume(subject, provision, name="copy", size_bytes=96 * MIB),
            source=Source(kind, source),
        )
        filled, _ = made(subject, copy)
        assert filled.complete
        assert filled.size_bytes == 96 * MIB
        assert filled.id == copy.id

    def test_a_source_that_is_not_there_leaves_nothing(
        self, subject: AgentSubject, provision: Provision
    ) -> None:
        missing = Source(SourceKind.SNAPSHOT, new_id(Kind.SNAPSHOT, "missing"))
        with pytest.raises(NotFound):
            made(subject, replace(volume(subject, provision), source=missing))
        assert subject.agent.inventory().volumes == ()

    def test_cuts_in_a_suspension(self, subject: AgentSubject) -> None:
        origin = volume(subject, Provision.THIN)
        made(subject, origin)
        suspension = subject.agent.suspend_volumes([origin.id], 30.0)
        (report,) = subject.agent.create_snapshots([snapshot(origin, "cut")], suspension)
        assert report.complete
        assert subject.agent.resume_volumes(suspension)
        assert not subject.agent.resume_volumes(suspension)

    def test_a_suspension_that_has_ended_takes_no_cuts(self, subject: AgentSubject) -> None:
        origin = volume(subject, Provision.THIN)
        made(subject, origin)
        suspension = subject.agent.suspend_volumes([origin.id], 30.0)
        subject.agent.resume_volumes(suspension)
        with pytest.raises(Refused):
            subject.agent.create_snapshots([snapshot(origin, "cut")], suspension)
        assert subject.agent.inventory().snapshots == ()

    def test_the_inventory_has_everything(self, subject: AgentSubject) -> None:
        origin = volume(subject, Provision.THIN)
        made(subject, origin)
        wanted = snapshot(origin, "cut")
        cut(subject, wanted)
        inventory = subject.agent.inventory()
        assert inventory.node == subject.node
        assert subject.pool in [pool.name for pool in inventory.pools]
        assert [report.id for report in inventory.volumes] == [origin.id]
        assert [report.id for report in inventory.snapshots] == [wanted.id]


def volume(
    subject: AgentSubject,
    provision: Provision,
    *,
    name: str = "data",
    size_bytes: int = 64 * MIB,
    limit_bytes: int = 0,
) -> Volume:
    return Volume(
        id=new_id(Kind.VOLUME, name),
        name=name,
        size_bytes=size_bytes,
        spec=VolumeSpec(subject.pool, provision, filesystem="ext4"),
        phase=Phase.CREATING,
        nodes=(subject.node,),
        limit_bytes=limit_bytes,
    )


def snapshot(origin: Volume, name: str) -> Snapshot:
    return Snapshot(
        id=new_id(Kind.SNAPSHOT, name),
        name=name,
        volume_id=origin.id,
        size_bytes=origin.size_bytes,
        spec=origin.spec,
        phase=Phase.CREATING,
        nodes=origin.nodes,
        created_at=1000.0,
    )


def made(subject: AgentSubject, wanted: Volume) -> tuple[VolumeReport, PoolReport]:
    return _until_done(lambda: subject.agent.create_volume(wanted))


def cut(subject: AgentSubject, *wanted: Snapshot) -> tuple[SnapshotReport, ...]:
    return _until_done(lambda: subject.agent.create_snapshots(wanted))


def pool_of(subject: AgentSubject) -> PoolReport:
    pools = subject.agent.pools(fresh=True)
    return next(pool for pool in pools if pool.name == subject.pool)


def _until_done(call: Callable[[], _T]) -> _T:
    """Repeat while a long copy or wipe goes on."""
    while True:
        try:
            return call()
        except Unavailable:
            time.sleep(0.1)
